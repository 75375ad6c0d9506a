"""Splits of a source: by name, by percent of every class, and picks spread over the classes."""

import re
from collections.abc import Sequence

import numpy as np

from jaxsplit.errors import DataError

_DEFAULT_SPLITS = ("test", "val", "validation")


def spread(labels: np.ndarray, count: int) -> np.ndarray:
    """Picks `count` examples spread evenly over the classes: the first ones of each class.

    A smaller pick is always part of a larger one. Where a class runs out, the others fill up.

    Args:
      labels: int [N].
      count: how many to take, at most N.

    Returns:
      int64 [count], ascending indices into `labels`.

    >>> spread(np.array([0, 0, 0, 0, 1, 1, 2]), 5).tolist()
    [0, 1, 4, 5, 6]
    """
    labels = np.asarray(labels)
    return np.sort(np.lexsort((labels, _ranks(labels)))[:count])


def _ranks(labels: np.ndarray) -> np.ndarray:
    """Of every example its number in its class: 0 for the first, then 1, …"""
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    ranks = np.empty(len(labels), np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return ranks


def part_of(labels: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Indices of the examples from `start` to `stop` percent of every class."""
    sizes = np.bincount(labels)[labels]
    ranks = 100 * _ranks(labels)
    return np.flatnonzero((ranks >= start * sizes) & (ranks < stop * sizes))


def parse_split(split: str | None) -> tuple[str | None, tuple[int, int] | None]:
    """`"train[:90%]"` → `("train", (0, 90))`; what isn't of this form is a name."""
    found = re.fullmatch(r"(.+)\[(?:(\d{1,3})%)?:(?:(\d{1,3})%)?\]", split or "")
    if found is None:
        return split, None
    start, stop = int(found[2] or 0), int(found[3] or 100)
    if not start < stop <= 100:
        raise DataError(f"split {split!r} is empty or more than the whole; expected such as [:90%]")
    return found[1], (start, stop)


def choose_split(split: str | None, available: Sequence[str], name: str) -> str:
    """The split that was asked for, or the default one, if `name` has it.

    Raises:
      DataError: there is no such split, or none is the obvious default.

    >>> choose_split(None, ["train", "val"], "folder:x")
    'val'
    """
    listed = ", ".join(available)
    if split is not None:
        if split not in available:
            raise DataError(f"{name} has no split {split!r}; it has: {listed}")
        return split
    for default in _DEFAULT_SPLITS:
        if default in available:
            return default
    if len(available) == 1:
        return available[0]
    raise DataError(f"{name} has several splits and none is the default; choose one of: {listed}")
