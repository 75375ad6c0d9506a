"""`report.html`: a curve as one self-contained page, for light and dark screens of any width."""

from __future__ import annotations

import html
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jaxsplit.evaluation.companions import MARK
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.drawn import NOTHING, Drawn
from jaxsplit.evaluation.image_codecs import TITLES, smallest_reaching
from jaxsplit.evaluation.points import CodecPoint, RatePoint
from jaxsplit.io.files import write_whole
from jaxsplit.io.versions import versions
from jaxsplit.reports import curve_plot as plot
from jaxsplit.reports.elements import GREY, interval, number, shown
from jaxsplit.reports.picture_strip import STYLE, strip
from jaxsplit.tasks import AGREEMENT, Metric

if TYPE_CHECKING:
    from jaxsplit.units import UnitSpec

_Point = TypeVar("_Point", bound=RatePoint | CodecPoint)
#: Title of a column, and what it has of a point.
Column = tuple[str, Callable[[_Point], str]]

# Colour of the plot → variable of the page's style, which has one for light and dark screens each.
_COLOURS = {
    "#000000": "text",
    "#ffffff": "back",
    "#dddddd": "faint",
    GREY: "grey",
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
.wide { overflow-x: auto; } svg { width: 100%; min-width: 32rem; max-width: 60rem; height: auto;
  display: block; margin: 0 auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap;
  font-size: .875rem; }
summary { font-size: 1.1rem; font-weight: bold; margin: 2rem 0 1rem; cursor: pointer; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--faint); text-align: right; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content auto; gap: .2rem 1rem; }
dt, footer { color: var(--grey); } footer { margin-top: 2rem; }
dd { margin: 0; overflow-wrap: anywhere; }
svg text { fill: var(--text); }
"""


def write_report(
    path: str | Path,
    curve: Curve,
    title: str,
    configuration: Mapping[str, object] | None = None,
    drawn: Drawn = NOTHING,
) -> None:
    """Writes the page atomically.

    Args:
      path: file to write; a ConfigError if it can't be written.
      curve: at least one point.
      title: of the page.
      configuration: names and values to show below the tables.
      drawn: pictures of a few images.
    """
    write_whole(Path(path), report(curve, title, configuration, drawn).encode())


def report(
    curve: Curve,
    title: str,
    configuration: Mapping[str, object] | None = None,
    drawn: Drawn = NOTHING,
) -> str:
    """Builds the page; it has no scripts and loads nothing."""
    style = STYLE if drawn.images else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="{MARK}" content="{curve.name}">
<title>{html.escape(title)}</title><style>{_STYLE}{style}</style></head><body>
<h1>{html.escape(title)}</h1>
<div class="wide">{svg(curve)}</div>
<p>Every image was encoded to a frame of real bytes, and decoded again before the network's tail.
{_unsplit(curve)}.</p>
{strip(drawn)}
{_rates(curve)}
{_equals(curve)}
{_costs(curve)}
{_baselines(curve)}
<h2>Configuration</h2>{_pairs(configuration or {})}
<h2>Versions</h2>{_pairs(versions())}
<footer>Of the curve.json whose SHA-256 begins with {curve.name}.</footer>
</body></html>
"""


