"""`jaxsplit evaluate`: the rate–accuracy curve of a family through real bytes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from jaxsplit.cli.arguments import Commands, add_family, add_images
from jaxsplit.cli.output import open_family, progress_bar, show
from jaxsplit.io.files import check_writable


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add(
        "evaluate",
        "Evaluate a family through real bytes.",
        run,
        "--json prints the content of curve.json.",
    )
    add_family(command)
    command.add_argument(
        "--data",
        default="embedded",
        metavar="SOURCE",
        help="embedded (the default), tfds:NAME[/CONFIG] or folder:PATH",
    )
    add_images(command, split="default: test, else val, validation or the only one")
    command.add_argument("--rates", metavar="A,B", help="names of rates (default: all)")
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
        metavar="METRIC",
        help="metric at which codecs are compared: the task's, such as top1 (the default), or "
        "agreement with the unsplit network",
    )


def run(options: argparse.Namespace) -> None:
    """Evaluates a family through real bytes."""
    from jaxsplit import data
    from jaxsplit.evaluation import image_codecs
    from jaxsplit.experiments.run import measure
    from jaxsplit.reports import curve_table

    baselines = () if options.baselines == "none" else tuple(options.baselines.split(","))
    for codec in baselines:
        image_codecs.check_codec(codec)
    family, backbone = open_family(options)
    image_codecs.check_goal(options.compare_at, backbone.task.quality)
    if options.out is not None:
        check_writable(options.out)
    rates = None if options.rates is None else options.rates.split(",")
    for rate in rates or ():
        family[rate]  # an unknown rate is refused before images are read
    source = data.open_source(options.data, split=options.split, limit=options.limit)
    with progress_bar(options) as progress:
        curve, _, rows = measure(
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
    show(
        options,
        f"{rows}\n{curve_table.render_details(curve)}",
        json.loads(curve.to_json()),
        summary,
    )
