r"""The service under load, through a link that changes, and for a long time.

    python tests/benchmarks/service.py --data folder:DIR --split val \
        --json tests/benchmarks/results/service-cpu.json \
        --plot tests/benchmarks/results/service-link.png
    python tests/benchmarks/service.py --data folder:DIR --split val --only soak --seconds 1800 \
        --json tests/benchmarks/results/service-soak-cpu.json

Server, proxy and clients are processes of their own on loopback; frames are encoded beforehand.
DIR has folders of classes, and classes.txt with those of the network in its order.

throughput  the service and the bare Receiver on --server-cpu, in turns; clients on --client-cpu
load        50 clients beside 5 silent and 5 garbage ones: outcomes, p50, p99
restart     20 drops of the link, and the server killed and started again, under load
replicas    two servers; one is killed under load
refusals    a wrong token, another family, a newer version, a message of 1 GB: errors and their cost
link        10 images a second with a deadline of 200 ms over 2 Mbit/s, 100 kbit/s, 1 Mbit/s, with
            40 ms round trip: rate control by the link, and every fixed rate
soak        half of the load's throughput; memory of the server
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import service_plot
from harness import make_parser, provenance, say_missed, write_json

FAMILY = "efficientnet_lite0/stage6.block1"
HERE = Path(__file__).parent
PROXY = HERE.parent / "deploy" / "proxy.py"
TRACE = ((20.0, 2000), (20.0, 100), (20.0, 1000))  # seconds, kbit/s
ROUND_TRIP_MS, FPS, DEADLINE = 40, 10, 0.2
# Errors of the client, by what is wrong; seconds and MB that a refusal may cost.
REFUSED = {
    "token": "ServiceError UNAUTHENTICATED",
    "family": "OtherFamilyError",
    "version": "NewerVersionError",
    "gigabyte": "RESOURCE_EXHAUSTED",
}
REFUSAL_S, REFUSAL_MB = 2.0, 20.0
with contextlib.ExitStack() as _stack:  # three free ports
    _sockets = [_stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
    PORT, PROXY_PORT, OTHER_PORT = (one.getsockname()[1] for one in _sockets)


def prepare(options: Any, path: Path) -> None:
    """Encodes images at all rates, and notes what the bare Receiver predicts of each frame."""
    import jaxsplit
    from jaxsplit.bitstream import pack_header
    from jaxsplit.codec.rate_control import rates_for
    from jaxsplit.data.imagenet import named

    family = jaxsplit.load_pretrained(options.family)
    backbone = family.backbone_of()
    sender, receiver = family.codec(backbone, batch_size=16)
    source = jaxsplit.open_source(options.data, split=options.split, max_samples=options.images)
    fixed = [rate.rate_id for rate in family.rates]
    names = fixed
    if "link" in options.only.split(","):  # the best first: all levels, or rates by accuracy
        names = rates_for(family, max_bytes=1, task=backbone.task)
        names = names if family.levels is None else names[::-1]
    by_rate = {name: sender(source, name) for name in names}
    described = {
        name: [one["class"] for one in backbone.task.describe(receiver(frames))]
        for name, frames in by_rate.items()
    }
    count = len(source.labels)
    record = {
        "header": base64.b64encode(pack_header(sender.header)).decode(),
        "names": fixed,
        "labels": [named(backbone.task.class_names[label])["class"] for label in source.labels],
        "frames": [
            {name: base64.b64encode(by_rate[name][i]).decode() for name in names}
            for i in range(count)
        ],
        "classes": [{name: described[name][i] for name in names} for i in range(count)],
    }
    path.write_text(json.dumps(record))


@contextlib.contextmanager
def server(
    options: Any, *more: str, cpu: int | None = None, port: int = PORT
) -> Iterator[subprocess.Popen[str]]:
    """Runs a service; ended by SIGTERM."""
    words = [] if cpu is None else ["taskset", "-c", str(cpu)]
    words += [sys.executable, "-m", "jaxsplit", "serve", "--family", options.family]
    words += ["--port", str(port), "--quiet", *more]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "ready"
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextlib.contextmanager
def proxy(trace: str = "1e9:0", round_trip_ms: float = 0.0) -> Iterator[subprocess.Popen[str]]:
    """Runs a link on PROXY_PORT: SIGUSR1 starts its trace anew, SIGUSR2 drops its connections."""
    words = [sys.executable, str(PROXY), str(PROXY_PORT), str(PORT), "--trace", trace]
    words += ["--round-trip-ms", str(round_trip_ms)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.terminate()
        process.wait(10)


def client(folder: Path, **spec: Any) -> subprocess.Popen[str]:
    """Starts a client process; its result is JSON on stdout."""
    path = folder / f"spec-{time.monotonic_ns()}.json"
    path.write_text(json.dumps({"frames": str(folder / "frames.json"), **spec}))
    words = [sys.executable, str(HERE / "service_client.py"), str(path)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> Any:
    """The result of a client process."""
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a client ended with {process.returncode}")
    return json.loads(out)


def bare(options: Any, folder: Path, seconds: float) -> float:
    """Images a second of a bare Receiver that decodes and describes batches of 32."""
    program = f"""
