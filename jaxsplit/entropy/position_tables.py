"""A few integer tables that the places of a latent share, from symbols that were counted.

Latents differ from place to place: at the edge of an image of one object most are the same. A
table for each place would follow that, but would have to be stored, and learned from few symbols;
so places with like histograms share one. The prior stays factorized: nothing is looked at but
where a symbol lies.
"""

import collections

import numpy as np

from jaxsplit.bitstream.tables import CodingTables
from jaxsplit.entropy.symbol_tables import stack_tables, tables_from_counts
from jaxsplit.errors import ConfigError

__all__ = ["tables_by_place"]

_MOST_TABLES = 256  # `CodingTables.places` is uint8
_ROUNDS = 20
# Symbols, spread as over all places, that are added to a table's count before it is compared: a
# symbol that a table has not seen yet is not impossible.
_PRIOR_SYMBOLS = 2.0
# Bounds of memory: counts of all places, but so many values at least, and symbols at a time.
_MOST_COUNTS, _FEWEST_VALUES, _COUNTED_AT_ONCE = 1 << 24, 64, 1 << 22


def tables_by_place(
    symbols: np.ndarray, offsets: np.ndarray | None = None, *, tables: int = 64
) -> CodingTables:
    """Tables that follow the symbols of each place of the latent, like places sharing one.

    Begins with one table for all places, gives the place that its table costs most a table of its
    own until there are enough, and then moves places to the table that is best for them and tables
    to their places' symbols, in turns (k-means by information).

    Args:
      symbols: int32 [N, h, w, C] of N images: the more, the better they stand for others.
      offsets: float32 [C], where the unit rounds; None: zeros.
      tables: most of them, 1 … 256.

    Returns:
      At most `tables` tables, and the table of each place.

    Raises:
      ConfigError: no symbols, of another type or shape, or another number of tables.

    Source: the clustering is Lloyd's with relative entropy as the distance (Banerjee et al. 2005,
    Clustering with Bregman divergences).

    >>> left = np.zeros((8, 2, 1, 1), np.int32)
    >>> right = np.tile(np.arange(8, dtype=np.int32).reshape(8, 1, 1, 1), (1, 2, 1, 1))
    >>> tables_by_place(np.concatenate([left, right], axis=2), tables=2).places[..., 0].tolist()
    [[0, 1], [0, 1]]
    """
    if symbols.dtype != np.int32 or symbols.ndim != 4 or not symbols.size:
        raise ConfigError(
            f"symbols are {symbols.dtype} {symbols.shape}; expected some int32 [N, h, w, C]"
        )
    if not 1 <= tables <= _MOST_TABLES:
        raise ConfigError(f"{tables} tables; expected 1 … {_MOST_TABLES}")
    shape = symbols.shape[1:]
    offsets = np.zeros(shape[-1], np.float32) if offsets is None else offsets
    values, counts = _histograms(symbols.reshape(len(symbols), -1))
    nearest = _cluster(counts, tables)
    # Numbered by their first places, none without one.
    _, first, nearest = np.unique(nearest, return_index=True, return_inverse=True)
    places = np.argsort(np.argsort(first))[nearest]
    parts = []
    for table in range(len(first)):
        seen = counts[places == table].sum(axis=0)
        histogram = {value: int(n) for value, n in zip(values, seen, strict=True) if n}
        parts.append(tables_from_counts(histogram, 1))
    rows = stack_tables(parts)
    return CodingTables(
        rows.counts, rows.sizes, rows.minima, offsets, places.reshape(shape).astype(np.uint8)
    )


def _histograms(symbols: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Symbols [N, P] → the K values that occur, and how often each place has each, int64 [P, K].

    Of too many values the rarest are counted as the nearest of the others: where they occur they
    will be written out.
    """
    places = symbols.shape[1]
    most = max(_FEWEST_VALUES, _MOST_COUNTS // places)
    images = max(1, _COUNTED_AT_ONCE // places)
    chunks = [symbols[start : start + images] for start in range(0, len(symbols), images)]
    times = collections.Counter[int]()
    for chunk in chunks:
        found, n = np.unique(chunk, return_counts=True)
        times.update(dict(zip(found.tolist(), n.tolist(), strict=True)))
    values = np.array(sorted(value for value, _ in times.most_common(most)))
    middles = (values[1:] + values[:-1]) / 2
    counts = np.zeros(places * len(values), np.int64)
    start = np.arange(places) * len(values)
    for chunk in chunks:
        index = np.searchsorted(middles, chunk)
        counts += np.bincount((index + start).ravel(), minlength=counts.size)
    return values.tolist(), counts.reshape(places, -1)


def _cluster(counts: np.ndarray, tables: int) -> np.ndarray:
    """Histograms [P, K] → the table of each place, int [P]."""
    counts = counts.astype(np.float32)
    everywhere = counts.sum(axis=0) / counts.sum()

    def bits_under(seen: np.ndarray) -> np.ndarray:
        """Bits of all places under tables that have `seen` [T, K]: [P, T]."""
        chance = seen + _PRIOR_SYMBOLS * everywhere
        chance /= chance.sum(axis=1, keepdims=True)
        return -counts @ np.log2(chance).T

    chance = counts / counts.sum(axis=1, keepdims=True)
    least = -(counts * np.log2(np.where(counts > 0, chance, 1))).sum(axis=1)
    nearest = np.zeros(len(counts), int)
    cost = bits_under(counts.sum(axis=0, keepdims=True))[:, 0]
    for table in range(1, tables):
        dearest = int(np.argmax(cost - least))
        new = bits_under(counts[dearest : dearest + 1])[:, 0]
        if new[dearest] >= cost[dearest]:
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
