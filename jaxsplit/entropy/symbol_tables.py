"""Integer tables from symbols that were counted, for units that come without a prior."""

import operator
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsplit.bitstream.tables import CodingTables
from jaxsplit.entropy.prior_tables import integer_counts
from jaxsplit.errors import ConfigError

__all__ = ["stack_tables", "tables_from_counts"]

_INT32 = np.iinfo(np.int32)
_MOST = 1e30  # of one symbol: sums of them are finite


def tables_from_counts(
    counts: Mapping[int, float],
    channels: int,
    offsets: np.ndarray | None = None,
    *,
    max_width: int = 4096,
) -> CodingTables:
    """Tables that follow one histogram of symbols, the same for all channels.

    The table runs from the lowest counted symbol to the highest. The escape is charged as if one
    more symbol had been counted outside, so that every int32 can be coded: `counts` may come from
    other images than those that are sent.

    Args:
      counts: symbol (int32) → how often it was seen, 0 … 1e30 and at least once > 0.
      channels: C, channels of the latent.
      offsets: float32 [C], where the unit rounds, in units of its step; None: zeros.
      max_width: most entries with the escape, 2 … 65536. Of a wider histogram the stretch with
        the most symbols is kept; the others are escaped.

    Returns:
      The tables, [C, width].

    Raises:
      ConfigError: the counts or the other arguments are out of range.

    >>> tables = tables_from_counts({0: 30, 1: 9, 3: 1}, channels=2)
    >>> tables.sizes.tolist(), tables.minima.tolist()
    ([5, 5], [0, 0])
    >>> round(tables.information_bits(np.array([[0, 0], [0, 1]], np.int32)), 2)
    3.54
    """
    # Checked as Python's numbers, which may be of any size: arrays take only what fits.
    symbols = sorted(map(operator.index, counts))
    wrong = sum(not 0 <= n <= _MOST for n in counts.values())
    if wrong or not any(counts.values()):
        raise ConfigError(
            f"symbol counts must be 0 … {_MOST:g} and one above 0; of {len(counts)} counts, "
            f"{wrong or 'all'} {'do not fit' if wrong else 'are 0'}"
        )
    if symbols[0] < _INT32.min or symbols[-1] > _INT32.max:
        raise ConfigError("symbols must be int32, expected -2147483648 … 2147483647")
    values = np.array(symbols, np.int64)
    weights = np.array([counts[symbol] for symbol in symbols], np.float64)
    if channels < 1 or not 2 <= max_width <= 65536:
        raise ConfigError(
            f"tables: got channels={channels}, max_width={max_width}; expected at least 1, "
            "2 … 65536"
        )
    values, weights = values[weights > 0], weights[weights > 0]
    # The best stretch starts at a counted symbol: from each one, all below start + most.
    most = max_width - 1
    before = np.concatenate([[0], np.cumsum(weights)])
    ends = np.searchsorted(values, values + most)
    start = int(np.argmax(before[ends] - before[:-1]))
    kept = slice(start, ends[start])
    first = values[start]
    row = np.zeros(values[kept][-1] - first + 2)
    row[values[kept] - first] = weights[kept]
    row[-1] = weights.sum() - weights[kept].sum() + 1
    return CodingTables(
        counts=np.tile(integer_counts(row), (channels, 1)),
        sizes=np.full(channels, row.size, np.int32),
        minima=np.full(channels, first, np.int32),
        offsets=np.zeros(channels, np.float32) if offsets is None else offsets,
    )


def stack_tables(parts: Sequence[CodingTables]) -> CodingTables:
    """Tables of the channels of several parts, one behind the other.

    Args:
      parts: tables of channels, not of places; at least one.

    Returns:
      The tables of all channels, as wide as the widest part.

    >>> both = stack_tables([tables_from_counts({0: 1}, 1), tables_from_counts({3: 1, 5: 1}, 2)])
    >>> both.channels, both.minima.tolist(), both.sizes.tolist()
    (3, [0, 3, 3], [2, 4, 4])
    """
    width = max(part.counts.shape[1] for part in parts)
    counts = [np.pad(part.counts, ((0, 0), (0, width - part.counts.shape[1]))) for part in parts]
    return CodingTables(
        counts=np.concatenate(counts),
        sizes=np.concatenate([part.sizes for part in parts]),
        minima=np.concatenate([part.minima for part in parts]),
        offsets=np.concatenate([part.offsets for part in parts]),
    )
