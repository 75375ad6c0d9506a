"""How long an image takes: on the device, over the link and on the server."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from jaxsplit.cost.cuts import CutPlan, Plan
from jaxsplit.cost.units import UnitPlan
from jaxsplit.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Link:
    """A device, a server and the connection between them.

    Attributes:
      device_gmacs, server_gmacs: 10⁹ multiply-accumulates a second that each side computes.
      bandwidth_mbps: 10⁶ bits a second from the device to the server.
      rtt_ms: of one round trip, milliseconds.

    Raises:
      ConfigError: a speed is not finite and positive, or the round trip negative.

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
            raise ConfigError(
                f"speeds must be finite and more than 0, and a round trip at least 0: {self}"
            )

    def time(self, device_macs: int, sent_bytes: float | None, server_macs: int) -> Timing:
        """What one image takes.

        Args:
          device_macs, server_macs: multiply-accumulates on either side.
          sent_bytes: over the link; None where all stays on the device.

        Returns:
          Milliseconds of each part.
        """
        return Timing(
            device_macs / self.device_gmacs / 1e6,
            0.0 if sent_bytes is None else self.rtt_ms + 8 * sent_bytes / self.bandwidth_mbps / 1e3,
            server_macs / self.server_gmacs / 1e6,
        )


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one image takes.

    Attributes:
      device_ms, server_ms: computing on either side, milliseconds.
      transfer_ms: the round trip and the bytes of the image's frame, milliseconds.

    >>> Timing(device_ms=2.0, transfer_ms=20.5, server_ms=0.5).total_ms
    23.0
    """

    device_ms: float
    transfer_ms: float
    server_ms: float

    @property
    def total_ms(self) -> float:
        """From the image to the answer, milliseconds."""
        return self.device_ms + self.transfer_ms + self.server_ms

    def to_dict(self) -> dict[str, float]:
        """The three parts and `total_ms`, ready for JSON."""
        return {**vars(self), "total_ms": self.total_ms}


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to compute an answer: a cut with a unit, or one of the two ends.

    Attributes:
      name: what to call it.
      cut: endpoint; None: all on the device, or the image sent.
      unit: at the cut.
      sent_bytes: for one image; None: nothing is sent.
      timing: on the link.
      top1: where it was measured, as a share.

    >>> link = Link(device_gmacs=5, server_gmacs=1000, bandwidth_mbps=8, rtt_ms=20)
    >>> timing = link.time(device_macs=0, sent_bytes=12_000, server_macs=400_000_000)
    >>> Option("image sent", None, None, 12_000, timing).to_dict()["total_ms"]
    32.4
    """

    name: str
    cut: str | None
    unit: UnitPlan | None
    sent_bytes: float | None
    timing: Timing
    top1: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Name, bytes, accuracy, times and the unit's channels and stride, ready for JSON."""
        form = self.unit and {"channels": self.unit.spec.channels, "stride": self.unit.spec.stride}
        values = {"name": self.name, "cut": self.cut, "unit": form, "sent_bytes": self.sent_bytes}
        return {**values, "top1": self.top1, **self.timing.to_dict()}


def option(
    link: Link,
    cut: CutPlan,
    unit: UnitPlan,
    sent_bytes: float,
    name: str | None = None,
    top1: float | None = None,
) -> Option:
    """A cut with a unit that sends so many bytes an image."""
    timing = link.time(
        cut.device_macs + unit.encoder_macs, sent_bytes, unit.decoder_macs + cut.server_macs
    )
    return Option(name or cut.cut, cut.cut, unit, sent_bytes, timing, top1)


def ends(link: Link, plan: Plan, image_bytes: float) -> tuple[Option, Option]:
    """The two ends of the comparison: all on the device, and the image sent to the server."""
    alone = Option("all on the device", None, None, None, link.time(plan.macs, None, 0))
    sent = link.time(0, image_bytes, plan.macs)
    return alone, Option("image sent", None, None, image_bytes, sent)


def best(options: Iterable[Option]) -> Option:
    """The fastest of the options, from the image to the answer.

    Args:
      options: at least one.

    Returns:
      The one of the least `total_ms`; of equals the first.

    Raises:
      ConfigError: there is none.

    >>> link = Link(device_gmacs=5, server_gmacs=1000, bandwidth_mbps=8, rtt_ms=20)
    >>> alone = Option("all on the device", None, None, None, link.time(400_000_000, None, 0))
    >>> sent = Option("image sent", None, None, 12_000, link.time(0, 12_000, 400_000_000))
    >>> best([alone, sent]).name
    'image sent'
    """
    found = min(options, key=lambda one: one.timing.total_ms, default=None)
    if found is None:
        raise ConfigError("no unit of the grid fits any cut: take fewer channels or less stride")
    return found
