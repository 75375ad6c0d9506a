"""Elements of several reports: tables as plain text, figures, formatted numbers.

matplotlib is imported on first use.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxsplit.evaluation.intervals import Value
from jaxsplit.evaluation.points import Values
from jaxsplit.io.files import write_whole
from jaxsplit.tasks import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Width of a table, in characters.
WIDTH = 110
#: Colour of lines and marks beside the plotted ones.
GREY = "#444444"

_INCHES, _DPI = (12.0, 8.0), 100  # 1200 × 800 pixels


def make_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str] | None],
    caption: str | None = None,
) -> Table:
    """Builds a table: a column of names, then columns of figures; a line in place of None."""
    result = Table(box=box.ASCII2, title=title, title_style="bold")
    result.caption, result.caption_justify, result.caption_style = caption, "left", ""
    result.add_column(columns[0], overflow="fold")
    for name in columns[1:]:
        result.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if row is None:
            result.add_section()
        else:
            result.add_row(*map(Text, row))  # rich reads a plain string as markup
    return result


def table_text(table: Table) -> str:
    """Renders a table as plain text, identical in a terminal, a pipe and a file."""
    file = io.StringIO()
    # In a notebook rich displays HTML and leaves the file empty by default.
    console = Console(
        file=file, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False
    )
    console.print(table)
    # rich pads the lines of title and caption with blanks.
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def amount(count: int | None) -> str:
    """Formats a count in four or five characters: 831, 73.4k, 4.65M, 25.6M."""
    if count is None:
        return "n/a"
    for size, letter in ((10**3, "k"), (10**6, "M"), (10**9, "G")):
        if 999.5 * size / 1000 <= count < 999.5 * size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def number(value: float | None, format_spec: str) -> str:
    """Formats a number; "n/a" for None."""
    return "n/a" if value is None else format(value, format_spec)


def percent(share: float | None, digits: int) -> str:
    """Formats a share in percent, without the unit; "n/a" for None."""
    return number(None if share is None else 100 * share, f".{digits}f")


def shown(values: Values, name: str, metric: Metric, digits: int = 2) -> str:
    """Formats the value of a metric; "n/a" where it is not known."""
    return metric.show(values[name].mean if name in values else None, digits)


def interval(value: Value | None, metric: Metric, dash: str = "-") -> str:
    """Formats the interval of a metric's value; "n/a" for an unknown one."""
    if value is None or value.interval is None:
        return "n/a"
    return dash.join(metric.show(end, 1) for end in value.interval)


def plain_numbers(value: float, position: object) -> str:
    """Formats a tick of a logarithmic axis without powers of ten."""
    return f"{value:,.10g}"


def new_figure() -> Figure:
    """Creates an empty figure of 1200 × 800 pixels that no pyplot state knows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Draws light lines at the ticks, behind everything else."""
    axes.grid(True, axis=axis, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def write_png(path: str | Path, figure: Figure, texts: Mapping[str, str] | None = None) -> None:
    """Writes a figure atomically, with texts by their names; the same gives the same file."""
    drawn = io.BytesIO()
    # Without its version in the metadata matplotlib writes the same bytes for the same pixels.
    figure.savefig(drawn, format="png", dpi=_DPI, metadata={"Software": None, **(texts or {})})
    write_whole(Path(path), drawn.getvalue())
