"""Integer counts ↔ the intervals of the range coder.

The coder divides its range by 2**24 and our tables by 2**16, so count T must own exactly 256·T
units of the coder. The library that we call takes probabilities, not counts; this module finds
the probabilities that make it land on our integers, and reads its integers back so that nobody
has to trust that it did.
"""

from typing import Any

import constriction
import numpy as np

from jaxsplit.errors import CoderError

COUNT_BITS = 16
TOTAL = 1 << COUNT_BITS

_CODER_BITS = 24
_UNITS = 1 << (_CODER_BITS - COUNT_BITS)
_FRESH_SCALE = (2**64 - 1) >> _CODER_BITS


def categorical(counts: np.ndarray) -> Any:
    """Makes the coder's model whose symbol j has probability `counts[j]` / 65536, exactly.

    Args:
      counts: [n] integers >= 1 with sum 65536, n >= 2.

    Returns:
      A model for `constriction`'s coders.

    Raises:
      CoderError: the installed coder rounds these counts differently.
    """
    counts = np.asarray(counts, np.int64)
    # The coder hands every symbol one unit and shares out the remaining 2**24 - n in proportion
    # to the probabilities, rounding down; T·256 - 1 is what is left of T·256, so nothing rounds.
    model = constriction.stream.model.Categorical(
        (counts * _UNITS - 1).astype(np.float64), perfect=False
    )
    starts, widths = intervals(model, counts.size)
    if not (
        np.array_equal(widths, counts * _UNITS)
        and np.array_equal(starts, (np.cumsum(counts) - counts) * _UNITS)
    ):
        raise CoderError(
            "the installed constriction does not reproduce these integer tables, so its bytes "
            "would not be readable elsewhere; install constriction 0.5"
        )
    return model


def intervals(model: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the interval of every symbol back from the coder, in units of 2**-24.

    Args:
      model: a model for `constriction`'s coders.
      size: the number of its symbols.

    Returns:
      Starts and widths, int64 [size].

    >>> starts, widths = intervals(categorical(np.array([65000, 536])), 2)
    >>> (starts // 256).tolist(), (widths // 256).tolist()
    ([0, 65000], [65000, 536])
    """
    starts, widths = [], []
    for symbol in range(size):
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(symbol, model)
        # A fresh coder is [0, 2**64 - 1) and emits no word for one 24-bit symbol, so its state
        # is the symbol's interval times the scale.
        _, (lower, width) = encoder.pos()
        starts.append(lower)
        widths.append(width)
    scale = np.uint64(_FRESH_SCALE)
    read = np.array([starts, widths], np.uint64) // scale
    return read[0].astype(np.int64), read[1].astype(np.int64)
