"""Tables of levels cost little more than those of each level by itself."""

import jax
import numpy as np
import pytest

from jaxsplit import entropy
from jaxsplit.errors import ConfigError

CHANNELS, LEVELS = 6, 16
GAINS = np.geomspace(0.3, 20, LEVELS)[:, None] * np.geomspace(1, 4, CHANNELS)


@pytest.fixture(scope="module")
def prior():
    params = entropy.init_params(jax.random.key(0), channels=CHANNELS, init_scale=2.0)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + rng.normal(0, 0.2, x.shape).astype(np.float32), params)
    return jax.tree.map(np.asarray, entropy.centred(moved))


def drawn(prior, gain, count=4000):
    """Symbols that follow the prior at a gain, int32 [count, C]."""
    density, rng = entropy.Density(prior, gain), np.random.default_rng(1)
    grid = np.arange(-4000, 4001) - 0.5
    masses = density.masses(np.tile(grid, (CHANNELS, 1)))
    cumulative = np.cumsum(masses, axis=1)
    draws = rng.uniform(0, cumulative[:, -1:], (CHANNELS, count))
    found = [np.searchsorted(row, own) for row, own in zip(cumulative, draws, strict=True)]
    return (np.array(found).T - 4000).astype(np.int32)


@pytest.mark.parametrize("count", [256, 32])
def test_shared_tables_cost_little_more_than_own(prior, count):
    built = entropy.level_tables(prior, GAINS, tables=count)
    assert len(built) == LEVELS
    assert len(built.shared.sizes) <= count
    for level in (0, LEVELS // 2, LEVELS - 1):
        symbols = drawn(prior, GAINS[level])
        own = entropy.build_tables(entropy.Density(prior, GAINS[level]), np.zeros(CHANNELS))
        least = own.information_bits(symbols)
        shared = built.level(level).information_bits(symbols)
        assert shared < least * (1.005 if count == 256 else 1.03)


def test_counted_symbols_give_tables_that_fit_them(prior):
    seen = entropy.LevelHistograms(LEVELS, CHANNELS, reach=500)
    for level in range(LEVELS):
        for half in np.split(drawn(prior, GAINS[level]), 2):
            seen.add(level, half)
    built = seen.tables(64)
    for level in range(LEVELS):
        symbols = drawn(prior, GAINS[level])
        own = entropy.build_tables(entropy.Density(prior, GAINS[level]), np.zeros(CHANNELS))
        found = built.level(level).information_bits(symbols)
        assert found < 1.03 * own.information_bits(symbols)


def test_symbols_beyond_the_reach_are_escaped():
    seen = entropy.LevelHistograms(2, 1, reach=3)
    symbols = np.array([[0], [1], [9], [-(10**6)]], np.int32)
    for level in range(2):
        seen.add(level, symbols)
    tables = seen.tables().level(1)
    assert np.isfinite(tables.information_bits(symbols))
    assert (tables.minima[0], tables.maxima[0]) == (-3, 3)


def test_histograms_take_bounded_memory():
    seen = entropy.LevelHistograms(64, 512, reach=10**9)
    assert seen.counts.nbytes <= 4 * 2**24 + 64 * 512 * 4


@pytest.mark.parametrize("gains", [np.ones(3), np.zeros((2, 3)), np.full((2, 3), np.nan)])
def test_impossible_gains_are_refused(gains):
    with pytest.raises(ConfigError, match="finite and above 0"):
        entropy.level_tables({}, gains)
