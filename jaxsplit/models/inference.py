"""Running a frozen network, or a part of it, over many images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxsplit.data import Preprocessing

BATCH_SIZE = 250


def in_batches(
    run: Callable[[np.ndarray], Any], array: np.ndarray, batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """Applies `run` to batches of one size, so that no number of inputs compiles anew.

    Args:
      run: from [batch_size, …] to an array of the same leading size.
      array: [N, …]; the last batch is padded with zeros.

    Returns:
      What `run` gives for all N.

    >>> in_batches(lambda x: 2 * x, np.arange(5), batch_size=2).tolist()
    [0, 2, 4, 6, 8]
    """
    parts = []
    for start in range(0, max(len(array), 1), batch_size):
        batch = array[start : start + batch_size]
        padded = np.zeros((batch_size, *array.shape[1:]), array.dtype)
        padded[: len(batch)] = batch
        parts.append(np.asarray(run(padded))[: len(batch)])
    return np.concatenate(parts)


@functools.lru_cache
def _program(module: Any, preprocessing: Preprocessing) -> Any:
    @jax.jit
    def run(variables: Any, images: jax.Array) -> jax.Array:
        # As the two ends of a cut: an accuracy is compared with theirs.
        with jax.default_matmul_precision("highest"):
            return module.apply(variables, preprocessing.normalise(images))

    return run


def predict(
    module: Any, variables: Any, preprocessing: Preprocessing, images: np.ndarray
) -> np.ndarray:
    """Logits [N, K] of the uncut network for preprocessed images uint8 [N, h, w, c]."""
    return in_batches(functools.partial(_program(module, preprocessing), variables), images)