import base64, json, os, time
os.sched_setaffinity(0, {{{options.server_cpu}}})
import numpy as np, jaxsplit
record = json.load(open({str(folder / "frames.json")!r}))
receiver = jaxsplit.load_pretrained({options.family!r}).codec(batch_size=32)[1]
rng, images = np.random.default_rng(0), record["frames"]
names = [{options.rate!r}] if {options.rate!r} else record["names"]
pick = lambda name: base64.b64decode(images[rng.integers(len(images))][name])
frames = [pick(name) for name in names for _ in range(128)]  # whole batches of each rate
rng.shuffle(frames)
receiver(frames)
start, done = time.perf_counter(), 0
while time.perf_counter() - start < {seconds}:
    receiver.backbone.task.describe(receiver(frames))
    done += len(frames)
print(done / (time.perf_counter() - start))
"""
    out = subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(out.stdout)


def throughput(options: Any, folder: Path) -> dict[str, Any]:
    """The service beside the bare Receiver, in turns."""
    served, alone, last = [], [], {}
    for _ in range(options.rounds):
        alone.append(bare(options, folder, options.seconds / 2))
        with server(options, cpu=options.server_cpu):
            spec = {"to": f"127.0.0.1:{PORT}", "clients": 4, "in_flight": 32}
            spec |= {"rate": options.rate, "cpu": options.client_cpu}
            last = result(client(folder, **spec, seconds=options.seconds / 2))
        served.append(last["images_per_second"])
    ratio = statistics.median(served) / statistics.median(alone)
    return {"service": served, "receiver": alone, "ratio": ratio, "last": last}


def load(options: Any, folder: Path) -> dict[str, Any]:
    """50 clients beside silent and garbage ones."""
    with server(options):
        spec = {"to": f"127.0.0.1:{PORT}", "clients": options.clients, "in_flight": 2}
        return result(client(folder, **spec, seconds=options.seconds, silent=5, garbage=5))


def restart(options: Any, folder: Path) -> dict[str, Any]:
    """20 drops of the link; the server killed and started again."""
    spec = {"to": f"127.0.0.1:{PROXY_PORT}", "clients": 8, "in_flight": 4}
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(proxy())
        first = stack.enter_context(server(options))
        run = client(folder, **spec, seconds=options.seconds)
        for _ in range(20):
            time.sleep(options.seconds / 40)
            link.send_signal(signal.SIGUSR2)
        first.kill()
        first.wait()
        stack.enter_context(server(options))
        return result(run)


def replicas(options: Any, folder: Path) -> dict[str, Any]:
    """Two servers; one is killed at half of the time."""
    spec = {"to": f"127.0.0.1:{PORT},127.0.0.1:{OTHER_PORT}", "clients": 8, "in_flight": 4}
    with server(options) as first, server(options, port=OTHER_PORT):
        run = client(folder, **spec, seconds=options.seconds)
        time.sleep(options.seconds / 2)
        first.kill()
        return result(run)


def refusals(options: Any, folder: Path) -> dict[str, Any]:
    """Sends what is to be refused: the client's error, seconds, growth of the server's memory."""
    token = folder / "token"
    token.write_text("a-long-random-word")
    found: dict[str, Any] = {}
    with server(options, "--token-file", str(token)) as process:
        for kind in ("token", "family", "version", "gigabyte"):
            before = memory_mb(process.pid)
            spec = {"to": f"127.0.0.1:{PORT}", "token": token.read_text(), "refused": kind}
            found[kind] = result(client(folder, **spec))
            found[kind]["server_growth_mb"] = round(memory_mb(process.pid) - before, 1)
    return found


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2)


def link(options: Any, folder: Path) -> dict[str, Any]:
    """Rate control by the link beside every fixed rate, over the same trace."""
    scale = options.seconds / sum(seconds for seconds, _ in TRACE)
    trace = ",".join(f"{scale * seconds:g}:{rate}" for seconds, rate in TRACE)
    names = json.loads((folder / "frames.json").read_text())["names"]
    found: dict[str, Any] = {"trace": trace, "round_trip_ms": ROUND_TRIP_MS, "fps": FPS}
    found |= {"deadline_ms": 1000 * DEADLINE, "encode_ms": 1000 * options.encode_seconds}
    with server(options), proxy(trace, ROUND_TRIP_MS) as through:
        for name in ("by link", *names):
            started = folder / "started"
            started.unlink(missing_ok=True)
            spec = {"to": f"127.0.0.1:{PROXY_PORT}", "fps": FPS, "deadline": DEADLINE}
            spec |= {"started": str(started), "encode_seconds": options.encode_seconds}
            through.send_signal(signal.SIGUSR1)
            run = client(
                folder, **spec, seconds=options.seconds, rate=None if name == "by link" else name
            )
            while not started.exists() and run.poll() is None:
                time.sleep(0.01)
            through.send_signal(signal.SIGUSR1)
            found[name] = result(run)
            summary = {key: found[name][key] for key in ("in_time", "accuracy", "counts")}
            print(f"link, {name}: {summary}", flush=True)
            if name != "by link":
                del found[name]["frames"]
    return found


def soak(options: Any, folder: Path) -> dict[str, Any]:
    """Half of the highest load, or --offered; memory of the first and the last third."""
    with server(options) as process:
        spec = {"to": f"127.0.0.1:{PORT}", "clients": 8, "in_flight": 8}
        offered = options.offered
        if offered is None:
            offered = result(client(folder, **spec, seconds=10))["images_per_second"] / 2
        run = client(folder, **spec, seconds=options.seconds, period=8 / offered)
        memory = []
        while run.poll() is None:
            memory.append(memory_mb(process.pid))
            time.sleep(max(options.seconds / 360, 0.5))
        found = result(run)
    third = len(memory) // 3
    first, last = (statistics.median(part) for part in (memory[:third], memory[-third:]))
    found |= {"offered": offered, "memory_mb": memory}
    return {**found, "first_third_mb": first, "last_third_mb": last}


def missed(found: dict[str, Any]) -> list[str]:
    """Which bars were missed."""
    failed = []
    if "throughput" in found and found["throughput"]["ratio"] < 0.8:
        failed.append(f"throughput: {found['throughput']['ratio']:.2f} of the Receiver's")
    for name in ("load", "restart", "replicas", "soak"):
        if run := found.get(name):
            done = sum(run["counts"].get(x, 0) for x in ("answered", "late", "dropped", "failed"))
            if run["wrong"] or done != run["submitted"]:
                failed.append(f"{name}: {run['wrong']} wrong, {run['submitted'] - done} lost")
    for name, one in found.get("refusals", {}).items():
        cheap = one["seconds"] <= REFUSAL_S and one["server_growth_mb"] <= REFUSAL_MB
        if one["error"] != REFUSED[name] or not cheap:
            failed.append(f"refusals: {name}: {one}")
    if run := found.get("link"):
        fixed = {key: one["accuracy"] for key, one in run.items() if isinstance(one, dict)}
        ours = fixed.pop("by link")
        if run["by link"]["in_time"] < 0.95 or ours < max(fixed.values()):
            failed.append(f"link: {run['by link']['in_time']:.3f} in time, {ours:.3f}; {fixed}")
    if (run := found.get("soak")) and run["last_third_mb"] > run["first_third_mb"] + 5:
        failed.append(f"soak: {run['first_third_mb']} to {run['last_third_mb']} MB")
    return failed


def main() -> int:
    """Runs the parts that are asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--family", default=FAMILY)
    parser.add_argument("--data", default="embedded")
    parser.add_argument("--split")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--only", default="throughput,load,restart,replicas,refusals,link")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each part")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput")
    parser.add_argument("--rate", help="of all frames of throughput; default: all rates")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--client-cpu", type=int, default=1)
    parser.add_argument("--encode-seconds", type=float, default=0.015, help="of an image, in link")
    parser.add_argument("--offered", type=float, help="images a second of soak")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    parts = {
        one.__name__: one for one in (throughput, load, restart, replicas, refusals, link, soak)
    }
    found: dict[str, Any] = {"family": options.family, "seconds": options.seconds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(options, folder / "frames.json")
        for part in options.only.split(","):
            found[part] = parts[part](options, folder)
            shown = {k: x for k, x in found[part].items() if not isinstance(x, dict | list)}
            print(f"{part}: {shown}", flush=True)
        names = json.loads((folder / "frames.json").read_text())["names"]
    found |= provenance(("jax", "grpcio", "numpy"))
    found["load_average"] = os.getloadavg()
    write_json(options.json, found)
    if options.plot and "link" in found:
        service_plot.draw(found["link"], names, options.plot)
    return say_missed(missed(found))


if __name__ == "__main__":
    sys.exit(main())
