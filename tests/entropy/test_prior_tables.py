"""Offsets and integer tables: sums, cost, and agreement with drawn symbols."""

import heapq
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.entropy import bits, build_tables, integer_counts, prior_tables, rounding_offsets
from jaxsplit.entropy.prior_tables import Density
from jaxsplit.errors import ConfigError

pytestmark = pytest.mark.optimized

PLACES = {
    "narrow": {"scale": 0.03},
    "narrow, away": {"scale": 0.03, "shift": -17.4},
    "unit": {"scale": 1.0, "shift": 0.3},
    "wide": {"scale": 30.0, "shift": 200.0},
    "widest": {"scale": 2e5},
    "flat": {"scale": 1e12},
}


@pytest.fixture(params=PLACES, ids=str)
def placed(request, random_params):
    return request.param, random_params(20, 5, **PLACES[request.param])


def _sample(reference, params, n, seed):
    """Draws from the prior by bisecting its cumulative: float64 [n, C]."""
    u = np.random.default_rng(seed).uniform(size=(n, len(params["bias_0"])))
    low, high = np.full(u.shape, -1e4), np.full(u.shape, 1e4)
    target = np.log(u / (1 - u))
    for _ in range(45):
        middle = (low + high) / 2
        below = reference.chain(params, middle)[0] < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low


def _cells(reference, params, tables, channel):
    """Float64 probabilities of a channel's entries, the escape's last."""
    one = {name: value[channel : channel + 1] for name, value in params.items()}
    edges = tables.minima[channel] + np.arange(tables.sizes[channel]) - 0.5
    cdf = reference.cdf(one, np.float64(tables.offsets[channel]) + edges[:, None])[:, 0]
    return np.append(np.diff(cdf), 1 - cdf[-1] + cdf[0])


def test_tables_are_tables_for_any_prior(placed, monkeypatch):
    monkeypatch.setattr(prior_tables, "MAX_WIDTH", 512)
    name, params = placed
    tables = build_tables(params)
    assert tables.channels == 5
    assert (tables.counts.sum(axis=1) == 65536).all()
    used = np.arange(tables.counts.shape[1]) < tables.sizes[:, None]
    assert (tables.counts[used] >= 1).all()
    assert (tables.counts[~used] == 0).all()
    assert tables.counts.shape[1] == tables.sizes.max() <= 512
    assert (tables.sizes == 512).all() == (name in ("widest", "flat"))
    again = build_tables({k: jnp.asarray(v) for k, v in params.items()})
    assert again.fingerprint == tables.fingerprint


def test_expected_code_length_is_the_entropy(placed, reference):
    _, params = placed
    tables = build_tables(params)
    for channel in range(tables.channels):
        p = _cells(reference, params, tables, channel)
        counts = tables.counts[channel, : tables.sizes[channel]]
        entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
        cost = (p * (16 - np.log2(counts))).sum()
        # 0.1 %, plus the counts of 1 that improbable entries must get.
        assert entropy - 1e-9 <= cost <= 1.001 * entropy + 1.5 * counts.size / 65536


def test_tails_left_to_the_escape_are_as_asked(random_params, reference, monkeypatch):
    params = random_params(21, 4, scale=2.0)
    for tail_mass in (0.1, 2**-10, 2**-16):
        monkeypatch.setattr(prior_tables, "TAIL_MASS", tail_mass)
        tables = build_tables(params)
        for channel in range(4):
            p = _cells(reference, params, tables, channel)
            assert p[-1] <= 2 * tail_mass
            # Without its first and last symbol, each tail would exceed tail_mass.
            one = {name: value[channel : channel + 1] for name, value in params.items()}
            ends = np.array([tables.minima[channel] + 0.5, tables.maxima[channel] - 0.5])
            low, high = reference.cdf(one, tables.offsets[channel] + ends[:, None])[:, 0]
            assert low > tail_mass * (1 - 1e-6)
            assert 1 - high > tail_mass * (1 - 1e-6)


def test_tables_price_rounded_samples_as_the_prior_does(random_params, reference):
    params = random_params(22, 6, scale=2.0, shift=5.3)
    tables = build_tables(params)
    z = _sample(reference, params, 3000, 23)
    symbols = np.rint(z - tables.offsets).astype(np.int32)
    rounded = (symbols + tables.offsets).astype(np.float32)
    from_prior = float(jax.jit(bits)(params, rounded).sum())
    np.testing.assert_allclose(tables.information_bits(symbols), from_prior, rtol=2e-3)


