"""The rates of a family as rows of text."""

from __future__ import annotations

from collections.abc import Iterable

from jaxsplit.codec.runtime import FamilyRate

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
    rows = [
        (
            rate.rate_id,
            _number(rate.lmbda, ".3g"),
            _number(rate.measured.get("bytes_per_image"), ".1f"),
            _number(rate.measured.get(quality), ".4f"),
        )
        for rate in rates
    ]
    return [("rate", "lambda", "bytes/image", quality), *rows]


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""
