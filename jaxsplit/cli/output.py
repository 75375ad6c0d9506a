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
    """Opens the family and the network of the options of `arguments.add_family`.

    Raises:
      JaxsplitError: one of them is missing or damaged, or the network is not the family's.
    """
    from jaxsplit.family.pretrained import load_pretrained

    family = load_pretrained(options.family)
    backbone = family.backbone_of(options.backbone, options.weights)
    return family.bind(backbone), backbone


def show(options: argparse.Namespace, text: str, document: object, summary: str = "") -> None:
    """Prints the results of a command, and its summary unless --json or --quiet is given.

    Args:
      options: of the command.
      text: the results, "" for none.
      document: the results for --json.
      summary: of the command's work.
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
    """Creates the progress of a command.

    Args:
      options: of the command.
      names: of the rates.
      after: seconds before it is shown.
    """
    from jaxsplit.io.progress import ProgressBar

    return ProgressBar(names, quiet=options.quiet, after=after)
