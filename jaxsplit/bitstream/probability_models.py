"""Probability models of the range coder: exact integer tables, and the escape code.

The coder divides its range into 2**24 units and our tables into 2**16 counts, so count T must own
exactly 256·T units. constriction takes probabilities, not counts. `categorical` finds the
probabilities that it maps to our integers, and reads the resulting intervals back to verify them.

The escape code is Elias' gamma code with the unary part as one symbol, see Escape in FORMAT.md.
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
    """Builds the coder's model whose symbol j has exactly the probability `counts[j]` / 65536.

    The counts are n >= 2 integers >= 1 with sum 65536. A CoderError if the coder rounds otherwise.
    """
    counts = np.asarray(counts, np.int64)
    # The coder gives every symbol one unit and distributes the remaining 2**24 - n in proportion
    # to the probabilities, rounding down. With weights T·256 - 1 nothing is rounded.
    model = constriction.stream.model.Categorical(
        (counts * _UNITS - 1).astype(np.float64), perfect=False
    )
    starts, widths = intervals(model, counts.size)
    if not (
        np.array_equal(widths, counts * _UNITS)
        and np.array_equal(starts, (np.cumsum(counts) - counts) * _UNITS)
    ):
        raise CoderError(
            "the installed constriction does not reproduce these integer tables, so other "
            "installations could not read its bytes; install constriction 0.5"
        )
    return model


def intervals(model: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads start and width of every symbol's interval from the coder, int64 [size] in 2**-24."""
    starts, widths = [], []
    for symbol in range(size):
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(symbol, model)
        # A new coder's interval is [0, 2**64 - 1), and one 24-bit symbol emits no word: its state
        # is the symbol's interval times the scale.
        _, (lower, width) = encoder.pos()
        starts.append(lower)
        widths.append(width)
    scale = np.uint64(_FRESH_SCALE)
    read = np.array([starts, widths], np.uint64) // scale
    return read[0].astype(np.int64), read[1].astype(np.int64)


MAX_LENGTH = 32
# 2**-k while that is at least one count, then one count each, subtracted from the shortest length.
LENGTH_COUNTS = np.maximum(TOTAL >> np.arange(1, MAX_LENGTH + 1), 1).astype(np.int32)
LENGTH_COUNTS[0] -= LENGTH_COUNTS.sum() - TOTAL

_LENGTH_BITS = COUNT_BITS - np.log2(LENGTH_COUNTS)
_LENGTHS = categorical(LENGTH_COUNTS)
_UNIFORM = constriction.stream.model.Uniform()
# The coder's uniform models end at 2**24, so the equiprobable bits are coded in two pieces.
_PIECE = 16


def escape_bits(values: np.ndarray, minima: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Computes the bits that follow the escapes of values outside their tables' minima and maxima.

    >>> escape_bits(np.int32([8, 9, -2**31]), np.int32([0] * 3), np.int32([7] * 3)).round(2)
    array([ 2.,  4., 48.])
    """
    lengths, _ = _split(values, minima, maxima)
    return _LENGTH_BITS[lengths - 1] + lengths


def encode_escapes(
    encoder: Any, values: np.ndarray, minima: np.ndarray, maxima: np.ndarray
) -> None:
    """Appends values outside their tables to a range encoder; see `escape_bits`."""
    lengths, fair = _split(values, minima, maxima)
    encoder.encode((lengths - 1).astype(np.int32), _LENGTHS)
    low, high, long = _piece_sizes(lengths)
    encoder.encode((fair & (low - 1)).astype(np.int32), _UNIFORM, low)
    if high.size:
        encoder.encode((fair[long] >> _PIECE).astype(np.int32), _UNIFORM, high)


def decode_escapes(decoder: Any, minima: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Reads n >= 1 values outside their tables, int64 [n]; corrupted ones may be beyond int32."""
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
    """Returns the bit lengths of the distances and the equiprobable bits, both int64."""
    values = values.astype(np.int64)
    below = values < minima
    distances = np.where(below, minima - values, values - maxima)
    # frexp's exponent is the bit length, exact up to 2**53.
    lengths = np.frexp(distances.astype(np.float64))[1].astype(np.int64)
    return lengths, (distances - (np.int64(1) << (lengths - 1))) << 1 | below


def _piece_sizes(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns alphabet sizes of low pieces [n] and high pieces, and which values have one."""
    long = lengths > _PIECE
    low = np.left_shift(1, np.minimum(lengths, _PIECE)).astype(np.int32)
    return low, np.left_shift(1, lengths[long] - _PIECE).astype(np.int32), long
