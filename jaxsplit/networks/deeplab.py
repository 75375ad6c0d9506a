"""DeepLabV3 for semantic segmentation, on residual networks.

Source: Chen et al. 2017, arXiv 1706.05587. ResNets have torchvision's head: atrous spatial pyramid
pooling (ASPP) of five branches and a 3×3 convolution; its auxiliary head is left out.
MobileNetV2 has TensorFlow's light head of two branches (Sandler et al. 2018, arXiv 1801.04381,
section 6.3).
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsplit.errors import ConfigError
from jaxsplit.networks.layers import Block, Chain, Conv, ConvBlock, NormConfig, conv_norm
from jaxsplit.networks.residual import (
    RESNETS,
    SIZES,
    InvertedResidualSize,
    ResNetSize,
    inverted_residual_blocks,
    resnet_blocks,
)

_WIDTH = 256  # channels of every branch, and of what follows
#: Name of the branch that pools over the whole image, [B, 1, 1, C].
POOLING = "pooling"


@dataclasses.dataclass(frozen=True)
class DeepLabSize:
    """Architecture of a DeepLabV3.

    Attributes:
      backbone: the residual network, without its classifier.
      output_stride: of the features and of the logits.
      rates: dilations of the 3×3 branches of ASPP; none for TensorFlow's light head.
      align_corners: how the source resizes logits to the image's size: True where the centres of
        corner pixels stay in place, see `tasks.Segmentation`.
      widths: True for a backbone that can be made narrower, see `DeepLab.width`.
    """

    backbone: ResNetSize | InvertedResidualSize
    output_stride: int
    rates: tuple[int, ...]
    align_corners: bool = False
    widths: bool = False


# The rates of output stride 16 are half of those of 8, as in section 4.2 of the paper.
_RATES = {8: (12, 24, 36), 16: (6, 12, 18)}
_MOBILENET = dataclasses.replace(SIZES["mobilenet_v2"], padding="SAME", epsilon=1e-3)
DEEPLABS = {
    **{
        f"deeplabv3_{name}": DeepLabSize(RESNETS[name], stride, _RATES[stride])
        for name, stride in (("resnet18", 16), ("resnet34", 16), ("resnet50", 8), ("resnet101", 8))
    },
    "deeplabv3_mobilenet_v2": DeepLabSize(_MOBILENET, 16, (), align_corners=True, widths=True),
    **{
        f"deeplabv3_{name}": DeepLabSize(size, 16, _RATES[16])
        for name, size in SIZES.items()
        if name.startswith("efficientnet_lite")
    },
}


class AsppBranches(nn.Module):
    """Branches of ASPP: [B, h, w, c] → {"branch0", …, "pooling"}.

    "branch0" is a 1×1 convolution, the next ones are 3×3 with dilation, all [B, h, w, 256];
    "pooling" is a 1×1 convolution of the mean over all pixels, [B, 1, 1, 256].
    """

    rates: tuple[int, ...]
    config: NormConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        norm = functools.partial(conv_norm, config=self.config, train=train, features=_WIDTH)
        branches = {"branch0": nn.relu(norm(x, suffix="0"))}
        for i, rate in enumerate(self.rates, 1):
            branches[f"branch{i}"] = nn.relu(norm(x, suffix=f"{i}", size=3, dilation=rate))
        mean = x.mean(axis=(1, 2), keepdims=True)
        return {**branches, POOLING: nn.relu(norm(mean, suffix=f"_{POOLING}"))}


class AsppProjection(nn.Module):
    """Concatenates the branches, the pooled one last, and projects: → [B, h, w, 256]."""

    config: NormConfig

    @nn.compact
    def __call__(self, branches: dict[str, jax.Array], train: bool) -> jax.Array:
        maps = [branches[name] for name in sorted(branches.keys() - {POOLING})]
        pooled = jnp.broadcast_to(branches[POOLING], (*maps[0].shape[:3], _WIDTH))
        x = jnp.concatenate((*maps, pooled), axis=-1)
        return nn.relu(conv_norm(x, self.config, train, _WIDTH))


class PixelClassifier(nn.Module):
    """1×1 convolution with bias: [B, h, w, c] → logits [B, h, w, classes]."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return Conv(self.num_classes, bias=True, name="conv")(x)


class DeepLab(Chain, kw_only=True):
    """DeepLabV3: images [B, H, W, 3] of any size → logits [B, h, w, classes], h = ⌈H / stride⌉.

    The logits have the network's own resolution, that of its output stride. The source resizes them
    to the image's size before it takes the largest: `tasks.Segmentation` does that, with
    `size.align_corners`. What crosses the cut "aspp.branches" is the output of every branch, a
    dictionary; all of it is coded.

    Attributes:
      width: of the backbone's channels, as a multiple of the published; only where `size.widths`.

    >>> module = DeepLab(num_classes=21, size=DEEPLABS["deeplabv3_resnet50"])
    >>> module.endpoints()[-5:]
    ('stage4.block3', 'aspp.branches', 'aspp', 'head', 'logits')
    """

    size: DeepLabSize
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.width != 1 and not self.size.widths:
            raise ConfigError(f"width is {self.width}; this network has a width of 1 alone")
        if not 0.1 <= self.width <= 4:
            raise ConfigError(f"width is {self.width}, expected 0.1 … 4")
        super().__post_init__()

    @property
    def epsilon(self) -> float:
        """Term that every batch normalization adds to the variance."""
        return getattr(self.size.backbone, "epsilon", 1e-5)

    def chain(self) -> dict[str, Block]:
        """Returns endpoint → its block; see `Chain.chain`."""
        size, config = self.size, NormConfig(self.epsilon, self.axis_name, self.folded)
        if isinstance(size.backbone, ResNetSize):
            blocks = resnet_blocks(size.backbone, config, size.output_stride)
        else:
            backbone = _scaled(size.backbone, self.width)
            blocks = inverted_residual_blocks(backbone, config, size.output_stride)
        head: dict[str, Block] = {}
        if size.rates:
            head["head"] = functools.partial(ConvBlock, _WIDTH, 3, 1, config)
        return {
            **blocks,
            "aspp.branches": functools.partial(AsppBranches, size.rates, config),
            "aspp": functools.partial(AsppProjection, config),
            **head,
            "logits": functools.partial(PixelClassifier, self.num_classes),
        }


def _scaled(size: InvertedResidualSize, width: float) -> InvertedResidualSize:
    """Scales all widths, rounded to whole channels, as TensorFlow's DeepLab does."""
    if width == 1:
        return size
    stages = tuple(
        dataclasses.replace(stage, width=max(1, int(width * stage.width + 0.5)))
        for stage in size.stages
    )
    return dataclasses.replace(size, stages=stages, stem=max(1, int(width * size.stem + 0.5)))
