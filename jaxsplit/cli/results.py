"""What commands begin and end with: the family they are given, progress, and what they print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxsplit.family import RateFamily
    from jaxsplit.io.progress import ProgressBar
    from jaxsplit.networks import Backbone

#: Seconds that need no progress.
SOON = 2.0


def open_family(options: argparse.Namespace) -> tuple[RateFamily, Backbone]:
    """The family and the network that `arguments.add_family` asks for, bound to each other.

    Raises:
      JaxsplitError: one of them is missing or damaged, or it is not the family's network.
    """
    from jaxsplit.family.pretrained import load_pretrained

    family = load_pretrained(options.family)
    backbone = family.backbone_of(options.backbone, options.weights)
    return family.bind(backbone), backbone


def show(options: argparse.Namespace, text: str, document: Any, summary: str = "") -> None:
    """Prints what a command found out, and what it did where neither --json nor --quiet is said.

    Args:
      options: of the command.
      text: what it found out; "" for one that found out nothing.
      document: the same for --json.
      summary: what it did.
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
    """What shows the progress of a command.

    Args:
      options: of the command.
      names: those of the rates.
      after: seconds of which nothing is shown.
    """
    from jaxsplit.io.progress import ProgressBar

    return ProgressBar(names, quiet=options.quiet, after=after)
