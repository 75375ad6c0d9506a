"""The Bjøntegaard distances agree with closed forms, an integration of our own, and themselves."""

import math

import bjontegaard
import numpy as np
import pytest

from jaxsplit.errors import ConfigError
from jaxsplit.evaluation.bd_rate import METHODS, bd_accuracy, bd_rate, common_rates, overlap

REFERENCE = [(30.0, 0.80), (55.0, 0.87), (90.0, 0.90), (160.0, 0.915)]
OTHER = [(25.0, 0.79), (50.0, 0.88), (120.0, 0.91), (170.0, 0.92), (300.0, 0.93)]


def pchip(x, y, at):
    """Fritsch and Butland's cubic through rising points, term by term."""
    steps, secants = np.diff(x), np.diff(y) / np.diff(x)

    def end(step, next_step, secant, next_secant):
        slope = ((2 * step + next_step) * secant - step * next_secant) / (step + next_step)
        return max(0.0, slope)

    slopes = np.repeat(secants[0], len(x))
    if len(x) > 2:
        slopes[0] = end(*steps[:2], *secants[:2])
        slopes[-1] = end(*steps[:-3:-1], *secants[:-3:-1])
        for k in range(1, len(x) - 1):
            before, after = 2 * steps[k] + steps[k - 1], steps[k] + 2 * steps[k - 1]
            slopes[k] = (before + after) / (before / secants[k - 1] + after / secants[k])
    k = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(steps) - 1)
    t = (at - x[k]) / steps[k]
    values = (1 + 2 * t) * (1 - t) ** 2 * y[k] + t**2 * (3 - 2 * t) * y[k + 1]
    return values + steps[k] * t * (1 - t) * ((1 - t) * slopes[k] - t * slopes[k + 1])


def integrated(reference, test, low, high):
    """BD-rate by the midpoint rule."""
    at = low + (np.arange(100_000) + 0.5) / 100_000 * (high - low)
    logs = [
        pchip(np.array(q), np.log(r), at)
        for r, q in (zip(*c, strict=True) for c in (reference, test))
    ]
    return 100 * math.expm1((logs[1] - logs[0]).mean())


def test_curve_against_itself_is_zero():
    assert bd_rate(REFERENCE, REFERENCE) == 0
    assert bd_accuracy(REFERENCE, REFERENCE) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.25])
def test_scaled_rates_give_their_factor(factor, method):
    scaled = [(factor * rate, quality) for rate, quality in REFERENCE]
    assert bd_rate(REFERENCE, scaled, method=method) == pytest.approx(100 * (factor - 1), abs=1e-9)
    assert bd_rate(REFERENCE, scaled, method=method, limits=(0.85, 0.9)) == pytest.approx(
        100 * (factor - 1), abs=1e-9
    )


def test_shifted_accuracy_gives_its_shift():
    shifted = [(rate, quality - 0.03) for rate, quality in REFERENCE]
    assert bd_accuracy(REFERENCE, shifted) == pytest.approx(-3, abs=1e-9)


def test_only_the_common_range_counts():
    # Both are straight in ln rate over quality, and 20 % apart where both are.
    low = [(math.exp(5 * q), q) for q in (0.1, 0.3, 0.6)]
    high = [(1.2 * math.exp(5 * q), q) for q in (0.2, 0.5, 0.9)]
    assert bd_rate(low, high) == pytest.approx(20, abs=1e-9)
    assert bd_accuracy(low, high) == pytest.approx(-100 * math.log(1.2) / 5, abs=1e-9)


def test_order_and_dominated_points_do_not_matter():
    worse = [(60.0, 0.86), (55.0, 0.85), (90.0, 0.90), (500.0, 0.915)]
    test = [(25.0, 0.79), (50.0, 0.88), (120.0, 0.91)]
    expected = bd_rate(REFERENCE, test)
    assert bd_rate((REFERENCE + worse)[::-1], test) == pytest.approx(expected, rel=1e-12)
    assert bd_accuracy(REFERENCE + worse, test) == bd_accuracy(REFERENCE, test)


@pytest.mark.parametrize(
    ("reference", "test", "rate", "accuracy"),
    [
        (REFERENCE, OTHER, -16.621720486716736, 1.0130395888027728),
        (OTHER[::2], REFERENCE, 8.668946794541393, 0.06647950362780396),
    ],
)
def test_values_of_the_former_implementation(reference, test, rate, accuracy):
    """Of the integration that this library had before it took the package's."""
    assert bd_rate(reference, test) == pytest.approx(rate, rel=1e-9)
    assert bd_accuracy(reference, test) == pytest.approx(accuracy, rel=1e-9)


