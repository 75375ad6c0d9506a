"""The table of a rate–accuracy curve, for a terminal, a pipe or a README alike."""

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.image_codecs import CodecPoint, smallest_reaching

#: Columns that a table is laid out for.
WIDTH = 110

_NOTE = (
    "JPEG, WebP: the smallest mean file, over Pillow's qualities, with which the uncut network is "
    "as accurate; in brackets its header, n/a where no quality tried is enough."
)


def table(
    curve: Curve,
    jpeg_points: Iterable[CodecPoint] | None = None,
    webp_points: Iterable[CodecPoint] | None = None,
    raw_bytes: int | None = None,
) -> Table:
    """A row for each rate and one for the uncut network; plain ASCII, 110 columns at most.

    Bytes are of real frames, estimated bits what the prior charges, table bits what an ideal coder
    would write under the integer tables.

    Args:
      curve: the rates, in the order of the rows.
      jpeg_points, webp_points: `image_codecs.sweep` over the same images; None leaves the column
        out.
      raw_bytes: bytes of an uncompressed image, h · w · c, shown with the uncut network.

    Returns:
      The table, for any `rich` console; `render` turns it into text.
    """
    codecs = {"JPEG bytes": jpeg_points, "WebP bytes": webp_points}
    swept = {name: tuple(points) for name, points in codecs.items() if points is not None}
    result = Table(
        box=box.ASCII2,
        title=f"Rates against the uncut network, {_images(curve)}",
        caption=_NOTE if swept else None,
        caption_justify="left",
        title_style="bold",
        caption_style="",
    )
    result.add_column("rate", overflow="fold")
    for name in (
        *("lambda", "bytes /\nimage", "estim.\nbits", "table\nbits"),
        *("bits /\npixel", "top-1\n%"),
    ):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("drop in\npoints", justify="right", no_wrap=True)
    for name in swept:
        result.add_column(f"{name}\n(header)", justify="right", no_wrap=True)
    for point in curve.points:
        result.add_row(
            Text(point.rate_id),  # a plain string would be read as markup
            "n/a" if point.lmbda is None else f"{point.lmbda:.3g}",
            _mean(point.bytes_per_image),
            _mean(point.estimated_bits_per_image),
            "n/a" if point.table_bits_per_image is None else _mean(point.table_bits_per_image),
            f"{point.bits_per_pixel:.3f}",
            f"{100 * point.top1:.2f}",
            f"{100 * (curve.uncompressed_top1 - point.top1):z.2f}",
            *(_smallest(points, point.top1) for points in swept.values()),
        )
    result.add_section()
    result.add_row(
        "uncut",
        "",
        "" if raw_bytes is None else f"{raw_bytes} raw",
        "",
        "",
        "",
        f"{100 * curve.uncompressed_top1:.2f}",
        "0.00",
        *(_smallest(points, curve.uncompressed_top1) for points in swept.values()),
    )
    return result


def render(
    curve: Curve,
    jpeg_points: Iterable[CodecPoint] | None = None,
    webp_points: Iterable[CodecPoint] | None = None,
    raw_bytes: int | None = None,
) -> str:
    """The table as plain text, the same wherever it is printed.

    >>> from jaxsplit.evaluation.curve import RatePoint
    >>> points = [RatePoint("r0", 0.01, 52.0, 401.0, 0.531, 0.875, 2000, 402.5)]
    >>> print(render(Curve(0.925, 2000, points), [CodecPoint("jpeg", 9, 251.5, 170.25, 0.88)]))
                          Rates against the uncut network, 2000 images
    +-------+--------+---------+--------+-------+--------+-------+---------+---------------+
    |       |        | bytes / | estim. | table | bits / | top-1 | drop in |    JPEG bytes |
    | rate  | lambda |   image |   bits |  bits |  pixel |     % |  points |      (header) |
    +-------+--------+---------+--------+-------+--------+-------+---------+---------------+
    | r0    |   0.01 |    52.0 |  401.0 | 402.5 |  0.531 | 87.50 |    5.00 | 251.5 (170.2) |
    +-------+--------+---------+--------+-------+--------+-------+---------+---------------+
    | uncut |        |         |        |       |        | 92.50 |    0.00 |           n/a |
    +-------+--------+---------+--------+-------+--------+-------+---------+---------------+
    JPEG, WebP: the smallest mean file, over Pillow's qualities, with which the uncut
    network is as accurate; in brackets its header, n/a where no quality tried is enough.
    """
    file = io.StringIO()
    # In a notebook rich would display HTML and leave the file empty.
    console = Console(
        file=file, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False
    )
    console.print(table(curve, jpeg_points, webp_points, raw_bytes))
    # rich fills the title's and the caption's lines up with blanks.
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _images(curve: Curve) -> str:
    counts = {curve.n_images, *(point.n_images for point in curve.points)}
    few, many = min(counts), max(counts)
    return f"{few} images" if few == many else f"{few} to {many} images"


def _mean(value: float) -> str:
    """One decimal, or none in front of which there are four digits."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _smallest(points: Iterable[CodecPoint], top1: float) -> str:
    point = smallest_reaching(points, top1)
    if point is None:
        return "n/a"
    return f"{_mean(point.bytes_per_image)} ({_mean(point.header_bytes_per_image)})"
