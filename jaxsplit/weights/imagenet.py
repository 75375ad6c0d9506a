"""Preprocessing and classes of ImageNet networks."""

from __future__ import annotations

from jaxsplit.data import Preprocessing
from jaxsplit.data.imagenet import NUM_CLASSES, class_names

__all__ = ["NUM_CLASSES", "class_names", "preprocessing"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LITE_SIDES = (224, 240, 260, 280, 300)  # of EfficientNet-Lite0 … 4's input, in pixels


def preprocessing(name: str) -> Preprocessing:
    """Returns the preprocessing of the published weights of an ImageNet network.

    ResNets and MobileNetV2: torchvision's for its V1 weights (bilinear resize to 256, centre crop
    of 224). EfficientNet-Lite: Google's (bicubic, normalized to -1 … 1).

    Args:
      name: of the network.

    Returns:
      Sizes, interpolation, mean and standard deviation.

    >>> preprocessing("efficientnet_lite2").size
    (260, 260)
    """
    if name.startswith("efficientnet_lite"):
        side = _LITE_SIDES[int(name[-1])]
        return Preprocessing((side, side), 3, side + 32, "bicubic", (0.5,) * 3, (0.5,) * 3)
    return Preprocessing((224, 224), 3, 256, "bilinear", _MEAN, _STD)
