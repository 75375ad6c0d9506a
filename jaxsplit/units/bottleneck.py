"""The bottleneck unit: a low-cost encoder and decoder with a factorized prior between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import entropy, ops
from jaxsplit.entropy import FactorizedPrior
from jaxsplit.errors import ConfigError
from jaxsplit.trees import TreeOf
from jaxsplit.units.architecture import EPSILON, Architecture, Norm, Pointwise
from jaxsplit.units.factorized_unit import FactorizedUnit, prior_of
from jaxsplit.units.unit import Collection, Shape, Variables, register

#: Standard deviation of a fresh unit's latents, and scale of its prior, in quantization steps.
INITIAL_LATENT_STD = 1.0
INITIAL_PRIOR_SCALE = 1.0


@register
@dataclasses.dataclass(frozen=True, repr=False)
class BottleneckSpec(Architecture, FactorizedUnit):
    """The paper's unit for features [B, H, W, C] (Datta et al. 2022, arXiv 2208.11596).

    Depthwise k×k, stride s → 1×1 to `channels` → quantize → 1×1 → depthwise transposed k×k, stride
    s, with a factorized prior. For the fields see `Architecture`.

    Raises:
      ConfigError: an impossible size, step or activation.

    >>> spec = BottleneckSpec(channels=64, stride=2)
    >>> spec.latent_size(7, 7), spec.latent_shape((7, 7, 2048))
    ((4, 4), (4, 4, 64))
    """

    kind: ClassVar[str] = "bottleneck"

    @classmethod
    def from_stride(cls, channels: int, stride: int) -> BottleneckSpec:
        """Returns the usual unit: 3×3 kernels up to stride 2, stride×stride ones above.

        Args:
          channels: of the latent.
          stride: in pixels of the features.

        Returns:
          The unit; all else is as by default.

        >>> spec = BottleneckSpec.from_stride(64, 4)
        >>> spec.kernel, spec.latent_size(8, 8)
        (4, (2, 2))
        """
        kernel, padding = (3, 1) if stride <= 2 else (stride, 0)
        return cls(channels, stride, kernel, padding)

    def to_dict(self) -> dict[str, object]:
        """Returns the fields; `decoder_multiplier`, newer than the others, only where it is set."""
        fields = dataclasses.asdict(self)
        if self.decoder_multiplier is None:
            del fields["decoder_multiplier"]
        return fields

    def latent_shape(self, shape: Shape) -> tuple[int, int, int]:
        """Returns (h, w, channels) for features (H, W, Cin); see `Unit.latent_shape`."""
        if len(shape) != 3:
            raise ConfigError(f"features of {shape}; a bottleneck takes (H, W, channels)")
        size = self.latent_size(*shape[:2])
        if min(size) < 1:
            raise ConfigError(f"features of {shape} are too small for {self}")
        return (*size, self.channels)

    def init(self, key: jax.Array, shape: Shape) -> Variables:
        """Returns {"params": {"encoder", "decoder", "prior"}, "batch_stats"}; see `Unit.init`."""
        return self._module(shape).init(key, jnp.zeros((1, *shape)))

    def encode(self, variables: Variables, features: jax.Array) -> jax.Array:
        """Features float [B, H, W, Cin] → latents float [B, h, w, C]; see `Unit.encode`."""
        return self._module(features.shape[1:]).apply(variables, features, method="encode")

    def decode(self, variables: Variables, latents: jax.Array, shape: Shape) -> jax.Array:
        """Latents float [B, h, w, C] → features float [B, H, W, Cin]; see `Unit.decode`."""
        return self._module(shape).apply(variables, latents, method="decode")

    def encode_train(
        self, variables: Variables, features: jax.Array, axis_name: str | None
    ) -> tuple[jax.Array, Collection]:
        """Normalizes by the batch's moments; see `Unit.encode_train`."""
        return self._train("encode", variables, features, features.shape[1:], axis_name)

    def decode_train(
        self, variables: Variables, latents: jax.Array, shape: Shape, axis_name: str | None
    ) -> tuple[jax.Array, Collection]:
        """Normalizes by the batch's moments; see `Unit.encode_train`."""
        return self._train("decode", variables, latents, shape, axis_name)

    def offsets(self, variables: Variables, channels: int) -> np.ndarray:
        """Returns the offsets that cost the fewest bits; 0 behind a ReLU."""
        if self.latent_activation == "relu":
            return super().offsets(variables, channels)
        return entropy.rounding_offsets(prior_of(variables))

    def variable_shapes(self, shape: Shape) -> Mapping[str, TreeOf[Shape]]:
        """Returns the shapes of encoder and decoder, without tracing: specs may be untrusted."""
        channels, (kernel, _) = shape[-1], self.decoder_window
        wide, decoded = channels * self.multiplier, channels * self.decoder_filters
        learned = ("scale", "bias") if self.batch_norm else ("bias",)

        def half(depthwise: Shape, pointwise: Shape, width: int) -> dict[str, Any]:
            return {
                "depthwise": depthwise,
                "depthwise_norm": dict.fromkeys(learned, (width,)),
                "pointwise": {"kernel": pointwise},
                "pointwise_norm": dict.fromkeys(learned, pointwise[1:]),
            }

        first = (self.kernel, self.kernel, channels, self.multiplier)
        last = (kernel, kernel, channels, self.decoder_filters)
        params = {
            "encoder": half(first, (wide, self.channels), wide),
            "decoder": half(last, (self.channels, decoded), channels),
        }
        if not self.batch_norm:
            return {"params": params}
        norms, moments = ("depthwise_norm", "pointwise_norm"), ("mean", "var")
        stats = {
            part: {norm: dict.fromkeys(moments, layers[norm]["bias"]) for norm in norms}
            for part, layers in params.items()
        }
        return {"params": params, "batch_stats": stats}

    def fold(self, variables: Variables) -> tuple[BottleneckSpec, Variables]:
        """Folds batch normalization into the convolutions, see `Unit.fold`."""
        if not self.batch_norm:
            return self, variables
        nested: Mapping[str, Any] = variables  # arrays at several depths
        params = dict(nested["params"])
        for part, stats in nested["batch_stats"].items():
            layers = params[part] = dict(params[part])
            for conv in ("depthwise", "pointwise"):
                norm, moments = layers[f"{conv}_norm"], stats[f"{conv}_norm"]
                scale = norm["scale"] / jnp.sqrt(moments["var"] + EPSILON)
                layers[f"{conv}_norm"] = {"bias": norm["bias"] - moments["mean"] * scale}
                kernel = layers[conv]
                if conv == "pointwise":
                    layers[conv] = {"kernel": kernel["kernel"] * scale[None]}
                elif part == "encoder":
                    layers[conv] = kernel * scale.reshape(1, 1, *kernel.shape[2:])
                else:
                    layers[conv] = kernel * scale[None, None, :, None]
        return dataclasses.replace(self, batch_norm=False), {"params": params}

    def _module(self, shape: Shape, axis_name: str | None = None) -> Any:
        # Flax types results of `apply` as with and without collections.
        height, width, channels = shape
        return Bottleneck(self, (height, width, channels), axis_name)

    def _train(
        self, method: str, variables: Variables, x: jax.Array, shape: Shape, axis_name: str | None
    ) -> tuple[jax.Array, Collection]:
        y, updated = self._module(shape, axis_name).apply(
            variables, x, True, method=method, mutable=["batch_stats"]
        )
        return y, updated.get("batch_stats", {})


