"""The bottleneck unit: a low-cost encoder and decoder with a factorized prior between them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsplit import ops
from jaxsplit.entropy import FactorizedPrior
from jaxsplit.errors import ConfigError

#: Spread of a fresh unit's latents, and of the prior over them, in quantisation steps.
INITIAL_LATENT_STD = 1.0
INITIAL_PRIOR_SCALE = 1.0

_EPSILON = 1e-5  # of every batch normalisation
_MOMENTUM = 0.9  # of its running averages
_MOST_STRIDE = 64
_ACTIVATIONS = {"relu": nn.relu, "none": lambda x: x}


@dataclasses.dataclass(frozen=True)
class BottleneckSpec:
    """Shape and form of a unit; hashable, and small enough to write into a family's index.

    The unit is depthwise k×k, stride s → 1×1 to `channels` → quantise → 1×1 → depthwise transposed
    k×k, stride s (Datta et al. 2022, arXiv 2208.11596).

    Attributes:
      channels: C, channels of the latent.
      stride: s of the depthwise convolutions.
      kernel: side of the encoder's depthwise kernel.
      padding: zeros around the encoder's input.
      decoder_kernel, decoder_padding: the same for the transposed convolution; default: the
        encoder's.
      multiplier: depthwise filters per feature channel.
      decoder_multiplier: the same of the decoder, where the server has more to spend; default:
        the encoder's.
      step: quantisation step; the latent is divided by it before it is rounded.
      activation: after the depthwise and pointwise convolutions: "relu" or "none".
      latent_activation: on the latent, "none" or "relu" (the published units, latents ≥ 0).
      output_activation: on the reconstruction; "relu" where the features are ≥ 0.
      batch_norm: normalise after every convolution; without it every convolution has a bias.
      crop: cut the reconstruction to the size of the features.

    Raises:
      ConfigError: a size, step or activation that can't be.

    >>> spec = BottleneckSpec(channels=64, stride=2)
    >>> spec.latent_size(7, 7)  # of features of 7 × 7: 4 · 4 · 64 integers an image
    (4, 4)
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
        for name in ("activation", "latent_activation", "output_activation"):
            if getattr(self, name) not in _ACTIVATIONS:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {sorted(_ACTIVATIONS)}"
                )
        kernel, padding = self.decoder_form
        counts = (self.channels, self.stride, self.kernel, self.multiplier, kernel)
        whole = (*counts, self.decoder_filters, self.padding, padding)
        if not all(type(count) is int for count in whole):
            raise ConfigError(f"sizes and numbers of a unit are whole numbers: {self}")
        if min(*counts, self.decoder_filters) < 1 or not 0 < self.step < math.inf:
            raise ConfigError(
                f"channels, stride, kernels, multiplier, step must be positive: {self}"
            )
        if not (0 <= self.padding < self.kernel and 0 <= padding < kernel):
            raise ConfigError(f"paddings must be less than kernels, and not negative: {self}")
        if self.stride > _MOST_STRIDE:
            raise ConfigError(f"strides must be at most {_MOST_STRIDE}: {self}")

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the latent.

        Args:
          height, width: of the features at the cut.

        Returns:
          (h, w); less than 1 where the features are smaller than the kernel.
        """
        h, w = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in (height, width))
        return h, w

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the reconstruction.

        Args:
          height, width: of the features at the cut.

        Returns:
          (H, W): the features' own with `crop`, else what the transposed convolution gives.
        """
        if self.crop:
            return height, width
        kernel, padding = self.decoder_form
        h, w = (
            (n - 1) * self.stride - 2 * padding + kernel for n in self.latent_size(height, width)
        )
        return h, w

    @property
    def decoder_filters(self) -> int:
        """Depthwise filters per feature channel of the decoder."""
        return self.multiplier if self.decoder_multiplier is None else self.decoder_multiplier

    @property
    def decoder_form(self) -> tuple[int, int]:
        """(kernel, padding) of the transposed convolution."""
        kernel = self.kernel if self.decoder_kernel is None else self.decoder_kernel
        padding = self.padding if self.decoder_padding is None else self.decoder_padding
        return kernel, padding


