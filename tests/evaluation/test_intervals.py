"""Wilson's interval against published values and its definition."""

import math

import pytest

from jaxsplit.errors import ConfigError
from jaxsplit.evaluation.intervals import wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "trials"), [(1, 2), (7, 10), (913, 1000), (49_990, 50_000)])
def test_its_ends_are_the_shares_that_the_data_lie_1_96_deviations_from(successes, trials):
    share = successes / trials
    for end in wilson_interval(successes, trials):
        deviation = math.sqrt(end * (1 - end) / trials)
        assert abs(share - end) / deviation == pytest.approx(1.959964, rel=1e-5)


def test_it_is_symmetric_holds_the_share_and_shrinks():
    for trials in (1, 7, 500):
        for successes in {0, 1, trials // 3, trials}:
            low, high = wilson_interval(successes, trials)
            assert 0 <= low <= successes / trials <= high <= 1
            other = wilson_interval(trials - successes, trials)
            assert other == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(0, 9)[0] == 0
    assert wilson_interval(9, 9)[1] == 1
    widths = [high - low for low, high in (wilson_interval(9 * n, 10 * n) for n in (1, 10, 1000))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ConfigError, match=f"{successes} of {trials} is not a proportion"):
        wilson_interval(successes, trials)
