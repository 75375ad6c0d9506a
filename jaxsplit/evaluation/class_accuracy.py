"""Accuracy of a classification network, with an interval and for each class."""

from __future__ import annotations

import time
from typing import NamedTuple

from jaxsplit import data
from jaxsplit.evaluation.evaluate import predictor
from jaxsplit.evaluation.intervals import Value, measure_outputs, metric_value
from jaxsplit.networks import Backbone
from jaxsplit.networks.inference import batch_size


class Accuracy(NamedTuple):
    """Accuracy of a network on held-out images.

    Attributes:
      top1: with its 95 % interval.
      classes: name → images that are classified correctly, and all images.
    """

    top1: Value
    classes: dict[str, tuple[int, int]]

    @property
    def text(self) -> str:
        """One line."""
        assert self.top1.interval is not None
        low, high = (100 * end for end in self.top1.interval)
        count = sum(images for _, images in self.classes.values())
        return (
            f"top-1 {100 * self.top1.mean:.1f} % on {count} held-out images "
            f"(95 % interval {low:.1f} to {high:.1f} %)"
        )


def measure_accuracy(backbone: Backbone, source: data.AnySource) -> tuple[Accuracy, float]:
    """Measures a classification network.

    Args:
      backbone: the network.
      source: labelled images of its classes.

    Returns:
      Its accuracy, and the seconds that an image takes in a batch.

    >>> from jaxsplit import load_backbone
    >>> accuracy, _ = measure_accuracy(load_backbone("fashion_mnist_resnet8"), "embedded")
    >>> accuracy.text
    'top-1 93.7 % on 2000 held-out images (95 % interval 92.5 to 94.6 %)'
    >>> accuracy.classes["Trouser"]
    (198, 200)
    """
    images = data.as_source(source, backbone.class_names)
    backbone.task.check_source(images)
    pixels, labels = data.load_arrays(images, backbone.preprocessing)
    size = batch_size(backbone.preprocessing.input_shape, len(pixels))
    predict = predictor(backbone.fold(), size)
    predict(pixels[:size])  # compiles
    start = time.monotonic()
    found = measure_outputs(
        backbone.task, lambda part: predict(pixels[part]), labels, len(pixels), size
    )
    seconds = (time.monotonic() - start) / len(pixels)
    right = found.statistics["top1"]
    classes = {
        name: (int(right[labels == i].sum()), int((labels == i).sum()))
        for i, name in enumerate(backbone.class_names)
    }
    return Accuracy(metric_value(right, backbone.task.metric("top1")), classes), seconds
