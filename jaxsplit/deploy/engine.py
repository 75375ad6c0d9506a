"""The server half of a family, ready for a service: batches of frames to predictions."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax

from jaxsplit import networks
from jaxsplit.bitstream import Frame, Header
from jaxsplit.codec import BatchReceiver
from jaxsplit.deploy.batcher import Found
from jaxsplit.family import RateFamily


class Engine(NamedTuple):
    """A family's receiver under the name that metrics and log lines give it.

    Attributes:
      name: of the family.
      receiver: decodes its frames.
    """

    name: str
    receiver: BatchReceiver

    @classmethod
    def of(
        cls, name: str, family: RateFamily, backbone: networks.Backbone | None, max_batch: int
    ) -> Engine:
        """Makes the engine of a family, without compiling anything.

        Args:
          name: for metrics and log lines.
          family, backbone: as for a `Receiver`.
          max_batch: most frames at once.

        Returns:
          The engine.
        """
        return cls(name, BatchReceiver(family, backbone, max_batch))

    @property
    def header(self) -> Header:
        """The header that a client's hello must have."""
        return self.receiver.header

    def warm_up(self) -> None:
        """Compiles all that batches of any size and rates need, and describes a prediction."""
        self.receiver.warm_up()
        self.run([Frame(0, b"")], top=1)

    def run(self, frames: Sequence[Frame], top: int) -> list[Found]:
        """See `Runs.run`."""
        outputs, failed = self.receiver.decode_each(frames)
        good = [number for number in range(len(frames)) if number not in failed]
        found: list[Found] = [failed.get(number, {}) for number in range(len(frames))]
        if good:
            if failed:
                outputs = jax.tree.map(operator.itemgetter(good), outputs)
            described = self.receiver.backbone.task.describe(outputs, top)
            for number, prediction in zip(good, described, strict=True):
                found[number] = prediction
        return found
