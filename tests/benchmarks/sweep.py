"""Trials of one configuration, compared where no test image is read.

    python tests/benchmarks/sweep.py paper_recipe:fashion_mnist --workdir runs/sweep \
        --common phases.1.steps=1000 --trial learning_rate=3e-3 --trial learning_rate=3e-2

Every trial trains on nine tenths of the training images and is measured, through real bytes, on
the last tenth. The first is the configuration with `--common` alone; the others are given as their
distance to it: BD-rate with PCHIP between 6 and 0.5 points below the unsplit network. With
`--seeds 0,1,2` each trial is run with every seed and compared with the first trial of that seed;
the table then has the mean and each of them. Trials that are there already are not repeated; all
of them share their cached features, and those that differ in their tables alone one training.
"""

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import make_parser, run_jaxsplit, write_json

from jaxsplit.errors import JaxsplitError
from jaxsplit.evaluation.compare import MeasuredCurve, compare_curves

ALWAYS = ("train_split=train[:90%]", "test_split=train[90%:]", "baselines=()")
FOLD = ("train_split=train", "test_split=val", "baselines=()")


def train(config: str, options: list[str], folder: Path, features: Path) -> float:
    """Trains one trial where it isn't there already; the seconds it took."""
    taken = folder / "seconds"
    if (folder / "curve.json").exists() and taken.exists():
        return float(taken.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    features.mkdir(parents=True, exist_ok=True)
    if not (folder / "features").exists():
        (folder / "features").symlink_to(features.resolve())
    for made in folder.parent.glob("*/checkpoints-*"):
        if not made.is_symlink() and not (folder / made.name).exists():
            (folder / made.name).symlink_to(made.resolve())
    start = time.monotonic()
    run_jaxsplit("train", config, folder, options)
    taken.write_text(f"{time.monotonic() - start:.0f}\n")
    return float(taken.read_text())


def distance(reference: Path, trial: Path, options: argparse.Namespace) -> dict[str, Any]:
    """BD-rate of a trial to the first one, with its interval, or why there is none."""
    try:
        found = compare_curves(
            MeasuredCurve.open(reference),
            MeasuredCurve.open(trial),
            quality=options.quality,
            drops=tuple(options.drops),
        )
    except JaxsplitError as error:
        return {"error": str(error)}
    interval = found.interval and [found.interval.low, found.interval.high]
    return {"bd_rate_percent": found.bd_rate_percent, "interval": interval}


def run(trial: str, seed: int, options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Trains and measures one trial with one seed: its folder, and its figures."""
    words = [*options.common.split(), *trial.split(), f"seed={seed}"]
    splits = options.split or ALWAYS
    if options.folds is not None:
        splits = FOLD
        words.insert(0, f"data=folder:{(options.folds / str(seed)).resolve()}")
    own = "_".join([*trial.split(), f"seed={seed}"]).replace("/", "-")
    exact = hashlib.sha256(" ".join(words).encode()).hexdigest()[:8]
    folder = options.workdir / f"{own[:100]}_{exact}"
    seconds = train(options.config, [*splits, *words], folder, options.workdir / "features")
    measured = MeasuredCurve.open(folder)
    uncut = measured.curve.uncompressed_top1 if options.quality == "top1" else 1.0
    points = [
        (size, 100 * (quality - uncut)) for size, quality in measured.rate_quality(options.quality)
    ]
    return folder, {"seed": seed, "seconds": seconds, "points": points}


def render(trial: str, runs: list[dict[str, Any]]) -> str:
    """One trial in a line: the mean distance, that of each seed, and the first seed's points."""
    found = [one["bd_rate_percent"] for one in runs if "bd_rate_percent" in one]
    distances = f"{np.mean(found):+7.2f} %" if found else "    n/a  "
    each = " ".join(f"{value:+.1f}" for value in found) if len(found) > 1 else ""
    points = "  ".join(f"{size:.1f} B {drop:+.2f}" for size, drop in runs[0]["points"])
    return f"{trial:<40} {distances}  {each}  {points}"


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("config")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--common", default="", help="KEY=VALUE … of every trial")
    parser.add_argument("--trial", action="append", default=[], help="KEY=VALUE … of one trial")
    parser.add_argument("--seeds", default="0", help="separated by commas")
    parser.add_argument("--quality", choices=("top1", "agreement"), default="top1")
    parser.add_argument("--drops", type=float, nargs=2, default=(0.06, 0.005), metavar="SHARE")
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        "--split",
        action="append",
        metavar="KEY=VALUE",
        help="of data that has a split to tune on, in place of the training images' tenths",
    )
    images.add_argument(
        "--folds",
        type=Path,
        help="images of cross_validation.py: each seed is trained and measured on its own fold",
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Trains what is missing and prints the table."""
    options = parse()
    first: dict[int, Path] = {}
    rows = []
    for trial in ["", *options.trial]:
        runs = []
        for seed in map(int, options.seeds.split(",")):
            folder, figures = run(trial, seed, options)
            first.setdefault(seed, folder)
            runs.append({**figures, **distance(first[seed], folder, options)})
        rows.append({"trial": trial or "as it is", "runs": runs})
        print(render(rows[-1]["trial"], runs), flush=True)
        report = {
            "config": options.config,
            "common": options.common,
            "splits": "folds" if options.folds else options.split or ALWAYS,
            "quality": options.quality,
            "drops": options.drops,
            "trials": rows,
        }
        write_json(options.json, report)


if __name__ == "__main__":
    main()
