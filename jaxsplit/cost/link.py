"""Latency of a split over a link: device, transfer and server."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from jaxsplit._moved import renamed_argument, renamed_field
from jaxsplit.cost.plan import CutPlan, Plan
from jaxsplit.cost.unit_plan import UnitPlan
from jaxsplit.errors import ConfigError
from jaxsplit.tasks import UNNAMED_CLASSES, Metric, Task

#: Typical bits of a trained unit per latent symbol: published and shipped units take 0.25 to 5.5,
#: most of the accurate ones 1 to 3.
BITS_PER_SYMBOL = 2.0


@dataclasses.dataclass(frozen=True)
class Link:
    """A device, a server and the connection between them.

    Attributes:
      device_gmacs, server_gmacs: speeds of both sides, 10⁹ multiply-accumulates a second.
      bandwidth_mbps: 10⁶ bits a second from the device to the server.
      rtt_ms: round-trip time, milliseconds.

    Raises:
      ConfigError: a speed is not finite and positive, or the round-trip time is negative.

    >>> link = Link(device_gmacs=5, server_gmacs=1000, bandwidth_mbps=8, rtt_ms=20)
    >>> link.time(device_macs=10_000_000, sent_bytes=500, server_macs=400_000_000)
    Timing(device_ms=2.0, transfer_ms=20.5, server_ms=0.4)
    """

    device_gmacs: float
    server_gmacs: float
    bandwidth_mbps: float
    rtt_ms: float = 0.0

    def __post_init__(self) -> None:
        speeds = (self.device_gmacs, self.server_gmacs, self.bandwidth_mbps)
        if not all(0 < speed < math.inf for speed in speeds) or not 0 <= self.rtt_ms < math.inf:
            found = ", ".join(f"{name} {value:g}" for name, value in vars(self).items())
            options = ", ".join(f"--{one}" for one in found.replace("_", "-").split(", "))
            wrong = "speeds must be finite and more than 0, and the round-trip time at least 0"
            raise ConfigError(f"{wrong}: {found}", shell=f"{wrong}: {options}")

    def time(self, device_macs: int, sent_bytes: float | None, server_macs: int) -> Timing:
        """Computes the latency of one image.

        Args:
          device_macs, server_macs: multiply-accumulates on either side.
          sent_bytes: bytes over the link; None: nothing is sent, without a round trip.

        Returns:
          Milliseconds of each part.
        """
        transfer = 0.0
        if sent_bytes is not None:
            transfer = self.rtt_ms + 8 * sent_bytes / self.bandwidth_mbps / 1e3
        device, server = device_macs / self.device_gmacs, server_macs / self.server_gmacs
        return Timing(device / 1e6, transfer, server / 1e6)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Latency of one image, in milliseconds.

    Attributes:
      device_ms, server_ms: compute on either side.
      transfer_ms: round trip and transfer of the image's frame.

    >>> Timing(device_ms=2.0, transfer_ms=20.5, server_ms=0.5).total_ms
    23.0
    """

    device_ms: float
    transfer_ms: float
    server_ms: float

    @property
    def total_ms(self) -> float:
        """From the image to the prediction."""
        return self.device_ms + self.transfer_ms + self.server_ms

    def to_dict(self) -> dict[str, float]:
        """Returns the three parts and `total_ms`, ready for JSON."""
        return {**vars(self), "total_ms": self.total_ms}


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to compute a prediction: a cut with a unit, or one of the two extremes.

    Attributes:
      name: its title.
      cut: endpoint; None for an extreme: all on the device, or the image sent.
      unit: at the cut.
      sent_bytes: bytes of one image; None: nothing is sent.
      timing: latency of one image on the link.
      quality: what was measured with it, such as top-1 as a share, or None.
      task: of the network, whose leading metric the quality is.

    >>> timing = Timing(device_ms=0, transfer_ms=32, server_ms=0.4)
    >>> Option("image sent", None, None, 12_000, timing).to_dict()["total_ms"]
    32.4
    """

    name: str
    cut: str | None
    unit: UnitPlan | None
    sent_bytes: float | None
    timing: Timing
    quality: float | None = None
    task: Task = UNNAMED_CLASSES

    @property
    def metric(self) -> Metric:
        """Label, unit and direction of the quality."""
        return self.task.metric(self.task.quality)

    def to_dict(self) -> dict[str, object]:
        """Returns name, bytes, accuracy, times and the unit's size, ready for JSON."""
        unit = self.unit and {"channels": self.unit.spec.channels, "stride": self.unit.spec.stride}
        values = {"name": self.name, "cut": self.cut, "unit": unit, "sent_bytes": self.sent_bytes}
        return {**values, self.task.quality: self.quality, **self.timing.to_dict()}


@renamed_argument("top1", "quality")
def option(
    link: Link,
    cut: CutPlan,
    unit: UnitPlan,
    sent_bytes: float,
    name: str | None = None,
    quality: float | None = None,
    task: Task = UNNAMED_CLASSES,
) -> Option:
    """Builds the option of a cut with a unit that sends `sent_bytes` an image."""
    device_macs = cut.device_macs + unit.encoder_macs
    timing = link.time(device_macs, sent_bytes, unit.decoder_macs + cut.server_macs)
    return Option(name or cut.cut, cut.cut, unit, sent_bytes, timing, quality, task)


