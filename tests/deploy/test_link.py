"""Rate control by the link, on simulated time: what fits, what a change costs."""

import heapq
import random

import pytest

from jaxsplit.deploy.link import OVERHEAD, LinkEstimator

RATES = (420, 750, 1180, 1720, 2250, 2790)  # mean bytes, as EfficientNet-Lite0 has at stage6.block1
TRACE = ((20, 2e6), (20, 1e5), (20, 1e6))  # seconds, bits a second


def sent_by(start, size, trace):
    """When a link that is free at `start` has sent so many bytes."""
    edge, left = 0.0, float(size)
    for seconds, bits in (*trace, (1e9, trace[-1][1])):
        edge += seconds
        if start >= edge:
            continue
        if start + 8 * left / bits <= edge:
            return start + 8 * left / bits
        left -= (edge - start) * bits / 8
        start = edge
    raise AssertionError


def drive(choose, trace=TRACE, seconds=60, fps=10, deadline=0.2, jitter=0.004, server=0.012):
    """Sends frames over a simulated link; returns the rate of each that is in time, else None.

    Args:
      choose: (estimator, seconds left, now, sizes) → index of a rate, or None to drop.
    """
    rng, link = random.Random(0), LinkEstimator()
    link.sent(-1, 250, 0.0)
    link.answered(-1, sent_by(0.0, 250, trace) + 0.04, 0.0)
    replies, free, outcomes = [], 0.0, []
    for number in range(seconds * fps):
        now = 0.2 + number / fps
        while replies and replies[0][0] <= now:
            arrival, answered, spent = heapq.heappop(replies)
            link.answered(answered, arrival, spent)
        scale = rng.lognormvariate(0, 0.17)
        sizes = [round(scale * mean) for mean in RATES]
        rate = choose(link, deadline - 0.018, now + 0.018, sizes)  # encoding takes 18 ms
        if rate is None:
            outcomes.append(None)
            continue
        link.sent(number, sizes[rate], now + 0.018)
        free = sent_by(max(now + 0.038, free), sizes[rate] + OVERHEAD, trace)
        spent = server * rng.uniform(0.5, 1.8)
        arrival = free + 0.02 + spent + rng.expovariate(1 / jitter)
        heapq.heappush(replies, (arrival, number, spent))
        outcomes.append(rate if arrival - now <= deadline else None)
    return outcomes


def by_link(link, left, now, sizes):
    budget = link.budget(left, now)
    return max((rate for rate, size in enumerate(sizes) if size <= budget), default=0)


def in_time(outcomes):
    return sum(rate is not None for rate in outcomes) / len(outcomes)


@pytest.mark.parametrize("jitter", [0.001, 0.004, 0.01])
def test_most_frames_of_a_changing_link_are_in_time(jitter):
    assert in_time(drive(by_link, jitter=jitter)) >= 0.97


def test_the_rate_follows_the_link():
    outcomes = drive(by_link)
    fast, slow, again = outcomes[:195], outcomes[205:395], outcomes[405:]
    assert sum(rate == 5 for rate in fast) > 0.95 * len(fast)
    assert sum(rate is None or rate <= 3 for rate in slow) == len(slow)
    assert sum(rate in (1, 2, 3) for rate in slow) > 0.9 * len(slow)  # not the cheapest alone
    assert sum(rate == 5 for rate in again) > 0.95 * len(again)


def test_no_fixed_rate_is_as_useful():
    """A frame in time counts as its rate's accuracy, others as 0."""
    accuracy = (0.7475, 0.8225, 0.88, 0.8825, 0.8825, 0.885)

    def useful(outcomes):
        return sum(0 if rate is None else accuracy[rate] for rate in outcomes)

    best = max(useful(drive(lambda *_, rate=rate: rate)) for rate in range(len(RATES)))
    assert useful(drive(by_link)) > best


def test_a_change_to_a_twentieth_costs_few_frames():
    outcomes = drive(by_link)
    assert sum(rate is None for rate in outcomes[195:215]) <= 6


def test_a_link_too_slow_for_anything_leaves_no_budget():
    link = LinkEstimator()
    for number in range(5):
        link.sent(number, 1000, 2.0 * number)
        link.answered(number, 2.0 * number + 1.5, 0.0)
    assert link.budget(0.2, 10.0) < 200
    link.sent(9, 2000, 10.0)
    assert link.budget(0.2, 10.05) == 0  # what was sent takes too long already
    assert link.free(10.05) > 10.5


def test_lost_frames_do_not_hold_the_link():
    link = LinkEstimator()
    for number in range(5):
        link.sent(number, 1000, 0.1 * number)
        link.answered(number, 0.1 * number + 0.05, 0.0)
    link.sent(9, 2000, 1.0)
    assert link.budget(0.2, 3.0) == 0  # no reply for two seconds
    link.lost(9)
    assert link.budget(0.2, 3.0) > 500
    link.answered(9, 3.1, 0.0)  # a reply after all says nothing


def test_the_pace_of_a_camera_fits_the_throughput():
    link = LinkEstimator()
    for number in range(20):
        link.sent(number, 1000, 0.2 * number)
        link.answered(number, 0.2 * number + 0.03 + (1000 + OVERHEAD) / 1e5, 0.0)
    slow, fast = link.pace(1 / 5, 4.0), link.pace(1 / 20, 4.0)
    assert 1500 < fast < 5100
    assert slow > 3 * fast
