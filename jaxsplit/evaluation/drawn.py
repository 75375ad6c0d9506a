"""Predictions of a few evaluated images as pictures, for reports of tasks that draw maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxsplit.data.images import to_pillow
from jaxsplit.tasks import Task

_IMAGES, _RATES = 4, 3


class DrawnRate(NamedTuple):
    """Prediction from an image's frame at a rate, and the bytes of the frame."""

    rate_id: str
    bytes: int
    picture: Image.Image


class DrawnImage(NamedTuple):
    """An image as the network takes it, what the unsplit network predicts, and what rates give."""

    image: Image.Image
    unsplit: Image.Image
    rates: tuple[DrawnRate, ...]


class Drawn(NamedTuple):
    """Pictures of a few images; empty where the task draws nothing.

    Attributes:
      images: of the evaluation, evenly spaced; at three of the rates, by rising bytes.
      legend: name → (red, green, blue).
    """

    images: tuple[DrawnImage, ...] = ()
    legend: Mapping[str, tuple[int, ...]] = MappingProxyType({})


#: No pictures.
NOTHING = Drawn()


def draw(
    task: Task,
    images: np.ndarray,
    unsplit: np.ndarray,
    rate_ids: Sequence[str],
    lengths: Sequence[Sequence[int]],
    predicted: Sequence[np.ndarray],
) -> Drawn:
    """Draws a few images of an evaluation.

    Args:
      task: of the network.
      images: uint8 [N, h, w, c], as the network takes them.
      unsplit: predictions of the unsplit network, [N, …].
      rate_ids: names of R rates.
      lengths: bytes of the frames, [R][N].
      predicted: predictions from the frames, [R][N, …].

    Returns:
      The pictures.
    """
    count = len(images)
    if not (count and rate_ids and task.has_maps):
        return NOTHING
    chosen = sorted({i * count // _IMAGES for i in range(_IMAGES)})
    by_bytes = np.argsort([np.mean(one) for one in lengths], kind="stable").tolist()
    last = len(by_bytes) - 1
    rates = [by_bytes[i] for i in sorted({last * i // (_RATES - 1) for i in range(_RATES)})]
    originals = task.draw(unsplit[chosen])
    at_rates = {rate: task.draw(predicted[rate][chosen]) for rate in rates}
    drawn = [
        DrawnImage(
            to_pillow(images[index]),
            originals[k],
            tuple(
                DrawnRate(rate_ids[rate], int(lengths[rate][index]), at_rates[rate][k])
                for rate in rates
            ),
        )
        for k, index in enumerate(chosen[: len(originals)])
    ]
    return Drawn(tuple(drawn), task.legend)
