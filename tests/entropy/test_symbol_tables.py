"""Tables of counted symbols: their cost is the histogram's, and every int32 is codable."""

import numpy as np
import pytest

from jaxsplit.bitstream import EntropyCoder
from jaxsplit.bitstream.probability_models import TOTAL
from jaxsplit.entropy import tables_by_position, tables_from_counts
from jaxsplit.errors import ConfigError

pytestmark = pytest.mark.optimized

INT32 = np.iinfo(np.int32)


def histogram(symbols):
    values, counts = np.unique(symbols, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def entropy_bits(counts):
    """Information content of the counted symbols, in bits."""
    weights = np.array(list(counts.values()), np.float64)
    return -np.sum(weights * np.log2(weights / weights.sum()))


@pytest.mark.parametrize("mean", [0.1, 1.0, 8.0])
def test_the_counted_symbols_cost_their_entropy(mean):
    symbols = np.random.default_rng(0).geometric(1 / (1 + mean), (2000, 8)).astype(np.int32) - 1
    counts = histogram(symbols)
    ideal = entropy_bits(counts)
    charged = tables_from_counts(counts, 8).information_bits(symbols)
    assert ideal <= charged <= 1.001 * ideal


def test_all_channels_share_one_table_without_offsets():
    tables = tables_from_counts({-2: 5, 0: 90, 1: 5}, channels=3)
    assert tables.counts.shape == (3, 5)
    assert (tables.counts == tables.counts[:1]).all()
    assert tables.minima.tolist() == [-2] * 3
    assert tables.maxima.tolist() == [1] * 3
    assert not tables.offsets.any()
    offsets = np.array([0.25, 0, -0.5], np.float32)
    rounded = tables_from_counts({-2: 5, 0: 90, 1: 5}, 3, offsets)
    np.testing.assert_array_equal(rounded.offsets, offsets)
    np.testing.assert_array_equal(rounded.counts, tables.counts)


def test_neither_order_nor_zeros_nor_floats_matter():
    tables = tables_from_counts({0: 7, 1: 2, 5: 1}, 2)
    assert tables == tables_from_counts({5: 1.0, 1: 2.0, 0: 7.0, 9: 0.0, -4: 0}, 2)


@pytest.mark.parametrize(
    "counts",
    [{0: 1}, {3: 1e12, 4: 1}, {INT32.min: 1, INT32.max: 2}, dict.fromkeys(range(9000), 1)],
    ids=["one", "rare", "far apart", "many"],
)
def test_every_int32_can_be_coded(counts):
    coder = EntropyCoder(tables_from_counts(counts, 2))
    symbols = np.array(
        [[[0, 1], [-1, 3], [4, 5000], [INT32.min, INT32.max], [INT32.max, INT32.min]]], np.int32
    )
    decoded = coder.decode(coder.encode(symbols), symbols.shape[:2])
    np.testing.assert_array_equal(decoded, symbols)


def test_a_wide_histogram_keeps_its_heaviest_stretch(monkeypatch):
    counts = {0: 10, 1: 10, 100: 30, 102: 30, 103: 1, 900: 20}
    assert tables_from_counts(counts, 1).sizes[0] == 902
    monkeypatch.setattr("jaxsplit.entropy.symbol_tables.MAX_WIDTH", 5)
    tables = tables_from_counts(counts, 1)
    assert (tables.minima[0], tables.maxima[0]) == (100, 103)
    # Four of 40 counted symbols are outside; one pseudo-count for unseen symbols.
    escape = tables.counts[0, tables.sizes[0] - 1] / TOTAL
    assert escape == pytest.approx(41 / 102, abs=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"counts": {}},
        {"counts": {0: 0, 1: 0.0}},
        {"counts": {0: 1, 1: -1}},
        {"counts": {0: float("nan")}},
        {"counts": {0: float("inf")}},
        {"counts": {2**31: 1}},
        {"counts": {-(2**31) - 1: 1}},
        {"counts": {2**63: 1}},
        {"counts": {10**25: 1, -(10**25): 1}},
        {"counts": {10**5000: 1}},
        {"counts": {0: 10**400}},
        {"counts": {0: 1e308, 1: 1e308}},
        {"channels": 0},
        {"offsets": np.zeros(3, np.float32)},
    ],
    ids=range(14),
)
def test_what_makes_no_tables_is_refused(wrong):
    with pytest.raises(ConfigError):
        tables_from_counts(**{"counts": {0: 1}, "channels": 2, **wrong})


