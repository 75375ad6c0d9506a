"""`jaxsplit evaluate` and `jaxsplit compare`: curves, and the distance between two."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from jaxsplit.cli.arguments import Commands, add_family
from jaxsplit.cli.results import open_family, progress_bar, show
from jaxsplit.io.files import check_writable


def add_evaluate(commands: Commands) -> None:
    """`jaxsplit evaluate`: on which images, beside what."""
    command = commands.add(
        "evaluate",
        "Measure a family: accuracy through real bytes.",
        evaluate,
        "--json prints what curve.json has.",
    )
    add_family(command)
    command.add_argument(
        "--data",
        default="embedded",
        metavar="SOURCE",
        help="embedded (the default), tfds:NAME[/CONFIG] or folder:PATH",
    )
    command.add_argument(
        "--split", metavar="NAME", help="default: test, else val, validation or the only one"
    )
    command.add_argument("--rates", metavar="A,B", help="names of rates (default: all)")
    command.add_argument("--limit", type=int, metavar="N", help="images, spread over the classes")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="for curve.json, curve.png, report.html"
    )
    command.add_argument(
        "--baselines",
        default="jpeg,webp",
        metavar="A,B|none",
        help="image codecs to compare with, of jpeg, webp and avif (default: jpeg,webp)",
    )
    command.add_argument(
        "--compare-at",
        choices=("top1", "agreement"),
        default="top1",
        help="what the codecs must equal: accuracy, or agreement with the uncut network",
    )


def evaluate(options: argparse.Namespace) -> None:
    """Measures a family through real bytes."""
    from jaxsplit import data
    from jaxsplit.cli import experiment
    from jaxsplit.evaluation import image_codecs
    from jaxsplit.reports import table

    baselines = () if options.baselines == "none" else tuple(options.baselines.split(","))
    for codec in baselines:
        image_codecs.check_codec(codec)
    family, backbone = open_family(options)
    if options.out is not None:
        check_writable(options.out)
    rates = None if options.rates is None else options.rates.split(",")
    for rate in rates or ():
        family[rate]  # refuses an unknown rate before images are read
    source = data.open_source(options.data, split=options.split, limit=options.limit)
    with progress_bar(options) as progress:
        curve, _, rows = experiment.measure(
            family,
            backbone,
            source,
            options.out,
            progress.log,
            rates,
            baselines,
            options.compare_at,
        )
    names = "curve.json, curve.png, images.npz, report.html"
    summary = "" if options.out is None else f"wrote {names} to {options.out}"
    show(options, f"{rows}\n{table.render_details(curve)}", json.loads(curve.to_json()), summary)


def add_compare(commands: Commands) -> None:
    """`jaxsplit compare`: what one curve saves against another."""
    command = commands.add(
        "compare",
        "BD-rate of one curve against another.",
        compare,
        "The interval needs the images.npz that evaluate --out writes, of the same images in both "
        "folders.",
    )
    command.add_argument("reference", metavar="REFERENCE", help="curve.json, or its folder")
    command.add_argument("test", metavar="TEST", help="the same of the curve in question")
    command.add_argument(
        "--quality",
        choices=("top1", "agreement"),
        default="top1",
        help="agreement is with the uncut network; it is counted in images.npz",
    )
    command.add_argument(
        "--method", choices=("pchip", "akima"), default="pchip", help="between the points"
    )
    command.add_argument(
        "--from-drop",
        type=float,
        default=math.inf,
        metavar="POINTS",
        help="leave out what is further below the uncut network (default: nothing)",
    )
    command.add_argument(
        "--to-drop",
        type=float,
        default=-math.inf,
        metavar="POINTS",
        help="leave out what is closer to the uncut network (default: nothing)",
    )


def compare(options: argparse.Namespace) -> None:
    """The distances between two measured curves."""
    from jaxsplit.evaluation.compare import Measured
    from jaxsplit.evaluation.compare import compare as compare_curves

    result = compare_curves(
        Measured.open(options.reference),
        Measured.open(options.test),
        quality=options.quality,
        method=options.method,
        drops=(options.from_drop / 100, options.to_drop / 100),
    )
    show(options, result.render(), result.to_dict())
