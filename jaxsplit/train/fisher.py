"""What an error of the features costs: the loss near the cut, as a square."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.networks import Backbone
from jaxsplit.split import Split
from jaxsplit.train.losses import Distortion

_BATCH = 32
_DRAWS = 2  # answers for each image


def loss_metric(
    split: Split,
    stride: int,
    backbone: Backbone,
    features: np.ndarray,
    distortion: Distortion,
    scale: float,
    key: jax.Array,
) -> np.ndarray:
    """M of the loss eᵀ M e that an error e of one patch of the features brings.

    The features' own error is a square everywhere. Distillation and labels are flat where the
    features are right, and bend by the Fisher information: the mean outer product of the gradient
    of an answer's log-probability, of answers drawn as the network gives them. What the errors of
    two patches do together is left out.

    Args:
      split: the cut.
      stride: side of a patch: what one position of the latent is made of.
      backbone: the frozen network.
      features: float [N, H, W, Cin], some of the training's.
      distortion: the weights of the loss.
      scale: mean square of the features.
      key: of the answers that are drawn.

    Returns:
      Symmetric float64 [n, n] with n = Cin · stride²; an element of a patch is numbered by
      channel, row and column.

    Source: Martens 2020, New insights and perspectives on the natural gradient method, for the
    Fisher information as the curvature of the answers.
    """
    inputs = split.shape[-1] * stride**2
    metric = np.eye(inputs) * distortion.features / (np.prod(split.shape) * scale)
    for weight, temperature in (
        (distortion.distillation, distortion.temperature),
        (distortion.labels, 1.0),
    ):
        if weight:
            found = _fisher(split, stride, backbone, features, temperature, key)
            metric += weight / 2 * found
    return metric


def _fisher(
    split: Split,
    k: int,
    backbone: Backbone,
    features: np.ndarray,
    temperature: float,
    key: jax.Array,
) -> np.ndarray:
    """The mean outer product of a patch's gradients, of answers at a temperature: [n, n]."""
    inputs = split.shape[-1] * k * k

    @jax.jit
    def slopes(variables: jax.Array, x: jax.Array, key: jax.Array) -> jax.Array:
        def drawn(x: jax.Array) -> jax.Array:
            outputs = split.tail(variables, x)
            likelihood = split.task.sampled_log_likelihood(outputs, key, temperature)
            # Distillation has a factor of the temperature's square: this is its root.
            return temperature * likelihood.sum()

        return jax.grad(drawn)(x)

    total, count = np.zeros((inputs, inputs)), 0
    for start in range(0, len(features), _BATCH):
        batch = jnp.asarray(features[start : start + _BATCH], jnp.float32)
        for draw in jax.random.split(jax.random.fold_in(key, start), _DRAWS):
            found = patches(np.asarray(slopes(backbone.variables, batch, draw), np.float64), k)
            found = found.reshape(-1, inputs)
            total += found.T @ found
            count += len(found)
    return total / count


def patches(features: np.ndarray, size: int) -> np.ndarray:
    """Features [N, H, W, C] → [N, H // size, W // size, C · size²], by channel, row and column.

    >>> patches(np.arange(8).reshape(1, 2, 2, 2), 2).tolist()
    [[[[0, 2, 4, 6, 1, 3, 5, 7]]]]
    """
    n, h, w = len(features), features.shape[1] // size, features.shape[2] // size
    parts = features[:, : h * size, : w * size].reshape(n, h, size, w, size, -1)
    return parts.transpose(0, 1, 3, 5, 2, 4).reshape(n, h, w, -1)
