"""Rate control by a family's measured figures."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence

from jaxsplit.codec.rates import FamilyRate, Rates
from jaxsplit.errors import BudgetError, ConfigError, FamilyError, choices
from jaxsplit.tasks import AGREEMENT, UNNAMED_CLASSES, Task

# Rounding may put a ratio of counts slightly below the requested accuracy retention.
_ROUNDING = 1e-9


#: What is done with an image that exceeds the budget at every rate.
OVER_BUDGET = ("error", "shortest")


def rates_for(
    family: Rates,
    rate: str | float | None = None,
    max_bytes: int | None = None,
    quality: float | None = None,
    task: Task = UNNAMED_CLASSES,
) -> list[str]:
    """Returns the names of the rates that satisfy a request, in the order to be tried.

    Args:
      family: the rates; measured, unless a rate is named, or a level is chosen by bytes.
      rate: name of a rate, or position of a level.
      max_bytes: most bytes of a frame: all levels in their order, or all rates by falling accuracy
        retention.
      quality: least accuracy retention: the rate with the fewest measured bytes that reaches it, or
        the lowest level between two rates that does, if retention is linear between them.
      task: of the network, whose quality is retained; classification by default.

    Raises:
      ConfigError: not exactly one is given, or a value is impossible.
      FamilyError: no such rate, none that good, or a family that was not measured.
    """
    given: Mapping[str, object] = {"rate": rate, "max_bytes": max_bytes, "quality": quality}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ConfigError(
            f"got {' and '.join(named) or 'no rate'}, expected exactly one of rate, max_bytes and "
            f"quality; the rates are {', '.join(one.rate_id for one in family.rates)}"
        )
    if rate is not None:
        return [family.name(family.index(rate))]
    whole = isinstance(max_bytes, numbers.Integral) and not isinstance(max_bytes, bool)
    if max_bytes is not None and (not whole or max_bytes < 1):
        wrong = f"is {max_bytes!r}, expected a positive integer"
        raise ConfigError(f"max_bytes {wrong}", shell=f"--max-bytes {wrong}")
    label = task.metric(task.quality).label
    share = isinstance(quality, numbers.Real) and 0 < quality <= 1
    if quality is not None and not share:
        wrong = (
            f"is {quality!r}, expected a share of the unsplit network's {label}, above 0 and at "
            "most 1, such as 0.98"
        )
        raise ConfigError(f"quality {wrong}", shell=f"--quality {wrong}")
    if quality is None and family.levels is not None:
        return [family.name(level) for level in range(len(family.levels))]
    # Of equal retention the fewer bytes first.
    kept = {one.rate_id: _retention(one, task) for one in family.rates}
    ordered = sorted(family.rates, key=lambda one: (-kept[one.rate_id], _bytes(one)))
    if quality is None:
        return [one.rate_id for one in ordered]
    good = [one for one in family.rates if kept[one.rate_id] >= quality - _ROUNDING]
    if not good:
        best = ordered[0]
        raise FamilyError(
            f"no rate keeps {quality:g} of the unsplit network's {label}; the best, "
            f"{best.rate_id}, keeps {kept[best.rate_id]:.4f}"
        )
    found = min(good, key=_bytes)
    worse = [one for one in family.rates if one not in good]
    if family.levels is None:
        return [found.rate_id]
    return [_first_level(family, worse, found, kept, quality)]


def _first_level(
    family: Rates,
    worse: Sequence[FamilyRate],
    found: FamilyRate,
    kept: Mapping[str, float],
    quality: float,
) -> str:
    """Returns the lowest level between a good rate and the next lower, worse one that is as good.

    Retention is taken as linear between them.
    """
    index = family.index(found.rate_id)
    lower = [one for one in worse if family.index(one.rate_id) < index]
    if not lower:
        return found.rate_id
    below = max(lower, key=lambda one: family.index(one.rate_id))
    gained = kept[found.rate_id] - kept[below.rate_id]
    if math.isinf(gained):  # no error at all: retention is not linear
        return found.rate_id
    first = family.index(below.rate_id)
    step = (quality - kept[below.rate_id]) / gained
    return family.name(min(first + math.ceil(step * (index - first) - _ROUNDING), index))


def check_over_budget(over_budget: str) -> None:
    """Raises a ConfigError unless this is one of `OVER_BUDGET`."""
    if over_budget not in OVER_BUDGET:
        raise ConfigError(
            f"over_budget is {over_budget!r}; expected one of {choices(over_budget, OVER_BUDGET)}"
        )


def check_budget(frames: Sequence[bytes], max_bytes: int) -> None:
    """Raises a BudgetError if a frame has more bytes than that."""
    over = next((i for i, frame in enumerate(frames) if len(frame) > max_bytes), None)
    if over is None:
        return
    which = "the image" if len(frames) == 1 else f"image {over}"
    more = f"{which} takes at least {len(frames[over])} bytes, more than"
    raise BudgetError(
        f"{more} max_bytes = {max_bytes}: raise it, or send the shortest frame with "
        "over_budget='shortest'",
        shell=f"{more} --max-bytes {max_bytes}: raise it, or give --over-budget shortest",
    )


def _retention(rate: FamilyRate, task: Task) -> float:
    """Returns the accuracy retention: the share of the unsplit network's quality.

    It is the inverse of that share where lower is better, and the agreement with the unsplit
    network where the images had no labels.
    """
    value, unsplit = (_figure(rate, f"{which}{task.quality}") for which in ("", "uncompressed_"))
    if task.metric(task.quality).higher_is_better:
        kept = value / unsplit if unsplit > 0 else _figure(rate, AGREEMENT)  # NaN: no labels
    elif value == unsplit:
        kept = 1.0
    else:
        kept = unsplit / value if value else unsplit * math.inf
    if math.isnan(kept) or not math.isfinite(_bytes(rate)):
        lacks = f"rate {rate.rate_id} carries no figures to choose it by: name a rate"
        command = "measure the family with jaxsplit pack --data"
        raise FamilyError(
            f"{lacks}, or {command} or jaxsplit.evaluation.card.with_measured",
            shell=f"{lacks} with --rate, or {command}",
        )
    return kept


def _bytes(rate: FamilyRate) -> float:
    return _figure(rate, "bytes_per_image")


def _figure(rate: FamilyRate, name: str) -> float:
    value = rate.measured.get(name)
    return value if isinstance(value, int | float) else math.nan
