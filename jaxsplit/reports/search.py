"""Reports of a search: its front as a table, and its candidates as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxsplit.reports import elements
from jaxsplit.search import Design
from jaxsplit.search.pareto import Result
from jaxsplit.tasks import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST = 1.0  # bytes: smaller sizes are plotted there


def render(design: Design, chosen: Sequence[Result] = ()) -> str:
    """Formats the front as plain text, by increasing bytes.

    Args:
      design: the search.
      chosen: results to mark, such as those for a full training.
    """
    metric = _metric(design)
    columns = ["cut", "C, s", "lambda", "bytes", f"{metric.label}\n{metric.unit}"]
    columns += [f"drop\n{metric.drop_unit}", "device MACs\n(%)", "steps"]
    unit = "percentage points" if metric.is_share else metric.unit
    drop = f"{metric.scale * design.most_drop:g} {unit} of {metric.label}"
    floor = f"Results that lose more than {drop} are left out."
    least = metric.sign * design.unsplit_quality - design.most_drop
    if all(result.score < least for result in design.front):
        floor = f"All results lose more than {drop}: these lose least."
    note = (
        f"The Pareto front of bytes, {metric.label} and multiply-accumulates on the device. "
        f"{floor} Bytes: estimated by the priors. Images: {design.n_images}; {metric.label} of the "
        f"unsplit network: {metric.show(design.unsplit_quality)} {metric.unit}. A star: the "
        "configuration trains it in full."
    )
    macs = design.unsplit_macs
    rows = [
        (
            one.cut + (" *" if result in chosen else ""),
            f"{one.spec.channels}, {one.spec.stride}",
            f"{one.lmbda:g}",
            f"{result.bytes_per_image:.1f}",
            metric.show(result.quality),
            metric.show(metric.sign * (design.unsplit_quality - result.quality)),
            f"{elements.amount(one.device_macs)} ({100 * one.device_macs / macs:.1f})",
            str(result.steps),
        )
        for result, one in ((result, result.candidate) for result in design.front)
    ]
    return elements.table_text(elements.make_table("The front of the search", columns, rows, note))


def plot_design(path: str | Path, design: Design, chosen: Sequence[Result] = ()) -> None:
    """Plots the quality over bytes, 1200 × 800 pixels; colours are the device's shares of MACs.

    Every candidate is a small dot at its last comparison; those of the front are large dots.
    Results far below the front are left out.

    Args:
      path: PNG file to write; replaced atomically.
      design: the search.
      chosen: results to ring and number, with cut, channels, stride and lambda in the legend.

    Raises:
      ConfigError: the file can't be written.
    """
    from matplotlib.ticker import LogLocator

    metric, figure = _metric(design), elements.new_figure()
    axes = figure.add_subplot()
    axes.set_xscale("log")
    others = [result for result in design.results if result not in design.front]
    for results, size, alpha in ((others, 18, 0.35), (design.front, 90, 1.0)):
        points = np.reshape([_point(result, metric) for result in results], (-1, 2))
        dots = axes.scatter(
            points[:, 0],
            points[:, 1],
            c=[100 * result.candidate.device_macs / design.unsplit_macs for result in results],
            s=size,
            alpha=alpha,
            cmap="viridis",
            vmin=0,
            vmax=100,
            edgecolors="white",
            linewidths=0.6,
        )
    figure.colorbar(dots, ax=axes, label="multiply-accumulates on the device (% of the network)")
    _draw_chosen(axes, chosen, metric)
    if chosen:
        title = "chosen: cut, channels, stride, lambda"
        figure.legend(title=title, fontsize=10, ncols=4, handlelength=0, loc="outside lower center")
    unsplit = metric.scale * design.unsplit_quality
    axes.axhline(unsplit, color=elements.GREY, linewidth=1.4, zorder=1)
    text = f"unsplit network, {metric.show(design.unsplit_quality)} {metric.unit}".rstrip()
    beside = axes.get_yaxis_transform()
    axes.text(0.008, unsplit, text, color=elements.GREY, fontsize=11, va="bottom", transform=beside)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(elements.plain_numbers)
    axes.minorticks_off()
    axes.set_xlabel("bytes an image (estimated, logarithmic)", fontsize=12)
    axes.set_ylabel(metric.title, fontsize=12)
    title = f"{len(design.results)} candidates, {len(design.front)} on the front"
    axes.set_title(f"{title}; large dots are the front, rings the chosen", fontsize=14, pad=12)
    worst = min(design.front, key=lambda result: result.score, default=None)
    far = unsplit - (metric.scale * worst.quality if worst else 0.0)  # positive if higher is better
    room = metric.sign * (1 if metric.is_share else 0.05 * abs(far))
    ends = unsplit - 1.3 * far - room, unsplit + 0.1 * far + room
    axes.set_ylim(min(ends), max(ends))
    elements.add_grid(axes)
    elements.write_png(path, figure)


def _draw_chosen(axes: Axes, chosen: Sequence[Result], metric: Metric) -> None:
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=3, foreground="white")]
    for number, result in enumerate(chosen, 1):
        one, point = result.candidate, _point(result, metric)
        axes.plot(*point, "o", markersize=14, fillstyle="none", color=elements.GREY)
        axes.annotate(
            str(number),
            point,
            xytext=(8, 8),
            textcoords="offset points",
            fontsize=11,
            path_effects=outline,
        )
        name = f"{number}  {one.cut} C{one.spec.channels} s{one.spec.stride}, {one.lmbda:g}"
        axes.plot([], [], " ", label=name)


def _point(result: Result, metric: Metric) -> tuple[float, float]:
    return max(result.bytes_per_image, _LEAST), metric.scale * result.quality


def _metric(design: Design) -> Metric:
    return design.task.metric(design.task.quality)
