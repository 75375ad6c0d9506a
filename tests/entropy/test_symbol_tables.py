"""Tables from counted symbols: they cost what the histogram says, and code everything."""

import numpy as np
import pytest

from jaxsplit.bitstream import EntropyCoder
from jaxsplit.bitstream.intervals import TOTAL
from jaxsplit.entropy import tables_from_counts
from jaxsplit.errors import ConfigError

INT32 = np.iinfo(np.int32)


def histogram(symbols):
    values, counts = np.unique(symbols, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def entropy_bits(counts):
    """Information content of what was counted, in bits."""
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


def test_a_wide_histogram_keeps_its_heaviest_stretch():
    counts = {0: 10, 1: 10, 100: 30, 102: 30, 103: 1, 900: 20}
    tables = tables_from_counts(counts, 1, max_width=5)
    assert (tables.minima[0], tables.maxima[0]) == (100, 103)
    # Four entries of 40 counted symbols outside, one for those that were never seen.
    escape = tables.counts[0, tables.sizes[0] - 1] / TOTAL
    assert escape == pytest.approx(41 / 102, abs=1e-3)
    assert tables_from_counts(counts, 1).sizes[0] == 902


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
        {"max_width": 1},
        {"max_width": 65537},
        {"offsets": np.zeros(3, np.float32)},
    ],
    ids=range(16),
)
def test_what_makes_no_tables_is_refused(wrong):
    with pytest.raises(ConfigError):
        tables_from_counts(**{"counts": {0: 1}, "channels": 2, **wrong})