SHAPE = (4, 5, 3)


def draws(count, seed):
    """Draws symbols at three kinds of positions with different distributions; returns both."""
    generator = np.random.default_rng(seed)
    kinds = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3
    spread = np.array([0.3, 1.5, 6.0])[kinds]
    symbols = np.rint(generator.normal(0, spread, (count, *SHAPE)))
    return symbols.astype(np.int32), kinds


def entropy(symbols):
    _, counts = np.unique(symbols, return_counts=True)
    return -np.sum(counts * np.log2(counts / counts.sum()))


def test_places_of_one_distribution_share_a_table():
    symbols, kinds = draws(500, 0)
    places = tables_by_position(symbols, tables=3).table_indices
    for kind in range(3):
        assert len(np.unique(places[kinds == kind])) == 1
    assert len(np.unique(places)) == 3


def test_unseen_symbols_cost_little_more_than_their_entropy():
    tables = tables_by_position(draws(2000, 0)[0], tables=3)
    symbols, kinds = draws(2000, 1)
    ideal = sum(entropy(symbols[:, kinds == kind]) for kind in range(3))
    assert ideal <= tables.information_bits(symbols) <= 1.005 * ideal
    assert entropy(symbols) > 1.2 * ideal


@pytest.mark.parametrize("most", [1, 2, 5, 60, 256])
def test_more_tables_cost_no_more_where_they_are_learned(most):
    symbols, _ = draws(1000, 0)
    tables = tables_by_position(symbols, tables=most)
    assert 1 <= len(tables.sizes) <= min(most, symbols[0].size)
    fewer = tables_by_position(symbols, tables=max(1, most // 2))
    bits = tables.information_bits(symbols)
    assert bits <= 1.001 * fewer.information_bits(symbols)
    if most == 1:
        _, counts = np.unique(symbols, return_counts=True)
        histogram = dict(zip(np.unique(symbols).tolist(), counts.tolist(), strict=True))
        assert bits == tables_from_counts(histogram, SHAPE[-1]).information_bits(symbols)


def test_every_int32_has_a_code():
    extremes = np.array([-(2**31), 0, 2**31 - 1], np.int32)
    symbols = np.tile(extremes.reshape(3, 1, 1, 1), (1, 2, 2, 1))
    bits = tables_by_position(symbols).information_bits(symbols)
    assert 0 < bits < 12 * 66


def test_offsets_are_carried():
    symbols, _ = draws(10, 0)
    offsets = np.array([0.25, -0.5, 0.0], np.float32)
    np.testing.assert_array_equal(tables_by_position(symbols, offsets).offsets, offsets)


@pytest.mark.parametrize(
    ("symbols", "tables", "said"),
    [
        (np.zeros((1, 2, 2, 1), np.int64), 4, "int64"),
        (np.zeros((2, 2, 1), np.int32), 4, r"\(2, 2, 1\)"),
        (np.zeros((0, 2, 2, 1), np.int32), 4, "some int32"),
        (np.zeros((1, 2, 2, 1), np.int32), 0, "1 … 256"),
        (np.zeros((1, 2, 2, 1), np.int32), 257, "1 … 256"),
    ],
)
def test_what_cannot_be_clustered_is_refused(symbols, tables, said):
    with pytest.raises(ConfigError, match=said):
        tables_by_position(symbols, tables=tables)


def test_channels_far_apart_cost_no_more_than_tables_of_their_own():
    """For any distance between their means."""
    generator = np.random.default_rng(0)
    middles = np.array([0, 1000, 3000, -2000, 60000])
    symbols = np.rint(generator.normal(middles, 1, (400, 3, 3, 5))).astype(np.int32)
    by_channel = sum(entropy(symbols[..., channel]) for channel in range(5))
    assert tables_by_position(symbols).information_bits(symbols) <= 1.01 * by_channel


def test_more_values_than_are_counted_are_still_coded(monkeypatch):
    monkeypatch.setattr("jaxsplit.entropy.symbol_tables._MAX_COUNTS", 1)
    symbols = np.arange(4000, dtype=np.int32).reshape(100, 2, 4, 5)
    tables = tables_by_position(symbols)
    assert 0 < tables.information_bits(symbols) < symbols.size * 60
