"""Tables of a rate–accuracy curve as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.table import Table

from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.image_codecs import TITLES, check_goal, smallest_reaching
from jaxsplit.evaluation.intervals import Value
from jaxsplit.evaluation.points import CodecPoint, RatePoint, Values
from jaxsplit.reports.elements import (
    amount,
    interval,
    make_table,
    number,
    percent,
    shown,
    table_text,
)
from jaxsplit.tasks import AGREEMENT, Metric

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
        "agreement" with the unsplit network, which is then shown in place of the drop. Images
        without labels have the agreement alone.

    Returns:
      The table, for any `rich` console; `render` turns it into text.
    """
    swept = {codec: tuple(points) for codec, points in (codecs or {}).items()}
    quality, measure = curve.metric(curve.quality), check_goal(measure, curve.quality)
    metric, drops = curve.metric(measure), measure != AGREEMENT
    # Three columns of codecs fit only with the header below the file size.
    space = "\n" if len(swept) > 2 else " "
    titles = [TITLES[codec] for codec in swept]
    columns = ["rate", "lambda", "bytes /\nimage", "estim.\nbits", "table\nbits", "bits /\npixel"]
    if curve.labelled:
        columns += [f"{quality.label}\n{quality.unit}"]
    agreement = "agree-\nment" + (" %" if metric.is_share else "")
    columns += [f"drop\n{quality.drop_unit}" if drops else agreement]
    columns += [f"{title}{space}bytes\n(header)" for title in titles]
    note = _NOTE.format(", ".join(titles), metric.label) if titles else None
    unsplit = dict(curve.unsplit)
    if metric.is_share:
        unsplit[AGREEMENT] = Value(1.0)  # with itself

    def cells(metrics: Values) -> Iterator[str]:
        goal = metrics.get(measure)
        if curve.labelled:
            yield shown(metrics, curve.quality, quality)
        if drops:
            lost = unsplit[curve.quality].mean - metrics[curve.quality].mean
            yield quality.show(quality.sign * lost)
        else:
            yield shown(metrics, measure, metric)
        for points in swept.values():
            if found := goal and smallest_reaching(points, goal.mean, measure, metric):
                header = _mean(found.header_bytes_per_image)
                yield f"{_mean(found.bytes_per_image)}{space}({header})"
            else:
                yield "n/a"

    def row(point: RatePoint) -> tuple[str, ...]:
        bits = point.estimated_bits_per_image, point.table_bits_per_image
        sizes = map(_mean, (point.bytes_per_image, *bits))
        lmbda, pixel = number(point.lmbda, ".3g"), f"{point.bits_per_pixel:.3f}"
        return point.rate_id, lmbda, *sizes, pixel, *cells(point.metrics)

    raw = "" if raw_bytes is None else f"{raw_bytes} raw"
    rows = [*map(row, curve.points), None, ("unsplit", "", raw, "", "", "", *cells(unsplit))]
    return make_table(f"Rates against the unsplit network, {_images(curve)}", columns, rows, note)


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
    return table_text(table(curve, codecs, raw_bytes, measure))


def details(curve: Curve) -> Table:
    """Builds the table of costs and confidence intervals of each rate; unknown values are n/a."""
    names = tuple(curve.metrics) if curve.labelled else ()
    first, others, agreement = names[:1], names[1:], curve.metric(AGREEMENT)
    columns = ["rate"]
    columns += [f"{curve.metrics[name].label} {agreement.unit}\ninterval" for name in first]
    columns += [f"{curve.metrics[name].label}\n{curve.metrics[name].unit}" for name in others]
    columns += [f"{AGREEMENT} {agreement.unit}\n(interval)", "bytes\np5-p95"]
    columns += ["device\nMACs %", "device\nparams", "server\nMACs %", "server\nparams"]
    columns += ["unit bytes\n(share %)"]

    def cells(name: str, values: Values) -> Iterator[str]:
        yield name
        yield from (interval(values[name], curve.metrics[name]) for name in first)
        yield from (shown(values, other, curve.metrics[other]) for other in others)

    rates = [(*cells(p.rate_id, p.metrics), *_details(p, agreement)) for p in curve.points]
    rows = (*rates, None, tuple(cells("unsplit", curve.unsplit))) if curve.labelled else rates
    return make_table(f"Costs of the rates, {_images(curve)}", columns, rows, _DETAILS_NOTE)


def render_details(curve: Curve) -> str:
    """Formats `details` as plain text.

    >>> point = RatePoint(
    ...     "r0", 0.01, 52.0, 401.0, 0.531, {"top1": 0.875}, 2000, bytes_p5=31, bytes_p95=74
    ... )
    >>> row = render_details(Curve({"top1": 0.925}, 2000, [point])).splitlines()[5]
    >>> row.replace(" ", "")
    '|r0|n/a|n/a|n/a|31-74|n/a|n/a|n/a|n/a|n/a|'
    """
    return table_text(details(curve))


def _details(point: RatePoint, metric: Metric) -> Iterator[str]:
    """Yields agreement, sizes of frames, and costs."""
    mean = shown(point.metrics, AGREEMENT, metric, 1)
    ends = interval(point.metrics.get(AGREEMENT), metric)
    yield mean if ends == "n/a" else f"{mean} ({ends})"
    frames = (point.bytes_p5, point.bytes_p95)
    yield "n/a" if None in frames else "-".join(f"{size:.0f}" for size in frames)
    yield percent(point.device_share, 1)
    yield amount(point.device_params)
    server_share = None
    if point.device_macs is not None and point.server_macs and point.device_share is not None:
        server_share = point.server_macs * point.device_share / point.device_macs
    yield percent(server_share, 1)
    yield amount(point.server_params)
    share = "" if point.unit_share is None else f" ({percent(point.unit_share, 1)})"
    yield amount(point.unit_bytes) + share


def _images(curve: Curve) -> str:
    counts = {curve.n_images, *(point.n_images for point in curve.points)}
    few, many = min(counts), max(counts)
    return f"{few} images" if few == many else f"{few} to {many} images"


def _mean(value: float | None) -> str:
    """Formats a mean with one decimal below 1000, else with none."""
    return number(value, ".1f" if value is None or value < 1000 else ".0f")
