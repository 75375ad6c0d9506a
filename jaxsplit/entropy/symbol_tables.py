"""Integer tables of counted symbols, per latent or shared between positions, and joined tables.

Symbol statistics depend on the position: near the edge of an image most symbols are equal. A table
per position would be large and estimated from few symbols, so `tables_by_position` clusters
positions with similar histograms. The prior remains factorized: a table depends on the position
alone.
"""

import collections
import operator
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsplit.bitstream.tables import CodingTables
from jaxsplit.entropy.prior_tables import MAX_WIDTH, integer_counts
from jaxsplit.errors import ConfigError

#: Table indices are uint8.
MAX_TABLES = 256

_INT32 = np.iinfo(np.int32)
_MAX_COUNT = 1e30  # count of one symbol; sums stay finite
_ROUNDS = 20
# Pseudo-counts, distributed as over all positions, that are added to a table's counts before it is
# compared: a symbol that a table has not seen is not impossible.
_PRIOR_SYMBOLS = 2.0
# Memory bounds: counts of all positions, but at least so many values, and symbols at a time.
_MAX_COUNTS, _MIN_VALUES, _COUNTED_AT_ONCE = 1 << 24, 64, 1 << 22


def tables_from_counts(
    counts: Mapping[int, float], channels: int, offsets: np.ndarray | None = None
) -> CodingTables:
    """Builds tables from one histogram of symbols, the same for all channels.

    The table covers the lowest to the highest counted symbol, or of a wider histogram the 4095
    symbols with the highest count. The escape gets one pseudo-count, so every int32 can be coded.

    Args:
      counts: symbol (int32) → its count, 0 … 1e30, at least one > 0.
      channels: channels C of the latent.
      offsets: rounding offsets, float32 [C], in units of the quantization step; None: zeros.

    Returns:
      The tables, [C, width].

    Raises:
      ConfigError: the counts or other arguments are out of range.

    >>> tables = tables_from_counts({0: 30, 1: 9, 3: 1}, channels=2)
    >>> tables.sizes.tolist(), tables.minima.tolist()
    ([5, 5], [0, 0])
    """
    wrong = sum(not 0 <= n <= _MAX_COUNT for n in counts.values())
    if wrong or not any(counts.values()):
        raise ConfigError(
            f"symbol counts must be 0 … {_MAX_COUNT:g} and one above 0; of {len(counts)} counts, "
            f"{wrong or 'all'} {'are out of range' if wrong else 'are 0'}"
        )
    # Checked as Python integers, which may exceed every array dtype.
    symbols = sorted(operator.index(symbol) for symbol, n in counts.items() if n)
    if symbols[0] < _INT32.min or symbols[-1] > _INT32.max:
        raise ConfigError("symbols must be int32, expected -2147483648 … 2147483647")
    if channels < 1:
        raise ConfigError(f"tables of {channels} channels; expected at least 1")
    values = np.array(symbols, np.int64)
    weights = np.array([counts[symbol] for symbol in symbols], np.float64)
    # The best range starts at a counted symbol and has `most` entries.
    most = MAX_WIDTH - 1
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


def tables_by_position(
    symbols: np.ndarray, offsets: np.ndarray | None = None, *, tables: int = 64
) -> CodingTables:
    """Fits tables to the symbols of each position; similar positions share a table.

    Starts with one table and adds one for the position with the highest excess cost, repeatedly.
    Then k-means: each position takes its cheapest table, each table is refitted to its positions.

    Args:
      symbols: int32 [N, h, w, C] of N images; more images generalize better.
      offsets: rounding offsets, float32 [C]; None: zeros.
      tables: maximum number of tables, 1 … 256.

    Returns:
      At most `tables` tables, and the table index of each position.

    Raises:
      ConfigError: no symbols, another dtype or shape, or `tables` out of range.

    Source: Lloyd's algorithm under relative entropy (Banerjee et al. 2005, Clustering with Bregman
    divergences).

    >>> symbols = np.stack([np.zeros((8, 2, 1)), np.ones((8, 2, 1))], axis=2).astype(np.int32)
    >>> tables_by_position(symbols, tables=2).table_indices[..., 0].tolist()
    [[0, 1], [0, 1]]
    """
    if symbols.dtype != np.int32 or symbols.ndim != 4 or not symbols.size:
        raise ConfigError(
            f"symbols are {symbols.dtype} {symbols.shape}; expected some int32 [N, h, w, C]"
        )
    if not 1 <= tables <= MAX_TABLES:
        raise ConfigError(f"got tables={tables}, expected 1 … {MAX_TABLES}")
    shape = symbols.shape[1:]
    offsets = np.zeros(shape[-1], np.float32) if offsets is None else offsets
    values, counts = _histograms(symbols.reshape(len(symbols), -1))
    nearest = cluster(counts, tables)
    # Renumbered in the order of their first positions; unused tables are dropped.
    _, first, nearest = np.unique(nearest, return_index=True, return_inverse=True)
    indices = np.argsort(np.argsort(first))[nearest]
    seen = [counts[indices == table].sum(axis=0).tolist() for table in range(len(first))]
    parts = [tables_from_counts(dict(zip(values, own, strict=True)), 1) for own in seen]
    return concatenated(parts, offsets, indices.reshape(shape))