class Encoder(nn.Module):
    """Features float [B, H, W, Cin] → latent in units of the step, float [B, h, w, C]."""

    spec: BottleneckSpec
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        spec = self.spec
        kernel = _depthwise_kernel(self, spec.kernel, x.shape[-1], spec.multiplier, spec.kernel)
        x = ops.depthwise_conv(x, kernel, spec.stride, spec.padding)
        x = _norm(self, "depthwise_norm", x, train, spec.activation)
        x = _Pointwise(spec.channels, name="pointwise")(x)
        first = INITIAL_LATENT_STD * spec.step
        x = _norm(self, "pointwise_norm", x, train, spec.latent_activation, first)
        return x / spec.step


class Decoder(nn.Module):
    """Latent in units of the step, float [B, h, w, C] → features float [B, H, W, Cin]."""

    spec: BottleneckSpec
    shape: tuple[int, int, int]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        spec = self.spec
        height, width, channels = self.shape
        filters = spec.decoder_filters
        x = _Pointwise(channels * filters, name="pointwise")(z * spec.step)
        x = _norm(self, "pointwise_norm", x, train, spec.activation)
        size, padding = spec.decoder_form
        # About (k / s)² taps reach one output, from `filters` inputs each.
        reach = -(-size // spec.stride)
        kernel = _depthwise_kernel(self, size, channels, filters, reach, filters)
        output = spec.output_size(height, width)
        x = ops.depthwise_conv_transpose(x, kernel, spec.stride, padding, output)
        return _norm(self, "depthwise_norm", x, train, spec.output_activation)


class Bottleneck(nn.Module):
    """Encoder, decoder and prior of one rate; every method takes the same small variables tree.

    Attributes:
      spec: form of the unit.
      shape: (H, W, Cin) of the features at the cut.
      axis_name: device axis over which training averages the batch statistics.

    >>> unit = Bottleneck(BottleneckSpec(channels=2), shape=(6, 6, 3))
    >>> features = jnp.ones((1, 6, 6, 3))
    >>> variables = unit.init(jax.random.key(0), features)
    >>> latent = unit.apply(variables, features, method="encode")
    >>> latent.shape, unit.apply(variables, jnp.round(latent), method="decode").shape
    ((1, 3, 3, 2), (1, 6, 6, 3))
    """

    spec: BottleneckSpec
    shape: tuple[int, int, int]
    axis_name: str | None = None

    def setup(self) -> None:
        """Flax's: declares the three parts that own the parameters."""
        self.encoder = Encoder(self.spec, self.axis_name)
        self.decoder = Decoder(self.spec, self.shape, self.axis_name)
        self.prior = FactorizedPrior(self.spec.channels, init_scale=INITIAL_PRIOR_SCALE)

    def __call__(self, features: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Touches every parameter once, for `init`.

        Args:
          features: float [B, H, W, Cin].
          train: as of `encode`.

        Returns:
          Features float [B, H, W, Cin] and bits float [B, h, w, C], without quantisation.
        """
        z = self.encoder(features, train)
        return self.decoder(z, train), self.prior(z)

    def encode(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Features float [B, H, W, Cin] → unquantised latent float [B, h, w, C].

        Args:
          features: at the cut.
          train: normalise by the batch's moments, and update the running ones.

        Returns:
          The latent in units of the step.
        """
        return self.encoder(features, train)

    def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Quantised latent float [B, h, w, C] → features float [B, H, W, Cin].

        Args:
          z: the latent, in units of the step.
          train: as of `encode`.

        Returns:
          The features as the tail gets them.
        """
        return self.decoder(z, train)

    def bits(self, z: jax.Array) -> jax.Array:
        """What the prior charges for a latent.

        Args:
          z: noisy or rounded, in units of the step, float [B, h, w, C].

        Returns:
          Bits of each element, float [B, h, w, C].
        """
        return self.prior(z)


def unit_shapes(spec: BottleneckSpec, channels: int) -> dict[str, Any]:
    """Shapes of a unit's variables, encoder and decoder, for features of so many channels.

    Known without a trace: what a stranger's spec asks for costs nothing before it is refused.
    """
    kernel, _ = spec.decoder_form
    wide, decoded = channels * spec.multiplier, channels * spec.decoder_filters
    # By the convolutions' order: the depthwise kernel, the pointwise one, and how many each gives.
    parts = {
        "encoder": (
            (spec.kernel, spec.kernel, channels, spec.multiplier),
            (wide, spec.channels),
            {"depthwise_norm": wide, "pointwise_norm": spec.channels},
        ),
        "decoder": (
            (kernel, kernel, channels, spec.decoder_filters),
            (spec.channels, decoded),
            {"pointwise_norm": decoded, "depthwise_norm": channels},
        ),
    }

    def norms(widths: dict[str, int], *names: str) -> dict[str, Any]:
        return {norm: {name: (width,) for name in names} for norm, width in widths.items()}

    learned = ("scale", "bias") if spec.batch_norm else ("bias",)
    params = {
        part: {
            "depthwise": depthwise,
            "pointwise": {"kernel": pointwise},
            **norms(widths, *learned),
        }
        for part, (depthwise, pointwise, widths) in parts.items()
    }
    if not spec.batch_norm:
        return {"params": params}
    stats = {part: norms(widths, "mean", "var") for part, (_, _, widths) in parts.items()}
    return {"params": params, "batch_stats": stats}


def fold_batch_norm(spec: BottleneckSpec, variables: dict[str, Any]) -> tuple[BottleneckSpec, Any]:
    """Folds the unit's batch normalisation into its convolutions, for inference.

    Args:
      spec: the unit's form, with `batch_norm`.
      variables: {"params", "batch_stats"} of a trained `Bottleneck`.

    Returns:
      The spec without `batch_norm` and the variables {"params"} of the same function.
    """
    if not spec.batch_norm:
        return spec, variables
    params = {name: dict(tree) for name, tree in variables["params"].items()}
    stats = variables["batch_stats"]
    for part, layers in params.items():
        if part == "prior":
            continue
        for conv in ("depthwise", "pointwise"):
            norm, moments = layers[f"{conv}_norm"], stats[part][f"{conv}_norm"]
            scale = norm["scale"] / jnp.sqrt(moments["var"] + _EPSILON)
            bias = norm["bias"] - moments["mean"] * scale
            kernel = layers["pointwise"]["kernel"] if conv == "pointwise" else layers["depthwise"]
            if conv == "pointwise":
                folded = kernel * scale[None]
                layers["pointwise"] = {"kernel": folded}
            elif part == "encoder":
                layers["depthwise"] = kernel * scale.reshape(1, 1, *kernel.shape[2:])
            else:
                layers["depthwise"] = kernel * scale[None, None, :, None]
            layers[f"{conv}_norm"] = {"bias": bias}
    return dataclasses.replace(spec, batch_norm=False), {"params": params}


class _Pointwise(nn.Module):
    """1×1 convolution without a bias."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        return ops.pointwise(x, kernel.astype(x.dtype))


class _Bias(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class _TrainingNorm(nn.Module):
    """`nn.BatchNorm` of a trained unit, by the batch's moments: the same variables."""

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
        y, moments = ops.batch_norm(x, scale, bias, _EPSILON, self.rectify, self.axis_name)
        for average, moment in zip(averages, moments, strict=True):
            average.value = _MOMENTUM * average.value + (1 - _MOMENTUM) * moment
        return y


def _norm(
    module: Encoder | Decoder,
    name: str,
    x: jax.Array,
    train: bool,
    activation: str,
    scale: float = 1.0,
) -> jax.Array:
    """Batch normalisation that starts with `scale`, or its bias; and the activation behind it."""
    if not module.spec.batch_norm:
        return _ACTIVATIONS[activation](_Bias(name=name)(x))
    if train:
        return _TrainingNorm(activation == "relu", module.axis_name, scale, name=name)(x)
    norm = nn.BatchNorm(
        use_running_average=True,
        epsilon=_EPSILON,
        scale_init=nn.initializers.constant(scale),
        name=name,
    )
    return _ACTIVATIONS[activation](norm(x))


def _depthwise_kernel(
    module: nn.Module, size: int, channels: int, multiplier: int, reach: int, fan: int = 1
) -> jax.Array:
    init = nn.initializers.normal((reach * reach * fan) ** -0.5)
    return module.param("depthwise", init, (size, size, channels, multiplier), jnp.float32)
