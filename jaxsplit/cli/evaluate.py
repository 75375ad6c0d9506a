"""`jaxsplit evaluate` and `jaxsplit compare`: rate–accuracy curves, and their BD-rate."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from jaxsplit.cli.arguments import FAMILY, argument, command, image_options
from jaxsplit.cli.output import open_family, progress_bar, show
from jaxsplit.io.files import check_writable

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
_METHOD = "interpolation of the curves"
_FROM = "leave out larger drops from the unsplit network (default: none)"
_TO = "leave out smaller drops from the unsplit network (default: none)"


@command(
    "evaluate",
    *FAMILY,
    argument("--data", "SOURCE", _SOURCE, default="embedded"),
    *image_options("default: test, else val, validation or the only one"),
    argument("--rates", "A,B", "names of rates (default: all)"),
    argument("--out", "DIR", "for curve.json, curve.png, report.html", Path),
    argument("--baselines", "A,B|none", _BASELINES, default="jpeg,webp"),
    argument("--compare-at", "METRIC", _GOAL),
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
    family, backbone = open_family(options)
    goal = image_codecs.check_goal(options.compare_at, backbone.task.quality)
    if options.out is not None:
        check_writable(options.out)
    rates = None if options.rates is None else options.rates.split(",")
    source = data.open_source(options.data, split=options.split, limit=options.limit)
    with progress_bar(options) as progress:
        curve, _, rows = measure(
            family, backbone, source, options.out, progress.log, rates, baselines, goal
        )
    names = "curve.json, curve.png, images.npz, report.html"
    summary = "" if options.out is None else f"wrote {names} to {options.out}"
    show(
        options,
        f"{rows}\n{curve_table.render_details(curve)}",
        json.loads(curve.to_json()),
        summary,
    )


@command(
    "compare",
    argument("reference", "REFERENCE", "curve.json, or its folder"),
    argument("test", "TEST", "the same of the curve to compare"),
    argument("--quality", "METRIC", _METRIC),
    argument("--method", None, _METHOD, choices=("pchip", "akima"), default="pchip"),
    argument("--from-drop", "PP", _FROM, float, default=math.inf),
    argument("--to-drop", "PP", _TO, float, default=-math.inf),
    note="The interval needs the images.npz of evaluate --out in both folders, of the same images.",
)
def compare(options: argparse.Namespace) -> None:
    """Compute the BD-rate of one curve against another."""
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
    show(options, result.render(), result.to_dict())
