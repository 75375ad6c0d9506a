"""Reports of a plan: its tables as text, and its plot as a PNG file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsplit.cost import SYMBOLS, CutPlan, Plan, UnitPlan
from jaxsplit.cost.link import Comparison, Option
from jaxsplit.reports import elements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DEVICE, _TRANSFER, _SERVER, _LATENT = "#c8501e", "#e3b23c", "#0b5fa5", "#2e8b57"

_CUTS_NOTE = (
    "In brackets percent of the unsplit network's {macs} MACs and {params} parameters. Bytes: "
    "features in float32. Memory: peak bytes of float32 activations on the device, without its "
    "weights of 4 bytes a parameter."
)
_UNITS_NOTE = (
    "Unit: channels of the latent, and stride; the unit of the grid whose latent is nearest to {} "
    "symbols. Stored: bytes of a rate without its coding tables."
)
_TIMES_NOTE = (
    "Bytes: {:g} bits a latent symbol are assumed. Times: MACs and bits divided by the given "
    "speeds, plus the round trip; accuracy is not considered."
)
_UNIT_COLUMNS = (
    *("C, s", "latent", "enc.\nMACs", "dec.\nMACs", "enc.\nparams", "dec.\nparams"),
    "stored\nbytes",
)


def render(plan: Plan, comparison: Comparison | None = None, symbols: int = SYMBOLS) -> str:
    """Formats the tables of a plan as plain text; with a link also latencies and the fastest cut.

    Args:
      plan: the cuts.
      comparison: their latencies on a link, or None.
      symbols: latent size (see `CutPlan.unit_of`).
    """
    parts = [_cuts(plan), _units(plan, symbols)]
    if comparison is not None:
        note = _TIMES_NOTE.format(comparison.bits_per_symbol)
        options = (*comparison.cuts, *comparison.extremes)
        parts.append(_times("Latency of an image on the link", options, note))
        if comparison.trained:
            title = "Trained rates on the link, with measured bytes"
            parts.append(_times(title, comparison.trained, None))
        parts.append(_verdict(comparison))
    return "\n".join(parts)


def render_units(cut: CutPlan, comparison: Comparison | None = None) -> str:
    """Formats every unit of the grid at one cut as plain text."""
    title = f"Units at {cut.cut}, features {_shape(cut.feature_shape)}"
    columns, rows = list(_UNIT_COLUMNS), [_unit(unit) for unit in cut.units]
    if comparison is not None:
        columns += ["bytes", "total\nms"]
        sent = [elements.amount(round(comparison.sent_bytes(unit))) for unit in cut.units]
        total = [_ms(comparison.timing(cut, unit).total_ms) for unit in cut.units]
        rows = [(*row, *times) for row, *times in zip(rows, sent, total, strict=True)]
    return elements.table_text(elements.make_table(title, columns, rows))


def _cuts(plan: Plan) -> str:
    columns = ["cut", "features", "bytes", "device MACs\n(%)", "server MACs\n(%)"]
    columns += ["device\nparams (%)", "server\nparams", "memory"]
    note = _CUTS_NOTE.format(macs=elements.amount(plan.macs), params=elements.amount(plan.params))
    title = f"Cuts of {plan.name}, images of {_shape(plan.input_shape)}"
    rows = [
        (
            cut.cut,
            _shape(cut.feature_shape),
            elements.amount(cut.feature_bytes),
            _with_share(cut.device_macs, cut.device_macs_share),
            _with_share(cut.server_macs, 1 - cut.device_macs_share),
            _with_share(cut.device_params, cut.device_params_share),
            elements.amount(cut.server_params),
            elements.amount(cut.device_peak_bytes),
        )
        for cut in plan.cuts
    ]
    return elements.table_text(elements.make_table(title, columns, rows, note))


def _units(plan: Plan, symbols: int) -> str:
    units = {cut.cut: cut.unit_of(symbols) for cut in plan.cuts}
    rows = [(cut, *(_unit(unit) if unit else ("none fits",))) for cut, unit in units.items()]
    columns, note = ("cut", *_UNIT_COLUMNS), _UNITS_NOTE.format(symbols)
    return elements.table_text(elements.make_table("A unit for every cut", columns, rows, note))


def _times(title: str, options: Sequence[Option], note: str | None) -> str:
    measured = next((one.metric for one in options if one.quality is not None), None)
    columns = ["rate", "cut", f"{measured.label}\n{measured.unit}"] if measured else ["cut"]
    columns += ["C, s", "latent", "bytes", "device\nms", "transfer\nms", "server\nms", "total\nms"]
    rows: list[tuple[str, ...] | None] = []
    for i, one in enumerate(options):
        if i and one.cut is None and options[i - 1].cut is not None:
            rows.append(None)
        seen = (one.cut or "", one.metric.show(one.quality)) if measured else ()
        size = ("", "") if one.unit is None else _unit(one.unit)[:2]
        sent = "" if one.sent_bytes is None else elements.amount(round(one.sent_bytes))
        rows.append((one.name, *seen, *size, sent, *map(_ms, one.timing.to_dict().values())))
    return elements.table_text(elements.make_table(title, columns, rows, note))


def _verdict(comparison: Comparison) -> str:
    cut, fastest, alone, sent = comparison.best_cut, comparison.fastest, *comparison.extremes
    lines = [
        f"fastest cut: {cut.name}, {_ms(cut.timing.total_ms)} ms; {alone.name}: "
        f"{_ms(alone.timing.total_ms)} ms; {sent.name}, {sent.sent_bytes:,.0f} bytes: "
        f"{_ms(sent.timing.total_ms)} ms"
    ]
    if fastest is not cut:
        lines.append(f"fastest of all: {fastest.name}, {_ms(fastest.timing.total_ms)} ms")
    return "\n".join(lines)


def _unit(unit: UnitPlan) -> tuple[str, ...]:
    counts = (unit.encoder_macs, unit.decoder_macs, unit.encoder_params, unit.decoder_params)
    size = f"{unit.spec.channels}, {unit.spec.stride}"
    return size, _shape(unit.latent_shape), *map(elements.amount, (*counts, unit.stored_bytes))


def _ms(value: float) -> str:
    """Formats milliseconds to three digits: 0.024, 1.53, 87.2, 4090."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:#.3g}" if value >= 0.1 else f"{value:.3f}"


