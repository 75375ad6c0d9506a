"""The picture of a plan, as a PNG file. matplotlib is imported when it is drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsplit.cost import SYMBOLS, Plan
from jaxsplit.cost.link import Comparison
from jaxsplit.io.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES, _DPI = (12.0, 8.0), 100  # 1200 × 800 pixels
_DEVICE, _TRANSFER, _SERVER, _GREY = "#c8501e", "#e3b23c", "#0b5fa5", "#444444"
_LATENT = "#2e8b57"


def plot_plan(
    path: str | Path, plan: Plan, comparison: Comparison | None = None, symbols: int = SYMBOLS
) -> None:
    """Draws what each cut costs, 1200 × 800 pixels; the same input gives the same file.

    Above, for every cut from the image to the classifier: with a link the time on device, link and
    server, between the two ends; else the device's part of the multiply-accumulates and of the
    parameters. Below: the size of what would be sent.

    Args:
      path: PNG file to write; replaced atomically.
      plan: the cuts.
      comparison: their times, where a link is given.
      symbols: for `CutPlan.unit_of`.

    Raises:
      ConfigError: the file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1)
    if comparison is None:
        _draw_shares(upper, plan)
    else:
        _draw_times(upper, comparison)
    _draw_sizes(lower, plan, symbols, comparison)
    size = "×".join(map(str, plan.input_shape))
    figure.suptitle(f"Where to cut {plan.name}, images of {size}", fontsize=14, parse_math=False)
    for axes in (upper, lower):
        axes.grid(True, axis="y", which="major", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), fontsize=10, frameon=False)
    drawn = io.BytesIO()
    # Without its version matplotlib writes the same bytes for the same pixels.
    figure.savefig(drawn, format="png", dpi=_DPI, metadata={"Software": None})
    write_whole(Path(path), drawn.getvalue())


def _draw_shares(axes: Axes, plan: Plan) -> None:
    names = [cut.cut for cut in plan.cuts]
    macs = [100 * cut.device_macs_share for cut in plan.cuts]
    params = [100 * cut.device_params_share for cut in plan.cuts]
    places = range(len(names))
    label = "multiply-accumulates\non the device"
    axes.bar(places, macs, width=0.7, color=_DEVICE, label=label)
    rest = [100 - share for share in macs]
    label = "multiply-accumulates\non the server"
    axes.bar(places, rest, bottom=macs, width=0.7, color=_SERVER, alpha=0.25, label=label)
    label = "parameters\non the device"
    axes.plot(places, params, color=_GREY, marker="o", linewidth=1.8, label=label)
    for place, share in zip(places, macs, strict=True):
        axes.text(place, share + 1, f"{share:.0f}", ha="center", fontsize=9, color=_GREY)
    axes.set_ylim(0, 108)
    axes.set_ylabel("percent of the uncut network", fontsize=11)
    _name_places(axes, names)


def _draw_times(axes: Axes, comparison: Comparison) -> None:
    alone, sent = comparison.ends
    options = [sent, *comparison.cuts, alone]
    bottoms = [0.0] * len(options)
    places = range(len(options))
    for name, colour, field in (
        ("device", _DEVICE, "device_ms"),
        ("transfer", _TRANSFER, "transfer_ms"),
        ("server", _SERVER, "server_ms"),
    ):
        heights = [getattr(one.timing, field) for one in options]
        axes.bar(places, heights, bottom=bottoms, width=0.7, color=colour, label=name)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    top = max(bottoms)
    best = comparison.best_cut
    for place, (one, total) in enumerate(zip(options, bottoms, strict=True)):
        weight = "bold" if one is best else "normal"
        text = f"fastest cut\n{_short(total)}" if one is best else _short(total)
        height = total + 0.01 * top
        axes.text(place, height, text, ha="center", va="bottom", fontsize=9, weight=weight)
    axes.set_ylim(0, 1.16 * top)
    axes.set_ylabel("milliseconds an image", fontsize=11)
    _name_places(axes, [one.name for one in options])
    for label, one in zip(axes.get_xticklabels(), options, strict=True):
        if one is best:
            label.set_fontweight("bold")


def _draw_sizes(axes: Axes, plan: Plan, symbols: int, comparison: Comparison | None) -> None:
    from matplotlib.ticker import FuncFormatter

    names = [cut.cut for cut in plan.cuts]
    first = 0 if comparison is None else 1  # below the bars of the picture above
    places = range(first, first + len(names))
    raw = [cut.feature_bytes for cut in plan.cuts]
    axes.bar(places, raw, width=0.7, color=_GREY, alpha=0.35, label="features\nas they are")
    bits = 8.0 if comparison is None else comparison.bits_per_symbol
    sizes = []
    label: str | None = f"the unit's latent,\n{bits:g} bits a number\n(C: channels, s: stride)"
    for place, cut in zip(places, plan.cuts, strict=True):
        unit = cut.unit_of(symbols)
        if unit is None:
            continue
        sizes.append(unit.latent_symbols * bits / 8)
        axes.plot(place, sizes[-1], "o", color=_LATENT, markersize=8, label=label)
        form = f"C{unit.spec.channels}\ns{unit.spec.stride}"
        axes.annotate(
            *(form, (place, sizes[-1])), xytext=(0, 8), textcoords="offset points", ha="center"
        ).set_fontsize(9)
        label = None  # one entry of the legend for all
    image, label = float(math.prod(plan.input_shape)), "the image,\nraw"
    if comparison is not None and comparison.ends[1].sent_bytes:
        image, label = comparison.ends[1].sent_bytes, "the image,\nas it is sent"
    axes.axhline(image, color=_DEVICE, linestyle="--", linewidth=1.6, label=label)
    axes.set_yscale("log")
    everything = [*raw, image, *sizes]
    axes.set_ylim(min(everything) / 2.5, max(everything) * 2.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_ylabel("bytes an image (logarithmic)", fontsize=11)
    if comparison is not None:
        axes.set_xlim(-0.8, len(names) + 1.8)
    _name_places(axes, names, first)


def _name_places(axes: Axes, names: Sequence[str], first: int = 0) -> None:
    axes.set_xticks(range(first, first + len(names)))
    labels = axes.set_xticklabels(names, rotation=30, ha="right", fontsize=9)
    for label in labels:
        label.set_parse_math(False)
    if not first:
        axes.set_xlim(-0.8, len(names) - 0.2)


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 99.5 else f"{milliseconds:.3g}"
