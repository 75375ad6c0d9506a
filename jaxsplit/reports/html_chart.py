"""The picture of `report.html`: top-1 over bytes, with intervals, as SVG in the page's colours."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable

from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.points import CodecPoint, Interval, RatePoint

_WIDTH, _HEIGHT = 960, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 20, 56  # margins around the axes
_BELOW = 12.0  # points of top-1 shown below the lowest rate


class _Axes:
    """From bytes and top-1 to places in the picture."""

    def __init__(self, curve: Curve) -> None:
        uncut = _ends(curve.uncompressed_top1, curve.uncompressed_top1_interval)
        ends = [*uncut, *(end for point in curve.points for end in _bar_ends(point))]
        self.low = max(0.0, min(ends) - _BELOW)
        others = [point for points in curve.baselines.values() for point in points]
        self.shown = [point for point in others if _bar_ends(point)[0] >= self.low]
        highest = max([*ends, *(_bar_ends(point)[1] for point in self.shown)])
        # A point at least, where every answer is wrong.
        self.high = min(100.0, max(highest + 0.08 * (highest - self.low), self.low + 1))
        sizes = [point.bytes_per_image for point in curve.points]
        sizes += [point.bytes_per_image for point in self.shown]
        self.left = math.log(max(min(sizes), 0.1)) - 0.15
        self.right = math.log(max(max(sizes), 0.2)) + 0.15

    def x(self, size: float) -> float:
        share = (math.log(max(size, 0.1)) - self.left) / (self.right - self.left)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, percent: float) -> float:
        share = (percent - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def sizes(self) -> list[float]:
        steps = (1, 2, 5)
        found = [s * 10.0**d for d in range(-1, 10) for s in steps]
        return [size for size in found if self.left <= math.log(size) <= self.right]

    def percents(self) -> list[float]:
        step = next(s for s in (0.5, 1, 2, 5, 10, 20) if (self.high - self.low) / s <= 12)
        first = math.ceil(self.low / step)
        return [step * n for n in range(first, math.floor(self.high / step) + 1)]


def chart(curve: Curve) -> str:
    """The picture, an `svg` element; baselines far below the lowest rate are left out."""
    axes = _Axes(curve)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for percent in axes.percents():
        y = axes.y(percent)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 8, y + 5, f"{percent:g}", "end"))
    for size in axes.sizes():
        x = axes.x(size)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 20, f"{size:,g}", "middle"))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 10, "bytes per image (mean)", "middle"))
    parts.append(_text(_LEFT, 14, "top-1 %", "start"))
    if curve.uncompressed_top1_interval is not None:
        low, high = (axes.y(100 * end) for end in curve.uncompressed_top1_interval)
        parts.append(
            f'<rect class="band" x="{_LEFT}" width="{right - _LEFT}" y="{high:.1f}" '
            f'height="{low - high:.1f}"/>'
        )
    y = axes.y(100 * curve.uncompressed_top1)
    parts.append(f'<line class="uncut" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(_text(_LEFT + 6, y - 6, "uncut network", "start"))
    for codec, points in curve.baselines.items():
        shown = [point for point in points if point in axes.shown]
        parts += [_line(axes, codec, shown), *(_bar(axes, codec, point) for point in shown)]
    parts.append(_line(axes, "rates", curve.points))
    for point in curve.points:
        x, y = axes.x(point.bytes_per_image), axes.y(100 * point.top1)
        parts += [_bar(axes, "rates", point), _text(x - 9, y - 7, point.rate_id, "end")]
    picture = "".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="top-1 accuracy over bytes per image">{picture}</svg>'
    )


def _bar(axes: _Axes, name: str, point: RatePoint | CodecPoint) -> str:
    """The interval of a point; without one it has no length."""
    x = axes.x(point.bytes_per_image)
    low, high = (axes.y(end) for end in _bar_ends(point))
    return (
        f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
        f'style="stroke: var(--{name})" stroke-width="{2 if name == "rates" else 1}"/>'
    )


def _bar_ends(point: RatePoint | CodecPoint) -> tuple[float, float]:
    return _ends(point.top1, point.top1_interval)


def _ends(top1: float, interval: Interval | None) -> tuple[float, float]:
    """Percents from and to which a share is drawn."""
    low, high = interval or (top1, top1)
    return 100 * min(low, top1), 100 * max(high, top1)


def _line(axes: _Axes, name: str, points: Iterable[RatePoint | CodecPoint]) -> str:
    """A line of dots, in the colour of that name; each tells its figures where the mouse rests."""
    ordered = sorted(points, key=lambda point: point.bytes_per_image)
    places = [(axes.x(p.bytes_per_image), axes.y(100 * p.top1)) for p in ordered]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if name == "rates" else 3}" '
        f'style="fill: var(--{name})"><title>{point.bytes_per_image:.1f} bytes, top-1 '
        f"{100 * point.top1:.2f} %</title></circle>"
        for (x, y), point in zip(places, ordered, strict=True)
    )
    width = 3 if name == "rates" else 1.6
    return (
        f'<polyline points="{path}" fill="none" style="stroke: var(--{name})" '
        f'stroke-width="{width}"/>{dots}'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
