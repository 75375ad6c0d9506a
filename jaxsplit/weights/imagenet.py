"""Preprocessing and classes of ImageNet networks."""

from __future__ import annotations

from jaxsplit.data import Preprocessing
from jaxsplit.data.imagenet import NUM_CLASSES, class_names

__all__ = ["NUM_CLASSES", "class_names", "preprocessing"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_USUAL = (256, "bilinear")
# Side before the crop, and interpolation, of a network and a package; None: of the others.
_RESIZES = {
    ("mobilenet_v3_large", "timm"): (256, "bicubic"),
    ("convnext_tiny", None): (236, "bilinear"),
    ("convnext_tiny", "timm"): (256, "bicubic"),
    ("deit_tiny", None): (248, "bicubic"),
    ("deit_small", None): (248, "bicubic"),
}
_LITE_SIDES = (224, 240, 260, 280, 300)  # of EfficientNet-Lite0 … 4's input, in pixels


def preprocessing(name: str, package: str | None = None) -> Preprocessing:
    """Returns the preprocessing of the published weights of an ImageNet network.

    torchvision's for its V1 weights: bilinear resize to 256 (ConvNeXt: 236), centre crop of 224.
    timm's of MobileNetV3 and ConvNeXt: the same from 256, bicubic. DeiT: bicubic, from 248.
    EfficientNet-Lite: Google's (bicubic, normalized to -1 … 1).

    Args:
      name: of the network.
      package: whose names the weights have; None: that which the network is published by first.

    Returns:
      Sizes, interpolation, mean and standard deviation.

    >>> preprocessing("efficientnet_lite2").size, preprocessing("convnext_tiny", "timm").resize
    ((260, 260), 256)
    """
    if name.startswith("efficientnet_lite"):
        side = _LITE_SIDES[int(name[-1])]
        return Preprocessing((side, side), 3, side + 32, "bicubic", (0.5,) * 3, (0.5,) * 3)
    resize, interpolation = _RESIZES.get((name, package)) or _RESIZES.get((name, None), _USUAL)
    return Preprocessing((224, 224), 3, resize, interpolation, _MEAN, _STD)
