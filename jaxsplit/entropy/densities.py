"""Densities in float64 NumPy, from which tables are made: the factorized one, and the interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from jaxsplit.errors import ConfigError

_GROUP = 16  # channels evaluated at a time, to bound the memory of wide tables


class Density(Protocol):
    """A density for each channel, in float64 NumPy: what tables are made from.

    >>> import jax
    >>> from jaxsplit.entropy import factorized
    >>> density: Density = ExactDensity(factorized.init_params(jax.random.key(0), channels=2))
    >>> density.channels, density.quantiles(0.5).shape
    (2, (2,))
    """

    @property
    def channels(self) -> int:
        """Number of channels C."""

    def masses(self, edges: np.ndarray) -> np.ndarray:
        """Returns the masses of intervals.

        Args:
          edges: [C, n + 1], rising.

        Returns:
          P(edges[:, j] < Z <= edges[:, j + 1]), [C, n].
        """

    def tails(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Returns the mass outside an interval.

        Args:
          low, high: its ends, [C].

        Returns:
          P(Z <= low or Z > high), [C].
        """

    def quantiles(self, p: float) -> np.ndarray:
        """Returns quantiles.

        Args:
          p: 0 < p < 1.

        Returns:
          The z at which each channel's cumulative reaches p, [C].
        """


class ExactDensity:
    """The factorized density in float64 numpy: cumulative, interval masses and quantiles.

    Args:
      params: as from `factorized.init_params`, finite.

    Raises:
      ConfigError: not the parameters of a factorized prior, or not finite.

    >>> from jaxsplit.entropy import factorized
    >>> import jax
    >>> density = ExactDensity(factorized.init_params(jax.random.key(0), channels=2))
    >>> z = density.quantiles(0.25)
    >>> masses = density.masses(np.stack([z - 1e6, z, z + 1e6], axis=1))
    >>> masses.round(6).tolist()
    [[0.25, 0.75], [0.25, 0.75]]

    Source: Ballé et al. 2018, arXiv 1802.01436, appendix 6.1.
    """

    def __init__(self, params: Mapping[str, ArrayLike]):
        arrays = {name: np.asarray(value, np.float64) for name, value in params.items()}
        depth = sum(name.startswith("matrix_") for name in arrays)
        expected = {f"{kind}_{k}" for kind in ("matrix", "bias") for k in range(depth)}
        expected |= {f"factor_{k}" for k in range(depth - 1)}
        if depth == 0 or set(arrays) != expected:
            raise ConfigError(
                f"factorized prior: got parameters {sorted(arrays)}, expected matrix_k, bias_k and "
                "factor_k as from init_params; pass the inner dict, variables['params']"
            )
        for name, value in arrays.items():
            if not np.isfinite(value).all():
                raise ConfigError(
                    f"factorized prior: {name} is not finite: the training diverged; train with a "
                    "lower learning rate"
                )
        self.channels = len(arrays["bias_0"])
        self._layers = [
            (
                np.logaddexp(0, arrays[f"matrix_{k}"]),
                arrays[f"bias_{k}"][:, :, None],
                np.tanh(arrays[f"factor_{k}"])[:, :, None] if k < depth - 1 else None,
            )
            for k in range(depth)
        ]

    def logits(self, z: np.ndarray) -> np.ndarray:
        """Computes the logits of the cumulative.

        Args:
          z: [C, n], in units of the quantization step.

        Returns:
          float64 [C, n].
        """
        result = np.empty(np.shape(z))
        for first in range(0, self.channels, _GROUP):
            group = slice(first, first + _GROUP)
            x = np.asarray(z[group], np.float64)[:, None]
            for matrix, bias, factor in self._layers:
                x = matrix[group] @ x + bias[group]
                if factor is not None:
                    x += factor[group] * np.tanh(x)
            result[group] = x[:, 0]
        return result

    def masses(self, edges: np.ndarray) -> np.ndarray:
        """Computes P(edges[:, j] < Z <= edges[:, j + 1]), accurate far into the tails.

        Args:
          edges: [C, n + 1], ascending.

        Returns:
          float64 [C, n].
        """
        logits = self.logits(edges)
        lower, upper = logits[:, :-1], logits[:, 1:]
        # Log-space keeps masses far below the spacing of floats near 1.
        with np.errstate(divide="ignore"):
            shrink = np.log(-np.expm1(lower - upper))
        return np.exp(shrink - np.logaddexp(0, -upper) - np.logaddexp(0, lower))

    def tails(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Computes P(Z <= low or Z > high).

        Args:
          low, high: [C], low <= high.

        Returns:
          float64 [C].
        """
        below = np.exp(-np.logaddexp(0, -self.logits(low[:, None])))
        above = np.exp(-np.logaddexp(0, self.logits(high[:, None])))
        return (below + above)[:, 0]

    def quantiles(self, p: float) -> np.ndarray:
        """Computes the p-quantile of each channel by bisection.

        Args:
          p: probability, 0 < p < 1.

        Returns:
          float64 [C], within ±2^64.
        """
        target = np.log(p) - np.log1p(-p)
        reach = np.ones(self.channels)
        for _ in range(64):
            inside = self._at(-reach) < target
            inside &= self._at(reach) >= target
            reach = np.where(inside, reach, 2 * reach)
        low, high = -reach, reach
        for _ in range(128):
            middle = 0.5 * (low + high)
            below = self._at(middle) < target
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return 0.5 * (low + high)

    def _at(self, z: np.ndarray) -> np.ndarray:
        return self.logits(z[:, None])[:, 0]
