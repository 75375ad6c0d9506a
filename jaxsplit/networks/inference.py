"""Runs a frozen network, or a part of it, over many images."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import flax.linen as nn
import jax
import numpy as np

from jaxsplit.data import Preprocessing
from jaxsplit.networks.network import Features, Network, Variables, as_network
from jaxsplit.tasks import Outputs
from jaxsplit.trees import Array, Traced, Tree


class HeadProgram(Protocol):
    """Jitted (variables, images uint8 [B, h, w, c]) → (cut → features, outputs or None)."""

    def __call__(
        self, variables: Variables, images: Array, /
    ) -> tuple[dict[str, Features], Outputs | None]: ...

    def eval_shape(self, variables: Traced, images: jax.ShapeDtypeStruct, /) -> Any:
        """Traces alone; a later call with these shapes doesn't trace again."""

    def trace(self, variables: Traced, images: jax.ShapeDtypeStruct, /) -> jax.stages.Traced:
        """Returns the program of these shapes, traced and neither lowered nor compiled."""


_Tree = TypeVar("_Tree")


def batch_size(input_shape: tuple[int, ...], count: int | None = None) -> int:
    """Returns how many images (H, W, c) to run at once: a batch's features stay moderate.

    Where there are only `count` images, the batch is the smallest power of two that holds them, at
    least 8: little of it is padding, and few sizes are compiled.

    >>> batch_size((28, 28, 1)), batch_size((224, 224, 3)), batch_size((28, 28, 1), 60)
    (250, 32, 64)
    """
    largest = min(250, max(1, 32 * 224 * 224 // (input_shape[0] * input_shape[1])))
    return largest if count is None else min(largest, max(8, 1 << (count - 1).bit_length()))


def pad_rows(tree: _Tree, size: int) -> _Tree:
    """Pads a tree of arrays [n, …] to [size, …], so that no number of rows compiles anew."""

    def padded(array: np.ndarray) -> np.ndarray:
        array = np.asarray(array)
        missing = size - len(array)
        return np.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)]) if missing else array

    return jax.tree.map(padded, tree)


def in_batches(run: Callable[[Any], object], tree: Tree, size: int) -> Any:
    """Applies `run` to a tree of arrays [N, …] in batches of one size, the last padded.

    Returns what `run` gives for all N, as NumPy arrays. `run` may ask for the tree's own type.

    >>> in_batches(lambda x: 2 * x, np.arange(5), size=2).tolist()
    [0, 2, 4, 6, 8]
    """
    count = len(jax.tree.leaves(tree)[0])
    if count == size:  # one image on a device: nothing to cut, pad or join
        return jax.tree.map(np.asarray, run(tree))
    parts = []
    for start in range(0, max(count, 1), size):
        batch = jax.tree.map(operator.itemgetter(slice(start, start + size)), tree)
        done = run(pad_rows(batch, size))
        parts.append(jax.tree.map(lambda x, left=count - start: np.asarray(x)[:left], done))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


@functools.lru_cache(maxsize=32)
def head_program(
    network: Network,
    cuts: tuple[str, ...],
    preprocessing: Preprocessing,
    *,
    outputs: bool = False,
    precision: str | None = "highest",
) -> HeadProgram:
    """Compiles the network up to the last of some cuts in its order; without cuts, all of it.

    With `outputs`, the rest runs too. `precision` is that of matrix products: "highest" for sender
    and receiver; None, jax's own setting, for training.
    """

    def run(variables: Variables, images: jax.Array) -> tuple[dict[str, Features], Outputs | None]:
        pixels = preprocessing.normalize(images)
        with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
            if not cuts:
                return {}, network(variables, pixels)
            if len(cuts) == 1 and not outputs:
                return {cuts[0]: network.head(variables, pixels, cuts[0])}, None
            features, found = network.at_cuts(variables, pixels, cuts)
            return features, found if outputs else None

    return jax.jit(run)


def predict(
    network: Network | nn.Module,
    variables: Variables,
    preprocessing: Preprocessing,
    images: np.ndarray,
    size: int | None = None,
) -> Outputs:
    """Returns the outputs of the unsplit network.

    Args:
      network: the network, or its Linen module.
      variables: its arrays.
      preprocessing: normalizes the images.
      images: preprocessed, uint8 [N, h, w, c].
      size: how many to run at once; None: as many for any N, so that no other N compiles anew.

    Returns:
      Such as logits float32 [N, K].

    >>> from jaxsplit import load_backbone
    >>> backbone = load_backbone("fashion_mnist_resnet8")
    >>> images = np.zeros((4, 28, 28, 1), np.uint8)
    >>> predict(backbone.network, backbone.variables, backbone.preprocessing, images).shape
    (4, 10)
    """
    program = head_program(as_network(network), (), preprocessing, outputs=True)
    size = size or batch_size(preprocessing.input_shape)
    return in_batches(lambda batch: program(variables, batch)[1], images, size)
