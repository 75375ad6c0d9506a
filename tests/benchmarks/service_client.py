"""Client processes of the benchmark `service.py`: frames encoded beforehand, no jax.

    python tests/benchmarks/service_client.py SPEC.json

The specification names the frames, the address and what to do; the result is JSON on stdout.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from jaxsplit.bitstream import pack_header
from jaxsplit.bitstream.frames import Cursor
from jaxsplit.bitstream.header import FRAME_CHECKS, read_header
from jaxsplit.deploy import Client, Outcome
from jaxsplit.deploy import service_pb2 as pb
from jaxsplit.deploy.protocol import ERROR_KEY, STREAM, TOKEN_KEY, Code
from jaxsplit.errors import JaxsplitError, ServiceError


class Prepared:
    """An encoder whose frames are there: an image is its number."""

    def __init__(self, path: str) -> None:
        record = json.loads(Path(path).read_text())
        self.record = record
        self._header, _, _ = read_header(Cursor(base64.b64decode(record["header"]), 0))
        # Of each image by falling measured accuracy, as `Sender` tries them.
        self.frames = [
            {name: base64.b64decode(text) for name, text in one.items()} for one in record["frames"]
        ]

    def header(self, frame_checks: bool) -> bytes:
        """See `Encoder.header`."""
        return pack_header(self._header, FRAME_CHECKS if frame_checks else 0)

    def encode(self, image: int, *, rate: str | None = None, max_bytes: int | None = None) -> bytes:
        """See `Encoder.encode`; takes as long as a device is said to take."""
        time.sleep(self.record.get("encode_seconds", 0.0))
        frames = self.frames[image % len(self.frames)]
        if rate is not None:
            return frames[rate]
        fitting = (frame for frame in frames.values() if len(frame) <= max_bytes)
        return next(fitting, min(frames.values(), key=len))


def worker(encoder: Prepared, spec: dict[str, Any], seed: int) -> dict[str, Any]:
    """Sends images for some seconds; counts outcomes and wrong predictions."""
    rng, names = np.random.default_rng(seed), encoder.record["names"]
    seconds, wrong, submitted = list[float](), 0, 0
    errors: Counter[str] = Counter()
    period = spec.get("period", 0.0)
    with Client(encoder, spec["to"], timeout=60.0, connect_seconds=60.0) as client:
        end, waiting = time.monotonic() + spec["seconds"], []
        due = time.monotonic() + period * rng.uniform()
        while time.monotonic() < end or waiting:
            if time.monotonic() < end:
                time.sleep(max(due - time.monotonic(), 0))
                due += period
                image = int(rng.integers(len(encoder.frames)))
                rate = spec.get("rate") or names[rng.integers(len(names))]
                waiting.append((image, rate, client.submit(image, rate)))
                submitted += 1
            while waiting and (len(waiting) >= spec["in_flight"] or time.monotonic() >= end):
                image, rate, future = waiting.pop(0)
                outcome = future.result()
                if outcome.prediction is None:
                    errors[f"{outcome.status}: {outcome.error}"] += 1
                    continue
                seconds.append(outcome.seconds)
                wrong += outcome.prediction["class"] != encoder.record["classes"][image][rate]
        counts = vars(client.counts)
    return {
        "submitted": submitted,
        "counts": counts,
        "wrong": wrong,
        "seconds": seconds,
        "errors": dict(errors),
    }


def silent(to: str, hello: bytes, stop: threading.Event) -> None:
    """Opens streams that say hello and nothing else."""
    while not stop.is_set():
        with grpc.insecure_channel(to) as channel, contextlib.suppress(grpc.RpcError):
            call = channel.stream_stream(STREAM, pb.Request.SerializeToString)

            def requests() -> Any:
                yield pb.Request(hello=pb.Hello(header=hello))
                stop.wait()

            for _ in call(requests()):
                pass


def garbage(to: str, seed: int, stop: threading.Event) -> None:
    """Sends random bytes to connections, and random requests to streams."""
    rng = np.random.default_rng(seed)
    host, _, port = to.partition(":")
    while not stop.is_set():
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 5) as one:
            one.sendall(rng.bytes(int(rng.integers(1, 4096))))
        with grpc.insecure_channel(to) as channel, contextlib.suppress(grpc.RpcError):
            call = channel.stream_stream(STREAM, lambda data: data)
            for _ in call(iter([rng.bytes(int(rng.integers(1, 4096)))]), timeout=5):
                pass
        stop.wait(0.2)


def many(encoder: Prepared, spec: dict[str, Any]) -> dict[str, Any]:
    """Runs clients beside silent and garbage ones."""
    stop, results = threading.Event(), list[dict[str, Any]]()
    hello = encoder.header(True)
    others = [
        threading.Thread(target=silent, args=(spec["to"], hello, stop))
        for _ in range(spec.get("silent", 0))
    ]
    others += [
        threading.Thread(target=garbage, args=(spec["to"], seed, stop))
        for seed in range(spec.get("garbage", 0))
    ]
    threads = [
        threading.Thread(target=lambda seed=seed: results.append(worker(encoder, spec, seed)))
        for seed in range(spec["clients"])
    ]
    start = time.monotonic()
    for thread in (*others, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.monotonic() - start
    stop.set()
    for thread in others:
        thread.join(10)
    seconds = np.array([x for one in results for x in one["seconds"]])
    total: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for one in results:
        total.update(one["counts"])
        errors.update(one["errors"])
    return {
        "clients_done": len(results),
        "submitted": sum(one["submitted"] for one in results),
        "counts": dict(total),
        "wrong": sum(one["wrong"] for one in results),
        "errors": dict(errors),
        "images_per_second": len(seconds) / wall,
        "p50_ms": 1000 * float(np.median(seconds)) if len(seconds) else None,
        "p99_ms": 1000 * float(np.percentile(seconds, 99)) if len(seconds) else None,
    }


class Changed:
    """An encoder whose header has another byte: of the version (4), or of the family."""

    def __init__(self, encoder: Prepared, kind: str) -> None:
        header, _, _ = read_header(Cursor(encoder.header(True), 0))
        content = bytearray(encoder.header(True))
        place = 4 if kind == "version" else content.index(bytes.fromhex(header.family))
        content[place] ^= 0x80
        self.content = bytes(content)

    def header(self, frame_checks: bool) -> bytes:
        """See `Encoder.header`."""
        return self.content


def refused(encoder: Prepared, spec: dict[str, Any]) -> dict[str, Any]:
    """Makes a request that the service refuses; the error, its text and seconds."""
    kind, start = spec["refused"], time.monotonic()
    if kind in ("version", "gigabyte"):  # no `Client` sends these
        hello = pb.Hello(header=encoder.header(True))
        requests = [pb.Request(hello=hello), pb.Request(frames=[pb.Frame(data=bytes(10**9))])]
        if kind == "version":
            requests = [pb.Request(hello=pb.Hello(header=Changed(encoder, kind).content))]
        start = time.monotonic()
        with grpc.insecure_channel(spec["to"]) as channel:
            call = channel.stream_stream(STREAM, pb.Request.SerializeToString)
            metadata = ((TOKEN_KEY, f"Bearer {spec['token']}"),)
            try:
                for _ in call(iter(requests), metadata=metadata, timeout=60):
                    pass
                error, text = "none", ""
            except grpc.RpcError as ended:
                named = dict(ended.trailing_metadata() or ()).get(ERROR_KEY)
                error, text = named or ended.code().name, ended.details()
        return {"error": error, "text": text, "seconds": time.monotonic() - start}
    try:
        token = "wrong" if kind == "token" else spec["token"]
        Client(encoder if kind == "token" else Changed(encoder, kind), spec["to"], token=token)
        error, text = "none", ""
    except ServiceError as found:
        error, text = f"ServiceError {Code(found.code).name}", str(found)
    except JaxsplitError as found:
        error, text = type(found).__name__, str(found)
    return {"error": error, "text": text, "seconds": time.monotonic() - start}


def camera(encoder: Prepared, spec: dict[str, Any]) -> dict[str, Any]:
    """Offers images at a pace with a deadline, at one rate or by the link."""
    rows, lock = list[dict[str, Any]](), threading.Lock()
    rate, total = spec.get("rate"), round(spec["seconds"] * spec["fps"])
    with Client(
        encoder,
        spec["to"],
        deadline=spec["deadline"],
        on_overload=spec.get("on_overload", "cheapest"),
        connect_seconds=30.0,
        max_in_flight=10_000,
    ) as client:
        Path(spec["started"]).touch()  # the trace starts now
        start, futures = time.monotonic(), []
        for number in range(total):
            time.sleep(max(start + number / spec["fps"] - time.monotonic(), 0))
            offered = time.monotonic() - start
            with client._lock:
                link = {"throughput": client.link.throughput, "base": client.link.base}
            futures.append((number, offered, link, client.submit(number, rate)))
        for number, offered, link, future in futures:
            outcome: Outcome = future.result()
            image = number % len(encoder.frames)
            said = None if outcome.prediction is None else outcome.prediction["class"]
            in_time = outcome.status == "answered"
            row = {
                "t": round(offered, 3),
                "status": outcome.status,
                "rate_index": outcome.rate_index,
                "bytes": outcome.frame_bytes,
                "ms": round(1000 * outcome.seconds, 1),
                "server_ms": round(1000 * outcome.server_seconds, 1),
                "correct": bool(in_time and said == encoder.record["labels"][image]),
                "kbit_s": round(8 * link["throughput"] / 1000),
                "base_ms": round(1000 * link["base"], 1),
            }
            with lock:
                rows.append(row)
        counts = vars(client.counts)
    return {
        "offered": total,
        "in_time": sum(row["status"] == "answered" for row in rows) / total,
        "accuracy": sum(row["correct"] for row in rows) / total,
        "counts": counts,
        "frames": rows,
    }


def main() -> None:
    """Runs what the specification says."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    if "cpu" in spec:
        os.sched_setaffinity(0, {spec["cpu"]})
    encoder = Prepared(spec["frames"])
    encoder.record["encode_seconds"] = spec.get("encode_seconds", 0.0)
    run = camera if "fps" in spec else refused if "refused" in spec else many
    print(json.dumps(run(encoder, spec)))


if __name__ == "__main__":
    main()
