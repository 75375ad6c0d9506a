"""`report.html`: a curve as one self-contained page, for light and dark screens of any width."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.image_codecs import TITLES
from jaxsplit.evaluation.points import Interval, RatePoint
from jaxsplit.io.files import write_whole
from jaxsplit.io.versions import versions
from jaxsplit.reports import plot

# Colour of the plot → variable of the page's style, which has one for light and dark screens each.
_COLOURS = {
    "#000000": "text",
    "#ffffff": "back",
    "#dddddd": "faint",
    plot.GREY: "grey",
    plot.RATES: "rates",
    **{colour: name for name, (colour, _) in plot.CODECS.items()},
}

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
svg text { fill: var(--text); }
"""


def write_report(
    path: str | Path,
    curve: Curve,
    title: str,
    configuration: Mapping[str, object] | None = None,
) -> None:
    """Writes the page atomically.

    Args:
      path: file to write.
      curve: at least one point.
      title: of the page.
      configuration: names and values to show below the tables.

    Raises:
      ConfigError: the file can't be written.
    """
    write_whole(Path(path), report(curve, title, configuration).encode())


def report(curve: Curve, title: str, configuration: Mapping[str, object] | None = None) -> str:
    """Builds the page; it has no scripts and loads nothing."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>Every image was encoded to a frame of real bytes, and decoded again before the network's tail.
The unsplit network has a top-1 of {100 * curve.uncompressed_top1:.2f} % on {curve.n_images}
images{_between(curve.uncompressed_top1_interval)}.</p>
<div class="wide">{_svg(curve)}</div>
<h2>Rates</h2><div class="wide">{_rates(curve)}</div>
<h2>Costs</h2><div class="wide">{_costs(curve.points)}</div>
{_baselines(curve)}
<h2>Configuration</h2>{_pairs(configuration or {})}
<h2>Versions</h2>{_pairs(versions())}
</body></html>
"""


def _svg(curve: Curve) -> str:
    """The plot of a curve as an inline `svg` element in the colours of the page."""
    import matplotlib

    figure = plot.draw_curve(curve, curve.baselines, title=" ")
    [axes] = figure.axes
    if curve.uncompressed_top1_interval is not None:
        low, high = (100 * end for end in curve.uncompressed_top1_interval)
        axes.axhspan(low, high, color=plot.GREY, alpha=0.15, linewidth=0, zorder=0)
    for codec, points in curve.baselines.items():
        ends = [
            (point.bytes_per_image, *(100 * end for end in point.top1_interval))
            for point in points
            if point.top1_interval is not None
        ]
        if ends:
            axes.vlines(*zip(*ends, strict=True), color=plot.CODECS[codec][0], alpha=0.5)
    drawn = io.StringIO()
    # Text stays text, and the same curve gives the same page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxsplit"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    # In HTML an svg element needs neither the namespaces nor the metadata before <defs>.
    _, defs, content = drawn.getvalue().partition("<defs>")
    for colour, name in _COLOURS.items():
        content = content.replace(colour, f"var(--{name})")
    width, height = 72 * figure.get_size_inches()
    label = "top-1 accuracy over bytes per image, with 95 % intervals"
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">'
    return head + defs + content


def _rates(curve: Curve) -> str:
    head: list[str] = ["rate", "lambda", "bytes / image", "5–95 %", "estimated bits", "table bits"]
    head += ["bits / pixel", "top-1 %", "95 % interval", "top-5 %", "95 % interval"]
    head += ["agreement %", "95 % interval"]
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
    head = ["rate", "device MACs", "of the network", "device parameters", "server MACs"]
    head += ["server parameters", "unit's stored bytes", "of the backbone's"]
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


def _baselines(curve: Curve) -> str:
    head = ["codec", "quality", "bytes / image", "of these header", "top-1 %", "95 % interval"]
    head += ["agreement %", "95 % interval"]
    rows = [
        (
            TITLES[codec],
            str(point.quality),
            f"{point.bytes_per_image:.1f}",
            f"{point.header_bytes_per_image:.1f}",
            f"{100 * point.top1:.2f}",
            _percents(point.top1_interval),
            f"{100 * point.agreement:.2f}",
            _percents(point.agreement_interval),
        )
        for codec, points in curve.baselines.items()
        for point in points
    ]
    if not rows:
        return ""
    return (
        "<h2>Baselines: image codecs and the unsplit network</h2>"
        f'<div class="wide">{_table(head, rows)}</div>'
    )


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


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)


def _percent(value: float | None, unit: str = "") -> str:
    return "n/a" if value is None else f"{100 * value:.2f}{unit}"


def _percents(interval: Interval | None) -> str:
    return "n/a" if interval is None else "–".join(f"{100 * end:.1f}" for end in interval)


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f" (95 % interval {_percents(interval)} %)"
