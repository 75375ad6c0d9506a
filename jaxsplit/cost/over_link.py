"""The cuts of a plan on one link, beside its two ends and rates that are trained already."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jaxsplit.cost.cuts import CutPlan, Plan
from jaxsplit.cost.link import Link, Option, Timing, best, ends, option
from jaxsplit.cost.units import UnitPlan
from jaxsplit.errors import ConfigError

#: What a trained unit spends on a number of its latent, roughly: those published and those shipped
#: here take from 0.25 to 5.5 bits, most of the accurate ones 1 to 3.
BITS_PER_SYMBOL = 2.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What every way to an answer takes.

    Attributes:
      link: the device, the server and the connection.
      bits_per_symbol: assumed of units that aren't trained.
      cuts: of every cut its unit, as of `CutPlan.unit_of`.
      ends: all on the device, and the image sent.
      trained: rates of families, with bytes and accuracy as they were measured.
    """

    link: Link
    bits_per_symbol: float
    cuts: tuple[Option, ...]
    ends: tuple[Option, Option]
    trained: tuple[Option, ...] = ()

    @property
    def best_cut(self) -> Option:
        """The fastest cut."""
        return best(self.cuts)

    @property
    def fastest(self) -> Option:
        """The fastest way of all, the ends and the trained rates among them."""
        return best((*self.cuts, *self.ends, *self.trained))

    def sent_bytes(self, unit: UnitPlan) -> float:
        """What a unit is assumed to send for an image."""
        return unit.latent_symbols * self.bits_per_symbol / 8

    def timing(self, cut: CutPlan, unit: UnitPlan) -> Timing:
        """Of any unit at a cut."""
        return option(self.link, cut, unit, self.sent_bytes(unit)).timing

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **vars(self.link),
            "bits_per_symbol": self.bits_per_symbol,
            "best_cut": self.best_cut.cut,
            "best": self.best_cut.to_dict(),
            "fastest": self.fastest.to_dict(),
            "ends": [one.to_dict() for one in self.ends],
            "cuts": [one.to_dict() for one in self.cuts],
            "families": [one.to_dict() for one in self.trained],
        }


def compare(
    plan: Plan,
    link: Link,
    symbols: int,
    bits_per_symbol: float,
    image_bytes: float,
    trained: Sequence[Option] = (),
) -> Comparison:
    """Times every cut of a plan.

    Args:
      plan: the cuts.
      link: what they run on.
      symbols: for `CutPlan.unit_of`.
      bits_per_symbol: what a number of a latent is assumed to take.
      image_bytes: of the image, where it is sent.
      trained: options that were measured.

    Raises:
      ConfigError: no unit fits any cut, or a number is not positive and finite.
    """
    if not (0 < bits_per_symbol < math.inf and 0 < image_bytes < math.inf):
        raise ConfigError(
            f"{bits_per_symbol} bits per symbol and {image_bytes} bytes of an image; "
            "expected more than 0 and less than infinity"
        )
    chosen = [(cut, cut.unit_of(symbols)) for cut in plan.cuts]
    options = [
        option(link, cut, unit, unit.latent_symbols * bits_per_symbol / 8)
        for cut, unit in chosen
        if unit is not None
    ]
    best(options)  # says so where there is none
    return Comparison(
        link, bits_per_symbol, tuple(options), ends(link, plan, image_bytes), tuple(trained)
    )


def to_dict(plan: Plan, comparison: Comparison | None, symbols: int) -> dict[str, Any]:
    """A plan ready for JSON, with the unit chosen for every cut and times where there is a link."""
    values = plan.to_dict()
    for cut, entry in zip(plan.cuts, values["cuts"], strict=True):
        unit = cut.unit_of(symbols)
        entry["unit"] = unit and unit.to_dict()
        if comparison is not None:
            for one, said in zip(cut.units, entry["units"], strict=True):
                said["time"] = comparison.timing(cut, one).to_dict()
    if comparison is not None:
        values["link"] = comparison.to_dict()
    return values
