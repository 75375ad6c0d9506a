"""Ends real commands at random moments by SIGKILL, SIGTERM and SIGINT, and runs them again.

    python tests/benchmarks/interruptions.py --times 24 --json FILE

Each command first runs to its end, in a folder that holds files of a user's. It is then started and
ended `--times` times, the three signals in turn, at moments spread over that run's length, and at
last runs to its end again. Missed bars: a traceback (but for SIGKILL, which says nothing), another
exit status than that of the signal, a file of the user's touched, an output that is not whole, a
last run that fails, and files that it leaves and a run in a fresh folder doesn't.
"""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import harness
from PIL import Image

import jaxsplit
from jaxsplit import bitstream
from jaxsplit.evaluation.compare import MeasuredCurve
from jaxsplit.io.files import parse_json

ROOT = Path(__file__).parent.parent.parent
BACKBONES = ROOT / "jaxsplit" / "assets" / "backbones"
FAMILY = "resnet8_small-fashion_mnist/stage1.block1"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
#: Files of a user's in every folder, with names like those of our own.
THEIRS = ("eur.csv", "rates.txt", "x.jsplABCDEFGH", "states_9_9.npz", "notes.partial", ".hidden")
STARTED = 0.3  # seconds; before, Python itself starts
PER_FOLDER = 8  # interruptions; then a last run, and a fresh folder


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: its words in a folder, and a check that what lies there is whole."""

    words: Callable[[Path], list[str]]
    check: Callable[[Path], object]


def _frames(out: Path) -> None:
    if (out / "x.jspl").exists():
        header, frames = bitstream.read_container((out / "x.jspl").read_bytes())
        assert len(frames) == 2, header


def _curve(out: Path) -> None:
    if (out / "curve.json").exists():
        MeasuredCurve.open(out)  # refuses images.npz of another run


def _family(out: Path) -> None:
    if (out / "family.json").exists():
        jaxsplit.RateFamily.load(out)


def _training(out: Path) -> None:
    _curve(out)
    _family(out / "family")


def _search(out: Path) -> None:
    for name in ("search.json", "design.json"):
        if (out / name).exists():
            found = parse_json((out / name).read_bytes())
            kept = found.get("kept") or {}
            assert not kept.get("states") or (out / kept["states"]).exists()


def _weights(out: Path) -> None:
    if (out / "w.safetensors").exists():
        jaxsplit.load_backbone(str(out / "w.safetensors"))


def commands(inputs: Path) -> dict[str, Command]:
    """Returns the commands; `inputs` gets the images and weights that they read."""
    for i, example in enumerate(jaxsplit.open_source("embedded", max_samples=2)):
        Image.fromarray(example["image"][..., 0]).save(inputs / f"{i}.png")
    images = [str(inputs / f"{i}.png") for i in range(2)]
    family = ["--family", FAMILY]
    card = ["--card", "limits=none", "--card", "license=none", "--card", "command=none"]
    weights = BACKBONES / "fashion_mnist_resnet8.safetensors"
    return {
        "encode": Command(
            lambda out: ["encode", *images, *family, "--rate", "r3", "-o", str(out / "x.jspl")],
            _frames,
        ),
        "evaluate": Command(
            lambda out: [
                *("evaluate", *family, "--max-samples", "50", "--rates", "r1,r5"),
                *("--baselines", "jpeg", "--out", str(out)),
            ],
            _curve,
        ),
        "pack": Command(
            lambda out: [
                *("pack", *family, *card, "--data", "embedded", "--max-samples", "50"),
                *("-o", str(out / "packed")),
            ],
            lambda out: _family(out / "packed"),
        ),
        "import": Command(
            lambda out: [
                *("import", "backbone", "resnet8_small", str(weights)),
                *("-o", str(out / "w.safetensors")),
            ],
            _weights,
        ),
        "train": Command(
            lambda out: ["train", "--config", "fashion_mnist:smoke", "--workdir", str(out)],
            _training,
        ),
        "design": Command(
            lambda out: ["design", "--config", "resnet20_design:smoke", "--workdir", str(out)],
            _search,
        ),
    }


def start(words: list[str], place: Path) -> subprocess.Popen:
    """Starts a command whose temporary files and output are in a folder."""
    (place / "tmp").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(place / "tmp"),
        "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with (place / "said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "jaxsplit", *words],
            env=environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def make_folder(place: Path) -> Path:
    """Makes an output folder with files of a user's."""
    out = Path(tempfile.mkdtemp(dir=place))
    for folder in (out, out / "mine"):
        folder.mkdir(exist_ok=True)
        for name in THEIRS:
            (folder / name).write_text("a user's")
    return out


