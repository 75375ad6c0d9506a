"""Outcomes of the frames that a client sends, and their counts."""

from __future__ import annotations

import dataclasses
from typing import Literal

#: "answered" in time; "late": after its deadline; "dropped": not sent, or not in the service's
#: queue; "failed": the image, the frame or the service is at fault.
Status = Literal["answered", "late", "dropped", "failed"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one image: every image that is submitted has one.

    Attributes:
      status: of it.
      prediction: of the task, as `jaxsplit decode --json` prints it; None: there is none.
      error: why there is none.
      frame_bytes: of the frame, 0 if it was not encoded.
      rate_index: of the frame in the header, levels counted; None if it was not encoded.
      seconds: from the image to its outcome.
      server_seconds: what of it the server had the frame.
      queue_seconds: what of that the frame waited for its batch.
      attempts: how often it was sent.

    >>> Outcome("dropped", error="the link is too slow").prediction is None
    True
    """

    status: Status
    prediction: dict[str, object] | None = None
    error: str | None = None
    frame_bytes: int = 0
    rate_index: int | None = None
    seconds: float = 0.0
    server_seconds: float = 0.0
    queue_seconds: float = 0.0
    attempts: int = 0


@dataclasses.dataclass
class Counts:
    """Counts of a client; a frame counts once among the first four.

    Attributes:
      answered, late, dropped, failed: images by the status of their outcome.
      resent: frames that were sent again.
      reconnected: streams that were opened again.
    """

    answered: int = 0
    late: int = 0
    dropped: int = 0
    failed: int = 0
    resent: int = 0
    reconnected: int = 0

    def add(self, status: Status) -> None:
        """Counts an outcome.

        Args:
          status: of it.
        """
        setattr(self, status, getattr(self, status) + 1)

    @property
    def images(self) -> int:
        """Images that have an outcome."""
        return self.answered + self.late + self.dropped + self.failed
