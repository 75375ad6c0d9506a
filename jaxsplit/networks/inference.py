"""Running a frozen network, or a part of it, over many images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxsplit.data import Preprocessing

_BATCH_PIXELS = 32 * 224 * 224


def batch_size(input_shape: tuple[int, ...]) -> int:
    """Images (H, W, c) that run at once: as many as keep the features of a batch moderate.

    >>> batch_size((28, 28, 1)), batch_size((224, 224, 3))
    (250, 32)
    """
    return min(250, max(1, _BATCH_PIXELS // (input_shape[0] * input_shape[1])))


def in_batches(run: Callable[[np.ndarray], Any], array: np.ndarray, size: int) -> np.ndarray:
    """Applies `run` to batches of one size, so that no number of inputs compiles anew.

    Args:
      run: from [size, …] to an array of the same leading size.
      array: [N, …]; the last batch is padded with zeros.
      size: of a batch.

    Returns:
      What `run` gives for all N.

    >>> in_batches(lambda x: 2 * x, np.arange(5), size=2).tolist()
    [0, 2, 4, 6, 8]
    """
    parts = []
    for start in range(0, max(len(array), 1), size):
        batch = array[start : start + size]
        count = len(batch)
        if count < size:
            batch = np.zeros((size, *array.shape[1:]), array.dtype)
            batch[:count] = array[start:]
        parts.append(np.asarray(run(batch))[:count])
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
    """Logits of the uncut network.

    Args:
      module: the network.
      variables: its parameters and stored moments.
      preprocessing: normalises the images.
      images: preprocessed, uint8 [N, h, w, c].

    Returns:
      float32 [N, K].

    >>> from jaxsplit.data import load_arrays, open_source
    >>> from jaxsplit.weights.load import load_backbone
    >>> backbone = load_backbone("fashion_mnist_resnet8")
    >>> images, labels = load_arrays(open_source("embedded", limit=100), backbone.preprocessing)
    >>> logits = predict(backbone.module, backbone.variables, backbone.preprocessing, images)
    >>> bool((logits.argmax(-1) == labels).mean() > 0.8)
    True
    """
    run = functools.partial(_program(module, preprocessing), variables)
    return in_batches(run, images, batch_size(preprocessing.input_shape))
