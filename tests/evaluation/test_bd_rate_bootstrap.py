"""The interval equals that of a plain loop over draws, covers the truth, and shrinks with N."""

import contextlib
import dataclasses

import numpy as np
import pytest
from evaluation import measured

from jaxsplit.errors import ConfigError
from jaxsplit.evaluation.bd_rate import bd_rate, bd_rate_interval

DROPS = (0.25, 0.08)


def _pair(images, scale=0.8, seed=0):
    return (
        measured.draw(images, seed=seed, draw_seed=1),
        measured.draw(images, seed=seed, draw_seed=2, scale=scale),
    )


@pytest.mark.parametrize("quality", ["top1", "agreement"])
@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_agrees_with_a_plain_loop(quality, method):
    reference, test = _pair(700)
    random, values = np.random.default_rng(5), []
    for _ in range(120):  # more than are computed at once
        drawn = random.integers(700, size=700)
        uncut = reference.statistics(quality).unsplit[drawn].mean()
        curves = [
            list(
                zip(
                    side.bytes[:, drawn].mean(axis=1),
                    side.statistics(quality).rates[:, drawn].mean(axis=1),
                    strict=True,
                )
            )
            for side in (reference, test)
        ]
        limits = uncut - DROPS[0], uncut - DROPS[1]
        values.append(bd_rate(*curves, method=method, limits=limits))
    got = bd_rate_interval(
        reference,
        test,
        quality=quality,
        method=method,
        drops=DROPS,
        level=0.9,
        resamples=120,
        seed=5,
    )
    values.sort()
    assert got.low == pytest.approx(values[5], rel=1e-9)
    assert got.high == pytest.approx(values[-6], rel=1e-9)
    assert (got.level, got.resamples, got.undefined, got.n_images) == (0.9, 120, 0, 700)


def test_both_curves_get_the_same_images():
    """Without variation over images, the interval has no width."""
    reference = measured.draw(60)
    double = dataclasses.replace(reference, bytes=2 * reference.bytes)
    got = bd_rate_interval(reference, double, resamples=50)
    assert (got.low, got.high) == pytest.approx((100, 100), abs=1e-9)
    itself = bd_rate_interval(reference, reference, resamples=50)
    assert (itself.low, itself.high) == (0, 0)


def test_covers_the_truth_about_as_often_as_it_says():
    low, high = measured.UNCUT - DROPS[0], measured.UNCUT - DROPS[1]
    truth = bd_rate(measured.population(), measured.population(0.8), limits=(low, high))
    assert truth == pytest.approx(-20)
    covered = []
    for seed in range(40):
        got = bd_rate_interval(
            *_pair(1500, seed=seed), drops=DROPS, level=0.8, resamples=120, seed=seed
        )
        covered.append(got.low <= truth <= got.high)
    assert 24 <= sum(covered) <= 39  # 32 expected, with a standard deviation of 2.5


def test_shrinks_with_the_root_of_the_images():
    few, many = (
        bd_rate_interval(*_pair(count), drops=DROPS, resamples=300) for count in (1000, 16_000)
    )
    assert 2.5 < (few.high - few.low) / (many.high - many.low) < 6
    assert many.high < 0


def test_a_seed_gives_its_interval():
    pair = _pair(300)
    first = bd_rate_interval(*pair, resamples=150, seed=3)
    assert bd_rate_interval(*pair, resamples=150, seed=3) == first
    assert bd_rate_interval(*pair, resamples=150, seed=4).low != first.low


def _only(images, rates):
    return dataclasses.replace(
        images,
        rate_ids=images.rate_ids[rates],
        bytes=images.bytes[rates],
        predicted=images.predicted[rates],
    )


def test_draws_without_a_bd_rate_count_at_both_ends():
    """Where the curves hardly overlap some draws have no common range."""
    upper = _only(measured.draw(80), slice(1, None))
    lower = _only(measured.draw(80, draw_seed=9), slice(0, 3))
    got = bd_rate_interval(upper, lower, level=0.5, resamples=200)
    random, values = np.random.default_rng(0), []
    for _ in range(200):
        drawn = random.integers(80, size=80)
        sides = [
            (side.bytes[:, drawn].mean(1), side.statistics("top1").rates[:, drawn].mean(1))
            for side in (upper, lower)
        ]
        with contextlib.suppress(ConfigError):
            values.append(bd_rate(*(zip(*side, strict=True) for side in sides)))
    values.sort()
    assert 0 < got.undefined == 200 - len(values)
    assert got.low == pytest.approx(values[49 - got.undefined], rel=1e-9)
    assert got.high == pytest.approx(values[150], rel=1e-9)
    upper = _only(measured.draw(80), slice(2, None))
    with pytest.raises(ConfigError, match="200 of 200 resamples have no BD-rate, such as: "):
        bd_rate_interval(upper, lower, resamples=200)


def test_other_images_and_empty_orders_are_refused():
    with pytest.raises(ConfigError, match="different images"):
        bd_rate_interval(measured.draw(50), measured.draw(50, seed=1))
    pair = _pair(50)
    with pytest.raises(ConfigError, match="0 resamples"):
        bd_rate_interval(*pair, resamples=0)
    with pytest.raises(ConfigError, match="level 1"):
        bd_rate_interval(*pair, level=1)
