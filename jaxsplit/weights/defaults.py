"""Preprocessing and classes of networks' published weights, of any task."""

from __future__ import annotations

import dataclasses

from jaxsplit.data import Preprocessing
from jaxsplit.weights import imagenet

#: Classes of Pascal VOC 2012, in the order of the logits of torchvision and TensorFlow.
CLASS_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
_PREFIX = "deeplabv3_"
_SIZE = (513, 513)  # of the paper and of the published .tflite files, in pixels
# The .tflite's input is (q - 128) / 128 of a byte q.
_TFLITE_ZERO = (128 / 255,) * 3


def preprocessing(name: str) -> Preprocessing:
    """Returns the preprocessing of a DeepLabV3: the whole image is scaled into 513 × 513.

    The rest is grey, as in TensorFlow's evaluation. `deeplabv3_mobilenet_v2` is normalized as in
    its .tflite files, the others as their classification networks.

    Args:
      name: of the network.

    Returns:
      Size, fit, interpolation, mean and standard deviation; of any other network those of
      `imagenet.preprocessing`.

    >>> preprocessing("deeplabv3_resnet50").fit
    'letterbox'
    """
    if not name.startswith(_PREFIX):
        return imagenet.preprocessing(name)
    if name == f"{_PREFIX}mobilenet_v2":
        return Preprocessing(_SIZE, mean=_TFLITE_ZERO, std=_TFLITE_ZERO, fit="letterbox")
    known = imagenet.preprocessing(name.removeprefix(_PREFIX))
    return dataclasses.replace(known, size=_SIZE, resize=None, fit="letterbox")


def num_classes(name: str) -> int:
    """Returns how many classes a network's published weights have."""
    return len(CLASS_NAMES) if name.startswith(_PREFIX) else imagenet.NUM_CLASSES


def class_names(name: str, count: int) -> tuple[str, ...]:
    """Returns the classes of a network's published weights: Pascal's or ImageNet's, else numbers.

    Args:
      name: of the network.
      count: of its logits.

    Returns:
      A name for each logit.

    >>> class_names("deeplabv3_resnet50", 21)[15], class_names("resnet50", 2)
    ('person', ('0', '1'))
    """
    if name.startswith(_PREFIX) and count == len(CLASS_NAMES):
        return CLASS_NAMES
    if not name.startswith(_PREFIX) and count == imagenet.NUM_CLASSES:
        return imagenet.class_names()
    return tuple(map(str, range(count)))