def _shape(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def _with_share(count: int, share: float) -> str:
    return f"{elements.amount(count)} ({100 * share:.1f})"


def plot_plan(
    path: str | Path, plan: Plan, comparison: Comparison | None = None, symbols: int = SYMBOLS
) -> None:
    """Plots the costs of all cuts, 1200 × 800 pixels; the same input gives the same file.

    Upper plot, for every cut from the image to the classifier: with a link the latency on device,
    link and server, between the two extremes; without one the device's share of the
    multiply-accumulates and of the parameters. Lower plot: sizes of features and latents.

    Args:
      path: PNG file to write; replaced atomically.
      plan: the cuts.
      comparison: their latencies on a link, or None.
      symbols: latent size (see `CutPlan.unit_of`).

    Raises:
      ConfigError: the file can't be written.
    """
    figure = elements.new_figure()
    upper, lower = figure.subplots(2, 1)
    if comparison is None:
        _draw_shares(upper, plan)
    else:
        _draw_times(upper, comparison)
    _draw_sizes(lower, plan, symbols, comparison)
    size = "×".join(map(str, plan.input_shape))
    figure.suptitle(f"Where to cut {plan.name}, images of {size}", fontsize=14, parse_math=False)
    for axes in (upper, lower):
        elements.add_grid(axes, "y")
        axes.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), fontsize=10, frameon=False)
    elements.write_png(path, figure)