def names(out: Path) -> set[str]:
    """Names of a command's files in its folder, but for random ones: events, and in checkpoints."""
    found = [path.relative_to(out) for path in out.rglob("*")]
    random = "events.out", "ocdbt", "/d/"
    return {str(path) for path in found if not any(part in f"{path}/" for part in random)}


def complaints(command: Command, out: Path) -> list[str]:
    """Returns what is wrong in a folder after an interruption."""
    found = []
    for folder in (out, out / "mine"):
        for name in THEIRS:
            if not (folder / name).is_file() or (folder / name).read_text() != "a user's":
                found.append(f"touched {name}")
    try:
        command.check(out)
    except Exception as error:  # whatever a damaged file raises
        found.append(f"not whole: {type(error).__name__}: {error}")
    return found


def interrupted(
    command: Command, out: Path, place: Path, number: int, delay: float
) -> tuple[bool, list[str]]:
    """Ends a command after a delay; returns whether it still ran, and what is wrong."""
    process = start(command.words(out), place)
    time.sleep(delay)
    process.send_signal(number)
    try:
        status = process.wait(120)
    except subprocess.TimeoutExpired:
        process.kill()
        return True, ["still runs two minutes after the signal"]
    said, found = (place / "said").read_text(errors="replace"), complaints(command, out)
    # Before the handler is there, and for SIGKILL, the system ends the process.
    if status not in (0, -number, 128 + number):
        found.append(f"exit status {status}")
    if number != signal.SIGKILL:
        if "Traceback" in said or "Exception ignored" in said:
            found.append(f"said {said[-2000:]}")
        if status and (left := os.listdir(place / "tmp")):
            found.append(f"left in TMPDIR: {left}")
    shutil.rmtree(place / "tmp")
    return status != 0, found


def last_run(command: Command, out: Path, place: Path, expected: set[str] | None) -> list[str]:
    """Runs a command to its end; returns what is wrong. Its files should be the expected ones."""
    status = start(command.words(out), place).wait()
    found = complaints(command, out)
    if status:
        found.append(f"the last run exits with {status}: {(place / 'said').read_text()[-2000:]}")
    if expected is not None and (stray := names(out) ^ expected):
        found.append(f"files that differ from those of a run in a fresh folder: {sorted(stray)}")
    return found


def measure(
    name: str, command: Command, place: Path, times: int
) -> tuple[dict[str, object], list[str]]:
    """Interrupts a command so often; returns the counts, and what was found."""
    problems: list[str] = []
    for _ in range(2):  # the second with compiled programs
        out = make_folder(place)
        started = time.monotonic()
        problems += last_run(command, out, place, None)
        length = time.monotonic() - started
    expected, moments, ended = names(out), random.Random(name), Counter[str]()
    for i in range(times):
        if i % PER_FOLDER == 0:
            out = make_folder(place)
        number = SIGNALS[i % len(SIGNALS)]
        delay = moments.uniform(STARTED, length)
        running, found = interrupted(command, out, place, number, delay)
        ended[number.name if running else "over before"] += 1
        problems += [f"{number.name} after {delay:.2f} s: {one}" for one in found]
        if i % PER_FOLDER == PER_FOLDER - 1 or i == times - 1:
            problems += last_run(command, out, place, expected)
            shutil.rmtree(out)
    said = ", ".join(f"{count} {what}" for what, count in ended.items())
    print(f"{name}: {length:.1f} s; {said}; {len(problems)} problems", flush=True)
    for one in problems:
        print(f"  {one}", flush=True)
    figures = {"seconds": round(length, 1), "ended": dict(ended), "problems": len(problems)}
    return figures, problems


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = harness.make_parser(__doc__)
    parser.add_argument("--times", type=int, default=24, help="interruptions of each command")
    parser.add_argument("--only", help="one of the commands")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    report: dict[str, dict[str, object]] = {}
    missed: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        inputs = place / "inputs"
        inputs.mkdir()
        for name, command in commands(inputs).items():
            if options.only in (None, name):
                report[name], missed[name] = measure(name, command, place, options.times)
                harness.write_json(options.json, report)
    return harness.say_missed(
        [f"{name}: {one}" for name, r in report.items() for one in r["problems"]]
    )


if __name__ == "__main__":
    sys.exit(main())
