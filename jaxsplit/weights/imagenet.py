"""Preprocessing and class names of ImageNet networks."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from jaxsplit.data import Preprocessing
from jaxsplit.errors import DataError

NUM_CLASSES = 1000

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LITE_SIDES = (224, 240, 260, 280, 300)  # of EfficientNet-Lite0 … 4's input, in pixels


def preprocessing(name: str) -> Preprocessing:
    """Returns the preprocessing of the published weights of an ImageNet network.

    ResNets and MobileNetV2: torchvision's for its V1 weights (bilinear resize to 256, centre crop
    of 224). EfficientNet-Lite: Google's (bicubic, normalized to -1 … 1).

    >>> preprocessing("efficientnet_lite2").size
    (260, 260)
    """
    if name.startswith("efficientnet_lite"):
        side = _LITE_SIDES[int(name[-1])]
        return Preprocessing((side, side), 3, side + 32, "bicubic", (0.5,) * 3, (0.5,) * 3)
    return Preprocessing((224, 224), 3, 256, "bilinear", _MEAN, _STD)


@functools.lru_cache
def class_names() -> tuple[str, ...]:
    """Returns the WordNet ids of the 1,000 classes in the order of the logits.

    Raises a DataError if the installed tensorflow-datasets lacks the list.
    """
    # Located without importing tensorflow_datasets, which takes a second.
    spec = importlib.util.find_spec("tensorflow_datasets")
    for folder in (spec and spec.submodule_search_locations) or ():
        listing = Path(folder, "datasets", "imagenet2012", "labels.txt")
        if listing.is_file():
            return tuple(listing.read_text().split())
    raise DataError(
        "the installed tensorflow-datasets lacks ImageNet's labels.txt; install another version"
    )
