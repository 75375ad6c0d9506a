"""Residual networks: ResNets, wide ones too, MobileNetV2 and EfficientNet-Lite.

Sources: He et al. 2016, arXiv 1512.03385; Zagoruyko and Komodakis 2016, arXiv 1605.07146 (wide);
Sandler et al. 2018, arXiv 1801.04381; Tan and Le 2019, arXiv 1905.11946, in the Lite variant of
2020 (no squeeze-and-excitation, ReLU6, stem and top of fixed width).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsplit import ops
from jaxsplit.networks.layers import Block, Chain, Classifier, ConvBlock, NormConfig, conv_norm


@dataclasses.dataclass(frozen=True)
class ResNetSize:
    """Architecture of a residual network; each stage after the first halves the resolution.

    Attributes:
      blocks: residual blocks in each stage.
      widths: channels of each stage; a quarter of a `bottleneck` block's output channels.
      bottleneck: blocks of 1×1, 3×3 and 1×1, with `widening` times the width inside.
      small: for small images, with a 3×3 stem and shortcuts without convolutions.
      widening: 2 of a Wide ResNet.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    small: bool = False
    widening: int = 1


_WIDTHS = (64, 128, 256, 512)
_SMALL_WIDTHS = (16, 32, 64)
RESNETS = {
    "resnet8_small": ResNetSize((1, 1, 1), _SMALL_WIDTHS, small=True),
    "resnet20_small": ResNetSize((3, 3, 3), _SMALL_WIDTHS, small=True),
    "resnet56_small": ResNetSize((9, 9, 9), _SMALL_WIDTHS, small=True),
    "resnet18": ResNetSize((2, 2, 2, 2), _WIDTHS),
    "resnet34": ResNetSize((3, 4, 6, 3), _WIDTHS),
    "resnet50": ResNetSize((3, 4, 6, 3), _WIDTHS, bottleneck=True),
    "resnet101": ResNetSize((3, 4, 23, 3), _WIDTHS, bottleneck=True),
    "resnet152": ResNetSize((3, 8, 36, 3), _WIDTHS, bottleneck=True),
    "wide_resnet50_2": ResNetSize((3, 4, 6, 3), _WIDTHS, bottleneck=True, widening=2),
}


def _relu_pool(x: jax.Array) -> jax.Array:
    """Rectifies, and pools the largest of 3×3 with stride 2."""
    return ops.max_pool(nn.relu(x), size=3, stride=2, padding=1)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut.

    Without `projection`, the shortcut takes every `stride`-th pixel and pads new channels with
    zeros (option A of He et al.); with it, see `_projection` (option B).
    """

    width: int
    stride: int
    config: NormConfig
    projection: bool = False
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(
            conv_norm, config=self.config, train=train, features=self.width, size=3
        )
        y = norm(x, suffix="1", stride=self.stride, dilation=self.dilation)
        y = norm(nn.relu(y), suffix="2", dilation=self.dilation)
        if self.projection:
            return nn.relu(y + _projection(x, y, self.stride, self.config, train))
        shortcut = x[:, :: self.stride, :: self.stride]
        if grown := self.width - x.shape[-1]:
            shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (grown // 2, grown - grown // 2)))
        return nn.relu(y + shortcut)


class BottleneckBlock(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut; the 3×3 has the stride (version 1.5)."""

    width: int
    stride: int
    config: NormConfig
    widening: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        inside = self.widening * self.width
        norm = functools.partial(conv_norm, config=self.config, train=train)
        across = functools.partial(norm, size=3, stride=self.stride, dilation=self.dilation)
        y = norm(x, features=inside, suffix="1")
        y = across(nn.relu(y), features=inside, suffix="2")
        y = norm(nn.relu(y), features=4 * self.width, suffix="3")
        return nn.relu(y + _projection(x, y, self.stride, self.config, train))


class ResNet(Chain, kw_only=True):
    """Residual network: He et al., table 1 (version 1.5), or section 4.2 for small images."""

    size: ResNetSize

    def chain(self) -> dict[str, Block]:
        """Returns endpoint → its block; see `Chain.chain`."""
        blocks = resnet_blocks(self.size, NormConfig(self.epsilon, self.axis_name, self.folded))
        return {**blocks, "logits": functools.partial(Classifier, self.num_classes)}


def resnet_blocks(
    size: ResNetSize, config: NormConfig, output_stride: int | None = None
) -> dict[str, Block]:
    """Returns a ResNet's endpoint → block, without logits; for `output_stride` see `dilations`."""
    block: Block = functools.partial(BottleneckBlock, widening=size.widening)
    if not size.bottleneck:
        block = functools.partial(BasicBlock, projection=not size.small)
    stem = functools.partial(ConvBlock, size.widths[0], 7, 2, config, activation=_relu_pool)
    if size.small:
        stem = functools.partial(ConvBlock, size.widths[0], 3, 1, config)
    strides = ((2 if i and not j else 1) for i, n in enumerate(size.blocks) for j in range(n))
    steps = dilations(1 if size.small else 4, strides, output_stride)
    blocks = name_blocks(
        [functools.partial(block, width, **next(steps), config=config) for _ in range(count)]
        for count, width in zip(size.blocks, size.widths, strict=True)
    )
    return {"stem": stem, **blocks}


