"""Pareto fronts of search results: bytes, errors and device cost."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsplit.search.candidates import Candidate
from jaxsplit.tasks import UNNAMED_CLASSES, Metric, Task


@dataclasses.dataclass(frozen=True)
class Result:
    """A candidate's measurement in its last comparison.

    Attributes:
      candidate: the unit and its cut.
      steps: of training before.
      bytes_per_image: mean code length under its prior. A frame adds one or two bytes.
      quality: the task's metric of them, behind the tail.
      n_images: number of images of both.
      task: of the network, whose leading metric the quality is.

    >>> from jaxsplit.units import BottleneckSpec
    >>> candidate = Candidate("stem", BottleneckSpec(8), 1e-3, device_macs=160_000)
    >>> Result(candidate, 500, bytes_per_image=41.5, quality=0.875, n_images=1000).costs
    (41.5, -0.875, 160000)
    """

    candidate: Candidate
    steps: int
    bytes_per_image: float
    quality: float
    n_images: int
    task: Task = UNNAMED_CLASSES

    @property
    def costs(self) -> tuple[float, float, float]:
        """Bytes, negated `score`, and multiply-accumulates on the device: less is better."""
        return self.bytes_per_image, -self.score, self.candidate.device_macs

    @property
    def score(self) -> float:
        """The quality, negated where lower is better."""
        return self.metric.sign * self.quality

    @property
    def metric(self) -> Metric:
        """Label, unit and direction of the quality."""
        return self.task.metric(self.task.quality)

    def to_dict(self) -> dict[str, Any]:
        """Converts to JSON: field → value, None for a number that is not finite."""
        values = {"bytes_per_image": self.bytes_per_image, self.task.quality: self.quality}
        finite = {name: x if math.isfinite(x) else None for name, x in values.items()}
        counts = {"steps": self.steps, "n_images": self.n_images}
        return {**self.candidate.to_dict(), **finite, **counts}

    @classmethod
    def from_dict(
        cls, candidate: Candidate, stored: Mapping[str, Any], task: Task = UNNAMED_CLASSES
    ) -> Result:
        """Rebuilds a result from `to_dict`.

        Args:
          candidate, task: of the result, and of the network.
          stored: steps, bytes_per_image, the task's quality and n_images; None becomes nan.

        Returns:
          The same result.
        """
        given = stored["bytes_per_image"], stored[task.quality]
        size, value = (math.nan if x is None else float(x) for x in given)
        steps, n_images = (operator.index(stored[name]) for name in ("steps", "n_images"))
        return cls(candidate, steps, size, value, n_images, task)


def dominance(costs: np.ndarray) -> np.ndarray:
    """Computes which rows of costs float [N, K] dominate which others: bool [N, N].

    [i, j] is True where i is nowhere worse than j and somewhere better. Finite rows dominate all
    others.

    >>> dominance(np.array([[1.0, 1.0], [1.0, 2.0], [0.0, 3.0]])).nonzero()
    (array([0]), array([1]))
    """
    costs = np.where(np.isfinite(costs).all(axis=1, keepdims=True), costs, np.inf)
    one, other = costs[:, None], costs[None]
    return np.logical_and((one <= other).all(axis=2), (one < other).any(axis=2))


def front_ranks(costs: np.ndarray) -> np.ndarray:
    """Returns each row's front, int [N]: 0 where no row dominates it, 1 without those, …"""
    beats, ranks = dominance(costs), np.full(len(costs), -1)
    rank = 0
    while (left := ranks < 0).any():
        ranks[left & ~(beats & left[:, None]).any(axis=0)] = rank
        rank += 1
    return ranks


def choose(results: Sequence[Result], count: int) -> list[Result]:
    """Selects `count` results: whole fronts, and from the last one those that are far apart.

    Distances are between ranks, so that units of costs don't matter. Extremes come first. The
    selection is deterministic and keeps the order of the results.
    """
    return [results[i] for i in _best(_costs(results), count)]


def choose_by_cut(results: Sequence[Result], keep: float) -> list[Result]:
    """Selects a share of each cut's results by bytes and errors, at least one, in their order.

    Cuts are not compared with each other: before training through the tail, errors depend more on
    the tail than on the unit. At one cut multiply-accumulates differ too little to count. Units
    that send less than a byte an image have collapsed and come last; by their bytes they would be
    kept.
    """
    costs, chosen = _costs(results)[:, :2], list[int]()
    costs[costs[:, 0] < 1] = np.inf
    cuts = np.array([result.candidate.cut for result in results])
    for cut in np.unique(cuts):
        mine = np.flatnonzero(cuts == cut)
        chosen += mine[_best(costs[mine], max(1, round(keep * len(mine))))].tolist()
    return [results[i] for i in sorted(chosen)]


def _costs(results: Sequence[Result]) -> np.ndarray:
    return np.array([result.costs for result in results], float).reshape(len(results), 3)


def _best(costs: np.ndarray, count: int) -> list[int]:
    """Rising indices of `count` rows of costs [N, K], see `choose`."""
    ranks, chosen = front_ranks(costs), list[int]()
    for rank in range(ranks.max(initial=-1) + 1):
        layer, room = np.flatnonzero(ranks == rank).tolist(), count - len(chosen)
        chosen += layer if len(layer) <= room else _spread(costs, layer, room)
    return sorted(chosen)


def _spread(costs: np.ndarray, layer: list[int], count: int) -> list[int]:
    """Selects `count` indices of a front that are far apart, by farthest-point sampling."""
    ranks = costs[layer].argsort(axis=0, kind="stable").argsort(axis=0) / max(len(layer) - 1, 1)
    extremes = ranks.argmin(axis=0).tolist()  # the smallest, the most accurate, the cheapest
    picked = list(dict.fromkeys((extremes[1], extremes[0], *extremes[2:])))[:count]
    while len(picked) < count:
        apart = np.abs(ranks[:, None] - ranks[None, picked]).sum(axis=2).min(axis=1)
        apart[picked] = -1
        picked.append(int(apart.argmax()))
    return [layer[i] for i in picked]


def front(results: Sequence[Result], min_score: float = -math.inf) -> list[Result]:
    """Returns the Pareto front of results with at least `min_score`, fewest bytes first.

    Where no result reaches `min_score`, the largest score is the limit.
    """
    finite = [result for result in results if np.isfinite(result.costs).all()] or results
    min_score = min(min_score, max((result.score for result in finite), default=min_score))
    eligible = [result for result in finite if not result.score < min_score]
    kept = [eligible[i] for i in np.flatnonzero(front_ranks(_costs(eligible)) == 0).tolist()]
    return sorted(kept, key=lambda result: result.costs)