@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0, 5.0])
def test_rounding_costs_no_more_than_noise_at_the_default_offsets(scale, random_params, reference):
    params = random_params(24, 12, scale=scale, shift=0.4)
    offsets = rounding_offsets(params)
    z = _sample(reference, params, 1000, 25)
    noise = np.random.default_rng(26).uniform(-0.5, 0.5, (8, *z.shape))
    noisy = np.asarray(jax.jit(bits)(params, z + noise), np.float64).mean(axis=(0, 1))
    rounded = np.asarray(jax.jit(bits)(params, np.rint(z - offsets) + offsets), np.float64)
    rounded = rounded.mean(axis=0)
    assert rounded.mean() <= 1.005 * noisy.mean()
    assert (np.abs(offsets - Density(params).quantiles(0.5)) <= 0.5 + 1e-5).all()


def test_offsets_put_a_narrow_peak_in_the_middle_of_its_cell(random_params, reference):
    params = random_params(27, 8, scale=0.01, shift=3.5)
    offsets = rounding_offsets(params)
    one_cell = reference.cdf(params, offsets + 0.5) - reference.cdf(params, offsets - 0.5)
    assert (one_cell > 0.999).all()
    # Half a step away it straddles two cells and costs a bit.
    split = build_tables(params, Density(params).quantiles(0.5) + 0.5)
    p = [_cells(reference, params, split, c) for c in range(8)]
    assert min(-(q[q > 0] * np.log2(q[q > 0])).sum() for q in p) > 0.99


def test_given_offsets_are_kept(random_params, reference):
    params = random_params(28, 3, scale=4.0, shift=2.0)
    medians = Density(params).quantiles(0.5)
    for offsets in (np.zeros(3), np.array([0.1, -0.4, 7.3]), medians):
        tables = build_tables(params, offsets)
        np.testing.assert_array_equal(tables.offsets, np.asarray(offsets, np.float32))
        p = _cells(reference, params, tables, 1)
        counts = tables.counts[1, : tables.sizes[1]]
        large = p > 0.01
        np.testing.assert_allclose(counts[large] / 65536, p[large], rtol=0.01)


def test_a_density_beyond_int32_still_gets_a_valid_table(random_params):
    params = random_params(29, 2, scale=5.0, shift=1e12)
    tables = build_tables(params, np.zeros(2))
    assert (tables.maxima <= 2**31 - 1).all()
    assert (build_tables(params).sizes > 3).all()


def _greedy(p, total):
    counts = np.ones(len(p), int)
    heap = [(-x * np.log(2), i) for i, x in enumerate(p)]
    heapq.heapify(heap)
    for _ in range(total - len(p)):
        _, i = heapq.heappop(heap)
        counts[i] += 1
        heapq.heappush(heap, (-p[i] * np.log1p(1 / counts[i]), i))
    return counts


def _cost(p, counts):
    return -(p * np.log2(counts / counts.sum())).sum()


@pytest.mark.parametrize("seed", range(6))
def test_integer_counts_are_optimal(seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(4, [0.05, 0.3, 1, 3, 10, 0.1][seed]))
    splits = (np.diff((0, *cuts, 14)) for cuts in itertools.combinations(range(1, 14), 3))
    best = min(_cost(p, split) for split in splits)
    np.testing.assert_allclose(_cost(p, integer_counts(p, 14)), best, rtol=1e-12)
    p = rng.dirichlet(np.full(200, 0.2))
    np.testing.assert_allclose(_cost(p, integer_counts(p)), _cost(p, _greedy(p, 65536)), rtol=1e-12)


def test_integer_counts_of_limiting_cases():
    assert integer_counts(np.ones(1)).tolist() == [65536]
    assert integer_counts(np.array([1.0, 0.0])).tolist() == [65535, 1]
    assert integer_counts(np.zeros(3), 10).tolist() == [4, 3, 3]
    assert integer_counts(np.ones(65536)).tolist() == [1] * 65536
    assert integer_counts(np.array([1e-300, 1e-300]), 8).tolist() == [4, 4]
    tied = integer_counts(np.full(7, 1 / 7), 65536)
    assert tied.sum() == 65536
    assert tied.max() - tied.min() == 1
    for bad in (np.ones(11), np.array([np.nan, 1]), np.array([-0.1, 1]), np.ones((2, 2))):
        with pytest.raises(ConfigError, match="integer counts"):
            integer_counts(bad, 10)


def test_misuse_is_refused(random_params):
    params = random_params(30, 3)
    with pytest.raises(ConfigError, match=r"offsets of shape \(2,\).*\(3,\)"):
        build_tables(params, np.zeros(2))
    with pytest.raises(ConfigError, match=r"variables\['params'\]"):
        build_tables({"params": np.zeros(3)})
    diverged = {**params, "bias_1": np.full_like(params["bias_1"], np.nan)}
    with pytest.raises(ConfigError, match="bias_1 is not finite"):
        build_tables(diverged)
