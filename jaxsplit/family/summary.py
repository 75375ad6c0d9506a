"""The rates of a family as rows of text."""

from __future__ import annotations

from collections.abc import Iterable

from jaxsplit.codec.runtime import FamilyRate
from jaxsplit.io.text_table import rate_rows

_UNSPLIT = "uncompressed_"


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
