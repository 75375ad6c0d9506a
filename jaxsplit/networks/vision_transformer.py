"""Vision transformers: patches and a class token through blocks of self-attention.

Sources: Dosovitskiy et al. 2021, arXiv 2010.11929; Touvron et al. 2021, arXiv 2012.12877 (DeiT,
without distillation token).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsplit.networks.layers import Block, Chain, Classifier, Conv, Dense, LayerNorm, Perceptron

_INIT = nn.initializers.truncated_normal(0.02)
#: "patches" [B, h, w, D] and "class_token" [B, 1, 1, D], or one of them at the ends.
Tokens = jax.Array | dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class VisionTransformerSize:
    """Architecture of a network.

    Attributes:
      width: D, channels of a token.
      blocks: number of blocks.
      heads: attention heads of a block, of D / heads channels each.
      patch: side of a patch, in pixels.
    """

    width: int
    blocks: int
    heads: int
    patch: int = 16


VISION_TRANSFORMERS = {
    "deit_tiny": VisionTransformerSize(192, 12, 3),
    "deit_small": VisionTransformerSize(384, 12, 6),
}


class TokenEmbedding(nn.Module):
    """Patches, linearly embedded, plus their positions: [B, H, W, c] → [B, h, w, width]."""

    width: int
    patch: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = Conv(self.width, self.patch, self.patch, padding=0, bias=True, name="conv")(x)
        _, h, w, _ = x.shape
        position = self.param("position", _INIT, (1, h * w, self.width), jnp.float32)
        return x + position.astype(x.dtype).reshape(1, h, w, -1)


class Attention(nn.Module):
    """Self-attention of several heads: [B, N, D] → [B, N, D]."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, count, width = x.shape
        inside = width // self.heads
        x = Dense(3 * width, name="qkv")(x).reshape(batch, count, 3, self.heads, inside)
        query, key, value = (x[:, :, i] for i in range(3))
        scores = jnp.einsum("bqhc,bkhc->bhqk", query / math.sqrt(inside), key)
        y = jnp.einsum("bhqk,bkhc->bqhc", nn.softmax(scores), value)
        return Dense(width, name="project")(y.reshape(batch, count, width))


class TransformerBlock(nn.Module):
    """Self-attention and a perceptron, each behind layer normalization and beside a shortcut.

    The first block adds the class token: before it, that is the same for all images. The last block
    returns the class token alone, because nothing behind it reads the patches.
    """

    heads: int
    first: bool = False
    last: bool = False

    @nn.compact
    def __call__(self, features: Tokens, train: bool) -> Tokens:
        del train
        token, patches = self._with_token(features)
        batch, h, w, width = patches.shape
        x = jnp.concatenate([y.reshape(batch, -1, width) for y in (token, patches)], axis=1)
        x = x + Attention(self.heads, name="attention")(LayerNorm(name="norm1")(x))
        x = x + Perceptron(4 * width, name="perceptron")(LayerNorm(name="norm2")(x))
        token, patches = x[:, :1, None], x[:, 1:].reshape(batch, h, w, width)
        return token if self.last else {"class_token": token, "patches": patches}

    def _with_token(self, features: Tokens) -> tuple[jax.Array, jax.Array]:
        if isinstance(features, dict):
            return features["class_token"], features["patches"]
        assert self.first
        batch, _, _, width = features.shape
        token = self.param("class_token", _INIT, (1, 1, width), jnp.float32)
        token = jnp.broadcast_to(token.astype(features.dtype)[None], (batch, 1, 1, width))
        return token, features


class ClassToken(nn.Module):
    """Normalizes the class token: [B, 1, 1, D] → [B, 1, 1, D]."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return LayerNorm(name="norm")(x)


class VisionTransformer(Chain, kw_only=True):
    """Embedded patches, blocks, the class token and the classifier.

    Two arrays cross a cut between blocks: the patches as a map, and the class token.
    """

    size: VisionTransformerSize

    def chain(self) -> dict[str, Block]:
        """Returns endpoint → its block; see `Chain.chain`."""
        size = self.size
        return {
            "embedding": functools.partial(TokenEmbedding, size.width, size.patch),
            **{
                f"block{i}": functools.partial(
                    TransformerBlock, size.heads, first=i == 1, last=i == size.blocks
                )
                for i in range(1, size.blocks + 1)
            },
            "pool": ClassToken,
            "logits": functools.partial(Classifier, self.num_classes),
        }
