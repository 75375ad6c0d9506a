"""Rate control: chooses the rate to send at by the measured figures of a family."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping

from jaxsplit.codec.rate import FamilyRate, Rates
from jaxsplit.errors import ConfigError, FamilyError

# Rounding may put a ratio of counts slightly below the requested accuracy retention.
_ROUNDING = 1e-9


def check_request(rate: str | None, max_bytes: int | None, quality: float | None) -> None:
    """Checks that a request names exactly one criterion with a possible value.

    Raises:
      ConfigError: not exactly one is given, max_bytes is not a positive integer, or quality is not
        above 0 and at most 1.
    """
    given: Mapping[str, object] = {"rate": rate, "max_bytes": max_bytes, "quality": quality}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ConfigError(
            f"got {' and '.join(named) or 'no rate'}, expected exactly one of rate, max_bytes and "
            "quality"
        )
    whole = isinstance(max_bytes, numbers.Integral) and not isinstance(max_bytes, bool)
    if max_bytes is not None and (not whole or max_bytes < 1):
        raise ConfigError(f"max_bytes is {max_bytes!r}, expected a positive integer")
    if quality is not None and not 0 < quality <= 1:
        raise ConfigError(
            f"quality is {quality!r}, expected a share of the unsplit network's top-1, above 0 and "
            "at most 1, such as 0.98"
        )


def rates_for(
    family: Rates,
    rate: str | None = None,
    max_bytes: int | None = None,
    quality: float | None = None,
) -> list[str]:
    """Returns the names of the rates that satisfy a request, in the order to be tried.

    Raises:
      ConfigError: as in `check_request`.
      FamilyError: no such rate, none that good, or a family that was not measured.
    """
    check_request(rate, max_bytes, quality)
    if rate is not None:
        return [family[rate].rate_id]
    return best_first(family) if quality is None else [cheapest(family, quality)]


def retained(rate: FamilyRate) -> float:
    """Returns the accuracy retention: top-1 as a share of the unsplit network's, usually 0 … 1.

    Where the images had no labels, the agreement with the unsplit network.

    Raises:
      FamilyError: the rate was not measured.
    """
    measured = rate.measured
    unsplit = _figure(measured, "uncompressed_top1")
    value = _figure(measured, "top1") / unsplit if unsplit > 0 else _figure(measured, "agreement")
    if not math.isfinite(value) or not math.isfinite(_figure(measured, "bytes_per_image")):
        raise FamilyError(
            f"rate {rate.rate_id} carries no figures to choose it by: name a rate, or measure the "
            "family with jaxsplit pack --data"
        )
    return value


def best_first(family: Rates) -> list[str]:
    """Returns the names of the rates by falling accuracy retention, then by rising bytes.

    Raises:
      FamilyError: a rate was not measured.
    """

    def order(rate: FamilyRate) -> tuple[float, float]:
        return -retained(rate), _figure(rate.measured, "bytes_per_image")

    return [rate.rate_id for rate in sorted(family.rates, key=order)]


def cheapest(family: Rates, quality: float) -> str:
    """Returns the name of the rate with the fewest measured bytes that retains `quality`.

    Args:
      family: every rate measured.
      quality: least share of the unsplit network's top-1, see `retained`.

    Raises:
      FamilyError: a rate was not measured, or none is that good.
    """
    good = [rate for rate in family.rates if retained(rate) >= quality - _ROUNDING]
    if not good:
        best = family[best_first(family)[0]]
        raise FamilyError(
            f"no rate keeps {quality:g} of the unsplit network's top-1; the best, {best.rate_id}, "
            f"keeps {retained(best):.4f}"
        )
    return min(good, key=lambda rate: _figure(rate.measured, "bytes_per_image")).rate_id


def _figure(measured: Mapping[str, object], name: str) -> float:
    value = measured.get(name)
    return value if isinstance(value, int | float) else math.nan
