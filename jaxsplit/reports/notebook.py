"""Families and curves as HTML in a notebook: tables, and a curve's plot as inline SVG.

`jaxsplit/__init__.py` imports this module when a notebook shows the first of them.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from jaxsplit import _notebook
from jaxsplit.evaluation.curve import Curve
from jaxsplit.family import RateFamily
from jaxsplit.family.summary import summary_rows

# The colours of the plot, on white in any theme.
_COLOURS = {
    "text": "#1d232a",
    "back": "#ffffff",
    "faint": "#d9dee3",
    "grey": "#66707a",
    "rates": "#0b5fa5",
    "jpeg": "#c8501e",
    "webp": "#2e8b57",
    "avif": "#8a4fb5",
}
_VARIABLES = "".join(f"--{name}:{colour};" for name, colour in _COLOURS.items())


@_notebook.html.register
def family_html(family: RateFamily) -> str:
    """Returns a line about the family, and a table of its rates."""
    return _titled(repr(family), summary_rows(family.rates))


@_notebook.html.register
def curve_html(curve: Curve) -> str:
    """Returns the plot of a curve, with its baselines, and a table of its rates."""
    from jaxsplit.reports.curve_html import svg  # loads rich

    table = _titled(repr(curve), curve.rows())
    if not curve.points or min(point.bytes_per_image for point in curve.points) <= 0:
        return table  # nothing to plot on a logarithmic axis
    style = f"{_VARIABLES}background:var(--back);max-width:52rem"
    return f'<div style="{style}">{svg(curve)}</div>{table}'


def _titled(text: str, rows: Sequence[Sequence[str]]) -> str:
    """Returns the first line of a repr above a table; columns without an entry are left out."""
    columns = [one for one in zip(*rows, strict=True) if any(one[1:]) or not one[1:]]
    head, *body = (
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        for tag, cells in zip(["th"] + ["td"] * len(rows), zip(*columns, strict=True), strict=False)
    )
    inner = "".join(f"<tr>{row}</tr>" for row in body)
    title = html.escape(text.partition("\n")[0])
    return f"<p>{title}</p><table><thead><tr>{head}</tr></thead><tbody>{inner}</tbody></table>"
