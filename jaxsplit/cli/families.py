"""`jaxsplit pack` and `jaxsplit info`: families for others, and what is in them."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from jaxsplit.cli.arguments import Commands, add_family, card_entry
from jaxsplit.cli.results import open_family, progress_bar, show
from jaxsplit.errors import ConfigError
from jaxsplit.io.files import check_writable


def add_pack(commands: Commands) -> None:
    """`jaxsplit pack`: what one does before a family is given to others."""
    command = commands.add(
        "pack", "Write a family with a complete card: what to ship or to upload.", pack
    )
    add_family(command)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="to write")
    command.add_argument(
        "--data", metavar="SOURCE", help="measure on these images (default: keep the figures)"
    )
    command.add_argument("--split", metavar="NAME", help="of those images; default as of evaluate")
    command.add_argument(
        "--half", action="store_true", help="round parameters to float16: half of the bytes"
    )
    command.add_argument("--limit", type=int, metavar="N", help="images, spread over the classes")
    command.add_argument(
        "--card",
        action="append",
        default=[],
        type=card_entry,
        metavar="KEY=VALUE",
        help="what the card says beside what the training wrote: limits, license, … (repeatable)",
    )


def pack(options: argparse.Namespace) -> None:
    """A family with a complete card, as one ships it."""
    from jaxsplit import data
    from jaxsplit.evaluation import card, evaluate
    from jaxsplit.reports import table

    family, backbone = open_family(options)
    if options.data is None and (options.split, options.limit) != (None, None):
        raise ConfigError("--split and --limit are of the images of --data SOURCE: give that too")
    if options.half:
        family = family.half()
    family = dataclasses.replace(family, card=family.card | dict(options.card))
    missing = card.missing(family.card)
    if options.data is not None and "evaluation" in missing:
        missing.remove("evaluation")
    if missing:  # said before the measuring
        told = [f"--card {key}=…" for key in missing if key != "evaluation"]
        told += ["--data SOURCE"] if "evaluation" in missing else []
        raise ConfigError(f"the card lacks {', '.join(missing)}: give {' '.join(told)}")
    check_writable(options.output)
    rows = ""
    if options.data is not None:
        source = data.open_source(options.data, split=options.split, limit=options.limit)
        with progress_bar(options) as progress:
            curve, seen = evaluate.evaluate_images(family, backbone, source, progress.log)
        rows = table.render(curve)
        family = card.with_measured(family, curve, seen, source)
    family.save(options.output, packed=True)
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    summary = f"{len(family.rates)} rates, {size / 1000:.1f} kB: {options.output}"
    names = [rate.rate_id for rate in family.rates]
    show(options, rows, {"family": str(options.output), "rates": names, "bytes": size}, summary)


def add_info(commands: Commands) -> None:
    """`jaxsplit info`: what something is."""
    command = commands.add("info", "Describe a family, a .jspl file or a backbone's weights.", info)
    command.add_argument("path", nargs="?", metavar="PATH|NAME", help="default: what is embedded")


def info(options: argparse.Namespace) -> None:
    """Describes a family, a .jspl file or weights."""
    from jaxsplit.cli.describe import describe, document

    if options.json:
        show(options, "", document(options.path))
    else:
        show(options, describe(options.path), None)
