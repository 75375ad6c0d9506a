"""Layers of the networks: convolution, batch normalization and classifier."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import ops

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
_NORM, _CONV = "bn", "conv"  # a block's "bn1" normalizes its "conv1"


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """Batch normalization settings that all layers of a network share.

    Attributes:
      epsilon: term that every batch normalization adds to the variance.
      axis_name: device axis over which training averages the batch statistics.
      folded: convolutions have a bias instead of a batch normalization.
    """

    epsilon: float = 1e-5
    axis_name: str | None = None
    folded: bool = False


class Conv(nn.Module):
    """Convolution [B, H, W, c] → [B, h, w, features], computed by `ops.conv`.

    Attributes:
      features: output channels.
      size: side of the kernel.
      stride: of both axes.
      padding: number of zeros on every side, or "SAME" as in TensorFlow: h = ⌈H / stride⌉ with an
        odd zero below and to the right.
      depthwise: each channel has its own filter; `features` is c.
      bias: add a bias.
    """

    features: int
    size: int = 1
    stride: int = 1
    padding: int | str = 0
    depthwise: bool = False
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, 1 if self.depthwise else x.shape[-1], self.features)
        kernel = self.param("kernel", _he_normal, shape, jnp.float32)
        x = ops.conv(x, kernel.astype(x.dtype), self.stride, self.padding, self.depthwise)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            x = x + bias.astype(x.dtype).reshape(1, 1, 1, -1)
        return x


def conv_norm(
    x: jax.Array,
    config: NormConfig,
    train: bool,
    features: int,
    suffix: str = "",
    *,
    size: int = 1,
    stride: int = 1,
    padding: int | str = 0,
    depthwise: bool = False,
) -> jax.Array:
    """Applies a convolution and its batch normalization, inside a compact module.

    The layers are named "conv" + suffix and "bn" + suffix; for their arguments see `Conv`.

    Args:
      x: float [B, H, W, c]; the result is [B, h, w, features].
      config: batch normalization settings of the network.
      train: normalize by the statistics of the batch.
    """
    name = _CONV + suffix
    x = Conv(features, size, stride, padding, depthwise, bias=config.folded, name=name)(x)
    if config.folded:
        return x
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=config.epsilon,
        axis_name=config.axis_name,
        name=_NORM + suffix,
    )(x)


class Classifier(nn.Module):
    """Global average pooling and a linear layer: [B, h, w, c] → logits [B, classes]."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return nn.Dense(self.num_classes, name="dense")(x.mean(axis=(1, 2)))


def fold_normalization(variables: dict[str, Any], epsilon: float) -> dict[str, Any]:
    """Folds every batch normalization into the convolution before it, for inference.

    Args:
      variables: {"params", "batch_stats"} of a network.
      epsilon: term that its normalizations add to the variance.

    Returns:
      {"params"} of the same network with `folded=True`.

    >>> from jaxsplit.weights.load import load_backbone
    >>> backbone = load_backbone("fashion_mnist_resnet8")
    >>> folded = fold_normalization(backbone.variables, backbone.module.epsilon)
    >>> sorted(backbone.variables["params"]["stem"]), sorted(folded["params"]["stem"])
    (['bn', 'conv'], ['conv'])
    """
    params = {}
    for block, layers in variables["params"].items():
        params[block] = dict(layers)
        for norm in [name for name in layers if name.startswith(_NORM)]:
            stats = variables["batch_stats"][block][norm]
            affine = params[block].pop(norm)
            # A power works for numpy and traced arrays; numpy computes it as a square root.
            scale = affine["scale"] / (stats["var"] + np.float32(epsilon)) ** 0.5
            conv = norm.replace(_NORM, _CONV, 1)
            params[block][conv] = {
                "kernel": layers[conv]["kernel"] * scale.reshape(1, 1, 1, -1),
                "bias": affine["bias"] - stats["mean"] * scale,
            }
    return {"params": params}
