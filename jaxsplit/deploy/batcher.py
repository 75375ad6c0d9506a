"""Dynamic batching: a bounded queue of frames of all clients, and the thread that decodes them."""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from jaxsplit.bitstream import Frame, Header
from jaxsplit.deploy.protocol import Code, code_of, prediction_text
from jaxsplit.errors import JaxsplitError, one_line

#: Weight of the newest batch in the mean time of a frame.
_NEWEST = 0.2


#: What is found for a frame: its prediction, ready for JSON, or its error.
Found = Mapping[str, object] | JaxsplitError


class Runs(Protocol):
    """The interface of an `Engine` for the service: imports of jax end there."""

    @property
    def name(self) -> str:
        """Name of the family, for metrics and log lines."""

    @property
    def header(self) -> Header:
        """The header that a client's hello must have."""

    def warm_up(self) -> None:
        """Compiles all that `run` needs."""

    def run(self, frames: Sequence[Frame], top: int) -> Sequence[Found]:
        """Decodes frames and describes the predictions.

        Args:
          frames: of any rates, at most the service's `max_batch`.
          top: most classes of a prediction that a frame asks for.

        Returns:
          For each frame its prediction, as `Task.describe` gives it, or its error.
        """


class Answer(NamedTuple):
    """The result of a frame: status code, prediction as JSON or message, seconds in the queue."""

    code: Code
    text: str
    waited: float


@dataclasses.dataclass(eq=False, slots=True)
class Job:
    """A frame that waits for its batch.

    Attributes:
      family: fingerprint of its family, which names the engine.
      frame: opened, not decoded.
      top: classes of the prediction.
      deliver: called once with the result, in the thread of the batcher.
      deadline: time of `time.monotonic` after which it isn't computed.
      arrived: time of `time.monotonic`.
    """

    family: str
    frame: Frame
    top: int
    deliver: Callable[[Answer], None]
    deadline: float = math.inf
    arrived: float = dataclasses.field(default_factory=time.monotonic)


class Observer(Protocol):
    """Callback for metrics: family, size of a batch, and its seconds; called for every batch."""

    def __call__(self, family: str, size: int, seconds: float, /) -> None: ...


class Batcher:
    """Runs frames in batches, in the order of their arrival, all rates of a family together.

    A batch starts when it is full, or `max_wait` seconds after the arrival of its oldest frame.
    While one runs, the frames of the next gather. A frame whose deadline has passed is not run.

    Args:
      engines: by fingerprint of their families.
      max_batch: most frames of a batch.
      max_wait: seconds; 0: a batch is what waits when the last one has ended.
      max_queue: most frames that wait; further ones are refused.
      observe: called after every batch.
    """

    def __init__(
        self,
        engines: Mapping[str, Runs],
        *,
        max_batch: int = 32,
        max_wait: float = 0.005,
        max_queue: int = 512,
        observe: Observer = lambda family, size, seconds: None,
    ) -> None:
        self._engines = engines
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait, max_queue
        self._observe = observe
        self._queues = {family: collections.deque[Job]() for family in engines}
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.0  # of a frame, mean
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def started(self) -> bool:
        """True from `start` to `close`."""
        return self._thread.is_alive()

    def offer(self, job: Job) -> bool:
        """Puts a frame into the queue.

        Args:
          job: the frame.

        Returns:
          False if the queue is full or closed.
        """
        with self._changed:
            if self._closed or len(self) >= self._max_queue:
                return False
            self._queues[job.family].append(job)
            self._changed.notify()
        return True

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def wait(self) -> float:
        """Seconds that a new frame would wait, as far as is known: a hint for refused ones."""
        return max(len(self) * self._seconds, self._max_wait, 0.001)

    def close(self) -> None:
        """Runs what waits, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self.started:
            self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[Job]:
        """Waits for the next batch; an empty one at the end."""
        with self._changed:
            while not any(self._queues.values()):
                if self._closed:
                    return []
                self._changed.wait()
            queue = min(filter(None, self._queues.values()), key=lambda queue: queue[0].arrived)
            start = queue[0].arrived + self._max_wait
            while len(queue) < self._max_batch and not self._closed:
                if (left := start - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            return [queue.popleft() for _ in range(min(len(queue), self._max_batch))]

    def _run(self, jobs: list[Job]) -> None:
        start = time.monotonic()
        live = list[Job]()
        for job in jobs:
            if job.deadline > start:
                live.append(job)
                continue
            text = (
                f"the deadline passed {1000 * (start - job.deadline):.0f} ms before the frame ran"
            )
            job.deliver(Answer(Code.DEADLINE_EXCEEDED, text, start - job.arrived))
        if not live:
            return
        family, top = live[0].family, max(job.top for job in live)
        found: Sequence[Found]
        try:
            found = self._engines[family].run([job.frame for job in live], top)
        except Exception as error:  # such as memory that ran out: the service lives on
            text = one_line(error) or f"{type(error).__name__}: {error}"
            found = [JaxsplitError(text)] * len(live)
        for job, one in zip(live, found, strict=True):
            waited = start - job.arrived
            if isinstance(one, JaxsplitError):
                job.deliver(Answer(code_of(one), one_line(one) or "", waited))
            else:
                job.deliver(Answer(Code.OK, prediction_text(one, job.top), waited))
        seconds = time.monotonic() - start
        mean = seconds / len(live)
        self._seconds += _NEWEST * (mean - self._seconds) if self._seconds else mean
        self._observe(family, len(live), seconds)
