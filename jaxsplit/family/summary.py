"""The rates of a family as rows of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxsplit.codec.rates import FamilyRate
from jaxsplit.errors import escaped
from jaxsplit.io.text_table import rate_rows

_UNSPLIT = "uncompressed_"
_WIDTH = 100  # characters of an entry


class Card(dict[str, Any]):
    """A family's card: a dictionary whose repr has a line for each entry, shortened.

    >>> Card(command="jaxsplit train", evaluation={"data": "embedded", "n_images": 2000})
    command: jaxsplit train
    evaluation:
      data: embedded
      n_images: 2000
    """

    def __repr__(self) -> str:
        return "\n".join(_lines(self)) if self else "{}"


def _lines(entries: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in entries.items():
        if isinstance(value, Mapping) and not indent and name != "versions":
            yield escaped(f"{name}:")
            yield from _lines(value, "  ")
            continue
        if isinstance(value, Mapping):
            parts = value.items()  # of larger ones, only their names
            texts = (key if isinstance(x, Mapping | list) else f"{key} {x}" for key, x in parts)
            value = ", ".join(texts)
        line = escaped(f"{indent}{name}: {value}")
        yield line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"


def summary_rows(rates: Iterable[FamilyRate]) -> list[tuple[str, ...]]:
    """Returns a header, then name, lambda, and measured bytes and quality of each rate.

    What is not known is "".

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> summary_rows(load_pretrained("resnet8_small-fashion_mnist/stage1.block1").rates)[:2]
    [('rate', 'lambda', 'bytes/image', 'top1'), ('r1', '0.001', '18.1', '0.8830')]
    """
    rates = tuple(rates)
    quality = next(
        (
            name.removeprefix(_UNSPLIT)
            for rate in rates
            for name in rate.measured
            if name.startswith(_UNSPLIT) and not name.endswith("_interval")
        ),
        "",
    )
    values = (rate.measured.get(quality) for rate in rates)
    shown = (f"{value:.4f}" if isinstance(value, int | float) else "" for value in values)
    entries = (
        (rate.rate_id, rate.lmbda, rate.measured.get("bytes_per_image"), text)
        for rate, text in zip(rates, shown, strict=True)
    )
    return rate_rows(entries, quality)
