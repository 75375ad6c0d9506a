"""Integer tables for the levels of a variable-rate unit: levels and channels share tables.

A level has a density, or a histogram, for each channel. Many are alike, since one density is seen
at steps that grow from level to level. They are clustered as those of positions are, see
`symbol_tables`, so that a family stores a few hundred tables and an index for each level and
channel.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from jaxsplit.bitstream.probability_models import TOTAL
from jaxsplit.bitstream.tables import CodingTables, LevelTables
from jaxsplit.entropy.prior_tables import TAIL_MASS, Density
from jaxsplit.entropy.symbol_tables import MAX_TABLES, cluster, concatenated, tables_from_counts
from jaxsplit.errors import ConfigError

_MAX_COUNTS = 1 << 24  # of all histograms, to bound memory


def level_tables(
    prior: Mapping[str, ArrayLike], gains: np.ndarray, *, tables: int = MAX_TABLES
) -> LevelTables:
    """Builds the tables of all levels from one prior of median 0.

    Args:
      prior: parameters of a factorized prior, see `factorized.centred`.
      gains: of the latents at each level before they are rounded, float [L, C], above 0.
      tables: most different tables, 1 … 256.

    Returns:
      The tables, with offsets 0.

    Raises:
      ConfigError: the prior is not finite, or gains or `tables` are out of range.

    >>> import jax
    >>> from jaxsplit.entropy import centred, init_params
    >>> prior = centred(init_params(jax.random.key(0), channels=3))
    >>> gains = np.geomspace(0.1, 10, 8)[:, None] * np.ones(3)
    >>> built = level_tables(prior, gains, tables=5)
    >>> len(built), len(built.shared.sizes)  # levels, tables
    (8, 5)
    """
    gains = np.asarray(gains, np.float64)
    if gains.ndim != 2 or not (np.isfinite(gains) & (gains > 0)).all():
        raise ConfigError(f"gains {gains.shape} must be [levels, channels], finite and above 0")
    density = Density(prior)
    ends = [np.rint(density.quantiles(p) * gains) for p in (TAIL_MASS, 1 - TAIL_MASS)]
    levels, channels = gains.shape
    seen = LevelHistograms(levels, channels, int(np.abs(ends).max()))
    for level, gain in enumerate(gains):
        low, high = (end[level] for end in ends)
        reach = min(int(np.abs([low, high]).max()), seen.reach)
        symbols = np.arange(-reach, reach + 1)
        edges = np.append(symbols - 0.5, reach + 0.5)
        masses = Density(prior, gain).masses(np.tile(edges, (len(gain), 1)))
        masses *= (symbols >= low[:, None]) & (symbols <= high[:, None])
        middle = slice(seen.reach - reach, seen.reach + reach + 1)
        seen.counts[level, :, middle] = TOTAL * masses
    return seen.tables(tables)


class LevelHistograms:
    """Counts of symbols at each level and class, see `LevelTables`.

    Args:
      levels: number of levels.
      classes: number of channels; or the class of each position, uint8 [h, w, channels].
      reach: largest symbol to count; larger ones count as the largest, and the coder escapes them.
        It is lowered where all counts would need too much memory.

    Attributes:
      counts: float32 [levels, classes, 2 · reach + 1].

    >>> seen = LevelHistograms(levels=2, classes=3, reach=4)
    >>> for level in range(2):
    ...     seen.add(level, np.full((5, 3), level, np.int32))
    >>> seen.tables().level(1).minima.tolist()
    [1, 1, 1]
    """

    def __init__(self, levels: int, classes: int | np.ndarray, reach: int):
        self._classes = None if isinstance(classes, int) else classes
        count = classes if isinstance(classes, int) else int(classes.max()) + 1
        self._rows = np.arange(count) if self._classes is None else self._classes.astype(int)
        most = max(_MAX_COUNTS // (levels * count) // 2, 1)
        self.reach = min(max(reach, 1), most)
        self.counts = np.zeros((levels, count, 2 * self.reach + 1), np.float32)

    def add(self, level: int, symbols: np.ndarray) -> None:
        """Counts symbols.

        Args:
          level: of the symbols.
          symbols: int32 [..., channels], or [N, h, w, channels] where positions differ.
        """
        classes, width = self.counts.shape[1:]
        columns = np.clip(symbols, -self.reach, self.reach) + self.reach
        index = columns + self._rows * width
        counted = np.bincount(index.ravel(), minlength=classes * width)
        self.counts[level] += counted.reshape(classes, width)

    def tables(self, tables: int = MAX_TABLES) -> LevelTables:
        """Builds the tables of what was counted.

        Args:
          tables: most different tables, 1 … 256.

        Returns:
          Tables of all levels and classes; each must have a symbol.
        """
        levels, classes, width = self.counts.shape
        rows = self.counts.reshape(-1, width)
        indices = cluster(rows[:, rows.any(axis=0)], tables)
        found, indices = np.unique(indices, return_inverse=True)
        parts = [self._table(rows[indices == one].sum(axis=0)) for one in range(len(found))]
        indices = indices.reshape(1, levels, classes)
        shared = concatenated(parts, np.zeros(classes, np.float32), indices)
        return LevelTables(shared, self._classes)

    def _table(self, counts: np.ndarray) -> CodingTables:
        symbols = np.flatnonzero(counts)
        seen = zip((symbols - self.reach).tolist(), counts[symbols].tolist(), strict=True)
        return tables_from_counts(dict(seen), 1)
