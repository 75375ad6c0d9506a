"""Rounding offsets and integer tables of a trained prior, computed in float64 numpy.

numpy makes the results independent of an accelerator's arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from jaxsplit.bitstream.probability_models import TOTAL
from jaxsplit.bitstream.tables import CodingTables
from jaxsplit.entropy import factorized
from jaxsplit.errors import ConfigError

#: Most entries of a channel's table, with the escape.
MAX_WIDTH = 4096

_INT32 = np.iinfo(np.int32)
TAIL_MASS = 2**-16  # probability of the escape on each side
_GROUP = 2**16  # entries computed at a time, to bound the memory of wide tables
_PHASES = 32  # candidate offsets per quantization step
_REACH = 64  # symbols on each side of the median that are evaluated for an offset
_TOLERANCE = 1e-4  # bits per symbol; smaller gains keep the offset nearest to the median


class Density:
    """The factorized density in float64 numpy: what tables are made from.

    A density of your own needs no more than `channels`, `masses`, `tails` and `quantiles`.

    Args:
      params: as from `factorized.init_params`; a ConfigError if they are others, or not finite.
      gain: of the latents before they are rounded, a number or [C], above 0: the density is that of
        gain · z.

    >>> import jax
    >>> density = Density(factorized.init_params(jax.random.key(0), channels=2))
    >>> density.channels, density.quantiles(0.5).shape
    (2, (2,))
    """

    def __init__(self, params: Mapping[str, ArrayLike], gain: ArrayLike = 1.0):
        arrays = {name: np.asarray(value, np.float64) for name, value in params.items()}
        depth = sum(name.startswith("matrix_") for name in arrays)
        expected = {f"{kind}_{k}" for kind in ("matrix", "bias") for k in range(depth)}
        expected |= {f"factor_{k}" for k in range(depth - 1)}
        if depth == 0 or set(arrays) != expected:
            raise ConfigError(
                f"factorized prior: got parameters {sorted(arrays)}, expected matrix_k, bias_k and "
                "factor_k as from init_params; pass the inner dict, variables['params']"
            )
        if bad := [name for name, value in arrays.items() if not np.isfinite(value).all()]:
            raise ConfigError(
                f"factorized prior: {bad[0]} is not finite: the training diverged; train with a "
                "lower learning rate"
            )
        self.channels = len(arrays["bias_0"])
        self._layers = factorized.layers(arrays, np)
        self._gain = np.broadcast_to(np.asarray(gain, np.float64), (self.channels,))

    def logits(self, z: np.ndarray) -> np.ndarray:
        """Computes the logits of the cumulative.

        Args:
          z: [C, n].

        Returns:
          float64 [C, n].
        """
        result = np.empty(np.shape(z))
        for group in _groups(len(z), z.shape[1]):
            x = (np.asarray(z[group], np.float64) / self._gain[group, None])[:, None]
            for matrix, bias, factor in self._layers:
                x = matrix[group] @ x + bias[group]
                if factor is not None:
                    x += factor[group] * np.tanh(x)
            result[group] = x[:, 0]
        return result

    def masses(self, edges: np.ndarray) -> np.ndarray:
        """Computes the masses of intervals, accurate far into the tails.

        Args:
          edges: [C, n + 1], rising.

        Returns:
          P(edges[:, j] < Z <= edges[:, j + 1]), [C, n].
        """
        logits = self.logits(edges)
        lower, upper = logits[:, :-1], logits[:, 1:]
        # Log-space keeps masses far below the spacing of floats near 1.
        with np.errstate(divide="ignore"):
            shrink = np.log(-np.expm1(lower - upper))
        return np.exp(shrink - np.logaddexp(0, -upper) - np.logaddexp(0, lower))

    def tails(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Computes the mass outside an interval.

        Args:
          low, high: its ends, [C].

        Returns:
          P(Z <= low or Z > high), [C].
        """
        below = np.exp(-np.logaddexp(0, -self.logits(low[:, None])))
        above = np.exp(-np.logaddexp(0, self.logits(high[:, None])))
        return (below + above)[:, 0]

    def quantiles(self, p: float) -> np.ndarray:
        """Computes quantiles by bisection, within ±2^64.

        Args:
          p: 0 < p < 1.

        Returns:
          The z at which each channel's cumulative reaches p, [C].
        """
        target = np.log(p) - np.log1p(-p)

        def is_below(z: np.ndarray) -> np.ndarray:
            return self.logits(z[:, None])[:, 0] < target

        reach = np.ones(self.channels)
        for _ in range(64):
            enclosed = is_below(-reach) & ~is_below(reach)
            if enclosed.all():
                break
            reach = np.where(enclosed, reach, 2 * reach)
        low, high = _bisect(is_below, -reach, reach, 128)
        return 0.5 * (low + high)


