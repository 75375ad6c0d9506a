"""`jaxsplit quickstart`, `train` and `design`: trainings and searches from configurations."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxsplit.cli import arguments as cli
from jaxsplit.errors import ConfigError, Interrupted
from jaxsplit.io.files import as_text, check_writable, delete_whole, write_json

if TYPE_CHECKING:
    from jaxsplit.cost import SplitCost
    from jaxsplit.train.backbone import BackboneConfig
    from jaxsplit.train.config import CurveConfig

_OUT = "for curve, report and family (default: jaxsplit_quickstart)"
_HOSTS = "the same command on each; TPU pods, Slurm and Open MPI need none of these"


@cli.command(
    "quickstart",
    cli.argument("--out", "DIR", _OUT, Path, default=Path("jaxsplit_quickstart")),
    cli.argument("--seed", "N", "default: 0", int, default=0),
    cli.flag("--smoke", text="a few steps on a few images"),
)
def quickstart(options: argparse.Namespace) -> None:
    """Train a rate-accuracy curve on the embedded images and show it with real bytes."""
    from jaxsplit.experiments import config
    from jaxsplit.io.checkpoint import check_name
    from jaxsplit.train.config import CurveConfig

    variant = "smoke" if options.smoke else "quickstart"
    loaded = config.load(f"fashion_mnist:{variant}", {"seed": str(options.seed)})
    check_name(options.out)
    check_writable(options.out)
    smoke = " --smoke" if options.smoke else ""
    command = f"jaxsplit quickstart{smoke} --seed {options.seed}"
    assert isinstance(loaded, CurveConfig)
    _run_curve(loaded, options, options.out, command, resume=False, smoke=options.smoke)


@cli.command(
    "train",
    *cli.config_options("curve", "backbone"),
    cli.WORKDIR,
    cli.group(
        "several hosts",
        _HOSTS,
        cli.argument("--coordinator", "HOST:PORT|auto", "address of the first process"),
        cli.argument("--process-id", "I", "index of this process, from 0", int),
        cli.argument("--processes", "N", "number of processes", int),
    ),
)
def train(options: argparse.Namespace) -> None:
    """Train a configuration; resumes by itself."""
    from jaxsplit.experiments import config, run
    from jaxsplit.io.checkpoint import check_name
    from jaxsplit.search import DesignConfig
    from jaxsplit.train import distributed, parallel
    from jaxsplit.train.backbone import BackboneConfig

    loaded = config.load(options.config, options.overrides)
    if isinstance(loaded, DesignConfig):
        raise ConfigError(f"{options.config} is a search: use jaxsplit design")
    check_name(options.workdir)
    check_writable(options.workdir)
    distributed.join(options.coordinator, options.process_id, options.processes)
    with distributed.exit_on_error():
        if not isinstance(loaded, BackboneConfig):
            smoke = options.config.endswith(":smoke")
            command = _repeated(options)
            _run_curve(loaded, options, options.workdir, command, resume=True, smoke=smoke)
            return
        parallel.use_cpu_cores(loaded.batch_size)
        with cli.progress_bar(options) as progress:
            parts = loaded, options.workdir, _repeated(options)
            card = run.run_backbone(*parts, progress, progress.log)
        if distributed.is_first():
            text = f"{_quality_text(loaded, card)} on {card['test_images']} test images"
            cli.show(options, text, card, f"wrote {options.workdir / 'weights.safetensors'}")


def _quality_text(config: BackboneConfig, card: Mapping[str, Any]) -> str:
    """Label and value of the task's quality, such as "top-1 92.57 %"."""
    from jaxsplit.tasks import CLASSIFICATION_METRICS

    metrics = CLASSIFICATION_METRICS if config.task is None else config.task.make().metrics
    name, metric = next(iter(metrics.items()))
    return f"{metric.label} {metric.show(card[name])} {metric.unit}".rstrip()


def _repeated(options: argparse.Namespace) -> str:
    """The command that repeats the training, without the folders of this machine."""
    from jaxsplit import data

    file, colon, arg = options.config.partition(":")
    words = ["jaxsplit train --config", Path(file).stem + colon + arg, "--workdir DIR"]
    for key, value in options.overrides.items():
        # Weights and other files by their names alone.
        named = Path(value).name if Path(value).exists() else data.portable_name(value)
        words.append(shlex.quote(f"--config.{key}={named}"))
    return as_text(" ".join(words))


def cost_line(cut: str, cost: SplitCost) -> str:
    """Formats what a device runs at a cut."""
    return (
        f"cut {cut}: of the network's {(cost.head + cost.tail) / 1e6:.2f} M "
        f"multiply-accumulates the device runs {100 * cost.device_share:.1f} % "
        f"(encoder {cost.encoder / 1e6:.2f} M)"
    )


def _run_curve(
    config: CurveConfig,
    options: argparse.Namespace,
    out: Path,
    command: str,
    *,
    resume: bool,
    smoke: bool,
) -> None:
    from jaxsplit.experiments import run
    from jaxsplit.train import parallel

    parallel.use_cpu_cores(config.batch_size)
    start = time.monotonic()
    with cli.progress_bar(options, [rate.rate_id for rate in config.rates]) as progress:
        result = run.run_curve(
            config, out, resume=resume, command=command, progress=progress, log=progress.log
        )
    if result is None:  # not the first process
        return
    text = f"{cost_line(config.cut, result.cost)}\n{result.table}"
    seconds = time.monotonic() - start
    summary = (
        f"wrote curve.json, curve.png, images.npz, report.html and family to {out} in "
        f"{seconds:.0f} s; open {out / 'report.html'}"
    )
    if smoke:
        summary += "\nThis was a smoke run: its figures mean nothing."
    cli.show(options, text, json.loads(result.curve.to_json()), summary, terms=True)


@cli.command(
    "design",
    *cli.config_options("design"),
    cli.WORKDIR,
    note="The same command resumes a search that was stopped.",
)
def design(options: argparse.Namespace) -> None:
    """Search cuts and units for the Pareto front of bytes, accuracy and MACs."""
    from jaxsplit.experiments import config
    from jaxsplit.reports import search as search_report
    from jaxsplit.search import DesignConfig, search
    from jaxsplit.search.export import write_config
    from jaxsplit.search.pareto import choose
    from jaxsplit.weights.load import load_backbone

    loaded = config.load(options.config, options.overrides)
    if not isinstance(loaded, DesignConfig):
        raise ConfigError(f"{options.config} is no search: use jaxsplit train")
    check_writable(options.workdir)
    # CPU cores are no devices here: at late cuts a step of one unit is too small to share (on two
    # cores 1.5 times the time; at early cuts 0.7 times).
    with cli.progress_bar(options) as progress:
        backbone = load_backbone(loaded.backbone)
        try:
            found = search(loaded, backbone, options.workdir, progress.log)
        except KeyboardInterrupt as stopped:
            resumes = "interrupted: the same command resumes from the last checkpoint"
            number = getattr(stopped, "signal", signal.SIGINT)
            raise Interrupted(resumes, number) from stopped
    chosen, document, out = choose(found.front, loaded.points), found.to_dict(), options.workdir
    for name in ("design.json", "design.png"):  # of an earlier search
        delete_whole(out / name)
    write_config(out / "chosen.py", loaded, chosen)
    write_json(out / "design.json", document)
    search_report.plot_design(out / "design.png", found, chosen)
    names = f"{out}/design.json, {out}/design.png and {out}/chosen.py"
    summary = f"wrote {names} in {found.minutes:.1f} minutes"
    cli.show(options, search_report.render(found, chosen), document, summary, terms=True)
