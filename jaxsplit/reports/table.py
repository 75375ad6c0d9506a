"""Tables of a rate–accuracy curve as plain text, identical in a terminal, a pipe and a file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.image_codecs import TITLES, check_goal, smallest_reaching
from jaxsplit.evaluation.intervals import Value
from jaxsplit.evaluation.points import CodecPoint, RatePoint, Values
from jaxsplit.tasks import AGREEMENT, Metric

#: Width of a table, in characters.
WIDTH = 110

_NOTE = (
    "{}: the smallest mean file, over Pillow's qualities, with which the unsplit network reaches "
    "the rate's {}; in brackets its header; n/a if no tested quality is enough."
)
_DETAILS_NOTE = (
    "Intervals: 95 %. Agreement: with the unsplit network's predictions. Bytes: 5th and 95th "
    "percentile of the frames. Device: head and encoder; server: decoder and tail; MACs: multiply-"
    "accumulates, in percent of the unsplit network. Unit: the rate's arrays as pack stores them, "
    "as a share of the backbone's in float32."
)


def table(
    curve: Curve,
    codecs: Mapping[str, Iterable[CodecPoint]] | None = None,
    raw_bytes: int | None = None,
    measure: str | None = None,
) -> Table:
    """Builds a row for each rate and one for the unsplit network, in ASCII, 110 columns at most.

    Bytes are of real frames, estimated bits by the prior, and table bits those of an ideal coder
    with the integer tables.

    Args:
      curve: the rates, in the order of the rows.
      codecs: image codec → its `image_codecs.sweep` over the same images: a column for each.
      raw_bytes: bytes of an uncompressed image, h · w · c, shown with the unsplit network.
      measure: metric at which codecs are compared with a rate: the curve's by default, or
        "agreement" with the unsplit network, which is then shown in place of the drop.

    Returns:
      The table, for any `rich` console; `render` turns it into text.
    """
    swept = {codec: tuple(points) for codec, points in (codecs or {}).items()}
    quality, measure = curve.metrics[curve.quality], check_goal(measure, curve.quality)
    metric = curve.metric(measure)
    agreement = "agree-\nment" + (" %" if metric.is_share else "")
    titles = [TITLES[codec] for codec in swept]
    # Three columns of codecs fit only with the header below the file size.
    space = "\n" if len(swept) > 2 else " "
    columns = ["lambda", "bytes /\nimage", "estim.\nbits", "table\nbits", "bits /\npixel"]
    columns += [f"{quality.label}\n{quality.unit}"]
    columns += [f"drop\n{quality.drop_unit}" if measure == curve.quality else agreement]
    columns += [f"{title}{space}bytes\n(header)" for title in titles]
    result = empty_table(
        f"Rates against the unsplit network, {_images(curve)}",
        columns,
        _NOTE.format(", ".join(titles), metric.label) if titles else None,
    )
    for point in curve.points:
        result.add_row(
            Text(point.rate_id),  # rich reads a plain string as markup
            "n/a" if point.lmbda is None else f"{point.lmbda:.3g}",
            _mean(point.bytes_per_image),
            _mean(point.estimated_bits_per_image),
            "n/a" if point.table_bits_per_image is None else _mean(point.table_bits_per_image),
            f"{point.bits_per_pixel:.3f}",
            quality.show(point.metrics[curve.quality].mean),
            _drop(curve, point)
            if measure == curve.quality
            else _share(point.metrics, measure, metric),
            *(
                _smallest(points, point.metrics.get(measure), measure, metric, space)
                for points in swept.values()
            ),
        )
    result.add_section()
    unsplit = curve.unsplit[curve.quality]
    whole: Value | None = unsplit
    if measure != curve.quality:  # the unsplit network's agreement with itself
        whole = Value(1.0) if metric.is_share else None
    result.add_row(
        "unsplit",
        "",
        "" if raw_bytes is None else f"{raw_bytes} raw",
        "",
        "",
        "",
        quality.show(unsplit.mean),
        "0.00" if measure == curve.quality else metric.show(whole and whole.mean),
        *(_smallest(points, whole, measure, metric, space) for points in swept.values()),
    )
    return result


def render(
    curve: Curve,
    codecs: Mapping[str, Iterable[CodecPoint]] | None = None,
    raw_bytes: int | None = None,
    measure: str | None = None,
) -> str:
    """Formats `table` as plain text.

    >>> points = [RatePoint("r0", 0.01, 52.0, 401.0, 0.531, {"top1": 0.875}, 2000, 402.5)]
    >>> jpeg = [CodecPoint("jpeg", 9, 251.5, 170.25, {"top1": 0.88})]
    >>> print(render(Curve({"top1": 0.925}, 2000, points), {"jpeg": jpeg}))
                        Rates against the unsplit network, 2000 images
    +---------+--------+---------+--------+-------+--------+-------+------+---------------+
    |         |        | bytes / | estim. | table | bits / | top-1 | drop |    JPEG bytes |
    | rate    | lambda |   image |   bits |  bits |  pixel |     % |   pp |      (header) |
    +---------+--------+---------+--------+-------+--------+-------+------+---------------+
    | r0      |   0.01 |    52.0 |  401.0 | 402.5 |  0.531 | 87.50 | 5.00 | 251.5 (170.2) |
    +---------+--------+---------+--------+-------+--------+-------+------+---------------+
    | unsplit |        |         |        |       |        | 92.50 | 0.00 |           n/a |
    +---------+--------+---------+--------+-------+--------+-------+------+---------------+
    JPEG: the smallest mean file, over Pillow's qualities, with which the unsplit network
    reaches the rate's top-1; in brackets its header; n/a if no tested quality is enough.
    """
    return as_text(table(curve, codecs, raw_bytes, measure))


def details(curve: Curve) -> Table:
    """Builds the table of costs and confidence intervals of each rate; unknown values are n/a."""
    first, *others = curve.metrics
    quality = curve.metrics[first]
    columns = [f"{quality.label} {quality.unit}\ninterval"]
    columns += [f"{curve.metrics[name].label}\n{curve.metrics[name].unit}" for name in others]
    columns += [f"{AGREEMENT} {quality.unit}\n(interval)", "bytes\np5-p95"]
    columns += ["device\nMACs %", "device\nparams", "server\nMACs %", "server\nparams"]
    columns += ["unit bytes\n(share %)"]
    result = empty_table(f"Costs of the rates, {_images(curve)}", columns, _DETAILS_NOTE)
    for point in curve.points:
        values = [_share(point.metrics, name, curve.metrics[name]) for name in others]
        shown = _interval(point.metrics[first], quality)
        result.add_row(Text(point.rate_id), shown, *values, *_details(point, curve))
    result.add_section()
    unsplit = (_share(curve.unsplit, name, curve.metrics[name]) for name in others)
    result.add_row("unsplit", _interval(curve.unsplit[first], quality), *unsplit)
    return result


def render_details(curve: Curve) -> str:
    """Formats `details` as plain text.

    >>> point = RatePoint(
    ...     "r0", 0.01, 52.0, 401.0, 0.531, {"top1": 0.875}, 2000, bytes_p5=31, bytes_p95=74
    ... )
    >>> row = render_details(Curve({"top1": 0.925}, 2000, [point])).splitlines()[5]
    >>> row.replace(" ", "")
    '|r0|n/a|n/a|n/a|31-74|n/a|n/a|n/a|n/a|n/a|'
    """
    return as_text(details(curve))


def _drop(curve: Curve, point: RatePoint) -> str:
    values = (metrics[curve.quality].mean for metrics in (curve.unsplit, point.metrics))
    return curve.metrics[curve.quality].show_drop(*values)


def _share(values: Values, name: str, metric: Metric) -> str:
    return metric.show(values[name].mean if name in values else None)


def _details(point: RatePoint, curve: Curve) -> tuple[str, ...]:
    agreement, metric = "n/a", curve.metric(AGREEMENT)
    if (value := point.metrics.get(AGREEMENT)) is not None:
        agreement = metric.show(value.mean, 1)
        if value.interval is not None:
            agreement += f" ({_interval(value, metric)})"
    frames = (point.bytes_p5, point.bytes_p95)
    server_share = None
    if point.device_macs is not None and point.server_macs and point.device_share is not None:
        server_share = point.server_macs * point.device_share / point.device_macs
    unit = amount(point.unit_bytes)
    if point.unit_share is not None:
        unit += f" ({_percent(point.unit_share, 1)})"
    return (
        agreement,
        "n/a" if None in frames else "-".join(f"{size:.0f}" for size in frames),
        _percent(point.device_share, 1),
        amount(point.device_params),
        _percent(server_share, 1),
        amount(point.server_params),
        unit,
    )


def empty_table(
    title: str, columns: Iterable[str], caption: str | None, first: str = "rate"
) -> Table:
    """Creates a table without rows: a column of names called `first`, then columns of figures."""
    result = Table(
        box=box.ASCII2,
        title=title,
        caption=caption,
        caption_justify="left",
        title_style="bold",
        caption_style="",
    )
    result.add_column(first, overflow="fold")
    for name in columns:
        result.add_column(name, justify="right", no_wrap=True)
    return result


def as_text(table: Table) -> str:
    """Renders a table as plain text, whatever the environment."""
    file = io.StringIO()
    # In a notebook rich displays HTML and leaves the file empty by default.
    console = Console(
        file=file, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False
    )
    console.print(table)
    # rich pads the lines of title and caption with blanks.
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _images(curve: Curve) -> str:
    counts = {curve.n_images, *(point.n_images for point in curve.points)}
    few, many = min(counts), max(counts)
    return f"{few} images" if few == many else f"{few} to {many} images"


def _mean(value: float) -> str:
    """Formats a mean with one decimal below 1000, else with none."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _smallest(
    points: Iterable[CodecPoint], goal: Value | None, name: str, metric: Metric, space: str
) -> str:
    point = None if goal is None else smallest_reaching(points, goal.mean, name, metric)
    if point is None:
        return "n/a"
    return f"{_mean(point.bytes_per_image)}{space}({_mean(point.header_bytes_per_image)})"


def _percent(share: float | None, digits: int) -> str:
    return "n/a" if share is None else f"{100 * share:.{digits}f}"


def _interval(value: Value, metric: Metric) -> str:
    return "-".join(metric.show(end, 1) for end in value.interval) if value.interval else "n/a"


def amount(count: int | None) -> str:
    """Formats a count in four or five characters: 831, 73.4k, 4.65M, 25.6M."""
    if count is None:
        return "n/a"
    for size, letter in ((10**3, "k"), (10**6, "M"), (10**9, "G")):
        if 999.5 * size / 1000 <= count < 999.5 * size:
            return f"{count / size:.3g}{letter}"
    return str(count)
