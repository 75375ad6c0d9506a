"""The client of a service: encodes, sends, sends again, and chooses rates by the link.

Works with the library's sender and with the encoder of an exported bundle. Imports no jax.
"""

from __future__ import annotations

import asyncio
import collections
import math
import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from jaxsplit.bitstream import unpack_frame
from jaxsplit.deploy import service_pb2 as pb
from jaxsplit.deploy.connection import Connection, Settings, addresses, open_channel
from jaxsplit.deploy.encoder import Encoder, as_encoder
from jaxsplit.deploy.frames_in_flight import Flight, FramesInFlight
from jaxsplit.deploy.link import LinkEstimator
from jaxsplit.deploy.loop import background_loop
from jaxsplit.deploy.outcomes import Counts, Outcome
from jaxsplit.deploy.protocol import read_hello, seal
from jaxsplit.errors import ConfigError, JaxsplitError, ServiceError, choices, one_line

if TYPE_CHECKING:
    from jaxsplit.codec import Sender
    from jaxsplit.deploy.runtime.device import DeviceSender

#: What is done with a frame that doesn't arrive in time at any rate.
ON_OVERLOAD = ("cheapest", "drop")


class Client:
    """Sends images to a service and gets predictions. Every image has one `Outcome`.

    A stream that breaks is opened again after a random time, and frames without a result are sent
    again. Several addresses are replicas: gRPC gives each stream to the next of them. With a
    deadline or target_fps and without a rate, each image is sent at the best rate that the link is
    expected to carry in time, see `LinkEstimator`. To be used as a context manager.

    Args:
      encoder: a `Sender`, the `DeviceSender` of an exported bundle, or an `Encoder`.
      to: HOST:PORT, or several with commas between.
      deadline: seconds from an image to its result; later ones are late. None: any time.
      target_fps: images a second that the link should carry; None: any number.
      on_overload: "cheapest" sends the shortest frame of an image that won't be in time, unless
        earlier ones already take too long; "drop" sends none.
      top: classes of a prediction.
      token: that of the service.
      tls: True for gRPC's own root certificates, PEM of others; False: no TLS.
      frame_checks: four bytes a frame by which the service finds damage.
      timeout: seconds after which an image without a result fails; with a deadline 2 s after it.
      connect_seconds: for the first welcome of the service.
      max_in_flight: most images without an outcome; `submit` waits, or drops with a deadline.

    Attributes:
      counts: of the outcomes, and of what was sent again.
      link: the estimate of the link.

    Raises:
      ConfigError: an address or a value is invalid.
      ServiceError: the service isn't there in time, or refuses the token.
      OtherFamilyError, OtherTablesError, NewerVersionError: it has another family or version.

    >>> from jaxsplit.deploy.outcomes import Outcome
    >>> def show(sender, photos, address):
    ...     with Client(sender, address, deadline=0.2) as client:
    ...         return [outcome.prediction for outcome in client.send(photos)]
    """

    def __init__(
        self,
        encoder: Encoder | Sender | DeviceSender,
        to: str,
        *,
        deadline: float | None = None,
        target_fps: float | None = None,
        on_overload: str = "cheapest",
        top: int = 1,
        token: str | None = None,
        tls: bool | bytes = False,
        frame_checks: bool = True,
        timeout: float = 30.0,
        connect_seconds: float = 10.0,
        max_in_flight: int = 64,
    ) -> None:
        if on_overload not in ON_OVERLOAD:
            raise ConfigError(
                f"on_overload is {on_overload!r}; expected {choices(on_overload, ON_OVERLOAD)}"
            )
        for name, value in {"deadline": deadline, "target_fps": target_fps}.items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value!r}, expected a positive number")
        self._encoder = as_encoder(encoder)
        self._deadline, self._fps, self._on_overload = deadline, target_fps, on_overload
        self._timeout = timeout if deadline is None else deadline + 2.0
        header = self._encoder.header(frame_checks)
        self._hello = read_hello(header, top)
        self._to = addresses(to)
        self._settings = Settings(pb.Hello(header=header, top=top), token, tls)
        self.counts, self.link = Counts(), LinkEstimator()
        self._lock = threading.Lock()  # of the two above
        self._slots = threading.Semaphore(max_in_flight)
        self._encoding = collections.deque[float](maxlen=5)  # seconds of the last images
        self._number, self._closed = 0, False
        self._loop = background_loop()
        self._flights = FramesInFlight(self._loop, self.link, self.counts, self._lock)
        self._ready = Future[None]()
        self._running = asyncio.run_coroutine_threadsafe(self._run(), self._loop)
        try:
            self._ready.result(connect_seconds)
        except TimeoutError:
            self.close()
            raise ServiceError(
                f"no service at {to} in {connect_seconds:g} s: start it with jaxsplit serve, or "
                "check address and TLS"
            ) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the streams; frames without a result fail."""
        self._closed = True
        self._loop.call_soon_threadsafe(self._flights.stop.set)
        self._running.result()

    def submit(
        self, image: Any, rate: str | float | None = None, *, max_bytes: int | None = None
    ) -> Future[Outcome]:
        """Encodes an image in this thread and sends it.

        Args:
          image: as the encoder takes it.
          rate: name of a rate, or position of a level.
          max_bytes: the best frame of at most so many bytes, or the shortest.

        Returns:
          The outcome, in the future. A ConfigError without a rate, max_bytes, deadline or
          target_fps; other errors of the image or the link are outcomes.
        """
        by_link = rate is None and max_bytes is None
        if by_link and self._deadline is None and self._fps is None:
            raise ConfigError("give a rate or max_bytes, or the client a deadline or target_fps")
        if self._closed:
            raise ConfigError("the client is closed: make another")
        self._number += 1
        offered = time.monotonic()
        flight = Flight(self._number, offered, self._deadline, self._timeout)
        if not self._slots.acquire(blocking=self._deadline is None):
            return self._unsent(flight, "dropped", "too many images have no result yet")
        flight.future.add_done_callback(lambda _: self._slots.release())
        budget = self._budget(offered) if by_link else None
        try:
            frame = self._encoder.encode(
                image, rate=rate, max_bytes=max(budget, 1) if budget is not None else max_bytes
            )
        except JaxsplitError as error:
            return self._unsent(flight, "failed", one_line(error) or "")
        self._encoding.append(time.monotonic() - offered)
        opened, _ = unpack_frame(frame, self._hello.header.n_rates, version=self._hello.version)
        flight.rate_index, flight.frame_bytes = opened.rate_index, len(frame)
        flight.data = seal(frame, flight.number, self._hello.checked)
        if budget is not None and len(frame) > budget and (why := self._overload(offered)):
            return self._unsent(flight, "dropped", why)
        self._loop.call_soon_threadsafe(self._flights.add, flight)
        return flight.future

    def send(
        self,
        images: Iterable[Any],
        rate: str | float | None = None,
        *,
        max_bytes: int | None = None,
    ) -> Iterator[Outcome]:
        """Sends images one after the other, without waiting for results.

        Args:
          images: any iterable.
          rate, max_bytes: as in `submit`.

        Returns:
          An iterator over the outcomes, in the order of the images.
        """
        waiting = collections.deque[Future[Outcome]]()
        for image in images:
            waiting.append(self.submit(image, rate, max_bytes=max_bytes))
            while waiting and waiting[0].done():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _budget(self, offered: float) -> int:
        """Returns the most bytes of a frame that arrives in time."""
        # When it will be sent; the first image of a sender may wait for the compiler.
        now = offered + (statistics.median_low(self._encoding) if self._encoding else 0.0)
        found = list[int]()
        with self._lock:
            if self._deadline is not None:
                found.append(self.link.budget(offered + self._deadline - now, now))
            if self._fps is not None:
                found.append(self.link.pace(1 / self._fps, now))
        return min(found)

    def _overload(self, offered: float) -> str:
        """Returns why a frame that won't be in time isn't sent; "" if it is."""
        if self._on_overload == "drop":
            return "the link is too slow for every rate"
        now = time.monotonic()
        with self._lock:
            free = self.link.free(now)
        if self._deadline is not None and free > offered + self._deadline:
            return "the link is busy with earlier frames"
        return ""

    def _unsent(self, flight: Flight, status: str, why: str) -> Future[Outcome]:
        outcome = flight.outcome(status, error=why)
        with self._lock:
            self.counts.add(outcome.status)
        flight.future.set_result(outcome)
        return flight.future

    async def _run(self) -> None:
        channel = None
        try:
            channel = open_channel(self._to, self._settings)
            self._flights.open(
                [Connection(channel, self._settings, self._flights) for _ in self._to], self._ready
            )
            await self._flights.run()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            else:
                raise
        finally:
            if channel is not None:
                await channel.close()
