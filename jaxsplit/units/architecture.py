"""The architecture of the paper's unit: kernels, strides and widths, and the layers it uses."""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsplit import ops
from jaxsplit._moved import renamed_attribute
from jaxsplit.errors import ConfigError
from jaxsplit.io.fields import plain_numbers

#: Of every batch normalization.
EPSILON = 1e-5
ACTIVATIONS = {"relu": nn.relu, "none": lambda x: x}

_MOMENTUM = 0.9  # of the running averages
_MAX_STRIDE = 64


@dataclasses.dataclass(frozen=True, repr=False)
class Architecture:
    """Sizes and layers of the paper's unit; see `BottleneckSpec`.

    Attributes:
      channels: C, channels of the latent.
      stride: s of the depthwise convolutions, at most 64.
      kernel: side of the encoder's depthwise kernel.
      padding: zeros around the encoder's input.
      decoder_kernel, decoder_padding: the same for the transposed convolution; default: the
        encoder's.
      multiplier: depthwise filters per feature channel.
      decoder_multiplier: the same of the decoder; default: the encoder's.
      step: quantization step; the latent is divided by it before it is rounded.
      activation: after the depthwise and pointwise convolutions: "relu" or "none".
      latent_activation: on the latent, "none" or "relu" (the published units, latents ≥ 0).
      output_activation: on the reconstruction; "relu" where the features are ≥ 0.
      batch_norm: normalize after every convolution; without it every convolution has a bias.
      crop: cut the reconstruction to the size of the features.
    """

    channels: int
    stride: int = 2
    kernel: int = 3
    padding: int = 1
    decoder_kernel: int | None = None
    decoder_padding: int | None = None
    multiplier: int = 1
    step: float = 1.0
    activation: str = "relu"
    latent_activation: str = "none"
    output_activation: str = "relu"
    batch_norm: bool = True
    crop: bool = True
    decoder_multiplier: int | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        for name in ("activation", "latent_activation", "output_activation"):
            if getattr(self, name) not in ACTIVATIONS:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {sorted(ACTIVATIONS)}"
                )
        kernel, padding = self.decoder_window
        filters = (self.multiplier, self.decoder_filters)
        counts = (self.channels, self.stride, self.kernel, kernel, *filters)
        if not all(type(count) is int for count in (*counts, self.padding, padding)):
            raise ConfigError(f"sizes and numbers of a unit are whole numbers: {self}")
        if min(counts) < 1 or not 0 < self.step < math.inf:
            raise ConfigError(
                f"channels, stride, kernels, multiplier, step must be positive: {self}"
            )
        if not (0 <= self.padding < self.kernel and 0 <= padding < kernel):
            raise ConfigError(f"paddings must be less than kernels, and not negative: {self}")
        if self.stride > _MAX_STRIDE:
            raise ConfigError(f"strides must be at most {_MAX_STRIDE}: {self}")

    def __repr__(self) -> str:
        """Leaves out the fields that are as by default."""
        given = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )
        return f"{type(self).__name__}({', '.join(given)})"

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns (rows, columns) of the latent; below 1 if the features are too small."""
        h, w = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in (height, width))
        return h, w

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns (rows, columns) of the reconstruction: with `crop`, those of the features."""
        if self.crop:
            return height, width
        kernel, padding = self.decoder_window
        latent = self.latent_size(height, width)
        h, w = ((n - 1) * self.stride - 2 * padding + kernel for n in latent)
        return h, w

    @property
    def decoder_filters(self) -> int:
        """Depthwise filters per feature channel of the decoder."""
        return self.multiplier if self.decoder_multiplier is None else self.decoder_multiplier

    @property
    def decoder_window(self) -> tuple[int, int]:
        """(kernel, padding) of the transposed convolution."""
        kernel = self.kernel if self.decoder_kernel is None else self.decoder_kernel
        padding = self.padding if self.decoder_padding is None else self.decoder_padding
        return kernel, padding

    decoder_form = renamed_attribute("BottleneckSpec.decoder_form", "decoder_window")


class Pointwise(nn.Module):
    """1×1 convolution without a bias."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        return ops.pointwise(x, kernel.astype(x.dtype))


class Norm(nn.Module):
    """Batch normalization with the variables of `nn.BatchNorm`, or a bias; then the activation."""

    spec: Architecture
    activation: str
    axis_name: str | None = None
    first_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape, last = x.shape[-1:], (1,) * (x.ndim - 1) + (-1,)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        activation = ACTIVATIONS[self.activation]
        if not self.spec.batch_norm:
            return activation(x + bias.reshape(last))
        first = nn.initializers.constant(self.first_scale)
        scale = self.param("scale", first, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            gain = jax.lax.rsqrt(var.value.reshape(last) + EPSILON) * scale.reshape(last)
            return activation((x - mean.value.reshape(last)) * gain + bias.reshape(last))
        rectify = self.activation == "relu"
        y, moments = ops.batch_norm(x, scale, bias, EPSILON, rectify, self.axis_name)
        for average, moment in zip((mean, var), moments, strict=True):
            average.value = _MOMENTUM * average.value + (1 - _MOMENTUM) * moment
        return y
