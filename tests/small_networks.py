"""Small networks of every architecture that a file of another package may have."""

import functools

from jaxsplit.networks.convnext import ConvNeXt, ConvNeXtSize
from jaxsplit.networks.mobilenet_v3 import MobileBlockSize, MobileNetV3, MobileNetV3Size
from jaxsplit.networks.residual import ResNet, ResNetSize
from jaxsplit.networks.vision_transformer import VisionTransformer, VisionTransformerSize

_MOBILE = (
    (MobileBlockSize(8, 8, swish=False),),
    (MobileBlockSize(16, 12, 5, 2, squeeze=True, swish=False),),
    (MobileBlockSize(24, 12, squeeze=True), MobileBlockSize(24, 12)),
)
#: Architecture → module, by the number of classes; for images of 32 × 32.
SMALL = {
    "wide_resnet": functools.partial(
        ResNet, size=ResNetSize((1, 2), (4, 8), bottleneck=True, widening=2)
    ),
    "mobilenet_v3": functools.partial(MobileNetV3, size=MobileNetV3Size(8, _MOBILE, 16, 20)),
    "convnext": functools.partial(ConvNeXt, size=ConvNeXtSize((1, 2), (8, 12))),
    "vision_transformer": functools.partial(
        VisionTransformer, size=VisionTransformerSize(width=12, blocks=3, heads=3, patch=8)
    ),
}
