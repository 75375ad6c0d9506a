"""Rounding offsets and integer tables of a trained prior, computed in float64 numpy.

numpy makes the results independent of an accelerator's arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from jaxsplit.bitstream.probability_models import TOTAL
from jaxsplit.bitstream.tables import CodingTables
from jaxsplit.entropy.densities import Density, ExactDensity
from jaxsplit.errors import ConfigError

__all__ = ["ExactDensity", "build_tables", "integer_counts", "rounding_offsets"]

_INT32 = np.iinfo(np.int32)
_PHASES = 32  # candidate offsets per quantization step
_REACH = 64  # symbols on each side of the median that are evaluated for an offset
_TOLERANCE = 1e-4  # bits per symbol; smaller gains keep the offset nearest to the median


def rounding_offsets(prior: Mapping[str, ArrayLike] | Density) -> np.ndarray:
    """Finds the offset in [median - 1/2, median + 1/2) of the least symbol entropy per channel.

    The unit transmits s = round(z - offset) and decodes s + offset. The mean symbol entropy over a
    uniformly drawn offset equals the rate of noisy latents, since rounding around a random offset
    adds uniform noise. So the best offset never costs more than the rate in training, if the
    latents follow the prior. It puts the peak of a narrow channel in the middle of a cell. Channels
    wider than some 30 steps are insensitive and round around their median.

    Args:
      prior: parameters of a factorized prior, as from `factorized.init_params`, or a `Density`.

    Returns:
      float32 [C], in units of the quantization step.

    Raises:
      ConfigError: not the parameters of a prior, or not finite.

    >>> import jax
    >>> from jaxsplit.entropy import factorized
    >>> params = factorized.init_params(jax.random.key(0), channels=3, init_scale=0.1)
    >>> abs(rounding_offsets(params) - factorized.median(params)).max().item() < 0.04
    True
    """
    density = _density(prior)
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
      probabilities: [n], finite and >= 0, of any sum; 1 <= n <= total.
      total: sum of the counts.

    Returns:
      int32 [n].

    Raises:
      ConfigError: more entries than counts, or invalid probabilities.

    >>> integer_counts(np.array([0.5, 0.25, 0.25, 1e-9]), total=16).tolist()
    [7, 4, 4, 1]
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 1 or not 1 <= p.size <= total or not np.isfinite(p).all() or (p < 0).any():
        raise ConfigError(
            f"integer counts: got {p.size} probabilities, expected 1 … {total}, finite and >= 0"
        )
    if p.sum() == 0:
        p = np.ones_like(p)
    p = p / p.sum()

    def counts_at(saving: float) -> np.ndarray:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            counts = np.ceil(1 / np.expm1(saving / p))
        return np.where(p > 0, np.clip(counts, 1, total), 1)

    # At the lower bound the most probable entry alone reaches the total.
    low, high = np.log(p.max() / total / 2), 0.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        if counts_at(np.exp(middle)).sum() > total:
            low = middle
        else:
            high = middle
    counts = counts_at(np.exp(high))
    while (left := int(total - counts.sum())) > 0:
        gains = p * np.log1p(1 / counts)
        counts[np.argsort(-gains, kind="stable")[:left]] += 1
    return counts.astype(np.int32)


def build_tables(
    prior: Mapping[str, ArrayLike] | Density,
    offsets: np.ndarray | None = None,
    *,
    tail_mass: float = 2**-16,
    max_width: int = 4096,
) -> CodingTables:
    """Converts a prior to the integer tables that sender and receiver share.

    The table of a channel covers the symbols between its quantiles at tail_mass and 1 - tail_mass.
    The escape, its last entry, has the probability of all others. Probabilities are computed in
    float64 and converted to counts by `integer_counts`.

    Args:
      prior: parameters of a factorized prior, as from `factorized.init_params`, or a `Density` of
        your own.
      offsets: rounding offsets [C] in units of the quantization step, such as `median(params)`, or
        zeros for units trained without. Default: `rounding_offsets(prior)`.
      tail_mass: probability of the escape on each side, 0 < tail_mass < 1/2.
      max_width: most entries per channel with the escape, 2 … 65536. A wider density keeps the
        symbols around its median and escapes the others.

    Returns:
      The tables, [C, width] with width <= max_width.

    Raises:
      ConfigError: an argument is out of range, or the prior is not finite.

    >>> import jax
    >>> from jaxsplit.entropy import factorized
    >>> params = factorized.init_params(jax.random.key(0), channels=2, init_scale=1.0)
    >>> tables = build_tables(params)
    >>> tables.counts.sum(axis=1).tolist()
    [65536, 65536]
    """
    if not 0 < tail_mass < 0.5 or not 2 <= max_width <= TOTAL:
        raise ConfigError(
            f"tables: got tail_mass={tail_mass}, max_width={max_width}; expected "
            f"0 < tail_mass < 1/2 and 2 <= max_width <= {TOTAL}"
        )
    density = _density(prior)
    offsets = np.asarray(rounding_offsets(density) if offsets is None else offsets, np.float32)
    if offsets.shape != (density.channels,) or not np.isfinite(offsets).all():
        raise ConfigError(
            f"tables: got offsets of shape {offsets.shape}, expected ({density.channels},), finite"
        )
    # Cells are centred on the stored float32 offsets.
    origin = offsets.astype(np.float64)
    low, middle, high = (
        np.clip(np.rint(density.quantiles(p) - origin), _INT32.min, _INT32.max)
        for p in (tail_mass, 0.5, 1 - tail_mass)
    )
    most = max_width - 1
    first = np.clip(middle - most // 2, low, np.maximum(low, high - most + 1))
    numbers = np.minimum(high - first + 1, most)
    counts = np.zeros((density.channels, int(numbers.max()) + 1), np.int32)
    steps = np.arange(counts.shape[1]) - 0.5
    cells = density.masses((origin + first)[:, None] + steps)
    escapes = density.tails(origin + first - 0.5, origin + first + numbers - 0.5)
    for channel, number in enumerate(numbers.astype(int)):
        row = np.append(cells[channel, :number], escapes[channel])
        counts[channel, : number + 1] = integer_counts(row)
    return CodingTables(
        counts=counts,
        sizes=(numbers + 1).astype(np.int32),
        minima=first.astype(np.int32),
        offsets=offsets,
    )


def _density(prior: Mapping[str, ArrayLike] | Density) -> Density:
    return ExactDensity(prior) if isinstance(prior, Mapping) else prior
