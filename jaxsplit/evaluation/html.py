"""`report.html`: a curve as one page that any browser opens offline, light or dark, wide or not."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.image_codecs import TITLES
from jaxsplit.evaluation.points import CodecPoint, Interval, RatePoint
from jaxsplit.versions import versions

_WIDTH, _HEIGHT = 960, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 20, 56  # margins around the axes
_BELOW = 12.0  # points of top-1 shown below the lowest rate
_STYLE = """
:root { color-scheme: light dark; --text: #1d232a; --back: #ffffff; --faint: #d9dee3;
  --rates: #0b5fa5; --jpeg: #c8501e; --webp: #2e8b57; --avif: #8a4fb5; --grey: #66707a; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --back: #14181c; --faint: #333b43;
  --rates: #6db4f2; --jpeg: #f08a5d; --webp: #67c793; --avif: #c79aec; --grey: #98a2ac; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; } svg { width: 100%; min-width: 32rem; height: auto; display: block; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--faint); text-align: right; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content auto; gap: .2rem 1rem; }
dt { color: var(--grey); } dd { margin: 0; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; padding: 0; list-style: none; }
.legend i { display: inline-block; width: 1.6rem; margin-right: .4rem; vertical-align: middle;
  border-top: 3px solid; }
svg text { fill: var(--text); font: 14px system-ui, sans-serif; }
.grid { stroke: var(--faint); } .uncut { stroke: var(--grey); stroke-dasharray: 6 4; }
.band { fill: var(--grey); opacity: .15; }
"""


def write_report(
    path: str | Path,
    curve: Curve,
    title: str,
    configuration: Mapping[str, object] | None = None,
) -> None:
    """Writes the page; a killed write leaves the file that was there.

    Args:
      path: file to write.
      curve: at least one point.
      title: what was measured.
      configuration: names and values to show below the tables.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(report(curve, title, configuration), encoding="utf-8", newline="\n")
    os.replace(partial, path)


def report(curve: Curve, title: str, configuration: Mapping[str, object] | None = None) -> str:
    """The page as text; nothing in it is loaded from elsewhere."""
    legend = {"rates": "through the bottleneck, whole frames, 95 % intervals"}
    legend |= {codec: f"{TITLES[codec]} to the uncut network" for codec in curve.baselines}
    keys = "".join(
        f'<li><i style="border-color: var(--{name})"></i>{html.escape(text)}</li>'
        for name, text in legend.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>Every image became a frame of real bytes, which was decoded again before the server answered.
The uncut network is right on {100 * curve.uncompressed_top1:.2f} % of {curve.n_images}
images{_between(curve.uncompressed_top1_interval)}.</p>
<div class="wide">{_chart(curve)}</div><ul class="legend">{keys}</ul>
<h2>Rates</h2><div class="wide">{_rates(curve)}</div>
<h2>What they cost</h2><div class="wide">{_costs(curve.points)}</div>
<h2>Configuration</h2>{_pairs(configuration or {})}
<h2>Versions</h2>{_pairs(versions())}
</body></html>
"""


def _rates(curve: Curve) -> str:
    head: tuple[str, ...] = (
        "rate",
        "lambda",
        "bytes / image",
        "5–95 %",
        "estimated bits",
        "table bits",
    )
    head += ("bits / pixel", "top-1 %", "95 % interval", "top-5 %", "95 % interval")
    head += ("agreement %", "95 % interval")
    rows = [
        (
            point.rate_id,
            _number(point.lmbda, ".3g"),
            f"{point.bytes_per_image:.1f}",
            f"{_number(point.bytes_p5, '.0f')}–{_number(point.bytes_p95, '.0f')}",
            f"{point.estimated_bits_per_image:.1f}",
            _number(point.table_bits_per_image, ".1f"),
            f"{point.bits_per_pixel:.3f}",
            f"{100 * point.top1:.2f}",
            _percents(point.top1_interval),
            _percent(point.top5),
            _percents(point.top5_interval),
            _percent(point.agreement),
            _percents(point.agreement_interval),
        )
        for point in curve.points
    ]
    return _table(head, rows)


def _costs(points: Iterable[RatePoint]) -> str:
    head: tuple[str, ...] = (
        "rate",
        "device MACs",
        "of the network",
        "device parameters",
        "server MACs",
    )
    head += ("server parameters", "unit's stored bytes", "of the backbone's")
    rows = [
        (
            point.rate_id,
            _number(point.device_macs, ","),
            _percent(point.device_share, " %"),
            _number(point.device_params, ","),
            _number(point.server_macs, ","),
            _number(point.server_params, ","),
            _number(point.unit_bytes, ","),
            _percent(point.unit_share, " %"),
        )
        for point in points
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def cells(values: Sequence[str], tag: str) -> str:
        inner = "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)
        return f"<tr>{inner}</tr>"

    body = "".join(cells(row, "td") for row in rows)
    return f"<table><thead>{cells(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _pairs(values: Mapping[str, object]) -> str:
    inner = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{inner}</dl>"


class _Axes:
    """From bytes and top-1 to places in the picture."""

    def __init__(self, curve: Curve) -> None:
        tops = [100 * curve.uncompressed_top1, *(100 * point.top1 for point in curve.points)]
        self.low = max(0.0, min(tops) - _BELOW)
        others = [p for points in curve.baselines.values() for p in points]
        self.shown = [point for point in others if 100 * point.top1 >= self.low]
        highest = max([*tops, *(100 * point.top1 for point in self.shown)])
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


def _chart(curve: Curve) -> str:
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
        low, high = (min(axes.y(100 * end), bottom) for end in curve.uncompressed_top1_interval)
        high = max(high, _TOP)
        parts.append(
            f'<rect class="band" x="{_LEFT}" width="{right - _LEFT}" y="{high:.1f}" '
            f'height="{low - high:.1f}"/>'
        )
    y = axes.y(100 * curve.uncompressed_top1)
    parts.append(f'<line class="uncut" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(_text(_LEFT + 6, y - 6, "uncut network", "start"))
    for codec, points in curve.baselines.items():
        parts.append(_line(axes, codec, [p for p in points if p in axes.shown]))
    parts.append(_line(axes, "rates", curve.points))
    for point in curve.points:
        if point.top1_interval is not None:
            x = axes.x(point.bytes_per_image)
            low, high = (axes.y(100 * end) for end in point.top1_interval)
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
                'style="stroke: var(--rates)" stroke-width="2"/>'
            )
        x, y = axes.x(point.bytes_per_image), axes.y(100 * point.top1)
        parts.append(_text(x - 9, y - 7, point.rate_id, "end"))
    picture = "".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="top-1 accuracy over bytes per image">{picture}</svg>'
    )


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


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)


def _percent(value: float | None, unit: str = "") -> str:
    return "n/a" if value is None else f"{100 * value:.2f}{unit}"


def _percents(interval: Interval | None) -> str:
    return "n/a" if interval is None else "–".join(f"{100 * end:.1f}" for end in interval)


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f" (95 % interval {_percents(interval)} %)"
