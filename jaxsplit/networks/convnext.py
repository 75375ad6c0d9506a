"""ConvNeXt: blocks of a depthwise 7×7 convolution and a perceptron, with layer normalization.

Source: Liu et al. 2022, arXiv 2201.03545, section 2 and figure 4.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsplit.networks.layers import Block, Chain, Classifier, Conv, LayerNorm, Perceptron

_SCALE = 1e-6  # of a fresh block, see `ConvNeXtBlock`


@dataclasses.dataclass(frozen=True)
class ConvNeXtSize:
    """Architecture of a network: blocks and channels of each stage, and side of the patches."""

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    patch: int = 4


CONVNEXTS = {"convnext_tiny": ConvNeXtSize((3, 3, 9, 3), (96, 192, 384, 768))}


class PatchEmbedding(nn.Module):
    """Convolution of the patches, then layer normalization: [B, H, W, c] → [B, h, w, width]."""

    width: int
    patch: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = Conv(self.width, self.patch, self.patch, padding=0, bias=True, name="conv")(x)
        return LayerNorm(name="norm")(x)


class Downsample(nn.Module):
    """Layer normalization, then a 2×2 convolution of stride 2 to `width` channels."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = LayerNorm(name="norm")(x)
        return Conv(self.width, 2, 2, padding=0, bias=True, name="conv")(x)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7×7, layer normalization, a perceptron, a factor for each channel; a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        width = x.shape[-1]
        y = Conv(width, 7, depthwise=True, bias=True, name="depthwise")(x)
        y = Perceptron(4 * width, name="perceptron")(LayerNorm(name="norm")(y))
        scale = self.param("layer_scale", nn.initializers.constant(_SCALE), (width,), jnp.float32)
        return x + y * scale.astype(y.dtype).reshape(1, 1, 1, -1)


class PooledNorm(nn.Module):
    """Global average pooling and layer normalization: [B, h, w, c] → [B, 1, 1, c]."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return LayerNorm(name="norm")(x.mean(axis=(1, 2), keepdims=True))


class ConvNeXt(Chain, kw_only=True):
    """Patch embedding, stages with downsampling between them, pooling and the classifier."""

    size: ConvNeXtSize

    def chain(self) -> dict[str, Block]:
        """Returns endpoint → its block; see `Chain.chain`."""
        size = self.size
        chain: dict[str, Block] = {
            "stem": functools.partial(PatchEmbedding, size.widths[0], size.patch)
        }
        for i, (count, width) in enumerate(zip(size.blocks, size.widths, strict=True), 1):
            if i > 1:
                chain[f"stage{i}.downsample"] = functools.partial(Downsample, width)
            chain |= {f"stage{i}.block{j}": ConvNeXtBlock for j in range(1, count + 1)}
        return {
            **chain,
            "pool": PooledNorm,
            "logits": functools.partial(Classifier, self.num_classes),
        }