def _draw_shares(axes: Axes, plan: Plan) -> None:
    names = [cut.cut for cut in plan.cuts]
    macs = [100 * cut.device_macs_share for cut in plan.cuts]
    params = [100 * cut.device_params_share for cut in plan.cuts]
    positions = range(len(names))
    rest = [100 - share for share in macs]
    work, kept = "multiply-accumulates\non the", "parameters\non the device"
    axes.bar(positions, macs, 0.7, color=_DEVICE, label=f"{work} device")
    axes.bar(positions, rest, 0.7, bottom=macs, color=_SERVER, alpha=0.25, label=f"{work} server")
    axes.plot(positions, params, color=elements.GREY, marker="o", linewidth=1.8, label=kept)
    for position, share in zip(positions, macs, strict=True):
        axes.text(position, share + 1, f"{share:.0f}", ha="center", fontsize=9, color=elements.GREY)
    axes.set_ylim(0, 108)
    axes.set_ylabel("percent of the unsplit network", fontsize=11)
    _label_positions(axes, names)


def _draw_times(axes: Axes, comparison: Comparison) -> None:
    alone, sent = comparison.extremes
    options = [sent, *comparison.cuts, alone]
    bottoms = [0.0] * len(options)
    positions = range(len(options))
    colours = {"device": _DEVICE, "transfer": _TRANSFER, "server": _SERVER}
    for name, colour in colours.items():
        heights = [getattr(one.timing, f"{name}_ms") for one in options]
        axes.bar(positions, heights, bottom=bottoms, width=0.7, color=colour, label=name)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    top = max(bottoms)
    best = comparison.best_cut
    for position, (one, total) in enumerate(zip(options, bottoms, strict=True)):
        weight = "bold" if one is best else "normal"
        text = f"fastest cut\n{_ms(total)}" if one is best else _ms(total)
        height = total + 0.01 * top
        axes.text(position, height, text, ha="center", va="bottom", fontsize=9, weight=weight)
    axes.set_ylim(0, 1.16 * top)
    axes.set_ylabel("milliseconds an image", fontsize=11)
    _label_positions(axes, [one.name for one in options])
    for label, one in zip(axes.get_xticklabels(), options, strict=True):
        if one is best:
            label.set_fontweight("bold")


def _draw_sizes(axes: Axes, plan: Plan, symbols: int, comparison: Comparison | None) -> None:
    names = [cut.cut for cut in plan.cuts]
    first = 0 if comparison is None else 1  # below the bars of the picture above
    positions = range(first, first + len(names))
    raw = [cut.feature_bytes for cut in plan.cuts]
    label = "features\nin float32"
    axes.bar(positions, raw, width=0.7, color=elements.GREY, alpha=0.35, label=label)
    bits = 8.0 if comparison is None else comparison.bits_per_symbol
    units = {x: cut.unit_of(symbols) for x, cut in zip(positions, plan.cuts, strict=True)}
    known = {x: unit for x, unit in units.items() if unit is not None}
    sizes = [unit.latent_symbols * bits / 8 for unit in known.values()]
    label = f"the unit's latent,\n{bits:g} bits a symbol\n(C: channels, s: stride)"
    axes.plot(list(known), sizes, "o", color=_LATENT, markersize=8, label=label)
    for (x, unit), size in zip(known.items(), sizes, strict=True):
        text, at = f"C{unit.spec.channels}\ns{unit.spec.stride}", (x, size)
        axes.annotate(text, at, (0, 8), textcoords="offset points", ha="center", fontsize=9)
    image, label = float(math.prod(plan.input_shape)), "the image,\nraw"
    if comparison is not None and comparison.extremes[1].sent_bytes:
        image, label = comparison.extremes[1].sent_bytes, "the image,\nas sent"
    axes.axhline(image, color=_DEVICE, linestyle="--", linewidth=1.6, label=label)
    axes.set_yscale("log")
    all_bytes = [*raw, image, *sizes]
    axes.set_ylim(min(all_bytes) / 2.5, max(all_bytes) * 2.5)
    axes.yaxis.set_major_formatter(elements.plain_numbers)
    axes.set_ylabel("bytes an image (logarithmic)", fontsize=11)
    if comparison is not None:
        axes.set_xlim(-0.8, len(names) + 1.8)
    _label_positions(axes, names, first)


def _label_positions(axes: Axes, names: Sequence[str], first: int = 0) -> None:
    positions = range(first, first + len(names))
    axes.set_xticks(positions, names, rotation=30, ha="right", fontsize=9, parse_math=False)
    if not first:
        axes.set_xlim(-0.8, len(names) - 0.2)
