"""A link between client and service: a proxy on loopback that limits, delays and drops.

Runs in a thread, or as a program: `python tests/deploy/proxy.py PORT UPSTREAM --trace TRACE`, such
as 20:2000,20:100 (seconds:kbit/s). Each direction of all connections together has one queue of the
given rate, as a radio link has; half of the round trip is added in each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import threading
import time

CHUNK = 512


class Direction:
    """One direction of a link: bytes leave it at its rate, then arrive after its delay."""

    def __init__(self, delay, rate_of):
        self.delay, self.rate_of, self.free = delay, rate_of, 0.0
        self.carried = 0

    async def carry(self, size):
        """Waits until the link has sent these bytes; returns when they arrive."""
        self.carried += size
        now = time.monotonic()
        # A sleep that is a little too long is no pause of the link.
        start = self.free if now - self.free < 0.005 else now
        rate = self.rate_of(start)
        self.free = start + size / rate if rate else start
        await asyncio.sleep(max(self.free - time.monotonic(), 0))
        return self.free + self.delay


class Proxy:
    """A link to a service.

    Args:
      upstream: port of the service, on loopback.
      trace: (seconds, bits a second) one after the other, the last for ever; None: unlimited.
      round_trip: seconds.
      port: to listen on; 0 takes a free one.

    Attributes:
      port: to connect to.
      accepted: number of connections so far.
    """

    def __init__(self, upstream, trace=None, round_trip=0.0, port=0):
        self.upstream, self.trace, self.port = upstream, trace or [(1e9, 0)], port
        self.accepted = 0
        self.refusing = False
        self.started = time.monotonic()
        self._up, self._down = (Direction(round_trip / 2, self._rate) for _ in range(2))
        self._writers = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self):
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *error):
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(10)

    @property
    def carried(self):
        """Bytes to the service and back, so far."""
        return self._up.carried, self._down.carried

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def restart(self):
        """Starts the trace anew."""
        self.started = time.monotonic()

    def drop(self):
        """Breaks all connections."""
        self._loop.call_soon_threadsafe(self._drop)

    def _drop(self):
        for writer in list(self._writers):
            with contextlib.suppress(Exception):
                writer.transport.abort()

    def _rate(self, now):
        passed = now - self.started
        bits = 0.0
        for seconds, bits in self.trace:  # noqa: B007 — the last one is for ever
            if passed < seconds:
                break
            passed -= seconds
        return bits / 8

    async def _run(self):
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=1 << 14)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        async with server:
            await self._ending.wait()
            self._drop()

    async def _accept(self, reader, writer):
        if self.refusing:
            writer.transport.abort()
            return
        self.accepted += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.upstream, limit=1 << 14)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        with contextlib.suppress(asyncio.CancelledError):  # the proxy ends
            await asyncio.gather(
                self._pump(reader, back, self._up), self._pump(there, writer, self._down)
            )
        self._writers -= {writer, back}

    async def _pump(self, reader, writer, direction):
        waiting = asyncio.Queue()

        async def deliver():
            while (item := await waiting.get()) is not None:
                arrival, data = item
                await asyncio.sleep(max(arrival - time.monotonic(), 0))
                writer.write(data)

        task = asyncio.create_task(deliver())
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(CHUNK):
                waiting.put_nowait((await direction.carry(len(data)), data))
        waiting.put_nowait(None)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await task
        with contextlib.suppress(Exception):
            writer.close()


def main():
    """Runs a proxy until it is ended; SIGUSR1 starts its trace anew, SIGUSR2 drops connections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("upstream", type=int)
    parser.add_argument("--trace", default="1e9:0", help="SECONDS:KBIT_S,…; 0 is unlimited")
    parser.add_argument("--round-trip-ms", type=float, default=0.0)
    options = parser.parse_args()
    parts = [one.split(":") for one in options.trace.split(",")]
    trace = [(float(seconds), 1000 * float(rate)) for seconds, rate in parts]
    proxy = Proxy(options.upstream, trace, options.round_trip_ms / 1000, options.port)
    signal.signal(signal.SIGUSR1, lambda *_: proxy.restart())
    signal.signal(signal.SIGUSR2, lambda *_: proxy.drop())
    with proxy:
        print(f"proxy on {proxy.port}", flush=True)
        while True:
            time.sleep(1)


if __name__ == "__main__":
    main()
