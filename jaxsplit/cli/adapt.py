"""`jaxsplit adapt`: your classes and images, from a folder to a family in one command."""

from __future__ import annotations

import argparse
import json
import signal
import time
from pathlib import Path

from jaxsplit.cli import arguments as cli
from jaxsplit.cli import program_cache
from jaxsplit.cli.train import cost_line
from jaxsplit.errors import Interrupted
from jaxsplit.io.files import as_text, check_writable

_DATA = "folder:PATH of a folder for each class (or of those for each split), or tfds:NAME"
_CUT = (
    "a cut of the network, or early, middle, late: at most 30, 65, 90 %% of its work on the device"
)
_FINETUNE = "none: only the last layer is fitted (default); last: on augmented images; all: all"
_MINUTES = "time for everything on this machine; the training's length follows (default: 5)"
_IMAGES = "held-out images to measure with, or all (default: 100)"
_LABELS = "weight of the images' labels in the training, beside 1 for the network's own outputs"
_BALANCED = "none, or balanced: all classes have the same weight, however many images they have"


def _count(text: str) -> int | None:
    return None if text == "all" else cli.positive(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number above 0")
    return minutes


@cli.command(
    "adapt",
    cli.argument("--data", "SOURCE", _DATA, required=True),
    cli.argument(
        "--backbone", "NAME", "network, default: efficientnet_lite0", default="efficientnet_lite0"
    ),
    cli.argument("--weights", "FILE|hf:NAME", "its weights: a file, or on the hub", Path),
    cli.argument("--cut", "WORD|NAME", f"{_CUT} (default: early)", default="early"),
    cli.argument(
        "--out", "DIR", "for the results (default: adapted)", Path, default=Path("adapted")
    ),
    cli.argument("--finetune", None, _FINETUNE, choices=("none", "last", "all"), default="none"),
    cli.argument("--minutes", "N", _MINUTES, _minutes, default=5.0),
    cli.argument("--class-weights", None, _BALANCED, choices=("none", "balanced"), default="none"),
    cli.argument("--labels", "WEIGHT", _LABELS, float, default=0.0),
    cli.argument("--test-images", "N|all", _IMAGES, _count, default=100),
    cli.argument("--seed", "N", "default: 0", int, default=0),
    note="The same command resumes one that was stopped.",
)
def adapt(options: argparse.Namespace) -> None:
    """Fit a network to your classes, train a unit, measure it with real bytes."""
    from jaxsplit.experiments.recipe import BATCH_SIZE
    from jaxsplit.io.checkpoint import check_name
    from jaxsplit.train import parallel

    check_name(options.out)
    check_writable(options.out)
    parallel.use_cpu_cores(BATCH_SIZE)
    with program_cache.kept():
        _adapt(options)


def _adapt(options: argparse.Namespace) -> None:
    from jaxsplit import data
    from jaxsplit.experiments.adapt import adapt as run
    from jaxsplit.experiments.recipe import RATES
    from jaxsplit.weights.load import load_backbone

    start = time.monotonic()
    given = ("cut", "out", "finetune", "minutes", "class_weights", "labels", "test_images", "seed")
    with cli.progress_bar(options, RATES) as progress:
        progress.log("loading the network")
        backbone = load_backbone(options.backbone, options.weights)
        try:
            done = run(
                *(backbone, options.data),
                **{name: getattr(options, name) for name in given},
                progress=progress,
                log=progress.log,
            )
        except KeyboardInterrupt as stopped:
            number = signal.Signals(getattr(stopped, "signal", signal.SIGINT))
            text = f"stopped by {number.name}: the same command resumes from there"
            raise Interrupted(text, number) from stopped
    classes = {
        name: {"images": images, "correct": right}
        for name, (right, images) in done.accuracy.classes.items()
    }
    each = ", ".join(
        f"{name} {right} of {images}" for name, (right, images) in done.accuracy.classes.items()
    )
    line = f"{done.accuracy.text}\n  {each}"
    out = options.out
    family = out / "family"
    summary = (
        f"wrote backbone.safetensors, family, curve.json, curve.png, images.npz and report.html to "
        f"{out} in {time.monotonic() - start:.0f} s; open {out / 'report.html'}\n"
        f"send a photo: jaxsplit encode PHOTO --family {family} --rate 0.5 -o photo.jspl\n"
        f"and receive: jaxsplit decode photo.jspl --family {family}"
    )
    document = {
        "data": as_text(data.portable_name(options.data)),
        "cut": done.family.cut,
        "top1": done.accuracy.top1.mean,
        "top1_interval": done.accuracy.top1.interval,
        "classes": classes,
        "curve": json.loads(done.curve.to_json()),
    }
    text = f"{line}\n{cost_line(done.family.cut, done.cost)}\n{done.table}"
    cli.show(options, text, document, summary, terms=True)
