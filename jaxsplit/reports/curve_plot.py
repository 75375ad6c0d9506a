"""Plots of a rate–accuracy curve, as a PNG file or as SVG. matplotlib is imported on first use."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxsplit.errors import ConfigError
from jaxsplit.evaluation.companions import MARK
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.image_codecs import TITLES
from jaxsplit.evaluation.points import CodecPoint, RatePoint, Values
from jaxsplit.reports.elements import GREY, add_grid, new_figure, plain_numbers, write_png
from jaxsplit.tasks import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BELOW = 12.0  # percentage points shown below the lowest rate
_NEAR = 2.0  # the raw image is shown up to this multiple of the largest size
#: Colour of the rates' line.
RATES = "#0b5fa5"
#: Image codec → colour and marker.
CODECS = {"jpeg": ("#c8501e", "s"), "webp": ("#2e8b57", "^"), "avif": ("#8e44ad", "D")}


def plot_curve(
    path: str | Path,
    curve: Curve,
    codecs: Mapping[str, Iterable[CodecPoint]] | None = None,
    title: str | None = None,
    raw_bytes: int | None = None,
) -> None:
    """Plots the quality over bytes, 1200 × 800 pixels; the same input gives the same file.

    Args:
      path: PNG file to write; replaced atomically.
      curve, codecs, title, raw_bytes: as in `draw_curve`.

    Raises:
      ConfigError: the curve has no point, or one of 0 bytes.
    """
    write_png(path, draw_curve(curve, codecs, title, raw_bytes), {MARK: curve.name})


def draw_curve(
    curve: Curve,
    codecs: Mapping[str, Iterable[CodecPoint]] | None = None,
    title: str | None = None,
    raw_bytes: int | None = None,
) -> Figure:
    """Draws the quality, such as top-1, over bytes per image.

    The rates are a line of named dots, with bars for known 95 % intervals. An image codec has two
    lines: whole files, and, dashed, files without the header that each of them repeats. Points far
    below the lowest rate are left out, so that the lowest qualities don't squash the rest.

    Args:
      curve: at least one point, all above 0 bytes.
      codecs: image codec → its `image_codecs.sweep` over the same images.
      title: of the plot; default: its subject and the number of images.
      raw_bytes: bytes of an uncompressed image, h · w · c: a vertical line, if it is less than
        twice the largest size of the plot.

    Raises:
      ConfigError: the curve has no point, or one of 0 bytes.
    """
    if not curve.points or min(point.bytes_per_image for point in curve.points) <= 0:
        raise ConfigError(
            f"cannot plot a curve of {len(curve.points)} rates on a logarithmic axis: expected at "
            "least one, all above 0 bytes per image"
        )
    figure = new_figure()
    axes = figure.add_subplot()
    swept = {
        name: sorted(points, key=lambda point: point.bytes_per_image)
        for name, points in (codecs or {}).items()
    }
    low, high = _scale_quality(axes, curve, swept)
    sizes = [point.bytes_per_image for point in curve.points]
    for point in itertools.chain(*swept.values()):
        if low <= _shown(curve, point.metrics) <= high:
            sizes += [point.bytes_per_image, point.payload_bytes_per_image]
    if raw_bytes is not None and raw_bytes < _NEAR * max(sizes):
        sizes.append(raw_bytes)
        _draw_raw(axes, raw_bytes)
    _scale_bytes(axes, min(sizes), max(sizes))
    # This order groups related entries in the columns of the legend.
    _draw_rates(axes, curve)
    metric = curve.metric(curve.quality)
    if curve.labelled:
        _draw_unsplit(axes, curve.unsplit[curve.quality].mean, metric)
    for name, points in swept.items():
        _draw_codec(axes, curve, name, points)
    axes.set_xlabel("bytes per image (mean, logarithmic)", fontsize=12)
    axes.set_ylabel(metric.title, fontsize=12)
    subject = "Accuracy" if curve.labelled else "Agreement with the unsplit network"
    title = title or f"{subject} through real bytes, {curve.n_images} images"
    # A dollar sign in a name must not start a formula.
    axes.set_title(title, fontsize=14, pad=12, parse_math=False)
    add_grid(axes)
    columns = max(2, 1 + len(swept))
    size = 11 if columns < 4 else 8.5
    figure.legend(loc="outside lower center", ncols=columns, fontsize=size, frameon=False)
    return figure


def _draw_rates(axes: Axes, curve: Curve) -> None:
    from matplotlib.patheffects import withStroke

    points = sorted(curve.points, key=lambda point: point.bytes_per_image)
    ends = drawn_intervals(curve, points)
    axes.plot(
        [point.bytes_per_image for point in points],
        [_shown(curve, point.metrics) for point in points],
        color=RATES,
        marker="o",
        markersize=9,
        linewidth=2.6,
        zorder=5,
        label=f"split at the bottleneck, whole frames{', bars: 95 %' if ends else ''}",
    )
    if ends:
        sizes, lows, highs = zip(*ends, strict=True)
        axes.vlines(sizes, lows, highs, color=RATES, linewidth=5, alpha=0.25, zorder=4)
    low, high = (math.log(limit) for limit in axes.get_xlim())
    bottom, top = axes.get_ylim()
    for point in points:
        size, value = point.bytes_per_image, _shown(curve, point.metrics)
        # Other lines are rarely above and to the left of a rate, better and cheaper than it. But a
        # name must not leave the axes nor lie on the line of the unsplit network.
        position, width = (math.log(size) - low) / (high - low), 0.01 * len(point.rate_id) + 0.01
        line = _shown(curve, curve.unsplit) if curve.labelled else math.inf
        on_line = 0 <= line - value < 0.05 * (top - bottom)
        below = position < width or (on_line and position + width < 1)
        axes.annotate(
            point.rate_id,
            (size, value),
            xytext=(8, -8) if below else (-8, 7),
            textcoords="offset points",
            ha="left" if below else "right",
            va="top" if below else "baseline",
            color=RATES,
            fontsize=12,
            fontweight="bold",
            parse_math=False,
            zorder=6,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )


def _shown(curve: Curve, values: Values) -> float:
    """Returns the quality as it is drawn, shares in percent."""
    return curve.metric(curve.quality).scale * values[curve.quality].mean


def drawn_intervals(
    curve: Curve, points: Iterable[RatePoint | CodecPoint]
) -> list[tuple[float, float, float]]:
    """Returns (bytes, low, high) of each point with an interval of its quality, as drawn."""
    scale = curve.metric(curve.quality).scale
    known = [(point.bytes_per_image, point.metrics[curve.quality].interval) for point in points]
    return [(size, scale * ends[0], scale * ends[1]) for size, ends in known if ends is not None]


def _draw_codec(axes: Axes, curve: Curve, name: str, points: Sequence[CodecPoint]) -> None:
    colour, marker = CODECS[name]
    tops = [_shown(curve, point.metrics) for point in points]
    whole = [point.bytes_per_image for point in points]
    payload = [point.payload_bytes_per_image for point in points]
    label = f"{TITLES[name]} to the unsplit network, whole files"
    [line] = axes.plot(whole, tops, color=colour, marker=marker, label=label)
    line.set(markersize=6, linewidth=1.8)
    label = f"{TITLES[name]} without its header"
    [line] = axes.plot(payload, tops, color=colour, marker=marker, label=label)
    line.set(markersize=4, linewidth=1.2, linestyle="--", alpha=0.5)


def _draw_unsplit(axes: Axes, unsplit: float, metric: Metric) -> None:
    height, text = metric.scale * unsplit, f"unsplit network, {metric.show(unsplit)} {metric.unit}"
    axes.axhline(height, color=GREY, linewidth=1.4, zorder=1, label="unsplit network")
    _note(axes, text.rstrip(), (0.008, height), ("axes fraction", "data"), xytext=(0, 5))


def _draw_raw(axes: Axes, raw_bytes: int) -> None:
    axes.axvline(raw_bytes, color=GREY, linewidth=1.4, linestyle=":", zorder=1)
    position, where = (raw_bytes, 0.02), ("data", "axes fraction")
    text = f"raw image, {raw_bytes:,} bytes"
    _note(axes, text, position, where, xytext=(-4, 0), rotation=90, ha="right")


def _note(
    axes: Axes, text: str, xy: tuple[float, float], where: tuple[str, str], **how: Any
) -> None:
    """Writes a text beside a line; `where` are the coordinate systems of `xy`."""
    how = {"textcoords": "offset points", "color": GREY, "fontsize": 11, **how}
    axes.annotate(text, xy, xycoords=where, **how)


def _scale_quality(
    axes: Axes, curve: Curve, codecs: Mapping[str, Sequence[CodecPoint]]
) -> tuple[float, float]:
    """Fits the axis to the rates and the codecs' points near them; returns its limits."""
    from matplotlib.ticker import MaxNLocator

    metric = curve.metric(curve.quality)
    # With the sign of the metric, larger is better.
    values = [point.metrics for point in curve.points]
    tops = [_shown(curve, one) for one in (*[curve.unsplit][: curve.labelled], *values)]
    tops = [metric.sign * top for top in tops]
    ends = [metric.sign * end for _, *both in drawn_intervals(curve, curve.points) for end in both]
    others = [_shown(curve, point.metrics) for points in codecs.values() for point in points]
    others = [metric.sign * other for other in others] + ends
    top, span = max(tops + others), max(tops) - min(tops)
    below, room = (_BELOW, 0.5) if metric.is_share else (span, 0.05 * span)
    bottom = max(min(tops) - below, min(tops + others) - 0.1 * (top - min(tops + others)) - room)
    bottom = min([bottom, *(end - room for end in ends)])  # wide intervals stay whole
    low, high = sorted((metric.sign * bottom, metric.sign * (top + 0.09 * (top - bottom))))
    if low == high:
        low, high = low - 0.5, high + 0.5
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 2, 5, 10]))
    return low, high


def _scale_bytes(axes: Axes, smallest: float, largest: float) -> None:
    """Sets a logarithmic axis around the sizes, with plain numbers for ticks."""
    axes.set_xscale("log")
    margin = max(1.25, (largest / smallest) ** 0.07)
    low, high = smallest / margin, largest * margin
    axes.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low > 100 else (1, 1.5, 2, 3, 4, 5, 7)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(plain_numbers)
    axes.minorticks_off()
