"""Selects splits by name, percent ranges of every class, and class-balanced subsets."""

import re
from collections.abc import Sequence

import numpy as np

from jaxsplit.errors import DataError, did_you_mean

_DEFAULT_SPLITS = ("test", "val", "validation")


def spread(labels: np.ndarray, count: int) -> np.ndarray:
    """Selects a class-balanced subset: the first examples of each class.

    Smaller subsets are contained in larger ones. If a class has too few examples, the others fill
    up.

    Args:
      labels: int [N].
      count: number of examples, at most N.

    Returns:
      int64 [count], ascending indices into `labels`.

    >>> spread(np.array([0, 0, 0, 0, 1, 1, 2]), 5).tolist()
    [0, 1, 4, 5, 6]
    """
    labels = np.asarray(labels)
    return np.sort(np.lexsort((labels, _ranks(labels)))[:count])


def _ranks(labels: np.ndarray) -> np.ndarray:
    """Returns the index of every example within its class."""
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    ranks = np.empty(len(labels), np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return ranks


def part_of(labels: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Returns the indices of the examples from `start` to `stop` percent of every class."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sizes = counts[classes]
    ranks = 100 * _ranks(labels)
    return np.flatnonzero((ranks >= start * sizes) & (ranks < stop * sizes))


def parse_split(split: str | None) -> tuple[str | None, tuple[int, int] | None]:
    """Parses `"train[:90%]"` to `("train", (0, 90))`; other strings are names."""
    found = re.fullmatch(r"(.+)\[(?:(\d{1,3})%)?:(?:(\d{1,3})%)?\]", split or "")
    if found is None:
        return split, None
    start, stop = int(found[2] or 0), int(found[3] or 100)
    if not start < stop <= 100:
        raise DataError(f"split {split!r} is empty or exceeds 100 %, expected e.g. train[:90%]")
    return found[1], (start, stop)


def choose_split(split: str | None, available: Sequence[str], name: str) -> str:
    """Returns the requested split of the dataset `name`, or the default one.

    Raises a DataError if there is no such split, or none requested and no default among several.
    """
    listed = ", ".join(available)
    if split is not None and split not in available:
        near = did_you_mean(split, available)
        raise DataError(f"{name} has no split {split!r}; it has: {listed}{near}")
    defaults = [default for default in _DEFAULT_SPLITS if default in available]
    if split is None and not defaults and len(available) != 1:
        raise DataError(f"{name} has several splits, none the default; choose one of: {listed}")
    return split or [*defaults, *available][0]
