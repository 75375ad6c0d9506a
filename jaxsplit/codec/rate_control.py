"""Which rate to send at, by the figures that a family was measured to have."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from jaxsplit.codec.rate import FamilyRate, Rates
from jaxsplit.errors import ConfigError, FamilyError

# A share of counts that is the quality itself may come out a little below it.
_ROUNDING = 1e-9


def check_request(rate: str | None, max_bytes: int | None, quality: float | None) -> None:
    """Refuses a request that names no rate in one way, or a limit that can't be.

    Raises:
      ConfigError: not exactly one is given, max_bytes is no whole number from 1 on, or quality
        not above 0 and at most 1.
    """
    given: Mapping[str, Any] = {"rate": rate, "max_bytes": max_bytes, "quality": quality}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ConfigError(
            f"got {' and '.join(named) or 'no rate'}, expected exactly one of rate, max_bytes and "
            "quality"
        )
    whole = isinstance(max_bytes, numbers.Integral) and not isinstance(max_bytes, bool)
    if max_bytes is not None and (not whole or max_bytes < 1):
        raise ConfigError(f"max_bytes is {max_bytes!r}, expected a whole number from 1 on")
    if quality is not None and not 0 < quality <= 1:
        raise ConfigError(
            f"quality is {quality!r}, expected a share of the uncut network's top-1, above 0 and "
            "at most 1, such as 0.98"
        )


def rates_for(
    family: Rates,
    rate: str | None = None,
    max_bytes: int | None = None,
    quality: float | None = None,
) -> list[str]:
    """Names of the rates that answer a request, whatever the image: to be tried in this order.

    Raises:
      ConfigError: as of `check_request`.
      FamilyError: no such rate, none that good, or a family that was not measured.
    """
    check_request(rate, max_bytes, quality)
    if rate is not None:
        return [family[rate].rate_id]
    return best_first(family) if quality is None else [cheapest(family, quality)]


def retained(rate: FamilyRate) -> float:
    """Measured top-1 as a share of the uncut network's on the same images, usually 0 … 1.

    Where the images had no labels, the share of them on which both say the same.

    Raises:
      FamilyError: the rate was not measured.
    """
    measured = rate.measured
    uncut = _figure(measured, "uncompressed_top1")
    value = _figure(measured, "top1") / uncut if uncut > 0 else _figure(measured, "agreement")
    if not math.isfinite(value) or not math.isfinite(_figure(measured, "bytes_per_image")):
        raise FamilyError(
            f"rate {rate.rate_id} carries no figures to choose it by: name a rate, or measure the "
            "family with jaxsplit pack --data"
        )
    return value


def best_first(family: Rates) -> list[str]:
    """Names of the rates, the best measured quality first, and of equal ones the smaller bytes.

    Raises:
      FamilyError: a rate was not measured.
    """

    def order(rate: FamilyRate) -> tuple[float, float]:
        return -retained(rate), _figure(rate.measured, "bytes_per_image")

    return [rate.rate_id for rate in sorted(family.rates, key=order)]


def cheapest(family: Rates, quality: float) -> str:
    """Name of the rate of fewest measured bytes an image that retains at least `quality`.

    Args:
      family: every rate measured.
      quality: share of the uncut network's top-1, as of `retained`.

    Raises:
      FamilyError: a rate was not measured, or none is that good.
    """
    good = [rate for rate in family.rates if retained(rate) >= quality - _ROUNDING]
    if not good:
        best = family[best_first(family)[0]]
        raise FamilyError(
            f"no rate keeps {quality:g} of the uncut network's top-1; the best one, "
            f"{best.rate_id}, keeps {retained(best):.4f}"
        )
    return min(good, key=lambda rate: _figure(rate.measured, "bytes_per_image")).rate_id


def _figure(measured: Mapping[str, Any], name: str) -> float:
    value = measured.get(name)
    return value if isinstance(value, int | float) else math.nan
