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


MAX_LENGTH = 32
# 2**-k until that falls below one count, then one count each, taken from the shortest length.
LENGTH_COUNTS = np.maximum(TOTAL >> np.arange(1, MAX_LENGTH + 1), 1).astype(np.int32)
LENGTH_COUNTS[0] -= LENGTH_COUNTS.sum() - TOTAL

_LENGTH_BITS = COUNT_BITS - np.log2(LENGTH_COUNTS)
_LENGTHS = categorical(LENGTH_COUNTS)
_UNIFORM = constriction.stream.model.Uniform()
# The coder's uniform models stop at 2**24, so the fair bits go in two pieces.
_PIECE = 16


def escape_bits(values: np.ndarray, minima: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Bits that follow the escape symbol, float64 in the shape of `values`.

    Args:
      values: int32, each outside its table.
      minima: int32 in the shape of `values`: the lowest symbol of each one's table.
      maxima: int32 likewise: the highest.

    >>> escape_bits(np.int32([8, 9, -2**31]), np.int32([0] * 3), np.int32([7] * 3)).round(2)
    array([ 2.,  4., 48.])
    """
    lengths, _ = _split(values, minima, maxima)
    return _LENGTH_BITS[lengths - 1] + lengths


def encode_escapes(
    encoder: Any, values: np.ndarray, minima: np.ndarray, maxima: np.ndarray
) -> None:
    """Appends values outside their tables to a range encoder; arguments as `escape_bits`."""
    lengths, fair = _split(values, minima, maxima)
    encoder.encode((lengths - 1).astype(np.int32), _LENGTHS)
    low, high, long = _piece_sizes(lengths)
    encoder.encode((fair & (low - 1)).astype(np.int32), _UNIFORM, low)
    if high.size:
        encoder.encode((fair[long] >> _PIECE).astype(np.int32), _UNIFORM, high)


def decode_escapes(decoder: Any, minima: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Reads values outside their tables from a range decoder.

    Args:
      decoder: the decoder, standing at the first length.
      minima: int32 [n]: the lowest symbol of each value's table; n >= 1.
      maxima: int32 [n]: the highest.

    Returns:
      int64 [n]. A corrupted stream can give values beyond int32; the caller looks.
    """
    lengths = decoder.decode(_LENGTHS, minima.size).astype(np.int64) + 1
    low, high, long = _piece_sizes(lengths)
    fair = decoder.decode(_UNIFORM, low).astype(np.int64)
    if high.size:
        fair[long] |= decoder.decode(_UNIFORM, high).astype(np.int64) << _PIECE
    distances = (np.int64(1) << (lengths - 1)) + (fair >> 1)
    return np.where(fair & 1, minima - distances, maxima + distances)


def _split(
    values: np.ndarray, minima: np.ndarray, maxima: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bit lengths of m, and the fair bits with the side lowest (1 is below); both int64."""
    values = values.astype(np.int64)
    below = values < minima
    distances = np.where(below, minima - values, values - maxima)
    # frexp's exponent is the bit length, exact up to 2**53.
    lengths = np.frexp(distances.astype(np.float64))[1].astype(np.int64)
    return lengths, (distances - (np.int64(1) << (lengths - 1))) << 1 | below


def _piece_sizes(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Alphabet sizes of the low pieces [n] and of the high pieces that exist, and which do."""
    long = lengths > _PIECE
    low = np.left_shift(1, np.minimum(lengths, _PIECE)).astype(np.int32)
    return low, np.left_shift(1, lengths[long] - _PIECE).astype(np.int32), long
