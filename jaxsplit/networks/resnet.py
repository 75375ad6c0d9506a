"""Residual networks for small images and for ImageNet.

Source: He, Zhang, Ren, Sun 2016, arXiv 1512.03385.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsplit.networks.layers import Blocks, Chain, Classifier, ConvBlock, NormConfig, conv_norm


@dataclasses.dataclass(frozen=True)
class ResNetSize:
    """Architecture of a residual network; each stage after the first halves the resolution.

    Attributes:
      blocks: residual blocks in each stage.
      widths: channels of each stage; inside the blocks if `bottleneck`.
      bottleneck: blocks of 1×1, 3×3 and 1×1, with four times as many output channels.
      small: for small images, with a 3×3 stem and shortcuts without convolutions.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    small: bool = False


_WIDTHS = (64, 128, 256, 512)
RESNETS = {
    "resnet8_small": ResNetSize((1, 1, 1), (16, 32, 64), small=True),
    "resnet20_small": ResNetSize((3, 3, 3), (16, 32, 64), small=True),
    "resnet56_small": ResNetSize((9, 9, 9), (16, 32, 64), small=True),
    "resnet18": ResNetSize((2, 2, 2, 2), _WIDTHS),
    "resnet34": ResNetSize((3, 4, 6, 3), _WIDTHS),
    "resnet50": ResNetSize((3, 4, 6, 3), _WIDTHS, bottleneck=True),
    "resnet101": ResNetSize((3, 4, 23, 3), _WIDTHS, bottleneck=True),
    "resnet152": ResNetSize((3, 8, 36, 3), _WIDTHS, bottleneck=True),
}


class Stem(nn.Module):
    """7×7 convolution and 3×3 max-pooling of stride 2: [B, H, W, c] → [B, H/4, W/4, width]."""

    width: int
    config: NormConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(conv_norm(x, self.config, train, self.width, size=7, stride=2, padding=3))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut.

    If the block changes the shape, the shortcut is a 1×1 convolution with `projection` (option B of
    He et al.). Without, it takes every `stride`-th pixel and pads the new channels with zeros (A).
    """

    width: int
    stride: int
    config: NormConfig
    projection: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(conv_norm, config=self.config, train=train, features=self.width)
        y = nn.relu(norm(x, suffix="1", size=3, stride=self.stride, padding=1))
        y = norm(y, suffix="2", size=3, padding=1)
        if self.projection:
            return nn.relu(y + _projection(x, y, self.stride, self.config, train))
        shortcut = x[:, :: self.stride, :: self.stride]
        grown = self.width - x.shape[-1]
        if grown:
            shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (grown // 2, grown - grown // 2)))
        return nn.relu(y + shortcut)


class BottleneckBlock(nn.Module):
    """1×1, 3×3 and 1×1 convolutions; the 3×3 has the stride (version 1.5, as in torchvision).

    The shortcut is a 1×1 convolution if the block changes the shape.
    """

    width: int
    stride: int
    config: NormConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(conv_norm, config=self.config, train=train)
        y = nn.relu(norm(x, features=self.width, suffix="1"))
        y = nn.relu(norm(y, features=self.width, suffix="2", size=3, stride=self.stride, padding=1))
        y = norm(y, features=4 * self.width, suffix="3")
        return nn.relu(y + _projection(x, y, self.stride, self.config, train))


class ResNet(Chain, kw_only=True):
    """Residual network: He et al., table 1 (version 1.5), or section 4.2 for small images."""

    size: ResNetSize

    def chain(self) -> Blocks:
        """Returns the constructors of the blocks; see `Chain.chain`."""
        size, config = self.size, self.norm_config
        block: functools.partial[Any] = functools.partial(
            BasicBlock, config=config, projection=not size.small
        )
        if size.bottleneck:
            block = functools.partial(BottleneckBlock, config=config)
        stem: functools.partial[Any] = functools.partial(Stem, size.widths[0], config)
        if size.small:
            stem = functools.partial(ConvBlock, size.widths[0], 3, 1, 1, config)
        blocks = {
            f"stage{i + 1}.block{j + 1}": functools.partial(
                block, width=width, stride=2 if i and not j else 1
            )
            for i, (count, width) in enumerate(zip(size.blocks, size.widths, strict=True))
            for j in range(count)
        }
        return {"stem": stem, **blocks, "logits": functools.partial(Classifier, self.num_classes)}


def _projection(
    x: jax.Array, y: jax.Array, stride: int, config: NormConfig, train: bool
) -> jax.Array:
    """Returns `x` in the shape of `y`: unchanged, or through a 1×1 convolution."""
    if stride == 1 and x.shape[-1] == y.shape[-1]:
        return x
    return conv_norm(x, config, train, y.shape[-1], suffix="_shortcut", stride=stride)