def _groups(channels: int, width: int) -> Iterator[slice]:
    """Divides the rows of [channels, width] into groups of some `_GROUP` entries."""
    size = max(1, _GROUP // width)
    return (slice(first, first + size) for first in range(0, channels, size))


def _bisect(
    is_below: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Halves [low, high] until no float lies between, at most `steps` times."""
    for _ in range(steps):
        middle = 0.5 * (low + high)
        below = is_below(middle)
        ends = np.where(below, middle, low), np.where(below, high, middle)
        if (ends[0] == low).all() and (ends[1] == high).all():
            break
        low, high = ends
    return low, high


def rounding_offsets(prior: Mapping[str, ArrayLike] | Density) -> np.ndarray:
    """Finds the offset in [median - 1/2, median + 1/2) of the least symbol entropy per channel.

    The unit transmits s = round(z - offset) and decodes s + offset. Rounding around a random offset
    adds uniform noise, so the mean entropy over all offsets is the rate of noisy latents: the best
    offset never costs more than the rate in training, if the latents follow the prior. It puts the
    peak of a narrow channel in the middle of a cell. Channels wider than some 30 steps are
    insensitive and round around their median.

    Args:
      prior: parameters of a factorized prior, as from `factorized.init_params`, or a `Density`;
        a ConfigError if they are others, or not finite.

    Returns:
      float32 [C], in units of the quantization step.

    >>> import jax
    >>> rounding_offsets(factorized.init_params(jax.random.key(0), channels=3)).shape
    (3,)
    """
    density = Density(prior) if isinstance(prior, Mapping) else prior
    medians = density.quantiles(0.5)
    steps = np.arange(-_REACH * _PHASES, _REACH * _PHASES + 1) / _PHASES - 0.5
    # Slivers of 1 / PHASES step; a cell at phase j is PHASES consecutive slivers from the j-th.
    slivers = density.masses(medians[:, None] + steps)
    cumulative = np.cumsum(np.pad(slivers, ((0, 0), (1, 0))), axis=1)
    cells = cumulative[:, _PHASES:] - cumulative[:, :-_PHASES]
    cells = cells[:, : (2 * _REACH - 1) * _PHASES].reshape(len(medians), -1, _PHASES)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(cells > 0, cells * np.log2(cells), 0).sum(axis=1)
    # Phase j rounds around median + j / PHASES; take the equivalent offset nearest to the median.
    shifts = (np.arange(_PHASES) / _PHASES + 0.5) % 1 - 0.5
    good = entropy <= entropy.min(axis=1, keepdims=True) + _TOLERANCE
    shift = shifts[np.where(good, np.abs(shifts), np.inf).argmin(axis=1)]
    wide = cumulative[:, -1] < 1 - _TOLERANCE
    return (medians + np.where(wide, 0, shift)).astype(np.float32)


def integer_counts(probabilities: np.ndarray, total: int = TOTAL) -> np.ndarray:
    """Finds the integer counts n >= 1 with sum `total` of least expected code length.

    Minimizes -Σ p_i log2(n_i / total) exactly. Raising n_i from k to k + 1 saves p_i log(1 + 1/k),
    which decreases with k, so the optimal counts take every increment that saves more than some λ:
    n_i = max(1, ceil(1 / (exp(λ / p_i) - 1))). λ is bisected; ties go to the earliest entries.

    Args:
      probabilities: [n], finite, >= 0, of any sum; 1 <= n <= total; a ConfigError otherwise.
      total: sum of the counts.

    Returns:
      int32 [n].

    >>> integer_counts(np.array([0.5, 0.25, 0.25, 1e-9]), total=16).tolist()
    [7, 4, 4, 1]
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 1:
        raise ConfigError(f"integer counts: got probabilities of shape {p.shape}, expected [n]")
    return _counts_of_rows(p[None], np.array([p.size]), total)[0]


def _counts_of_rows(rows: np.ndarray, sizes: np.ndarray, total: int) -> np.ndarray:
    """Computes `integer_counts` of the first entries of each row, float64 [C, width]; 0 beyond."""
    used = np.arange(rows.shape[1]) < sizes[:, None]
    p = np.where(used, rows, 0)
    most = sizes.max()
    if sizes.min() < 1 or most > total or not np.isfinite(p).all() or (p < 0).any():
        raise ConfigError(
            f"integer counts: got {most} probabilities, expected 1 … {total}, finite and >= 0"
        )
    # Each row is summed by itself: the order of a sum decides its last bit.
    sums = np.array([row[:size].sum() for row, size in zip(p, sizes, strict=True)])[:, None]
    p = np.where(sums > 0, p, used) / np.where(sums > 0, sums, sizes[:, None])

    def counts_at(saving: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            counts = np.ceil(1 / np.expm1(saving[:, None] / p))
        return np.where(p > 0, np.clip(counts, 1, total), used)

    def is_below(exponent: np.ndarray) -> np.ndarray:
        return counts_at(np.exp(exponent)).sum(axis=1) > total

    # At the lower bound the most probable entry alone reaches the total.
    low = np.log(p.max(axis=1) / total / 2)
    counts = counts_at(np.exp(_bisect(is_below, low, np.zeros_like(low), 100)[1]))
    while (left := total - counts.sum(axis=1, keepdims=True)).any():
        gains = np.where(used, p * np.log1p(1 / np.maximum(counts, 1)), -np.inf)
        order = np.argsort(-gains, axis=1, kind="stable")
        ranks = np.argsort(order, axis=1)
        counts += used & (ranks < left)
    return counts.astype(np.int32)


def build_tables(
    prior: Mapping[str, ArrayLike] | Density, offsets: np.ndarray | None = None
) -> CodingTables:
    """Converts a prior to the integer tables that sender and receiver share.

    A channel's table covers the symbols between its quantiles at 2^-16 and 1 - 2^-16, but at most
    4095 around its median. The escape, its last entry, has the probability of all others. Counts
    are from `integer_counts`.

    Args:
      prior: parameters of a factorized prior, as from `factorized.init_params`, or a `Density`.
      offsets: rounding offsets [C] in units of the quantization step. Default:
        `rounding_offsets(prior)`.

    Returns:
      The tables, [C, width] with width <= 4096.

    Raises:
      ConfigError: the offsets do not fit, or the prior is not finite.

    >>> import jax
    >>> build_tables(factorized.init_params(jax.random.key(0), channels=2)).channels
    2
    """
    density = Density(prior) if isinstance(prior, Mapping) else prior
    offsets = np.asarray(rounding_offsets(density) if offsets is None else offsets, np.float32)
    if offsets.shape != (density.channels,) or not np.isfinite(offsets).all():
        raise ConfigError(
            f"tables: got offsets of shape {offsets.shape}, expected ({density.channels},), finite"
        )
    # Cells are centred on the stored float32 offsets.
    origin = offsets.astype(np.float64)
    low, middle, high = (
        np.clip(np.rint(density.quantiles(p) - origin), _INT32.min, _INT32.max)
        for p in (TAIL_MASS, 0.5, 1 - TAIL_MASS)
    )
    most = MAX_WIDTH - 1
    first = np.clip(middle - most // 2, low, np.maximum(low, high - most + 1))
    numbers = np.minimum(high - first + 1, most)
    counts = np.empty((density.channels, int(numbers.max()) + 1), np.int32)
    # One more cell than the widest table has symbols: its place is the escape's.
    steps = np.arange(counts.shape[1] + 1) - 0.5
    cells = density.masses((origin + first)[:, None] + steps)
    escapes = density.tails(origin + first - 0.5, origin + first + numbers - 0.5)
    np.put_along_axis(cells, numbers.astype(int)[:, None], escapes[:, None], axis=1)
    sizes = (numbers + 1).astype(np.int32)
    for group in _groups(*counts.shape):
        counts[group] = _counts_of_rows(cells[group], sizes[group], TOTAL)
    return CodingTables(
        counts=counts,
        sizes=sizes,
        minima=first.astype(np.int32),
        offsets=offsets,
    )
