"""Which results are worth having: those that no other beats in everything."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsplit.search.candidates import Candidate


@dataclasses.dataclass(frozen=True)
class Result:
    """What a candidate was worth when it was last compared.

    Attributes:
      candidate: what it is.
      steps: that it had trained.
      bytes_per_image: mean, estimated: what its prior charges. A frame adds a byte or two.
      top1: share of the images, behind the tail.
      n_images: that these are means of.

    >>> from jaxsplit.cost import grid_spec
    >>> candidate = Candidate("stem", grid_spec(channels=8, stride=2), 1e-3, device_macs=160_000)
    >>> Result(candidate, 500, bytes_per_image=41.5, top1=0.875, n_images=1000).costs
    (41.5, 0.125, 160000)
    """

    candidate: Candidate
    steps: int
    bytes_per_image: float
    top1: float
    n_images: int

    @property
    def costs(self) -> tuple[float, float, float]:
        """What less of is better: bytes, errors, and multiply-accumulates on the device."""
        return self.bytes_per_image, 1 - self.top1, self.candidate.device_macs

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, which knows no nan: None stands for what is not finite."""
        values = {
            name: x if math.isfinite(x) else None
            for name, x in (("bytes_per_image", self.bytes_per_image), ("top1", self.top1))
        }
        counts = {"steps": self.steps, "n_images": self.n_images}
        return {**self.candidate.to_dict(), **values, **counts}

    @classmethod
    def from_dict(cls, candidate: Candidate, said: Mapping[str, Any]) -> Result:
        """What `to_dict` said of a candidate.

        Args:
          candidate: it.
          said: steps, bytes_per_image, top1 and n_images, None where there was no number.

        Returns:
          The same result, with nan for None.
        """
        size, top1 = (
            math.nan if said[name] is None else said[name] for name in ("bytes_per_image", "top1")
        )
        return cls(candidate, said["steps"], size, top1, said["n_images"])


def dominance(costs: np.ndarray) -> np.ndarray:
    """[i, j]: whether i is nowhere worse than j and somewhere better, of costs float [N, K].

    What is not finite is beaten by all that is.

    >>> dominance(np.array([[1.0, 1.0], [1.0, 2.0], [0.0, 3.0]])).nonzero()
    (array([0]), array([1]))
    """
    costs = np.where(np.isfinite(costs).all(axis=1, keepdims=True), costs, np.inf)
    one, other = costs[:, None], costs[None]
    return np.logical_and((one <= other).all(axis=2), (one < other).any(axis=2))


def front_ranks(costs: np.ndarray) -> np.ndarray:
    """0 for what nothing beats, 1 for what only those beat, and so on: int [N]."""
    beats, ranks = dominance(costs), np.full(len(costs), -1)
    rank = 0
    while (left := ranks < 0).any():
        ranks[left & ~(beats & left[:, None]).any(axis=0)] = rank
        rank += 1
    return ranks


def choose(results: Sequence[Result], count: int) -> list[Result]:
    """The best `count` results: whole fronts, and of the last one those that are far apart.

    Distances are of ranks, so that no cost outweighs another by its unit. Extremes come first.
    Deterministic, and in the order of the results.
    """
    return [results[i] for i in _best(_costs(results), count)]


def choose_by_cut(results: Sequence[Result], keep: float) -> list[Result]:
    """Of every cut the best share of its results by bytes and errors, at least one; in their order.

    Cuts are not compared with each other: before anything has trained through the tails, errors
    say more of how much a tail makes of an error than of what a unit becomes. And at one cut the
    multiply-accumulates differ by too little to be worth a place. What sends less than a byte for
    an image has collapsed, and comes last: nothing has fewer bytes, so that it would be kept.
    """
    places: dict[str, list[int]] = {}
    for i, result in enumerate(results):
        places.setdefault(result.candidate.cut, []).append(i)
    costs, chosen = _costs(results)[:, :2], list[int]()
    costs[costs[:, 0] < 1] = np.inf
    for mine in places.values():
        count = max(1, round(keep * len(mine)))
        chosen += [mine[i] for i in _best(costs[mine], count)]
    return [results[i] for i in sorted(chosen)]


def _costs(results: Sequence[Result]) -> np.ndarray:
    return np.array([result.costs for result in results], float).reshape(len(results), 3)


def _best(costs: np.ndarray, count: int) -> list[int]:
    """Rising places of `count` of the costs [N, K], as of `choose`."""
    ranks = front_ranks(costs)
    chosen: list[int] = []
    for rank in range(ranks.max(initial=-1) + 1):
        layer = np.flatnonzero(ranks == rank).tolist()
        room = count - len(chosen)
        chosen += layer if len(layer) <= room else _spread(costs, layer, room)
    return sorted(chosen)


def _spread(costs: np.ndarray, layer: list[int], count: int) -> list[int]:
    """Of a layer, `count` places far from each other, by farthest-point sampling."""
    places = costs[layer].argsort(axis=0, kind="stable").argsort(axis=0) / max(len(layer) - 1, 1)
    picked: list[int] = []
    for axis in (1, 0, 2)[: costs.shape[1]]:  # the most accurate, the smallest, the cheapest
        picked.append(int(places[:, axis].argmin()))
    picked = list(dict.fromkeys(picked))[:count]
    while len(picked) < count:
        apart = np.abs(places[:, None] - places[None, picked]).sum(axis=2).min(axis=1)
        apart[picked] = -1
        picked.append(int(apart.argmax()))
    return [layer[i] for i in picked]


def front(results: Sequence[Result], least: float = -math.inf) -> list[Result]:
    """What nothing beats, the fewest bytes first.

    Args:
      results: those to choose from.
      least: top-1 that is worth anything. Where nothing reaches it, the front is of what comes
        nearest.
    """
    finite = [result for result in results if np.isfinite(result.costs).all()] or results
    least = min(least, max((result.top1 for result in finite), default=least))
    able = [result for result in finite if not result.top1 < least]
    kept = [able[i] for i in np.flatnonzero(front_ranks(_costs(able)) == 0).tolist()]
    return sorted(kept, key=lambda result: result.costs)