def _histograms(symbols: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Counts symbols [N, P]: returns K values and their counts at each position, int64 [P, K].

    If there are too many values, the rarest are counted as the nearest other value; the coder
    escapes them.
    """
    positions = symbols.shape[1]
    most = max(_MIN_VALUES, _MAX_COUNTS // positions)
    images = max(1, _COUNTED_AT_ONCE // positions)
    chunks = [symbols[start : start + images] for start in range(0, len(symbols), images)]
    times = collections.Counter[int]()
    for chunk in chunks:
        found, n = np.unique(chunk, return_counts=True)
        times.update(dict(zip(found.tolist(), n.tolist(), strict=True)))
    values = np.array(sorted(value for value, _ in times.most_common(most)))
    middles = (values[1:] + values[:-1]) / 2
    counts = np.zeros(positions * len(values), np.int64)
    start = np.arange(positions) * len(values)
    for chunk in chunks:
        index = np.searchsorted(middles, chunk)
        counts += np.bincount((index + start).ravel(), minlength=counts.size)
    return values.tolist(), counts.reshape(positions, -1)


def cluster(counts: np.ndarray, tables: int) -> np.ndarray:
    """Clusters histograms [P, K] and returns the table index of each position, int [P]."""
    counts = counts.astype(np.float32)
    everywhere = counts.sum(axis=0) / counts.sum()

    def bits_under(seen: np.ndarray) -> np.ndarray:
        """Bits of all positions under tables with the counts `seen` [T, K]: [P, T]."""
        chance = seen + _PRIOR_SYMBOLS * everywhere
        chance /= chance.sum(axis=1, keepdims=True)
        return -counts @ np.log2(chance).T

    chance = counts / counts.sum(axis=1, keepdims=True)
    least = -(counts * np.log2(np.where(counts > 0, chance, 1))).sum(axis=1)
    nearest = np.zeros(len(counts), int)
    cost = bits_under(counts.sum(axis=0, keepdims=True))[:, 0]
    for table in range(1, tables):
        worst = int(np.argmax(cost - least))
        new = bits_under(counts[worst : worst + 1])[:, 0]
        if new[worst] >= cost[worst]:
            break
        nearest[new < cost] = table
        cost = np.minimum(cost, new)
    for _ in range(_ROUNDS):
        before = nearest
        seen = np.stack([counts[nearest == table].sum(axis=0) for table in np.unique(nearest)])
        nearest = np.argmin(bits_under(seen), axis=1)
        if np.array_equal(nearest, before):
            break
    return nearest


def stack_tables(parts: Sequence[CodingTables]) -> CodingTables:
    """Concatenates the channels of several tables.

    Args:
      parts: per-channel tables; at least one.

    Returns:
      Tables of all channels, as wide as the widest part.

    >>> stack_tables([tables_from_counts({0: 1}, 1), tables_from_counts({3: 1, 5: 1}, 2)]).channels
    3
    """
    return concatenated(parts, np.concatenate([part.offsets for part in parts]))


def join_tables(parts: Sequence[tuple[CodingTables, tuple[int, ...]]]) -> CodingTables:
    """Joins the tables of the latents that one frame carries.

    The joint latent is (1, 1, n): the symbols of each latent in C order, one latent after the
    other. Every position selects its table and has its own offset.

    Args:
      parts: tables of each latent, per channel or per position, and its shape, channels last.

    Returns:
      Tables of the joint latent.

    Raises:
      ConfigError: tables have another number of channels than their latent, or there are more than
        256 in total.

    >>> one = tables_from_counts({-1: 3, 0: 3}, channels=1)
    >>> join_tables([(one, (2, 2, 1)), (one, (3, 1))]).table_indices.tolist()
    [[[0, 0, 0, 0, 1, 1, 1]]]
    """
    indices, offsets, first = [], [], 0
    for tables, shape in parts:
        if tables.channels != shape[-1]:
            raise ConfigError(
                f"tables of {tables.channels} channels, expected {shape[-1]}: a latent is {shape}"
            )
        rows = np.arange(tables.channels)
        if tables.table_indices is not None:
            rows = tables.table_indices.reshape(shape)
        indices.append(first + np.broadcast_to(rows, shape).reshape(-1))
        offsets.append(np.broadcast_to(tables.offsets, shape).reshape(-1))
        first += len(tables.sizes)
    if first > MAX_TABLES:
        raise ConfigError(
            f"{first} tables for one frame, expected at most {MAX_TABLES}; use units with fewer "
            "channels, or tables that channels share"
        )
    joint = np.concatenate(indices).reshape(1, 1, -1)
    return concatenated([tables for tables, _ in parts], np.concatenate(offsets), joint)


def concatenated(
    parts: Sequence[CodingTables], offsets: np.ndarray, indices: np.ndarray | None = None
) -> CodingTables:
    """Concatenates counts, padded to one width, sizes and minima."""
    width = max(part.counts.shape[1] for part in parts)
    counts = [np.pad(part.counts, ((0, 0), (0, width - part.counts.shape[1]))) for part in parts]
    return CodingTables(
        np.concatenate(counts),
        np.concatenate([part.sizes for part in parts]),
        np.concatenate([part.minima for part in parts]),
        offsets,
        None if indices is None else indices.astype(np.uint8),
    )
