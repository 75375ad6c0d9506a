"""`jaxsplit quickstart` and `jaxsplit train`: trainings from a configuration."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsplit.cli.arguments import Commands, add_config, add_options, add_workdir
from jaxsplit.cli.output import progress_bar, show
from jaxsplit.errors import ConfigError
from jaxsplit.io.files import check_writable

if TYPE_CHECKING:
    from jaxsplit.train.config import CurveConfig


def add_quickstart(commands: Commands) -> None:
    """Adds `jaxsplit quickstart`."""
    command = commands.add(
        "quickstart",
        "Train a rate-accuracy curve on the embedded images and show it with real bytes.",
        quickstart,
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("jaxsplit_quickstart"),
        metavar="DIR",
        help="for curve, report and family (default: jaxsplit_quickstart)",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    command.add_argument("--smoke", action="store_true", help="a few steps on a few images")


def quickstart(options: argparse.Namespace) -> None:
    """Trains and shows the curve of the embedded images."""
    from jaxsplit.experiments import config

    variant = "smoke" if options.smoke else "quickstart"
    loaded = config.load(f"fashion_mnist:{variant}", {"seed": str(options.seed)})
    check_writable(options.out)
    smoke = " --smoke" if options.smoke else ""
    command = f"jaxsplit quickstart{smoke} --seed {options.seed}"
    _run_curve(loaded, options, options.out, command, resume=False)  # type: ignore[arg-type]


def add_train(commands: Commands) -> None:
    """Adds `jaxsplit train`."""
    command = commands.add("train", "Train a configuration; resumes by itself.", train)
    add_config(command, "curve", "backbone")
    add_workdir(command)
    hosts = command.add_argument_group(
        "several hosts", "the same command on each; TPU pods, Slurm and Open MPI need none of these"
    )
    add_options(
        hosts,
        ("--coordinator", str, "HOST:PORT|auto", "address of the first process"),
        ("--process-id", int, "I", "index of this process, from 0"),
        ("--processes", int, "N", "number of processes"),
    )


def train(options: argparse.Namespace) -> None:
    """Trains a backbone or a curve from a configuration."""
    from jaxsplit.experiments import config, run
    from jaxsplit.search import DesignConfig
    from jaxsplit.train import distributed, parallel
    from jaxsplit.train.backbone import BackboneConfig

    loaded = config.load(options.config, options.overrides)
    if isinstance(loaded, DesignConfig):
        raise ConfigError(f"{options.config} is a search: use jaxsplit design")
    check_writable(options.workdir)
    distributed.join(options.coordinator, options.process_id, options.processes)
    with distributed.leaving_errors():
        if not isinstance(loaded, BackboneConfig):
            _run_curve(loaded, options, options.workdir, _repeated(options), resume=True)
            return
        parallel.use_cpu_cores(loaded.batch_size)
        with progress_bar(options) as progress:
            card = run.run_backbone(loaded, options.workdir, _repeated(options), progress)
        if distributed.is_first():
            text = f"top-1 {100 * card['top1']:.2f} % on {card['test_images']} test images"
            show(options, text, card, f"wrote {options.workdir / 'weights.safetensors'}")


def _repeated(options: argparse.Namespace) -> str:
    """The command that repeats the training, without the folders of this machine."""
    from jaxsplit import data

    file, colon, arg = options.config.partition(":")
    words = ["jaxsplit train --config", Path(file).stem + colon + arg, "--workdir DIR"]
    for key, value in options.overrides.items():
        # Weights and other files by their names alone.
        named = Path(value).name if Path(value).exists() else data.portable_name(value)
        words.append(shlex.quote(f"--config.{key}={named}"))
    return " ".join(words)


def _run_curve(
    config: CurveConfig, options: argparse.Namespace, out: Path, command: str, *, resume: bool
) -> None:
    from jaxsplit.experiments import run
    from jaxsplit.train import parallel

    parallel.use_cpu_cores(config.batch_size)
    start = time.monotonic()
    with progress_bar(options, [rate.rate_id for rate in config.rates]) as progress:
        result = run.run_curve(
            config, out, resume=resume, command=command, progress=progress, log=progress.log
        )
    if result is None:  # not the first process
        return
    cost = result.cost
    text = (
        f"cut {config.cut}: of the network's {(cost.head + cost.tail) / 1e6:.2f} M "
        f"multiply-accumulates the device runs {100 * cost.device_share:.1f} % "
        f"(encoder {cost.encoder / 1e6:.2f} M)\n"
        f"{result.table}"
    )
    seconds = time.monotonic() - start
    summary = f"wrote {out}/curve.json, {out}/curve.png and {out}/family in {seconds:.0f} s"
    show(options, text, json.loads(result.curve.to_json()), summary)
