"""The exported device half beside the library's sender: symbols, predictions, time and memory.

    taskset -c 0 python tests/benchmarks/device.py --data folder:PHOTOS \\
        --install python3.13 python3.11 --json tests/benchmarks/results/device-cpu.json

On one core, both senders in turns:

- *Symbols*: those that the exported model rounds otherwise than jax, at every rate; frames that
  decode to the symbols that were sent; predictions that differ.
- *Steady state*: a uint8 array of the network's size to a frame, one image at a time, beside
  onnxruntime's own run of head and encoder; and from a JPEG file to a frame.
- *Fresh process*: time and peak memory of `run.py encode` and of `jaxsplit encode`, one photo.
- *Install* (with --install): bytes of an empty environment after `pip install -r
  requirements.txt`, and that it has no jax; run.py is then run by its Python.

Times are wall times and processor times. The bars are about processor time, which other programs on
the machine change less; alone on a core, with one thread, both are the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import in_turns, make_parser, provenance, say_missed, write_json

from jaxsplit import bitstream, data
from jaxsplit.codec import Receiver, Sender
from jaxsplit.codec.images import network_inputs
from jaxsplit.deploy.export import export_bundle
from jaxsplit.deploy.runtime.device import DeviceSender
from jaxsplit.family.pretrained import load_pretrained

FAMILY = "efficientnet_lite0/stage6.block1"
# Starts a command from a small process: a child's peak counts what it was forked from.
LAUNCHER = """
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
print(*seconds, usage.ru_maxrss / 1000, os.waitstatus_to_exitcode(status))
"""
PACKAGES = ("jax", "numpy", "onnx", "onnxruntime", "pillow", "constriction")
BATCH = 10
# Bars: share of symbols, predictions, seconds, MB, and ratios.
SYMBOLS, PREDICTIONS = 1e-4, 1
FIRST_FRAME_S, MEMORY_MB, INSTALL_MB, OVER_RUNTIME = 0.6, 200, 220, 1.2


def photos_of(source: data.Source, count: int, folder: Path) -> list[Path]:
    """Files of photos: written as JPEG where the source has arrays."""
    from PIL import Image

    files = []
    for number in range(min(count, len(source))):
        path = folder / f"{number}.jpg"
        Image.fromarray(np.squeeze(source[number]["image"])).save(path, quality=95)
        files.append(path)
    return files


def symbols(
    device: DeviceSender, sender: Sender, receiver: Receiver, images: np.ndarray
) -> dict[str, Any]:
    """Compares symbols, decoded frames and predictions at every rate."""
    rates: dict[str, Any] = {}
    features = sender.features(images)
    for name in device.names:
        theirs = sender.quantize(features, name)
        parts = [device.symbols(images[i : i + 1], name) for i in range(len(images))]
        ours, index = np.concatenate(parts), device.index(name)
        frames = [device.pack(one, index) for one in ours]
        count, version = sender.header.n_rates, sender.header.version
        opened = [bitstream.unpack_frame(x, count, version=version)[0] for x in frames]
        exact = sum(np.array_equal(device.decode(x), y) for x, y in zip(opened, ours, strict=True))
        lengths = [len(device.pack(one, index)) for one in theirs]
        classes = [np.argmax(receiver.predict(x, name), axis=-1) for x in (ours, theirs)]
        rates[name] = {
            "symbols": int(ours.size),
            "different": int((ours != theirs).sum()),
            "most": int(np.abs(ours - theirs).max()),
            "frames": len(frames),
            "decoded_exactly": exact,
            "predictions_different": int((classes[0] != classes[1]).sum()),
            "bytes": statistics.mean(map(len, frames)),
            "bytes_by_jax": statistics.mean(lengths),
        }
        print(f"{name}: {rates[name]}", flush=True)
    return rates


def steady(
    device: DeviceSender, sender: Sender, image: np.ndarray, photo: Path, rounds: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds of one image, of calls in turns: wall and processor time."""
    name = device.names[len(device.names) // 2]
    index, session = device.index(name), device._session
    levels = device.bundle.levels is not None
    output = "symbols" if levels else f"symbols_{name}"
    rate = np.full(1, index, np.int64) if levels else np.array(index, np.int64)
    calls = {
        "onnxruntime": lambda: session.run([output], {"image": image, "rate": rate}),
        "device": lambda: device.encode(image, name),
        "jax": lambda: sender.encode(image, name),
        "device_from_jpeg": lambda: device.encode(photo, name),
        "jax_from_jpeg": lambda: sender.encode(photo, name),
    }
    clocks = {"milliseconds": time.perf_counter, "cpu_milliseconds": time.process_time}
    return {
        name: {key: 1000 * value for key, value in in_turns(calls, rounds, clock).items()}
        for name, clock in clocks.items()
    }


def fresh(commands: dict[str, Sequence[str]], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds, processor seconds and peak memory of processes, in turns; medians."""
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for number in range(rounds + 1):
        for name, command in commands.items():
            words = [sys.executable, "-S", "-c", LAUNCHER, *command]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=kept, check=True)
            seconds, cpu, memory, code = map(float, done.stdout.split())
            assert code == 0, command
            if number:  # the first one reads files from the disk
                seen[name].append((seconds, cpu, memory))
    keys = "seconds", "cpu_seconds", "memory_mb"
    return {
        name: dict(zip(keys, map(statistics.median, zip(*values, strict=True)), strict=True))
        for name, values in seen.items()
    }


def install(base: str, folder: Path, requirements: Path) -> tuple[Path, float]:
    """Makes an environment of the requirements alone; its Python, and megabytes."""
    subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    before = size_of(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
    subprocess.run([*pip, "-r", str(requirements)], check=True)
    program = (
        "import importlib.util as u; assert not u.find_spec('jax') and not u.find_spec('flax')"
    )
    subprocess.run([python, "-c", program], check=True)
    return python, (size_of(folder) - before) / 1e6


def size_of(folder: Path) -> int:
    """Bytes of a folder's files, compiled modules included."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def missed(report: dict[str, Any]) -> list[str]:
    """The bars that a report misses, in words."""
    rates, times, processes = (
        report[key] for key in ("rates", "cpu_milliseconds", "fresh_process")
    )
    total = sum(one["symbols"] for one in rates.values())
    share = sum(one["different"] for one in rates.values()) / total
    predictions = max(one["predictions_different"] for one in rates.values())
    exact = all(one["decoded_exactly"] == one["frames"] for one in rates.values())
    ratio = times["device"] / times["onnxruntime"]
    bars = {
        f"{share:.1e} of symbols differ": share <= SYMBOLS,
        f"{predictions} predictions differ at a rate": predictions <= PREDICTIONS,
        "a frame decodes to other symbols": exact,
        "other pixels than the library's": not report["pixels_different"],
        f"{ratio:.2f} of onnxruntime's time": ratio <= OVER_RUNTIME,
        "slower than jax": times["device"] <= times["jax"],
        f"{processes['device']['cpu_seconds']:.2f} s": processes["device"]["cpu_seconds"]
        <= FIRST_FRAME_S,
        f"{processes['device']['memory_mb']:.0f} MB": processes["device"]["memory_mb"] <= MEMORY_MB,
    }
    if "install_mb" in report:
        bars[f"{report['install_mb']:.0f} MB installed"] = report["install_mb"] <= INSTALL_MB
    return [words for words, met in bars.items() if not met]


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Exports, and measures both senders."""
    family = load_pretrained(options.family)
    backbone = family.backbone_of(options.backbone)
    family = family.bind(backbone)
    sender, receiver = Sender(family, backbone), Receiver(family, backbone, BATCH)
    exported = export_bundle(family, folder / "device")
    device = DeviceSender(exported.folder, threads=1)
    source = data.open_source(options.data, split=options.split, max_samples=options.max_samples)
    photos = photos_of(source, len(source), folder)
    images = device.inputs(photos)
    pixels = network_inputs(photos, backbone.preprocessing, backbone.name)
    report: dict[str, Any] = {
        "family": options.family,
        "photos": len(photos),
        "pixels_different": int((images != pixels).sum()),
        "cores": len(os.sched_getaffinity(0)),
        **provenance(PACKAGES),
        "bundle_mb": exported.bytes / 1e6,
        "model_mb": exported.model_bytes / 1e6,
        "rates": symbols(device, sender, receiver, images),
        **steady(device, sender, images[:1], photos[0], options.rounds),
    }
    print(report["milliseconds"], report["cpu_milliseconds"], flush=True)
    python, requirements = Path(sys.executable), exported.folder / "requirements.txt"
    for number, base in enumerate(options.install):
        python, report["install_mb"] = install(base, folder / f"environment{number}", requirements)
        check = [str(python), str(exported.folder / "run.py"), "check"]
        done = subprocess.run(check, check=True, stdout=subprocess.PIPE, text=True)
        version = subprocess.run([python, "--version"], stdout=subprocess.PIPE, text=True).stdout
        report.setdefault("checked", {})[version.strip()] = done.stdout.strip()
    name, output = device.names[len(device.names) // 2], str(folder / "x.jspl")
    words = ["encode", str(photos[0]), "-o", output, "--rate", name]
    own = [str(python), str(exported.folder / "run.py"), *words, "--threads", "1"]
    library = [sys.executable, "-m", "jaxsplit", *words, "--family", options.family, "--quiet"]
    report["fresh_process"] = fresh({"device": own, "jax": library}, options.processes)
    print(report["fresh_process"], report.get("install_mb"), flush=True)
    return report


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--family", default=FAMILY)
    parser.add_argument("--backbone", help="weights by name; default: what the family names")
    parser.add_argument("--data", required=True, help="photos, as in jaxsplit evaluate")
    parser.add_argument("--split")
    parser.add_argument("--max-samples", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=60, help="of the steady state")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes of each kind")
    text = "make environments of these Pythons; the last one's runs the processes"
    parser.add_argument("--install", nargs="*", default=[], metavar="PYTHON", help=text)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        report = measure(options, Path(folder))
    report["missed"] = missed(report)
    write_json(options.json, report)
    return say_missed(report["missed"])


if __name__ == "__main__":
    sys.exit(main())
