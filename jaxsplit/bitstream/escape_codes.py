"""Values outside a table: how far outside, on which side, and what they cost.

A value d ≥ 0 steps beyond the nearer end of its table is written as m = d + 1, 1 ≤ m < 2**32:
first the bit length k of m with probability about 2**-k, then the k - 1 bits below m's leading
one and the side, as k fair bits. This is Elias' gamma code with the unary part as one symbol.
"""

from typing import Any

import constriction
import numpy as np

from jaxsplit.bitstream.intervals import COUNT_BITS, TOTAL, categorical

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
