"""Fronts and choices, against their definition."""

import itertools

import numpy as np
import pytest

from jaxsplit.search.candidates import Candidate
from jaxsplit.search.pareto import Result, choose, choose_by_cut, dominance, front, front_ranks
from jaxsplit.units.bottleneck import BottleneckSpec

SPEC = BottleneckSpec(4)


def results(costs):
    return [
        Result(Candidate(f"cut{i}", SPEC, 1e-3, macs), 10, size, 1 - error, 100)
        for i, (size, error, macs) in enumerate(costs)
    ]


@pytest.fixture(params=range(5))
def costs(request):
    """Few values, so that some are equal."""
    return np.random.default_rng(request.param).integers(0, 6, (40, 3)).astype(float)


def test_one_beats_another_that_is_nowhere_better_and_somewhere_worse(costs):
    beats = dominance(costs)
    for i, j in itertools.product(range(len(costs)), repeat=2):
        pairs = list(zip(costs[i], costs[j], strict=True))
        expected = all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
        assert beats[i, j] == expected


def test_every_rank_is_beaten_by_the_one_before_and_not_by_its_own(costs):
    beats, ranks = dominance(costs), front_ranks(costs)
    for i, rank in enumerate(ranks):
        beating = ranks[beats[:, i]]
        assert (beating < rank).all()
        assert rank == 0 or (beating == rank - 1).any()


def test_what_is_not_finite_comes_last():
    costs = np.array([[1.0, np.nan, 1.0], [9.0, 9.0, 9.0], [np.inf, 1.0, 1.0]])
    assert front_ranks(costs).tolist() == [1, 0, 1]


def test_chosen_are_whole_fronts_and_then_the_extremes(costs):
    given = results(costs)
    ranks = front_ranks(np.array([result.costs for result in given]))
    for count in (1, 3, 10, 39, 40, 50):
        chosen = choose(given, count)
        assert len(chosen) == min(count, len(given))
        assert chosen == [result for result in given if result in chosen]  # in their order
        assert chosen == choose(given, count)
        kept = ranks[[given.index(result) for result in chosen]]
        assert all((kept == rank).sum() == (ranks == rank).sum() for rank in range(kept.max()))
    accurate = min(result.costs[1] for result in given)
    assert choose(given, 1)[0].costs[1] == accurate


def test_of_a_long_front_the_ends_are_kept():
    line = [(float(i), float(20 - i), 5.0) for i in range(21)]
    kept = [result.bytes_per_image for result in choose(results(line), 3)]
    assert kept == [0, 10, 20]


def test_the_front_is_what_nothing_beats_by_bytes(costs):
    given = results(costs)
    found = front(given)
    ranks = front_ranks(np.array([result.costs for result in given]))
    assert sorted(r.candidate.cut for r in found) == sorted(
        r.candidate.cut for r, rank in zip(given, ranks, strict=True) if rank == 0
    )
    assert [r.bytes_per_image for r in found] == sorted(r.bytes_per_image for r in found)
    assert front([]) == [] == choose([], 3)


def test_a_point_that_loses_too_much_is_not_on_the_front():
    given = results([(0.0, 0.9, 1.0), (9.0, 0.3, 2.0), (12.0, 0.1, 3.0), (20.0, 0.4, 3.0)])
    assert [r.bytes_per_image for r in front(given)] == [0, 9, 12]
    assert [r.bytes_per_image for r in front(given, 0.6)] == [9, 12]
    assert [r.bytes_per_image for r in front(given, 0.95)] == [12]  # nothing does: the nearest
    diverged = results([(np.nan, 0.0, 1.0)])
    assert front([*given, *diverged], 0.95) == front(given, 0.95)
    assert front(diverged, 0.5) == diverged


def test_cuts_are_not_compared_with_each_other(costs):
    """Everything at the second cut is worse than everything at the first; all send something."""
    spec = [BottleneckSpec(channels) for channels in range(1, 21)]
    given = [
        Result(Candidate(cut, one, 1e-3, 100), 10, size + worse, 1 - error - worse, 100)
        for cut, worse, part in (("a", 1, costs[:20]), ("b", 50, costs[20:]))
        for one, (size, error, _) in zip(spec, part, strict=True)
    ]
    for keep, count in ((0.01, 1), (0.4, 8), (1.0, 20)):
        chosen = choose_by_cut(given, keep)
        assert chosen == [result for result in given if result in chosen]
        for cut in "ab":
            mine = [result for result in given if result.candidate.cut == cut]
            kept = [result for result in chosen if result.candidate.cut == cut]
            assert kept == choose(mine, count)  # of equal multiply-accumulates


def test_what_has_collapsed_takes_no_place_of_what_sends_something():
    spec, sizes = [BottleneckSpec(channels) for channels in range(1, 5)], (0.0, 0.5, 9.0, 20.0)
    given = [
        Result(Candidate("a", one, 1e-3, 100), 10, size, top1, 100)
        for one, size, top1 in zip(spec, sizes, (0.4, 0.5, 0.1, 0.3), strict=True)
    ]
    for count in (1, 2, 3, 4):
        kept = choose_by_cut(given, count / 4)
        assert sum(r.bytes_per_image > 1 for r in kept) == min(count, 2)
        assert len(kept) == count
