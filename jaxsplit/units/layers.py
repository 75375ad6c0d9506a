"""Layers of a unit: pointwise convolution, normalisation, and a depthwise kernel."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsplit import ops

#: Of every batch normalisation.
EPSILON = 1e-5
ACTIVATIONS = {"relu": nn.relu, "none": lambda x: x}

_MOMENTUM = 0.9  # of the running averages


class Pointwise(nn.Module):
    """1×1 convolution without a bias."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        return ops.pointwise(x, kernel.astype(x.dtype))


class Bias(nn.Module):
    """Adds a number a channel."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class TrainingNorm(nn.Module):
    """Batch normalisation by the batch's moments, with the variables of `nn.BatchNorm`."""

    rectify: bool
    axis_name: str | None
    first_scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        first = nn.initializers.constant(self.first_scale)
        scale = self.param("scale", first, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        averages = [
            self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32),
            self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32),
        ]
        y, moments = ops.batch_norm(x, scale, bias, EPSILON, self.rectify, self.axis_name)
        for average, moment in zip(averages, moments, strict=True):
            average.value = _MOMENTUM * average.value + (1 - _MOMENTUM) * moment
        return y


def norm(
    module: nn.Module,
    name: str,
    x: jax.Array,
    train: bool,
    activation: str,
    scale: float = 1.0,
) -> jax.Array:
    """Applies batch normalisation, or a bias where `module.spec` has none, and the activation.

    Args:
      module: the caller, with `spec` and `axis_name`.
      name: of the parameters.
      x: float [B, h, w, C]; the result has its shape.
      train: normalise by the batch's moments.
      activation: one of `ACTIVATIONS`.
      scale: initial scale.
    """
    if not module.spec.batch_norm:
        return ACTIVATIONS[activation](Bias(name=name)(x))
    if train:
        return TrainingNorm(activation == "relu", module.axis_name, scale, name=name)(x)
    stored = nn.BatchNorm(
        use_running_average=True,
        epsilon=EPSILON,
        scale_init=nn.initializers.constant(scale),
        name=name,
    )
    return ACTIVATIONS[activation](stored(x))


def depthwise_kernel(
    module: nn.Module, size: int, channels: int, multiplier: int, reach: int, fan: int = 1
) -> jax.Array:
    """Declares the parameter "depthwise", [size, size, channels, multiplier].

    It is initialised to keep the inputs' variance: `reach` taps a side reach one output, with `fan`
    inputs each.
    """
    init = nn.initializers.normal((reach * reach * fan) ** -0.5)
    return module.param("depthwise", init, (size, size, channels, multiplier), jnp.float32)
