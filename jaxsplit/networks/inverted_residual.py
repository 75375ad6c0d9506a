"""MobileNetV2 and EfficientNet-Lite: chains of inverted residual blocks.

Sources: Sandler et al. 2018, arXiv 1801.04381; Tan and Le 2019, arXiv 1905.11946, and its Lite
variant of 2020 (no squeeze-and-excitation, ReLU6, stem and top of fixed width).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax

from jaxsplit.networks.layers import Blocks, Chain, Classifier, ConvBlock, NormConfig, conv_norm

_STEM_WIDTH, _TOP_WIDTH = 32, 1280


@dataclasses.dataclass(frozen=True)
class Stage:
    """Consecutive blocks of one width.

    The channels inside a block are `expansion` times its input channels. The stride is that of the
    first block, the kernel the side of the depthwise convolutions.
    """

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
      padding: "SAME" as in TensorFlow, or None for equal zeros on every side.
      epsilon: term that batch normalization adds to the variance.
    """

    stages: tuple[Stage, ...]
    padding: str | None = None
    epsilon: float = 1e-5

    def padding_of(self, kernel: int) -> int | str:
        """Returns the padding of a convolution with a kernel of this side."""
        return kernel // 2 if self.padding is None else self.padding


_MOBILENET_V2 = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
_EFFICIENTNET = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)
# Width and depth of EfficientNet-Lite0 … 4, as multiples of Lite0's.
_LITE_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))


def _lite(width: float, depth: float) -> InvertedResidualSize:
    """Scales EfficientNet-Lite0; the first and the last stage keep their depth."""
    last = len(_EFFICIENTNET) - 1
    stages = tuple(
        dataclasses.replace(
            stage,
            width=_round_to_8(stage.width * width),
            blocks=stage.blocks if i in (0, last) else math.ceil(stage.blocks * depth),
        )
        for i, stage in enumerate(_EFFICIENTNET)
    )
    return InvertedResidualSize(stages, padding="SAME", epsilon=1e-3)


def _round_to_8(width: float) -> int:
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
    padding: int | str
    config: NormConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(conv_norm, config=self.config, train=train)
        inside = self.expansion * x.shape[-1]
        y = x
        if self.expansion > 1:
            y = nn.relu6(norm(y, features=inside, suffix="_expand"))
        conv: dict[str, Any] = {"size": self.kernel, "stride": self.stride, "padding": self.padding}
        y = nn.relu6(norm(y, features=inside, suffix="_depthwise", depthwise=True, **conv))
        y = norm(y, features=self.width, suffix="_project")
        return x + y if self.stride == 1 and x.shape[-1] == self.width else y


class InvertedResidualNet(Chain, kw_only=True):
    """Stem, stages of inverted residual blocks, a 1×1 convolution and the classifier."""

    size: InvertedResidualSize

    @property
    def epsilon(self) -> float:
        """Term that every batch normalization adds to the variance."""
        return self.size.epsilon

    def chain(self) -> Blocks:
        """Returns the constructors of the blocks; see `Chain.chain`."""
        size, config = self.size, self.norm_config
        ends = functools.partial(ConvBlock, config=config, activation=nn.relu6)
        blocks = {
            f"stage{i + 1}.block{j + 1}": functools.partial(
                InvertedResidual,
                stage.expansion,
                stage.width,
                stage.kernel,
                1 if j else stage.stride,
                size.padding_of(stage.kernel),
                config,
            )
            for i, stage in enumerate(size.stages)
            for j in range(stage.blocks)
        }
        return {
            "stem": functools.partial(ends, _STEM_WIDTH, 3, 2, size.padding_of(3)),
            **blocks,
            "top": functools.partial(ends, _TOP_WIDTH, 1, 1, 0),
            "logits": functools.partial(Classifier, self.num_classes),
        }
