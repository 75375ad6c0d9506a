"""The opened family, the progress and the output of a command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxsplit.family import RateFamily
    from jaxsplit.io.progress import ProgressBar
    from jaxsplit.networks import Backbone

#: Seconds of work that need no progress.
SOON = 2.0


def open_family(options: argparse.Namespace) -> tuple[RateFamily, Backbone]:
    """Opens the family and the network of the options `arguments.FAMILY`."""
    from jaxsplit.family.pretrained import load_pretrained

    family = load_pretrained(options.family)
    backbone = family.backbone_of(options.backbone, options.weights)
    return family.bind(backbone), backbone


def show(options: argparse.Namespace, text: str, document: object, summary: str = "") -> None:
    """Prints the results of a command and a summary of its work.

    With --json, prints only the document; with --quiet, no summary.
    """
    if options.json:
        print(json.dumps(document, indent=2))
        return
    if text:
        print(text)
    if summary and not options.quiet:
        print(summary)


def progress_bar(
    options: argparse.Namespace, names: Sequence[str] = (), *, after: float = 0.0
) -> ProgressBar:
    """Creates the progress of a command with rates of these names, shown after some seconds."""
    from jaxsplit.io.progress import ProgressBar

    return ProgressBar(names, quiet=options.quiet, after=after)
