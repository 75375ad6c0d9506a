"""Small tables of figures as plain text, for the reprs of results."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

_MOST = 24  # rows


def rate_rows(
    rates: Iterable[tuple[str, float | None, object, str]], quality: str
) -> list[tuple[str, ...]]:
    """Returns a header and a row for each rate; what is not known is "".

    Args:
      rates: name, lambda, bytes of an image, and quality as text.
      quality: title of the last column.

    Returns:
      The rows, for `text_table`.

    >>> rate_rows([("r1", 0.001, 18.06, "88.30")], "top-1 %")
    [('rate', 'lambda', 'bytes/image', 'top-1 %'), ('r1', '0.001', '18.1', '88.30')]
    """
    rows = [
        (
            name,
            "" if lmbda is None else f"{lmbda:.3g}",
            f"{size:.1f}" if isinstance(size, int | float) else "",
            shown,
        )
        for name, lmbda, size, shown in rates
    ]
    return [("rate", "lambda", "bytes/image", quality), *rows]


def text_table(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Aligns rows: names in the first column to the left, figures to the right.

    Columns without an entry below the first row are left out; of many rows the last ones are.

    >>> print(text_table([("rate", "bytes", "none"), ("r1", "21.4", ""), ("r2", "107.3", "")]))
      rate  bytes
      r1     21.4
      r2    107.3
    """
    shown, left = rows[: _MOST + 1], len(rows) - _MOST - 1
    columns = [one for one in zip(*shown, strict=True) if any(one[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells in zip(*columns, strict=True):
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *itertools.starmap(str.rjust, others)]
        lines.append((indent + "  ".join(padded)).rstrip())
    return "\n".join([*lines, *([f"{indent}… {left} more"] if left > 0 else [])])