class Encoder(nn.Module):
    """Features float [B, H, W, Cin] → latent in units of the step, float [B, h, w, C]."""

    spec: Architecture
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        spec, size = self.spec, self.spec.kernel
        init = nn.initializers.normal((size * size) ** -0.5)  # keeps the inputs' variance
        shape = (size, size, x.shape[-1], spec.multiplier)
        kernel = self.param("depthwise", init, shape, jnp.float32)
        x = ops.depthwise_conv(x, kernel, spec.stride, spec.padding)
        x = Norm(spec, spec.activation, self.axis_name, name="depthwise_norm")(x, train)
        x = Pointwise(spec.channels, name="pointwise")(x)
        first = INITIAL_LATENT_STD * spec.step
        latent = Norm(spec, spec.latent_activation, self.axis_name, first, name="pointwise_norm")
        return latent(x, train) / spec.step


class Decoder(nn.Module):
    """Latent in units of the step, float [B, h, w, C] → features float [B, H, W, Cin]."""

    spec: Architecture
    shape: tuple[int, int, int]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        spec = self.spec
        height, width, channels = self.shape
        filters = spec.decoder_filters
        x = Pointwise(channels * filters, name="pointwise")(z * spec.step)
        x = Norm(spec, spec.activation, self.axis_name, name="pointwise_norm")(x, train)
        size, padding = spec.decoder_window
        # Keeps the variance: about (k / s)² taps reach one output, from `filters` inputs each.
        reach = -(-size // spec.stride)
        init = nn.initializers.normal((reach * reach * filters) ** -0.5)
        kernel = self.param("depthwise", init, (size, size, channels, filters), jnp.float32)
        output = spec.output_size(height, width)
        x = ops.depthwise_conv_transpose(x, kernel, spec.stride, padding, output)
        return Norm(spec, spec.output_activation, self.axis_name, name="depthwise_norm")(x, train)


class Bottleneck(nn.Module):
    """Encoder, decoder and prior of one rate; every method takes the same small variables tree.

    Attributes:
      spec: architecture of the unit.
      shape: (H, W, Cin) of the features at the cut.
      axis_name: device axis over which training averages the batch statistics.

    >>> unit = Bottleneck(BottleneckSpec(channels=2), shape=(6, 6, 3))
    >>> features = jnp.ones((1, 6, 6, 3))
    >>> variables = unit.init(jax.random.key(0), features)
    >>> latent = unit.apply(variables, features, method="encode")
    >>> latent.shape, unit.apply(variables, jnp.round(latent), method="decode").shape
    ((1, 3, 3, 2), (1, 6, 6, 3))
    """

    spec: Architecture
    shape: tuple[int, int, int]
    axis_name: str | None = None

    def setup(self) -> None:
        """Declares encoder, decoder and prior, which own the parameters."""
        self.encoder = Encoder(self.spec, self.axis_name)
        self.decoder = Decoder(self.spec, self.shape, self.axis_name)
        self.prior = FactorizedPrior(self.spec.channels, init_scale=INITIAL_PRIOR_SCALE)

    def __call__(self, features: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Runs encoder, decoder and prior without quantization, for `init`.

        Args:
          features, train: as in `encode`.

        Returns:
          Features float [B, H, W, Cin] and bits float [B, h, w, C].
        """
        z = self.encoder(features, train)
        return self.decoder(z, train), self.prior(z)

    def encode(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Encodes features to unquantized latents.

        Args:
          features: at the cut, float [B, H, W, Cin].
          train: normalize by the batch's moments, and update the running ones.

        Returns:
          Latents in quantization steps, float [B, h, w, C].
        """
        return self.encoder(features, train)

    def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Decodes latents to features.

        Args:
          z: quantized, in quantization steps, float [B, h, w, C].
          train: as in `encode`.

        Returns:
          The tail's input, float [B, H, W, Cin].
        """
        return self.decoder(z, train)

    def bits(self, z: jax.Array) -> jax.Array:
        """Computes the code length of latents under the prior.

        Args:
          z: rounded, or with noise, in quantization steps, float [B, h, w, C].

        Returns:
          Bits of each element, of the same shape.
        """
        return self.prior(z)
