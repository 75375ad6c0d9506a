"""`jaxsplit compare`: BD-rate between two curves."""

from __future__ import annotations

import argparse
import math

from jaxsplit.cli.arguments import Commands
from jaxsplit.cli.output import show


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add(
        "compare",
        "Compute the BD-rate of one curve against another.",
        run,
        "The interval needs the images.npz of evaluate --out in both folders, of the same images.",
    )
    command.add_argument("reference", metavar="REFERENCE", help="curve.json, or its folder")
    command.add_argument("test", metavar="TEST", help="the same of the curve to compare")
    command.add_argument(
        "--quality",
        metavar="METRIC",
        help="metric (default: the task's, such as top1); agreement with the unsplit network is "
        "counted in images.npz",
    )
    command.add_argument(
        "--method",
        choices=("pchip", "akima"),
        default="pchip",
        help="interpolation of the curves",
    )
    command.add_argument(
        "--from-drop",
        type=float,
        default=math.inf,
        metavar="PP",
        help="leave out larger drops from the unsplit network (default: none)",
    )
    command.add_argument(
        "--to-drop",
        type=float,
        default=-math.inf,
        metavar="PP",
        help="leave out smaller drops from the unsplit network (default: none)",
    )


def run(options: argparse.Namespace) -> None:
    """Prints the BD-rate between two curves."""
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