def dilations(
    stem: int, strides: Iterable[int], output_stride: int | None
) -> Iterator[dict[str, int]]:
    """Replaces strides beyond an output stride by dilation.

    The block that loses its stride keeps the dilation before it; those after it are dilated by that
    stride, so that their weights reach the same pixels. Source: Chen et al. 2017, arXiv 1706.05587,
    section 3.1, as in torchvision and TensorFlow.

    Args:
      stem: stride of what is before the first block.
      strides: of the blocks.
      output_stride: of the last block; None for the product of all.

    Yields:
      {"stride", "dilation"} of each block.

    >>> [one["dilation"] for one in dilations(4, (1, 2, 1, 2, 1), output_stride=8)]
    [1, 1, 1, 1, 2]
    """
    done, dilation = stem, 1
    for stride in strides:
        if output_stride is not None and done * stride > output_stride:
            yield {"stride": 1, "dilation": dilation}
            dilation *= stride
        else:
            yield {"stride": stride, "dilation": dilation}
            done *= stride


def _projection(
    x: jax.Array, y: jax.Array, stride: int, config: NormConfig, train: bool
) -> jax.Array:
    """Returns `x` in the shape of `y`: unchanged, or through a 1×1 convolution."""
    if stride == 1 and x.shape[-1] == y.shape[-1]:
        return x
    return conv_norm(x, config, train, y.shape[-1], "_shortcut", stride=stride)


@dataclasses.dataclass(frozen=True)
class Stage:
    """Consecutive blocks of one width; only the first has the stride. See `InvertedResidual`."""

    expansion: int
    width: int
    blocks: int
    stride: int
    kernel: int = 3


@dataclasses.dataclass(frozen=True)
class InvertedResidualSize:
    """Architecture of a network of inverted residual blocks.

    Attributes:
      stages: the blocks.
      padding: see `layers.Conv`.
      epsilon: term that batch normalization adds to the variance.
      stem: channels of the first convolution.
    """

    stages: tuple[Stage, ...]
    padding: str | None = None
    epsilon: float = 1e-5
    stem: int = 32


# Both networks have these expansions and strides.
_EXPANSIONS, _STRIDES = (1, 6, 6, 6, 6, 6, 6), (1, 2, 2, 2, 1, 2, 1)
_MOBILENET_V2 = tuple(
    map(Stage, _EXPANSIONS, (16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1), _STRIDES)
)
_LITE_WIDTHS, _LITE_BLOCKS = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)
_LITE_KERNELS = (3, 3, 5, 3, 5, 5, 3)
# Width and depth of EfficientNet-Lite0 … 4, as multiples of Lite0's.
_LITE_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))


def _lite(width: float, depth: float) -> InvertedResidualSize:
    """Scales EfficientNet-Lite0; the first and the last stage keep their depth."""
    widths = (round_to_8(one * width) for one in _LITE_WIDTHS)
    first, *middle, last = _LITE_BLOCKS
    blocks = (first, *(math.ceil(one * depth) for one in middle), last)
    stages = tuple(map(Stage, _EXPANSIONS, widths, blocks, _STRIDES, _LITE_KERNELS))
    return InvertedResidualSize(stages, padding="SAME", epsilon=1e-3)


def round_to_8(width: float) -> int:
    """Returns the nearest multiple of 8 that is at least 90 % of `width`."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


SIZES = {
    "mobilenet_v2": InvertedResidualSize(_MOBILENET_V2),
    **{f"efficientnet_lite{i}": _lite(*scales) for i, scales in enumerate(_LITE_SCALES)},
}


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise k×k, 1×1 projection to `width`; a shortcut if the shape is equal."""

    expansion: int
    width: int
    kernel: int
    stride: int
    padding: str | None
    config: NormConfig
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(conv_norm, config=self.config, train=train)
        inside, y = self.expansion * x.shape[-1], x
        if self.expansion > 1:
            y = nn.relu6(norm(y, features=inside, suffix="_expand"))
        across = functools.partial(norm, size=self.kernel, padding=self.padding, depthwise=True)
        steps = {"stride": self.stride, "dilation": self.dilation}
        y = nn.relu6(across(y, features=inside, suffix="_depthwise", **steps))
        y = norm(y, features=self.width, suffix="_project")
        return x + y if self.stride == 1 and x.shape[-1] == self.width else y


class InvertedResidualNet(Chain, kw_only=True):
    """Stem, stages of inverted residual blocks, a 1×1 convolution and the classifier."""

    size: InvertedResidualSize

    @property
    def epsilon(self) -> float:
        """Term that every batch normalization adds to the variance."""
        return self.size.epsilon

    def chain(self) -> dict[str, Block]:
        """Returns endpoint → its block; see `Chain.chain`."""
        config = NormConfig(self.epsilon, self.axis_name, self.folded)
        return {
            **inverted_residual_blocks(self.size, config),
            "top": functools.partial(ConvBlock, 1280, 1, 1, config, activation=nn.relu6),
            "logits": functools.partial(Classifier, self.num_classes),
        }


def inverted_residual_blocks(
    size: InvertedResidualSize, config: NormConfig, output_stride: int | None = None
) -> dict[str, Block]:
    """Returns stem and blocks: endpoint → block; for `output_stride` see `dilations`."""
    padding = size.padding
    stem = functools.partial(
        ConvBlock, size.stem, 3, 2, config, padding=padding, activation=nn.relu6
    )
    strides = (1 if j else stage.stride for stage in size.stages for j in range(stage.blocks))
    steps = dilations(2, strides, output_stride)

    def blocks(stage: Stage) -> Iterator[Block]:
        inside = functools.partial(InvertedResidual, stage.expansion, stage.width, stage.kernel)
        for _ in range(stage.blocks):
            yield functools.partial(inside, padding=padding, config=config, **next(steps))

    return {"stem": stem, **name_blocks(map(blocks, size.stages))}


def name_blocks(stages: Iterable[Iterable[Block]]) -> dict[str, Block]:
    """Names the blocks of stages: endpoint → block, in order."""
    return {
        f"stage{i}.block{j}": block
        for i, stage in enumerate(stages, 1)
        for j, block in enumerate(stage, 1)
    }
