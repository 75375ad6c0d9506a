"""Trials of one configuration, compared where no test image is read.

    python tests/benchmarks/sweep.py paper_recipe:fashion_mnist --workdir runs/sweep \
        --common phases.0.steps=1000 --trial learning_rate=3e-3 --trial learning_rate=3e-2

Every trial trains on nine tenths of the training images and is measured, through real bytes, on
the last tenth. The first is the configuration with `--common` alone; the others are given as their
distance to it: BD-rate with PCHIP between 6 and 0.5 points below the uncut network. Trials that
are there already are not repeated, and all of them share their cached features.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from jaxsplit.errors import JaxsplitError
from jaxsplit.evaluation.compare import Measured, compare

DROPS = (0.06, 0.005)
ALWAYS = ("train_split=train[:90%]", "test_split=train[90%:]", "baselines=()")


def train(config: str, options: list[str], folder: Path, features: Path) -> float | None:
    """Trains one trial; the seconds it took, or None where it is there already."""
    if (folder / "curve.json").exists():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    features.mkdir(parents=True, exist_ok=True)
    if not (folder / "features").exists():
        (folder / "features").symlink_to(features.resolve())
    overrides = [f"--config.{option}" for option in (*ALWAYS, *options)]
    command = [sys.executable, "-m", "jaxsplit", "train", "--config", config]
    start = time.monotonic()
    with (folder / "log").open("w") as log:
        subprocess.run(
            [*command, "--workdir", str(folder), *overrides],
            check=True,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return time.monotonic() - start


def distance(reference: Path, trial: Path) -> dict[str, object]:
    """BD-rate of a trial to the first one, with its interval, or why there is none."""
    try:
        found = compare(Measured.open(reference), Measured.open(trial), drops=DROPS)
    except JaxsplitError as error:
        return {"error": str(error)}
    interval = found.interval and [found.interval.low, found.interval.high]
    return {"bd_rate_percent": found.bd_rate_percent, "interval": interval}


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--common", default="", help="KEY=VALUE … of every trial")
    parser.add_argument("--trial", action="append", default=[], help="KEY=VALUE … of one trial")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    first = None
    for trial in ["", *options.trial]:
        words = [*options.common.split(), *trial.split()]
        folder = options.workdir / ("_".join(words).replace("/", "-") or "as_is")
        seconds = train(options.config, words, folder, options.workdir / "features")
        curve = json.loads((folder / "curve.json").read_text())
        uncut = curve["uncompressed"]["top1"]
        points = [
            (point["bytes_per_image"], 100 * (point["top1"] - uncut)) for point in curve["points"]
        ]
        first = first or folder
        row = {"trial": trial or "as it is", "seconds": seconds, "points": points}
        rows.append({**row, **distance(first, folder)})
        shown = "  ".join(f"{size:.1f} B {drop:+.2f}" for size, drop in points)
        bd_rate = rows[-1].get("bd_rate_percent", rows[-1].get("error"))
        bd_rate = f"{bd_rate:+.2f} %" if isinstance(bd_rate, float) else bd_rate
        print(f"{row['trial']:<40} {bd_rate}  {shown}", flush=True)
        if options.json is not None:
            report = {"config": options.config, "common": options.common, "trials": rows}
            options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
