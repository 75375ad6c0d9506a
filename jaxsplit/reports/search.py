"""Reports of a search: its front as a table, and its candidates as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from jaxsplit.reports.plot import GREY, new_figure, plain_numbers, write_png
from jaxsplit.reports.table import amount, as_text, empty_table
from jaxsplit.search import Design
from jaxsplit.search.pareto import Result

_LEAST = 1.0  # bytes: smaller sizes are plotted there


def render(design: Design, chosen: Sequence[Result] = ()) -> str:
    """Formats the front as plain text, by increasing bytes.

    Args:
      design: the search.
      chosen: results to mark, such as those for a full training.
    """
    columns = ["C, s", "lambda", "bytes", "top-1\n%", "drop\npp"]
    columns += ["device MACs\n(%)", "steps"]
    drop = f"{100 * design.most_drop:g} percentage points of top-1"
    floor = f"Results that lose more than {drop} are left out."
    if all(result.top1 < design.uncut_top1 - design.most_drop for result in design.front):
        floor = f"All results lose more than {drop}: these lose least."
    note = (
        f"The Pareto front of bytes, top-1 and multiply-accumulates on the device. {floor} Bytes: "
        f"estimated by the priors. Images: {design.n_images}; top-1 of the unsplit network: "
        f"{100 * design.uncut_top1:.2f} %. A star: the configuration trains it in full."
    )
    table = empty_table("The front of the search", columns, note, first="cut")
    for result in design.front:
        one = result.candidate
        star = " *" if result in chosen else ""
        share = 100 * one.device_macs / design.uncut_macs
        table.add_row(
            Text(one.cut + star),
            f"{one.spec.channels}, {one.spec.stride}",
            f"{one.lmbda:g}",
            f"{result.bytes_per_image:.1f}",
            f"{100 * result.top1:.2f}",
            f"{100 * (design.uncut_top1 - result.top1):z.2f}",
            f"{amount(one.device_macs)} ({share:.1f})",
            str(result.steps),
        )
    return as_text(table)


def plot_design(path: str | Path, design: Design, chosen: Sequence[Result] = ()) -> None:
    """Plots top-1 over bytes, 1200 × 800 pixels; the colour shows the device's share of the MACs.

    Every candidate is a small dot at its last comparison; those of the front are large dots.
    Results far below the front are left out.

    Args:
      path: PNG file to write; replaced atomically.
      design: the search.
      chosen: results to ring and number, with cut, channels, stride and lambda in the legend.

    Raises:
      ConfigError: the file can't be written.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = new_figure()
    axes = figure.add_subplot()
    axes.set_xscale("log")
    others = [result for result in design.results if result not in design.front]
    for results, size, alpha in ((others, 18, 0.35), (design.front, 90, 1.0)):
        dots = axes.scatter(
            [max(result.bytes_per_image, _LEAST) for result in results],
            [100 * result.top1 for result in results],
            c=[100 * result.candidate.device_macs / design.uncut_macs for result in results],
            s=size,
            alpha=alpha,
            cmap="viridis",
            vmin=0,
            vmax=100,
            edgecolors="white",
            linewidths=0.6,
        )
    figure.colorbar(dots, ax=axes, label="multiply-accumulates on the device (% of the network)")
    for number, result in enumerate(chosen, 1):
        one, place = result.candidate, (max(result.bytes_per_image, _LEAST), 100 * result.top1)
        axes.plot(*place, "o", markersize=14, fillstyle="none", color=GREY)
        axes.annotate(
            str(number),
            place,
            xytext=(8, 8),
            textcoords="offset points",
            fontsize=11,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
        name = f"{number}  {one.cut} C{one.spec.channels} s{one.spec.stride}, {one.lmbda:g}"
        axes.plot([], [], " ", label=name)
    if chosen:
        title = "chosen: cut, channels, stride, lambda"
        figure.legend(title=title, fontsize=10, ncols=4, handlelength=0, loc="outside lower center")
    unsplit = 100 * design.uncut_top1
    axes.axhline(unsplit, color=GREY, linewidth=1.4, zorder=1)
    text, beside = f"unsplit network, {unsplit:.2f} %", axes.get_yaxis_transform()
    axes.text(0.008, unsplit, text, color=GREY, fontsize=11, va="bottom", transform=beside)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(plain_numbers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bytes an image (estimated, logarithmic)", fontsize=12)
    axes.set_ylabel("top-1 accuracy (%)", fontsize=12)
    title = f"{len(design.results)} candidates, {len(design.front)} on the front"
    axes.set_title(f"{title}; large dots are the front, rings the chosen", fontsize=14, pad=12)
    low = min((100 * result.top1 for result in design.front), default=0.0)
    axes.set_ylim(low - 0.3 * (unsplit - low) - 1, unsplit + 0.1 * (unsplit - low) + 1)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    write_png(path, figure)
