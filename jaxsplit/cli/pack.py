"""`jaxsplit pack`: a family with a complete card, to ship or upload."""

from __future__ import annotations

import argparse
import dataclasses

from jaxsplit.cli.arguments import (
    FAMILY,
    argument,
    card_entry,
    check_images,
    command,
    flag,
    image_options,
    output_option,
)
from jaxsplit.cli.output import open_family, progress_bar, show
from jaxsplit.errors import ConfigError
from jaxsplit.io.files import check_writable

_ENTRY = "entry of the card beside those of the training: limits, license, … (repeatable)"


@command(
    "pack",
    *FAMILY,
    output_option("DIR"),
    argument("--data", "SOURCE", "measure on these images (default: keep the figures)"),
    *image_options(),
    flag("--half", text="round parameters to float16: half of the bytes"),
    argument("--card", "KEY=VALUE", _ENTRY, card_entry, action="append", default=[]),
)
def pack(options: argparse.Namespace) -> None:
    """Write a family with a complete card, to ship or upload."""
    from jaxsplit import data
    from jaxsplit.evaluation import card, evaluate
    from jaxsplit.reports import curve_table

    family, backbone = open_family(options)
    check_images(options, "data")
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
    check_writable(options.output)
    rows = ""
    if options.data is not None:
        source = data.open_source(options.data, split=options.split, limit=options.limit)
        with progress_bar(options) as progress:
            curve, seen = evaluate.evaluate_images(family, backbone, source, progress.log)
        rows = curve_table.render(curve)
        family = card.with_measured(family, curve, seen, source)
    family.save(options.output, packed=True)
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    summary = f"{len(family.rates)} rates, {size / 1000:.1f} kB: {options.output}"
    names = [rate.rate_id for rate in family.rates]
    show(options, rows, {"family": str(options.output), "rates": names, "bytes": size}, summary)