def extremes(
    link: Link, plan: Plan, image_bytes: float, task: Task = UNNAMED_CLASSES
) -> tuple[Option, Option]:
    """Builds the two extremes: all on the device, and the image sent to the server."""
    alone, sent = link.time(plan.macs, None, 0), link.time(0, image_bytes, plan.macs)
    return (
        Option("all on the device", None, None, None, alone, task=task),
        Option("image sent", None, None, image_bytes, sent, task=task),
    )


def best(options: Iterable[Option]) -> Option:
    """Selects the option with the lowest total latency.

    Args:
      options: at least one; a ConfigError otherwise.

    Returns:
      The first of the fastest.

    >>> near, far = Timing(80, 0, 0), Timing(0, 32, 0.4)
    >>> options = [Option("device", None, None, None, near), Option("sent", None, None, 9, far)]
    >>> best(options).name
    'sent'
    """
    found = min(options, key=lambda one: one.timing.total_ms, default=None)
    if found is None:
        raise ConfigError("no unit of the grid fits any cut: take fewer channels or less stride")
    return found


@renamed_field("ends", "extremes")
@dataclasses.dataclass(frozen=True)
class Comparison:
    """Latency of every option on one link.

    Attributes:
      link: device, server and connection.
      bits_per_symbol: assumed for units that are not trained.
      cuts: the unit of each cut (see `CutPlan.unit_of`).
      extremes: all on the device, and the image sent.
      trained: rates of families, with measured bytes and accuracy.
    """

    link: Link
    bits_per_symbol: float
    cuts: tuple[Option, ...]
    extremes: tuple[Option, Option]
    trained: tuple[Option, ...] = ()

    @property
    def best_cut(self) -> Option:
        """The fastest cut."""
        return best(self.cuts)

    @property
    def fastest(self) -> Option:
        """The fastest option, with both extremes and the trained rates."""
        return best((*self.cuts, *self.extremes, *self.trained))

    def sent_bytes(self, unit: UnitPlan) -> float:
        """Assumed bytes of a unit for one image."""
        return unit.latent_symbols * self.bits_per_symbol / 8

    def timing(self, cut: CutPlan, unit: UnitPlan) -> Timing:
        """Latency of any unit at a cut."""
        return option(self.link, cut, unit, self.sent_bytes(unit)).timing

    def to_dict(self) -> dict[str, object]:
        """Returns all options, ready for JSON."""
        return {
            **vars(self.link),
            "bits_per_symbol": self.bits_per_symbol,
            "best_cut": self.best_cut.cut,
            "best": self.best_cut.to_dict(),
            "fastest": self.fastest.to_dict(),
            "ends": [one.to_dict() for one in self.extremes],
            "cuts": [one.to_dict() for one in self.cuts],
            "families": [one.to_dict() for one in self.trained],
        }


def compare_latencies(
    plan: Plan,
    link: Link,
    symbols: int,
    bits_per_symbol: float,
    image_bytes: float,
    trained: Sequence[Option] = (),
    task: Task = UNNAMED_CLASSES,
) -> Comparison:
    """Computes the latency of every cut of a plan on a link.

    Units have about `symbols` latent symbols (see `CutPlan.unit_of`) of `bits_per_symbol`; an image
    that is sent instead has `image_bytes`; bytes of `trained` options were measured; `task` is the
    network's. Raises a ConfigError if no unit fits any cut, or a number is not positive and finite.
    """
    check_sizes(bits_per_symbol, image_bytes)
    cuts = tuple(
        option(link, cut, unit, unit.latent_symbols * bits_per_symbol / 8, task=task)
        for cut in plan.cuts
        if (unit := cut.unit_of(symbols)) is not None
    )
    best(cuts)  # raises if there is none
    both = extremes(link, plan, image_bytes, task)
    return Comparison(link, bits_per_symbol, cuts, both, tuple(trained))


def check_sizes(bits_per_symbol: float, image_bytes: float) -> None:
    """Raises a ConfigError unless both are positive and finite, as `compare_latencies` needs.

    >>> check_sizes(2, 3072)
    """
    if not (0 < bits_per_symbol < math.inf and 0 < image_bytes < math.inf):
        raise ConfigError(
            f"{bits_per_symbol} bits per symbol and {image_bytes} bytes of an image; "
            "expected more than 0 and less than infinity"
        )


def plan_to_dict(plan: Plan, comparison: Comparison | None, symbols: int) -> dict[str, object]:
    """Returns a plan for JSON, with the unit of each cut and, given a link, latencies."""
    cuts = []
    for cut in plan.cuts:
        unit, units = cut.unit_of(symbols), [one.to_dict() for one in cut.units]
        if comparison is not None:
            for one, entry in zip(cut.units, units, strict=True):
                entry["time"] = comparison.timing(cut, one).to_dict()
        cuts.append({**cut.to_dict(), "units": units, "unit": unit and unit.to_dict()})
    link = {} if comparison is None else {"link": comparison.to_dict()}
    return {**plan.to_dict(), "cuts": cuts, **link}
