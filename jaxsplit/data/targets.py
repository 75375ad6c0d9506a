"""How a task's targets are read from examples: labels, or arrays such as masks."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from jaxsplit.data.augmentation import Views
from jaxsplit.data.preprocessing import Preprocessing
from jaxsplit.errors import DataError
from jaxsplit.io.identity import identity


class Example(TypedDict):
    """An image, uint8 [H, W, C], with its class or its mask if it has one.

    Own records may add what the targets of their task are read from.
    """

    image: np.ndarray
    label: NotRequired[int]  # an index into the source's class names, -1 without one
    # Class indices uint8 [H, W], or the PNG file of them, see `masks.decode_mask`.
    mask: NotRequired[np.ndarray | Path | bytes]


class TargetReader(abc.ABC):
    """Reads the target of an example, one array, for training and evaluation.

    A hashable value. A target of the image's height and width, [h, w, …], is a map, such as a mask:
    augmentation moves it with the image, without interpolation. Other targets stay as they are.

    >>> example = {"image": np.zeros((28, 28, 1), np.uint8), "label": 7}
    >>> LABELS.read(example, Preprocessing((28, 28), 1)).item()
    7
    """

    @abc.abstractmethod
    def blank(self, preprocessing: Preprocessing) -> np.ndarray:
        """Returns the target of an image that counts nowhere.

        Its shape and type are those of all targets. Padded batches, and maps beyond the border of
        the image, are filled with it.

        Args:
          preprocessing: of the network.

        Returns:
          An array of one value, such as -1: [], or [h, w] of a mask.
        """

    @abc.abstractmethod
    def read(self, example: Example, preprocessing: Preprocessing) -> np.ndarray:
        """Returns the target of an example, like `blank`.

        Args:
          example: of a source, with the image as it was decoded, of any size.
          preprocessing: of the network, whose geometry maps must follow.

        Returns:
          The array; a DataError if the example has no such target.
        """


class _Labels(TargetReader):
    """int32 []: the class of each image, -1 without one."""

    def blank(self, preprocessing: Preprocessing) -> np.ndarray:
        return np.array(-1, np.int32)

    def read(self, example: Example, preprocessing: Preprocessing) -> np.ndarray:
        return np.array(example.get("label", -1), np.int32)


#: Reads the class of each image, int32 [], -1 without one.
LABELS: TargetReader = _Labels()


def in_views(
    targets: np.ndarray,
    reader: TargetReader,
    preprocessing: Preprocessing,
    views: Views,
    numbers: np.ndarray,
    which: np.ndarray,
) -> np.ndarray:
    """Moves maps with their images, see `Views.apply`; other targets are returned unchanged.

    Args:
      targets: [B, …], as `reader` reads them.
      reader, preprocessing: of the targets and the network.
      views, numbers, which: the views, the images' numbers and the view of each.

    Returns:
      [B, …].
    """
    if targets.shape[1:3] != preprocessing.size:
        return targets
    fill = reader.blank(preprocessing).flat[0]
    return views.apply_to_maps(targets, fill, numbers, which)


def reader_identity(reader: TargetReader) -> object:
    """Returns what differs for readers of other code, class or attributes, ready for JSON."""
    return [identity(reader), identity(getattr(reader, "__dict__", {}))]


def blank_rows(reader: TargetReader, count: int, preprocessing: Preprocessing) -> np.ndarray:
    """Returns a writable array [count, …] of blank targets."""
    blank = np.asarray(reader.blank(preprocessing))
    return np.broadcast_to(blank, (count, *blank.shape)).copy()


def read_row(
    reader: TargetReader, rows: np.ndarray, i: int, example: Example, preprocessing: Preprocessing
) -> None:
    """Writes an example's target to a row of `blank_rows`; a DataError if it doesn't fit."""
    try:
        target, shape = np.asarray(reader.read(example, preprocessing)), rows.shape[1:]
    except KeyError as error:
        kind = type(reader).__name__
        raise DataError(f"an example has no {error}, which {kind} reads") from error
    if target.shape != shape or not np.can_cast(target.dtype, rows.dtype, "same_kind"):
        raise DataError(
            f"a target is {target.dtype} {target.shape}, but the reader's blank one is "
            f"{rows.dtype} {shape}"
        )
    rows[i] = target