def _flat(fields: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Returns fields of units within units by dotted names."""
    found: dict[str, object] = {}
    for name, x in fields.items():
        path = f"{prefix}{name}"
        found |= _flat(x, f"{path}.") if isinstance(x, Mapping) else {path: x}
    return found


def describe_units(specs: Mapping[str, UnitSpec]) -> dict[str, str]:
    """Describes the units of rates for a report's configuration, and what they share once.

    Args:
      specs: name of the rate → unit, at least one.

    Returns:
      Names and values: fields that all units share, and those of rates that differ.

    >>> from jaxsplit.units import BottleneckSpec
    >>> units = {f"r{c}": BottleneckSpec(c, stride=4, kernel=4, padding=0) for c in (8, 12)}
    >>> described = describe_units({**units, "r13": units["r12"]})
    >>> described["units"][:29], described["unit of r8"], described["unit of r12, r13"]
    ('stride 4, kernel 4, padding 0', 'channels 8', 'channels 12')
    """
    forms = {
        rate: {key: str(x) for key, x in _flat(spec.to_dict()).items()}
        for rate, spec in specs.items()
    }
    first, *others = forms.values()
    shared = {key: x for key, x in first.items() if all(form.get(key) == x for form in others)}
    alike: dict[str, list[str]] = {}
    for rate, form in forms.items():
        own = {key: value for key, value in form.items() if key not in shared}
        alike.setdefault(_fields_text(own), []).append(rate)
    own = {f"unit of {', '.join(rates)}": text for text, rates in alike.items() if text}
    return {"units" if len(specs) > 1 else "unit": _fields_text(shared), **own}


def _fields_text(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in fields.items())


def svg(curve: Curve) -> str:
    """Draws a curve as an inline `svg` element, in the colours that the page's style names."""
    import matplotlib

    figure = plot.draw_curve(curve, curve.baselines, title=" ")
    [axes] = figure.axes
    metric, unsplit = curve.metric(curve.quality), curve.unsplit.get(curve.quality)
    if unsplit is not None and unsplit.interval is not None:
        low, high = (metric.scale * end for end in unsplit.interval)
        axes.axhspan(low, high, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    for codec, points in curve.baselines.items():
        if known := plot.drawn_intervals(curve, points):
            axes.vlines(*zip(*known, strict=True), color=plot.CODECS[codec][0], alpha=0.5)
    drawn = io.StringIO()
    # Text stays text, and the same curve gives the same page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxsplit"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    # In HTML an svg element needs neither the namespaces nor the metadata before <defs>.
    _, defs, content = drawn.getvalue().partition("<defs>")
    for colour, name in _COLOURS.items():
        content = content.replace(colour, f"var(--{name})")
    width, height = 72 * figure.get_size_inches()
    label = f"{metric.name or metric.label} over bytes per image, with 95 % intervals"
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(label)}">'
    return head + defs + content


def _rates(curve: Curve) -> str:
    columns: list[Column[RatePoint]] = [
        ("rate", lambda point: point.rate_id),
        ("lambda", lambda point: number(point.lmbda, ".3g")),
        ("bytes / image", lambda point: f"{point.bytes_per_image:.1f}"),
        ("5–95 %", lambda p: f"{number(p.bytes_p5, '.0f')}–{number(p.bytes_p95, '.0f')}"),
        ("estimated bits", lambda point: f"{point.estimated_bits_per_image:.1f}"),
        ("table bits", lambda point: number(point.table_bits_per_image, ".1f")),
        ("bits / pixel", lambda point: f"{point.bits_per_pixel:.3f}"),
        *_metrics(curve, (*(curve.metrics if curve.labelled else ()), AGREEMENT)),
    ]
    return _table("Rates", columns, curve.points)


def _equals(curve: Curve) -> str:
    """The bytes of the image codecs at the quality of each rate."""
    metric = curve.metric(curve.quality)

    def smallest(codec: str) -> Column[RatePoint]:
        def cell(point: RatePoint) -> str:
            goal = point.metrics[curve.quality].mean
            found = smallest_reaching(curve.baselines[codec], goal, curve.quality, metric)
            return number(None if found is None else found.bytes_per_image, ".1f")

        return f"{TITLES[codec]} bytes", cell

    columns: list[Column[RatePoint]] = [
        ("rate", lambda point: point.rate_id),
        ("bytes / image", lambda point: f"{point.bytes_per_image:.1f}"),
        *map(smallest, curve.baselines),
    ]
    title = f"Image codecs at the same {html.escape(metric.label)}"
    return _table(title, columns, curve.points) if curve.baselines else ""


def _costs(curve: Curve) -> str:
    columns: list[Column[RatePoint]] = [
        ("rate", lambda point: point.rate_id),
        ("device MACs", lambda point: number(point.device_macs, ",")),
        ("of the network", lambda point: number(point.device_share, ".2%").replace("%", " %")),
        ("device parameters", lambda point: number(point.device_params, ",")),
        ("server MACs", lambda point: number(point.server_macs, ",")),
        ("server parameters", lambda point: number(point.server_params, ",")),
        ("unit's stored bytes", lambda point: number(point.unit_bytes, ",")),
        ("of the backbone's", lambda point: number(point.unit_share, ".2%").replace("%", " %")),
    ]
    return _table("Costs", columns, curve.points)


def _baselines(curve: Curve) -> str:
    points = list(itertools.chain(*curve.baselines.values()))
    columns: list[Column[CodecPoint]] = [
        ("codec", lambda point: TITLES[point.codec]),
        ("quality", lambda point: str(point.quality)),
        ("bytes / image", lambda point: f"{point.bytes_per_image:.1f}"),
        ("of these header", lambda point: f"{point.header_bytes_per_image:.1f}"),
        *_metrics(curve, dict.fromkeys((curve.quality, AGREEMENT))),
    ]
    title = f"All {len(points)} settings of the image codecs, to the unsplit network"
    return _folded(title, columns, points) if points else ""


def _metrics(curve: Curve, names: Iterable[str]) -> Iterator[Column[RatePoint | CodecPoint]]:
    """Yields two columns for each metric: its value and interval."""
    for name in names:
        metric = curve.metric(name)

        def mean(p: RatePoint | CodecPoint, n: str = name, m: Metric = metric) -> str:
            return shown(p.metrics, n, m)

        def ends(p: RatePoint | CodecPoint, n: str = name, m: Metric = metric) -> str:
            return interval(p.metrics.get(n), m, "–")

        yield f"{metric.label} {metric.unit}", mean
        yield "95 % interval", ends


def _table(title: str, columns: Sequence[Column[_Point]], points: Iterable[_Point]) -> str:
    return f"<h2>{title}</h2>{_rows(columns, points)}"


def _folded(title: str, columns: Sequence[Column[_Point]], points: Iterable[_Point]) -> str:
    """A table that a click shows."""
    return f"<details><summary>{title}</summary>{_rows(columns, points)}</details>"


def _rows(columns: Sequence[Column[_Point]], points: Iterable[_Point]) -> str:
    def cells(values: Iterable[str], tag: str) -> str:
        inner = "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)
        return f"<tr>{inner}</tr>"

    head = cells((title for title, _ in columns), "th")
    body = "".join(cells((cell(point) for _, cell in columns), "td") for point in points)
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _pairs(values: Mapping[str, object]) -> str:
    inner = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{inner}</dl>"


def _unsplit(curve: Curve) -> str:
    """The unsplit network's quality and its interval, as a sentence without its end."""
    if not curve.labelled:
        return (
            f"The {curve.n_images} images have no labels: measured is the agreement with what the\n"
            "unsplit network predicts for them"
        )
    value, metric = curve.unsplit[curve.quality], curve.metrics[curve.quality]
    text = f"The unsplit network has a {metric.label} of {metric.show(value.mean)} "
    text = f"{text}{metric.unit}".rstrip()
    text += f" on {curve.n_images}\nimages"
    if value.interval is not None:
        text += f" (95 % interval {interval(value, metric, '–')} {metric.unit}".rstrip() + ")"
    return html.escape(text)
