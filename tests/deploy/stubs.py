"""A service without jax: an engine that repeats payloads, an encoder, and a server in a thread."""

import asyncio
import contextlib
import queue
import threading
import time
from collections import Counter

from jaxsplit.bitstream import Header, RateInfo, pack_frame, pack_header
from jaxsplit.bitstream.header import FRAME_CHECKS
from jaxsplit.deploy.limits import Limits
from jaxsplit.deploy.loop import background_loop
from jaxsplit.deploy.server import Listen, serve, serve_until
from jaxsplit.errors import BitstreamError

RATES = ("low", "mid", "high")
HEADER = Header(
    "ab" * 16, tuple(RateInfo(name, f"{i}{i}" * 16, (4, 4, 64)) for i, name in enumerate(RATES))
)
OTHER = Header("cd" * 16, HEADER.rates)
SIZES = {"low": 20, "mid": 200, "high": 2000}


class StubEngine:
    """Predicts the number in a payload; can wait before each batch, or until it is let go."""

    def __init__(self, header=HEADER, name="stub", seconds=0.0):
        self.header, self.name, self.seconds = header, name, seconds
        self.batches, self.seen = [], Counter()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def warm_up(self):
        pass

    def run(self, frames, top):
        self.entered.set()
        self.gate.wait()
        time.sleep(self.seconds)
        self.batches.append(len(frames))
        found = []
        for frame in frames:
            if len(frame.payload) < 8:
                found.append(BitstreamError("too short"))
                continue
            number = int.from_bytes(frame.payload[:8], "big")
            self.seen[number] += 1
            ranked = [{"class": str(number + i), "probability": 0.5} for i in range(top)]
            found.append({**ranked[0], "rate": RATES[frame.rate_index], "top": ranked})
        return found


class StubEncoder:
    """Encodes a number at one of three rates."""

    def __init__(self, header=HEADER):
        self._header = header

    def header(self, frame_checks):
        return pack_header(self._header, FRAME_CHECKS if frame_checks else 0)

    def encode(self, image, *, rate=None, max_bytes=None):
        if rate is None:
            fitting = [name for name in RATES if SIZES[name] + 2 <= max_bytes]
            rate = fitting[-1] if fitting else "low"
        payload = image.to_bytes(8, "big").ljust(SIZES[rate], b"\0")
        return pack_frame(payload, RATES.index(rate), len(RATES))


class Running:
    """A service in the loop of the clients: its address, log lines, and how to end it."""

    def __init__(self, *engines, listen=None, **limits):
        self.lines, self._ending = queue.Queue(), asyncio.Event()
        limits = Limits(**{"drain_seconds": 5.0, **limits})

        def log(event, **fields):
            self.lines.put({"event": event, **fields})

        self._done = asyncio.run_coroutine_threadsafe(
            serve_until(self._ending, engines, listen or Listen(port=0), limits, log),
            background_loop(),
        )
        self._done.add_done_callback(lambda done: log("ended"))
        self.ready = self.wait_for("ready")
        self.port = self.ready["port"]
        self.address = f"127.0.0.1:{self.port}"

    def wait_for(self, event):
        while True:
            line = self.lines.get(timeout=30)
            if line["event"] == event:
                return line
            if line["event"] == "ended":
                self._done.result()
                raise AssertionError(f"the service has ended, without {event}")

    def drain(self):
        """As SIGTERM does; returns at once."""
        background_loop().call_soon_threadsafe(self._ending.set)

    def end(self):
        self.drain()
        self._done.result(30)


@contextlib.contextmanager
def running(*engines, **options):
    service = Running(*(engines or (StubEngine(),)), **options)
    try:
        yield service
    finally:
        service.end()


def main():
    """Serves a stub until SIGTERM, and prints its port."""

    def log(event, **fields):
        if event == "ready":
            print(fields["port"], flush=True)

    serve([StubEngine(seconds=0.005)], Listen(port=0), Limits(max_batch=4), log)


if __name__ == "__main__":
    main()
