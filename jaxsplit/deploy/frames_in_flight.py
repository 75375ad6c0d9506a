"""Frames of a client that have no result yet: each is sent again, or has one outcome."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import cast

from jaxsplit.deploy import service_pb2 as pb
from jaxsplit.deploy.connection import Connection, Sending
from jaxsplit.deploy.link import OVERHEAD, LinkEstimator
from jaxsplit.deploy.outcomes import Counts, Outcome, Status
from jaxsplit.deploy.protocol import Code
from jaxsplit.errors import JaxsplitError, one_line

#: Of a frame alone: another attempt may succeed.
_AGAIN = (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)
#: Seconds from the welcome of a stream to the start of the next.
_BETWEEN_STREAMS = 0.1
_PASSED = "its deadline passed before it could be sent"


class Flight:
    """One frame on its way: an image that was submitted.

    Args:
      number: its id.
      offered: when the image was submitted, of `time.monotonic`.
      deadline: seconds from there; None: any.
      timeout: seconds after which it fails.
    """

    def __init__(self, number: int, offered: float, deadline: float | None, timeout: float) -> None:
        self.number, self.offered = number, offered
        self.deadline = None if deadline is None else offered + deadline
        self.end = offered + timeout
        self.data = b""
        self.frame_bytes = 0
        self.rate_index: int | None = None
        self.attempts = 0
        self.owner: Connection | None = None
        self.future = Future[Outcome]()

    @property
    def left_ms(self) -> int:
        """Milliseconds to the deadline, at least one; 0 without one."""
        if self.deadline is None:
            return 0
        return max(int(1000 * (self.deadline - time.monotonic())), 1)

    def expired(self) -> bool:
        """Returns whether the deadline has passed, or it has its outcome."""
        passed = self.deadline is not None and time.monotonic() >= self.deadline
        return passed or self.future.done()

    def outcome(
        self,
        status: str,
        prediction: dict[str, object] | None = None,
        error: str | None = None,
        result: pb.Result | None = None,
    ) -> Outcome:
        """Makes the outcome of now.

        Args:
          status, prediction, error: as in `Outcome`.
          result: of the service, with its times.

        Returns:
          The outcome.
        """
        return Outcome(
            cast("Status", status),
            prediction,
            error,
            self.frame_bytes,
            self.rate_index,
            time.monotonic() - self.offered,
            0.0 if result is None else result.server_us / 1e6,
            0.0 if result is None else result.queue_us / 1e6,
            self.attempts,
        )


class FramesInFlight:
    """The owner of a client's connections: gives them frames, and frames their outcomes.

    All methods run in the loop.

    Args:
      loop: of the client's thread.
      link: learns from what is sent and what comes back.
      counts: of the client.
      lock: of these two.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        link: LinkEstimator,
        counts: Counts,
        lock: threading.Lock,
    ) -> None:
        self._loop, self._link, self._counts, self._lock = loop, link, counts, lock
        self._flights = dict[int, Flight]()
        self._connections: Sequence[Connection] = ()
        self._ready = Future[None]()
        self._refused: JaxsplitError | None = None
        self.stop = asyncio.Event()

    def open(self, connections: Sequence[Connection], ready: Future[None]) -> None:
        """Takes the connections; `ready` is done with the first welcome, or fails by a refusal."""
        self._connections, self._ready = connections, ready

    async def run(self) -> None:
        """Runs the connections until `stop`; then what has no result fails."""
        tasks = [
            asyncio.create_task(self._start(number)) for number in range(len(self._connections))
        ]
        await self.stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for flight in list(self._flights.values()):
            self._finish(flight, "failed", error="the client was closed before a result came")

    async def _start(self, number: int) -> None:
        """Runs a connection, some time after the one before it was welcomed.

        gRPC gives a stream to the next replica among those to which it is connected by then.
        """
        if number:
            await self._connections[number - 1].welcomed.wait()
            await asyncio.sleep(_BETWEEN_STREAMS)
        await self._connections[number].run()

    def add(self, flight: Flight) -> None:
        """Takes a new frame."""
        if self._refused is not None or self.stop.is_set():
            text = "the client is closed" if self._refused is None else one_line(self._refused)
            self._finish(flight, "failed", error=text)
            return
        self._flights[flight.number] = flight
        self._loop.call_later(max(flight.end - time.monotonic(), 0), self._time_out, flight)
        self._assign(flight)

    def on_sent(self, frame: Sending, now: float, first: bool) -> None:
        """See `Owner`."""
        flight = self._flights.get(frame.number)
        if flight is None:
            return
        flight.attempts += 1
        with self._lock:
            self._counts.resent += flight.attempts > 1
            # Frames of one request share its overhead.
            self._link.sent(frame.number, len(frame.data) - (0 if first else OVERHEAD // 2), now)

    def on_unsent(self, frame: Sending, too_large: int) -> None:
        """See `Owner`."""
        if (flight := self._flights.get(frame.number)) is None:
            return
        if too_large:
            text = f"a frame of {len(frame.data)} bytes; the service takes at most {too_large}"
            self._finish(flight, "failed", error=text)
        else:
            self._finish(flight, "late", error=_PASSED)

    def has_stream(self, server: int) -> bool:
        """See `Owner`."""
        return any(one.server == server for one in self._connections)

    def on_welcome(self, sent: float, now: float, size: int) -> None:
        """See `Owner`."""
        with self._lock:
            self._link.sent(-1, size, sent)
            self._link.answered(-1, now, 0.0)
            if self._ready.done():
                self._counts.reconnected += 1
        if not self._ready.done():
            self._ready.set_result(None)

    def on_result(self, connection: Connection, result: pb.Result, now: float) -> None:
        """See `Owner`."""
        with self._lock:
            self._link.answered(result.id, now, result.server_us / 1e6)
        flight = self._flights.get(result.id)
        if flight is None:  # it was sent twice, and both had results
            return
        late = flight.deadline is not None and now > flight.deadline
        if result.code == Code.OK:
            prediction = json.loads(result.text)
            self._finish(flight, "late" if late else "answered", prediction, result=result)
        elif result.code == Code.DEADLINE_EXCEEDED:
            self._finish(flight, "late", error=result.text, result=result)
        elif result.code in _AGAIN:
            wait = result.retry_ms / 1000 * random.uniform(1.0, 2.0)
            if flight.deadline is not None and now + wait > flight.deadline:
                self._finish(flight, "dropped", error=result.text, result=result)
                return
            flight.owner = None
            self._loop.call_later(wait, self._assign, flight)
        else:
            self._finish(flight, "failed", error=result.text, result=result)

    def on_end(self, connection: Connection) -> None:
        """See `Owner`."""
        for flight in list(self._flights.values()):
            if flight.owner is connection:
                with self._lock:
                    self._link.lost(flight.number)
                self._assign(flight)

    def on_refused(self, error: JaxsplitError) -> None:
        """See `Owner`."""
        self._refused = error
        if not self._ready.done():
            self._ready.set_exception(error)
        for flight in list(self._flights.values()):
            self._finish(flight, "failed", error=one_line(error))

    def _assign(self, flight: Flight) -> None:
        """Gives a frame to the connection with the fewest."""
        if flight.future.done():
            return
        if flight.expired():
            self._finish(flight, "late", error=_PASSED)
            return
        flight.owner = min(self._connections, key=lambda one: one.load)
        flight.owner.send(cast("Sending", flight))

    def _time_out(self, flight: Flight) -> None:
        if not flight.future.done():
            status: Status = "failed" if flight.deadline is None else "late"
            seconds = flight.end - flight.offered
            self._finish(flight, status, error=f"no result in {seconds:g} s")

    def _finish(
        self,
        flight: Flight,
        status: Status,
        prediction: dict[str, object] | None = None,
        error: str | None = None,
        result: pb.Result | None = None,
    ) -> None:
        self._flights.pop(flight.number, None)
        if flight.future.done():
            return
        with self._lock:
            self._counts.add(status)
        flight.future.set_result(flight.outcome(status, prediction, error, result))
