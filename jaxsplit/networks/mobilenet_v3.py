"""MobileNetV3: inverted residual blocks with squeeze-and-excitation and hard-swish.

Source: Howard et al. 2019, arXiv 1905.02244, table 1. As in torchvision; timm's differ in nothing
but the epsilon, see `weights.name_maps`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import flax.linen as nn
import jax

from jaxsplit.networks.layers import (
    Block,
    Chain,
    Classifier,
    Conv,
    ConvBlock,
    Dense,
    NormConfig,
    conv_norm,
)
from jaxsplit.networks.residual import name_blocks, round_to_8


@dataclasses.dataclass(frozen=True)
class MobileBlockSize:
    """Architecture of a block.

    Attributes:
      expanded: channels inside.
      width: output channels.
      kernel: side of the depthwise kernel.
      stride: of the depthwise convolution.
      squeeze: squeeze-and-excitation behind the depthwise convolution.
      swish: hard-swish in place of ReLU.
    """

    expanded: int
    width: int
    kernel: int = 3
    stride: int = 1
    squeeze: bool = False
    swish: bool = True


@dataclasses.dataclass(frozen=True)
class MobileNetV3Size:
    """Architecture of a network.

    Attributes:
      stem: channels of the first convolution.
      stages: blocks of one resolution and width.
      top: channels of the last 1×1 convolution.
      pooled: channels of the layer behind global average pooling.
    """

    stem: int
    stages: tuple[tuple[MobileBlockSize, ...], ...]
    top: int
    pooled: int


_SQUEEZED = functools.partial(MobileBlockSize, kernel=5, squeeze=True)
_LARGE = (
    (MobileBlockSize(16, 16, swish=False),),
    (MobileBlockSize(64, 24, stride=2, swish=False), MobileBlockSize(72, 24, swish=False)),
    (_SQUEEZED(72, 40, stride=2, swish=False), *2 * (_SQUEEZED(120, 40, swish=False),)),
    (MobileBlockSize(240, 80, stride=2), *(MobileBlockSize(n, 80) for n in (200, 184, 184))),
    tuple(MobileBlockSize(n, 112, squeeze=True) for n in (480, 672)),
    (_SQUEEZED(672, 160, stride=2), *2 * (_SQUEEZED(960, 160),)),
)
MOBILENETS_V3 = {"mobilenet_v3_large": MobileNetV3Size(16, _LARGE, 960, 1280)}


class SqueezeExcite(nn.Module):
    """Multiplies channels by gates computed from their means: [B, h, w, c] → [B, h, w, c]."""

    inside: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.mean(axis=(1, 2), keepdims=True)
        y = nn.relu(Conv(self.inside, bias=True, name="reduce")(y))
        y = Conv(x.shape[-1], bias=True, name="expand")(y)
        return x * nn.hard_sigmoid(y)


class MobileBlock(nn.Module):
    """1×1 expansion, depthwise k×k, squeeze-and-excitation, 1×1 projection; see `size`.

    There is a shortcut if the shape is equal.
    """

    size: MobileBlockSize
    config: NormConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        size = self.size
        norm = functools.partial(conv_norm, config=self.config, train=train)
        activation, y = nn.hard_swish if size.swish else nn.relu, x
        if size.expanded != x.shape[-1]:
            y = activation(norm(y, features=size.expanded, suffix="_expand"))
        across = functools.partial(norm, size=size.kernel, stride=size.stride, depthwise=True)
        y = activation(across(y, features=size.expanded, suffix="_depthwise"))
        if size.squeeze:
            y = SqueezeExcite(round_to_8(size.expanded / 4), name="squeeze")(y)
        y = norm(y, features=size.width, suffix="_project")
        return x + y if size.stride == 1 and x.shape[-1] == size.width else y


class PooledLayer(nn.Module):
    """Global average pooling, a linear layer and hard-swish: [B, h, w, c] → [B, 1, 1, width]."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return nn.hard_swish(Dense(self.width, name="dense")(x.mean(axis=(1, 2), keepdims=True)))


class MobileNetV3(Chain, kw_only=True):
    """Stem, stages of blocks, a 1×1 convolution, pooling, a linear layer and the classifier."""

    size: MobileNetV3Size

    @property
    def epsilon(self) -> float:
        """Term that every batch normalization adds to the variance."""
        return 1e-3

    def chain(self) -> dict[str, Block]:
        """Returns endpoint → its block; see `Chain.chain`."""
        size, config = self.size, NormConfig(self.epsilon, self.axis_name, self.folded)
        ends = functools.partial(ConvBlock, config=config, activation=nn.hard_swish)

        def blocks(stage: tuple[MobileBlockSize, ...]) -> Iterator[Block]:
            return (functools.partial(MobileBlock, block, config) for block in stage)

        return {
            "stem": functools.partial(ends, size.stem, 3, 2),
            **name_blocks(map(blocks, size.stages)),
            "top": functools.partial(ends, size.top, 1, 1),
            "pool": functools.partial(PooledLayer, size.pooled),
            "logits": functools.partial(Classifier, self.num_classes),
        }
