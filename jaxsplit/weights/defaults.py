"""Preprocessing and task of networks by name, those of their published weights."""

from __future__ import annotations

import dataclasses

from jaxsplit.data import Preprocessing
from jaxsplit.networks.architectures import create
from jaxsplit.networks.deeplab import DeepLab
from jaxsplit.tasks import Classification, Segmentation, Task
from jaxsplit.tasks.class_tables import CLASS_TABLES
from jaxsplit.weights import imagenet

_PASCAL = CLASS_TABLES["pascal_voc"].names
_PREFIX = "deeplabv3_"
_SIZE = (513, 513)  # of the paper and of the published .tflite files, in pixels
# The .tflite's input is (q - 128) / 128 of a byte q.
_TFLITE_ZERO = (128 / 255,) * 3


def preprocessing(name: str, package: str | None = None) -> Preprocessing:
    """Returns the preprocessing of a DeepLabV3: the whole image is scaled into 513 × 513.

    The rest is grey, as in TensorFlow's evaluation. `deeplabv3_mobilenet_v2` is normalized as in
    its .tflite files, the others as their classification networks.

    Args:
      name: of the network.
      package: see `imagenet.preprocessing`.

    Returns:
      Size, fit, interpolation, mean and standard deviation; of any other network those of
      `imagenet.preprocessing`.

    >>> preprocessing("deeplabv3_resnet50").fit
    'letterbox'
    """
    if not name.startswith(_PREFIX):
        return imagenet.preprocessing(name, package)
    if name == f"{_PREFIX}mobilenet_v2":
        return Preprocessing(_SIZE, mean=_TFLITE_ZERO, std=_TFLITE_ZERO, fit="letterbox")
    known = imagenet.preprocessing(name.removeprefix(_PREFIX))
    return dataclasses.replace(known, size=_SIZE, resize=None, fit="letterbox")


def num_classes(name: str) -> int:
    """Returns how many classes a network's published weights have."""
    return len(_PASCAL) if name.startswith(_PREFIX) else imagenet.NUM_CLASSES


def task(name: str, count: int) -> Task:
    """Returns the task of a network: a segmentation for DeepLabV3, else a classification.

    Args:
      name: of the network.
      count: of its logits' classes; names are those of the published weights, Pascal VOC's or
        ImageNet's, where there are as many, else numbers.

    Returns:
      The task.

    >>> task("deeplabv3_resnet50", 21).class_names[15], task("resnet50", 2)
    ('person', Classification(2 classes: 0, 1))
    """
    numbers = tuple(map(str, range(count)))
    module = create(name, count)
    if isinstance(module, DeepLab):
        names = _PASCAL if count == len(_PASCAL) else numbers
        return Segmentation(names, align_corners=module.size.align_corners)
    return Classification(imagenet.class_names() if count == imagenet.NUM_CLASSES else numbers)
