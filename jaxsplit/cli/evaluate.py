"""`jaxsplit evaluate`, `compare` and `pack`: rate–accuracy curves, BD-rate, measured families."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

from jaxsplit.cli import arguments as cli
from jaxsplit.cli.files import hint
from jaxsplit.errors import ConfigError
from jaxsplit.io.files import as_text, check_writable

_SOURCE = "embedded (the default), tfds:NAME[/CONFIG] or folder:PATH"
_BASELINES = "image codecs to compare with, of jpeg, webp and avif (default: jpeg,webp)"
_GOAL = (
    "metric at which codecs are compared: the task's, such as top1 (the default), or agreement "
    "with the unsplit network"
)
_METRIC = (
    "metric (default: the task's, such as top1); agreement with the unsplit network is counted in "
    "images.npz"
)
_CURVE = "curve.json, its folder, or a family with measured figures"
_METHOD = "interpolation of the curves"
_FROM = "leave out larger drops from the unsplit network (default: none)"
_TO = "leave out smaller drops from the unsplit network (default: none)"
_ENTRY = "entry of the card beside those of the training: limits, license, … (repeatable)"


@cli.command(
    "evaluate",
    *cli.FAMILY,
    cli.argument("--data", "SOURCE", _SOURCE, default="embedded"),
    *cli.image_options("default: test, else val, validation or the only one"),
    cli.argument("--rates", "A,B", "names of rates (default: all)"),
    cli.argument("--out", "DIR", "for curve.json, curve.png, report.html", Path),
    cli.argument("--baselines", "A,B|none", _BASELINES, default="jpeg,webp"),
    cli.argument("--compare-at", "METRIC", _GOAL),
    note="--json prints the content of curve.json.",
)
def evaluate(options: argparse.Namespace) -> None:
    """Evaluate a family through real bytes."""
    from jaxsplit import data
    from jaxsplit.evaluation import image_codecs
    from jaxsplit.experiments.run import measure
    from jaxsplit.reports import curve_table

    baselines = () if options.baselines == "none" else tuple(options.baselines.split(","))
    for codec in baselines:
        image_codecs.check_codec(codec)
    family, backbone = cli.open_family(options)
    image_codecs.check_goal(options.compare_at, backbone.task.quality)
    rates = None if options.rates is None else options.rates.split(",")
    if rates is not None:
        family.select(rates)  # an unknown rate is refused before images are read
    out: Path | None = options.out
    if out is not None:
        check_writable(out)
    source = data.open_source(options.data, options.split, max_samples=options.max_samples)
    with cli.progress_bar(options) as progress:
        curve, _, rows = measure(
            family, backbone, source, out, progress.log, rates, baselines, options.compare_at
        )
    names = "curve.json, curve.png, images.npz, report.html"
    summary = "" if out is None else f"wrote {names} to {out}"
    text = f"{rows}\n{curve_table.render_details(curve)}"
    cli.show(options, text, json.loads(curve.to_json()), summary, terms=True)


@cli.command(
    "compare",
    cli.argument("reference", "REFERENCE", _CURVE),
    cli.argument("test", "TEST", "the same of the curve to compare"),
    cli.argument("--quality", "METRIC", _METRIC),
    cli.argument("--method", None, _METHOD, choices=("pchip", "akima"), default="pchip"),
    cli.argument("--from-drop", "PP", _FROM, float, default=math.inf),
    cli.argument("--to-drop", "PP", _TO, float, default=-math.inf),
    note="The interval needs the images.npz of evaluate --out in both folders, of the same images.",
)
def compare(options: argparse.Namespace) -> None:
    """Compute the BD-rate of one curve against another."""
    for name in (options.reference, options.test):  # before jax is imported
        if what := hint(Path(name), "curve.json"):
            raise ConfigError(f"{name} is no curve{what}")
    from jaxsplit.evaluation.compare import MeasuredCurve, compare_curves

    reference = MeasuredCurve.open(options.reference)
    quality = options.quality or reference.curve.quality
    scale = reference.curve.metric(quality).scale  # from percentage points to shares
    result = compare_curves(
        reference,
        MeasuredCurve.open(options.test),
        quality=quality,
        method=options.method,
        drops=(options.from_drop / scale, options.to_drop / scale),
    )
    cli.show(options, result.render(), result.to_dict())


@cli.command(
    "pack",
    *cli.FAMILY,
    cli.output_option("DIR"),
    cli.argument("--data", "SOURCE", "measure on these images (default: keep the figures)"),
    *cli.image_options(),
    cli.flag("--half", text="round parameters to float16: half of the bytes"),
    cli.argument("--card", "KEY=VALUE", _ENTRY, cli.card_entry, action="append", default=[]),
)
def pack(options: argparse.Namespace) -> None:
    """Write a family with a complete card, to ship or upload."""
    from jaxsplit import data
    from jaxsplit.evaluation import card, evaluate
    from jaxsplit.family.files import FILES, check_folder
    from jaxsplit.reports import curve_table

    family, backbone = cli.open_family(options)
    cli.check_images(options, "data")
    if options.half:
        family = family.half()
    family = dataclasses.replace(family, card=family.card | dict(options.card))
    missing = card.missing(family.card)
    if options.data is not None and "evaluation" in missing:
        missing.remove("evaluation")
    if missing:  # refused before the evaluation
        needed = [f"--card {key}=…" for key in missing if key != "evaluation"]
        needed += ["--data SOURCE"] if "evaluation" in missing else []
        raise ConfigError(f"the card lacks {', '.join(missing)}: give {' '.join(needed)}")
    check_folder(options.output)
    check_writable(options.output)
    rows = ""
    if options.data is not None:
        source = data.open_source(options.data, options.split, max_samples=options.max_samples)
        with cli.progress_bar(options) as progress:
            curve, seen = evaluate.evaluate_images(family, backbone, source, progress.log)
        rows = curve_table.render(curve)
        family = card.with_measured(family, curve, seen, source)
    family.save(options.output, packed=True)
    size = sum(path.stat().st_size for name in FILES for path in options.output.glob(name))
    summary = f"{len(family.rates)} rates, {size / 1000:.1f} kB: {options.output}"
    names = [rate.rate_id for rate in family.rates]
    cli.show(
        options, rows, {"family": as_text(options.output), "rates": names, "bytes": size}, summary
    )
