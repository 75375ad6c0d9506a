"""The residual unit: patches of early features through a few light residual blocks, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import entropy, ops
from jaxsplit.errors import ConfigError
from jaxsplit.io.fields import plain_numbers
from jaxsplit.trees import TreeOf
from jaxsplit.units.architecture import ACTIVATIONS
from jaxsplit.units.factorized_unit import DECODER_SCALES, FactorizedUnit, prior_of
from jaxsplit.units.unit import Shape, Variables, register

#: Layers of encoder and decoder around the residual blocks.
LINEAR_LAYERS = EMBEDDING, OUTPUT = "embedding", "output"

# Field → largest value: a stored spec may be of any origin.
_LARGEST = {
    "channels": 4096,
    "stride": 64,
    "width": 4096,
    "blocks": 64,
    "kernel": 31,
    "expansion": 16,
}
_PRIOR_SCALE = 1.0  # of a fresh unit, in quantization steps

_Layers = Mapping[str, Any]  # arrays, and layers of layers


@register
@dataclasses.dataclass(frozen=True)
class ResidualSpec(FactorizedUnit):
    """Encoder and decoder of residual blocks, for features [B, H, W, Cin] at an early cut.

    Encoder: s×s convolution of stride s to `width` channels (the patch embedding), `blocks`
    residual blocks, 1×1 to `channels`. Decoder: 1×1 to `decoder_width`, `decoder_blocks` residual
    blocks, 1×1 to s²·Cin, depth to space. Without blocks, each is one layer. A block is

        x + project(relu(expand(depthwise(x)))),

    with a depthwise k×k convolution, a 1×1 convolution to `expansion` times the width, and one
    back, which begins at zero. A unit therefore begins linear, and can begin as PCA of patches (see
    `train.pca`), without any normalization: in a batch of several rates, normalization would mix
    their moments. The prior is factorized.

    Attributes:
      channels: C, channels of the latent.
      stride: s, side of the patches.
      width: channels of the encoder's blocks.
      blocks: residual blocks of the encoder; 0 for one linear layer, without a width.
      kernel: side of the depthwise kernels, odd.
      expansion: channels inside a block, in widths.
      decoder_width, decoder_blocks, decoder_kernel, decoder_expansion: the same of the decoder,
        which may be larger; default: the encoder's.
      output_activation: on the reconstruction: "none", or "relu" where the features are ≥ 0.

    Raises:
      ConfigError: a size is impossible or too large, or there is no such activation.

    >>> unit = ResidualSpec(channels=64, stride=2, width=96)
    >>> unit.latent_shape((28, 28, 40))
    (14, 14, 64)
    """

    channels: int
    stride: int = 2
    width: int = 64
    blocks: int = 1
    kernel: int = 3
    expansion: int = 2
    decoder_width: int | None = None
    decoder_blocks: int | None = None
    decoder_kernel: int | None = None
    decoder_expansion: int | None = None
    output_activation: str = "none"
    kind: ClassVar[str] = "residual"

    def __post_init__(self) -> None:
        plain_numbers(self)
        if self.output_activation not in ACTIVATIONS:
            raise ConfigError(
                f"output_activation is {self.output_activation!r}; expected one of "
                f"{sorted(ACTIVATIONS)}"
            )
        for field in dataclasses.fields(self):
            size, name = getattr(self, field.name), field.name.removeprefix("decoder_")
            if name not in _LARGEST or (size is None and field.default is None):
                continue
            least = 0 if name == "blocks" else 1
            if type(size) is not int or not least <= size <= _LARGEST[name]:
                raise ConfigError(f"{field.name} is {size!r}; expected {least} … {_LARGEST[name]}")
            if name == "kernel" and size % 2 == 0:
                raise ConfigError(f"{field.name} is {size}; expected an odd number")

    @property
    def decoder_sizes(self) -> tuple[int, int, int, int]:
        """Width, blocks, kernel and expansion of the decoder."""
        own = self.decoder_width, self.decoder_blocks, self.decoder_kernel, self.decoder_expansion
        shared = self.width, self.blocks, self.kernel, self.expansion
        width, blocks, kernel, expansion = (
            size if given is None else given for given, size in zip(own, shared, strict=True)
        )
        return width, blocks, kernel, expansion

    def latent_shape(self, shape: Shape) -> tuple[int, int, int]:
        """Returns (⌈H / s⌉, ⌈W / s⌉, channels) of features (H, W, Cin); see `Unit.latent_shape`."""
        if len(shape) != 3 or min(shape) < 1:
            raise ConfigError(f"features of {shape}; a residual unit takes (H, W, channels)")
        return -(-shape[0] // self.stride), -(-shape[1] // self.stride), self.channels

    def init(self, key: jax.Array, shape: Shape) -> Variables:
        """Returns {"params": {"encoder", "decoder", "prior"}}; see `Unit.init`."""
        shapes = self.variable_shapes(shape)["params"]
        leaves, structure = jax.tree.flatten_with_path(shapes, is_leaf=_is_shape)
        drawn = [
            _initial(jax.random.fold_in(key, n), [entry.key for entry in path], size)
            for n, (path, size) in enumerate(leaves)
        ]
        params = jax.tree.unflatten(structure, drawn)
        prior = entropy.init_params(key, self.channels, init_scale=_PRIOR_SCALE)
        return {"params": {**params, "prior": prior}}

    def encode(self, variables: Variables, features: jax.Array) -> jax.Array:
        """Features float [B, H, W, Cin] → latents float [B, h, w, C]; see `Unit.encode`."""
        layers = cast("_Layers", variables["params"]["encoder"])
        return _stack(layers, space_to_depth(features, self.stride))

    def decode(self, variables: Variables, latents: jax.Array, shape: Shape) -> jax.Array:
        """Latents float [B, h, w, C] → features float [B, H, W, Cin]; see `Unit.decode`."""
        layers = cast("_Layers", variables["params"]["decoder"])
        scales = cast("jax.Array | None", variables.get(DECODER_SCALES))
        x = depth_to_space(_stack(layers, latents, scales), self.stride)
        return ACTIVATIONS[self.output_activation](x[:, : shape[0], : shape[1]])

    def offsets(self, variables: Variables, channels: int) -> np.ndarray:
        """Returns the offsets that cost the fewest bits."""
        return entropy.rounding_offsets(prior_of(variables))

    @property
    def decoder_scales(self) -> int:
        """One factor for each channel and block of the decoder; see `FactorizedUnit`."""
        width, blocks, _, _ = self.decoder_sizes
        return width * blocks

    def variable_shapes(self, shape: Shape) -> Mapping[str, TreeOf[Shape]]:
        """Returns the shapes of encoder and decoder, without tracing: specs may be untrusted."""
        patch = shape[-1] * self.stride**2
        encoder = self.width, self.blocks, self.kernel, self.expansion
        return {
            "params": {
                "encoder": _stack_shapes(patch, *encoder, self.channels),
                "decoder": _stack_shapes(self.channels, *self.decoder_sizes, patch),
            }
        }


def space_to_depth(x: jax.Array, size: int) -> jax.Array:
    """Moves patches into channels; zeros fill patches beyond the last row and column.

    Args:
      x: float [B, H, W, C].
      size: side of the patches.

    Returns:
      float [B, ⌈H / size⌉, ⌈W / size⌉, size²·C], ordered by row, column and channel of a patch.

    >>> space_to_depth(jnp.arange(4.0).reshape(1, 2, 2, 1), 2).tolist()
    [[[[0.0, 1.0, 2.0, 3.0]]]]
    """
    batch, height, width, channels = x.shape
    h, w = -(-height // size), -(-width // size)
    x = jnp.pad(x, ((0, 0), (0, h * size - height), (0, w * size - width), (0, 0)))
    x = x.reshape(batch, h, size, w, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, h, w, size * size * channels)


def depth_to_space(x: jax.Array, size: int) -> jax.Array:
    """Moves channels back into patches, the inverse of `space_to_depth`.

    Args:
      x: float [B, h, w, size²·C].
      size: side of the patches.

    Returns:
      float [B, h·size, w·size, C].

    >>> depth_to_space(jnp.arange(4.0).reshape(1, 1, 1, 4), 2)[0, :, :, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    batch, h, w, depth = x.shape
    x = x.reshape(batch, h, w, size, size, depth // size**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, h * size, w * size, depth // size**2)


def _stack_shapes(
    inputs: int, width: int, blocks: int, kernel: int, expansion: int, outputs: int
) -> dict[str, Any]:
    """Shapes of an embedding to `width`, residual blocks, and an output layer; or of one layer."""

    def affine(inputs: int, outputs: int) -> dict[str, Shape]:
        return {"kernel": (inputs, outputs), "bias": (outputs,)}

    if not blocks:
        return {EMBEDDING: affine(inputs, outputs)}
    block = {
        "depthwise": (kernel, kernel, width, 1),
        "expand": affine(width, expansion * width),
        "project": affine(expansion * width, width),
    }
    named = {f"block{n}": block for n in range(1, blocks + 1)}
    return {EMBEDDING: affine(inputs, width), **named, OUTPUT: affine(width, outputs)}


def _is_shape(node: object) -> bool:
    return isinstance(node, tuple)


def _initial(key: jax.Array, path: list[str], shape: Shape) -> jax.Array:
    """Draws an array by its path; variances are kept, and the blocks' last layers are zero."""
    if path[-1] == "bias" or "project" in path:
        return jnp.zeros(shape, jnp.float32)
    gain = 2.0 if "expand" in path else 1.0  # a ReLU halves the mean square
    inputs = math.prod(shape[:2]) if path[-1] == "depthwise" else shape[0]
    return jax.random.normal(key, shape, jnp.float32) * math.sqrt(gain / inputs)


def _stack(layers: _Layers, x: jax.Array, scales: jax.Array | None = None) -> jax.Array:
    """Runs the layers; `scales` [n] or [B, n] multiply what blocks add, by block and channel."""
    x = _affine(layers[EMBEDDING], x)
    blocks = len(layers) - 2  # between embedding and output
    if blocks < 0:
        return x
    if scales is not None:
        scales = scales.astype(x.dtype).reshape(-1, blocks, *(1,) * (x.ndim - 2), x.shape[-1])
    for n in range(1, blocks + 1):
        block = layers[f"block{n}"]
        kernel = block["depthwise"].astype(x.dtype)
        y = ops.depthwise_conv(x, kernel, padding=len(kernel) // 2)
        y = jax.nn.relu(_affine(block["expand"], y))
        y = _affine(block["project"], y)
        x = x + (y if scales is None else y * scales[:, n - 1])
    return _affine(layers[OUTPUT], x)


def _affine(layer: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """1×1 convolution with a bias."""
    bias = layer["bias"].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return ops.pointwise(x, layer["kernel"].astype(x.dtype)) + bias