def test_agrees_with_an_independent_pchip():
    random = np.random.default_rng(0)
    for _ in range(20):
        curves = []
        for _ in range(2):
            count = random.integers(2, 9)
            rates = np.sort(random.uniform(20, 400, count))
            qualities = np.sort(random.uniform(0.2, 0.8, count))
            rates[[0, -1]], qualities[[0, -1]] = (10, 500), (random.uniform(0, 0.2), 0.9)
            curves.append(list(zip(rates, qualities, strict=True)))
        low = max(points[0][1] for points in curves)
        assert bd_rate(*curves) == pytest.approx(integrated(*curves, low, 0.9), rel=1e-6)
        assert bd_rate(*curves, limits=(0.31, 0.77)) == pytest.approx(
            integrated(*curves, 0.31, 0.77), rel=1e-6
        )


@pytest.mark.parametrize("method", METHODS)
def test_limits_choose_a_piece_of_the_same_curves(method):
    """The mean over a range is that over its pieces: limits change nothing inside them."""

    def log(low, high):
        return math.log1p(bd_rate(REFERENCE, OTHER, method=method, limits=(low, high)) / 100)

    pieces = 0.03 * log(0.82, 0.85) + 0.04 * log(0.85, 0.89)
    assert log(0.82, 0.89) == pytest.approx(pieces / 0.07, rel=1e-9)
    whole = log(-math.inf, math.inf)
    assert whole == log(0, 1) == log(0.80, 0.915)
    assert abs(whole - log(0.82, 0.85)) > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_other_way_round_is_the_inverse_factor(method):
    for limits in ((-math.inf, math.inf), (0.85, 0.9)):
        forth = bd_rate(REFERENCE, OTHER, method=method, limits=limits)
        back = bd_rate(OTHER, REFERENCE, method=method, limits=limits)
        assert (1 + forth / 100) * (1 + back / 100) == pytest.approx(1, abs=1e-12)
        assert abs(forth) > 1


def test_methods_are_the_packages():
    columns = [
        list(values) for points in (REFERENCE, OTHER) for values in zip(*points, strict=True)
    ]
    values = []
    for method in METHODS:
        keywords = {"method": method, "require_matching_points": False, "min_overlap": 0}
        values.append(bd_rate(REFERENCE, OTHER, method=method))
        assert values[-1] == pytest.approx(bjontegaard.bd_rate(*columns, **keywords), rel=1e-9)
        assert bd_accuracy(REFERENCE, OTHER, method=method) == pytest.approx(
            100 * bjontegaard.bd_psnr(*columns, **keywords), rel=1e-9
        )
    assert abs(values[0] - values[1]) > 1e-3


def test_overlap_is_stated():
    both = overlap(REFERENCE, OTHER)
    assert (both.low, both.high) == (0.80, 0.915)
    assert both.of_reference == 1
    assert both.of_test == pytest.approx(0.115 / 0.14)
    assert both.of_limits is None
    both = overlap(REFERENCE, OTHER, (0.75, 0.85))
    assert (both.low, both.high) == (0.80, 0.85)
    assert both.of_reference == pytest.approx(0.05 / 0.115)
    assert both.of_limits == pytest.approx(0.5)
    assert overlap(REFERENCE, OTHER, (0.85, math.inf)).of_limits is None
    assert common_rates(REFERENCE, OTHER) == pytest.approx((30, 160))


def test_limits_that_nothing_reaches_are_refused():
    with pytest.raises(ConfigError, match=r"quality within 0\.95 … 0\.99: 0\.8 … 0\.915 and"):
        bd_rate(REFERENCE, OTHER, limits=(0.95, 0.99))
    for limits in ((0.9, 0.9), (0.9, 0.8), (math.nan, 0.9)):
        with pytest.raises(ConfigError, match="not increasing"):
            bd_rate(REFERENCE, OTHER, limits=limits)


def test_methods_say_what_they_need():
    with pytest.raises(ConfigError, match="at least 3 points for akima"):
        bd_rate(REFERENCE, OTHER[:2], method="akima")
    with pytest.raises(ConfigError, match="unknown method 'cubic'; choose one of pchip, akima"):
        bd_rate(REFERENCE, OTHER, method="cubic")


def test_curves_without_a_common_range_are_refused():
    far = [(rate, quality - 0.5) for rate, quality in REFERENCE]
    with pytest.raises(ConfigError, match=r"no range of quality: 0\.8 … 0\.915 and 0\.3 … 0\.415"):
        bd_rate(REFERENCE, far)
    far = [(100 * rate, quality) for rate, quality in REFERENCE]
    with pytest.raises(ConfigError, match=r"no range of rate: 30 … 160 and 3000 … 1\.6e\+04"):
        bd_accuracy(REFERENCE, far)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "at least 2 points"),
        ([(10.0, 0.5)], "at least 2 points"),
        ([(10.0, 0.5), (20.0, 0.4)], "at least 2 points"),
        ([(0.0, 0.5), (20.0, 0.6)], "positive finite rates"),
        ([(10.0, math.nan), (20.0, 0.6)], "positive finite rates"),
        ([(10.0, 0.5), (math.inf, 0.6)], "positive finite rates"),
    ],
)
def test_points_that_are_no_curve_are_refused(points, message):
    for function in (bd_rate, bd_accuracy):
        with pytest.raises(ConfigError, match=message):
            function(REFERENCE, points)
