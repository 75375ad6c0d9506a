"""Training and held-out images of one set: its splits, or parts of every class."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsplit.data.arrays import AnySource, as_source
from jaxsplit.data.pipeline import fits_memory, load_arrays, stream
from jaxsplit.data.preprocessing import Preprocessing
from jaxsplit.data.sources import Source, open_source
from jaxsplit.errors import DataError, warn_once

#: Least images of a class: two to fit to, and one that is held out.
LEAST = 3
_TRAIN, _TESTS = "train", ("test", "val", "validation")
# Smallest class → first percent of the held-out part: at least one image of every class.
_STARTS = {LEAST: 66, LEAST + 1: 75}
_START = 80  # of larger classes
_THREADS = 4


def open_parts(images: AnySource, class_names: Sequence[str] = ()) -> tuple[Source, Source]:
    """Opens the training and the held-out images of a set.

    These are its splits `train` and `test`, `val` or `validation`. A set without them is divided,
    see `hold_out`.

    Args:
      images: a name or a folder, see `open_source`; a source; or arrays (images, labels).
      class_names: of labels in arrays.

    Returns:
      Training and held-out images.

    Raises:
      DataError: there are no such images, no labels, or a class of a set without splits has too
        few images.

    >>> train, test = open_parts("embedded")
    >>> train, test
    (Source('embedded', split='train', 6000 images), Source('embedded', split='test', 2000 images))
    """
    source = as_source(images, class_names)
    if isinstance(images, str | Path) and source.split in _TESTS:
        return open_source(images, _TRAIN), source
    return hold_out(source)


def hold_out(source: Source) -> tuple[Source, Source]:
    """Divides images: the last fifth of every class, by its order, is held out, at least one.

    Files are ordered by name, so that pictures of one series mostly stay together.

    Args:
      source: images with labels, at least three of each class.

    Returns:
      Training and held-out images; a DataError if there are too few.

    >>> train, test = hold_out(open_source("embedded", max_samples=100))
    >>> train.split, test.split, np.bincount(test.labels).tolist()
    ('test[0%:80%]', 'test[80%:100%]', [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    source.check_labelled()
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    if counts.min() < LEAST:
        name = source.class_names[int(counts.argmin())]
        raise DataError(
            f"the class {name} of {source.name} has {counts.min()} images: give {LEAST} or more, "
            "one of which is held out"
        )
    start = _STARTS.get(int(counts.min()), _START)
    return source.part(0, start), source.part(start, 100)


def readable(source: Source, preprocessing: Preprocessing) -> Source:
    """Leaves out images that can't be decoded, and counts them in a warning.

    Args:
      source: the images. As many as `batches` keeps in memory are not decoded again.
      preprocessing: the backbone's.

    Returns:
      The source, or one of those that can be decoded; a DataError if there is none.

    >>> readable(open_source("embedded", max_samples=20), Preprocessing((28, 28), 1))
    Source('embedded', split='test', 20 images)
    """
    if fits_memory(source, preprocessing):
        with contextlib.suppress(DataError):
            load_arrays(source, preprocessing)
            return source
    errors = {}

    def check(index: int) -> tuple[int, str]:
        try:
            source[index]
        except DataError as error:
            return index, str(error)
        return index, ""

    for index, error in stream(check, 0, len(source), _THREADS):
        if error:
            errors[index] = error
    if not errors:
        return source
    first = next(iter(errors.values()))
    if len(errors) == len(source):
        raise DataError(f"no image of {source.name} can be read, such as: {first}")
    warn_once(
        f"unreadable {source.name} {source.split}",
        f"{source.name}: {len(errors)} of {len(source)} images are left out, such as: {first}",
    )
    return source.select(np.setdiff1d(np.arange(len(source)), list(errors)))
