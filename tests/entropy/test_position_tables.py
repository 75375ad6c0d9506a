"""Tables that places share: their cost on symbols of known distributions."""

import numpy as np
import pytest

from jaxsplit.entropy import tables_by_place, tables_from_counts
from jaxsplit.errors import ConfigError

SHAPE = (4, 5, 3)


def draws(count, seed):
    """Symbols of three kinds of places, each with a distribution of its own, and the kinds."""
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
    places = tables_by_place(symbols, tables=3).places
    for kind in range(3):
        assert len(np.unique(places[kinds == kind])) == 1
    assert len(np.unique(places)) == 3


def test_unseen_symbols_cost_little_more_than_their_entropy():
    tables = tables_by_place(draws(2000, 0)[0], tables=3)
    symbols, kinds = draws(2000, 1)
    ideal = sum(entropy(symbols[:, kinds == kind]) for kind in range(3))
    assert ideal <= tables.information_bits(symbols) <= 1.005 * ideal
    assert entropy(symbols) > 1.2 * ideal


@pytest.mark.parametrize("most", [1, 2, 5, 60, 256])
def test_more_tables_cost_no_more_where_they_are_learned(most):
    symbols, _ = draws(1000, 0)
    tables = tables_by_place(symbols, tables=most)
    assert 1 <= len(tables.sizes) <= min(most, symbols[0].size)
    fewer = tables_by_place(symbols, tables=max(1, most // 2))
    bits = tables.information_bits(symbols)
    assert bits <= 1.001 * fewer.information_bits(symbols)
    if most == 1:
        _, counts = np.unique(symbols, return_counts=True)
        histogram = dict(zip(np.unique(symbols).tolist(), counts.tolist(), strict=True))
        assert bits == tables_from_counts(histogram, SHAPE[-1]).information_bits(symbols)


def test_every_int32_has_a_code():
    extremes = np.array([-(2**31), 0, 2**31 - 1], np.int32)
    symbols = np.tile(extremes.reshape(3, 1, 1, 1), (1, 2, 2, 1))
    bits = tables_by_place(symbols).information_bits(symbols)
    assert 0 < bits < 12 * 66


def test_offsets_are_carried():
    symbols, _ = draws(10, 0)
    offsets = np.array([0.25, -0.5, 0.0], np.float32)
    np.testing.assert_array_equal(tables_by_place(symbols, offsets).offsets, offsets)


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
        tables_by_place(symbols, tables=tables)


def test_channels_far_apart_cost_no_more_than_tables_of_their_own():
    """However far their middles are from each other."""
    generator = np.random.default_rng(0)
    middles = np.array([0, 1000, 3000, -2000, 60000])
    symbols = np.rint(generator.normal(middles, 1, (400, 3, 3, 5))).astype(np.int32)
    by_channel = sum(entropy(symbols[..., channel]) for channel in range(5))
    assert tables_by_place(symbols).information_bits(symbols) <= 1.01 * by_channel


def test_more_values_than_are_counted_are_still_coded(monkeypatch):
    monkeypatch.setattr("jaxsplit.entropy.position_tables._MOST_COUNTS", 1)
    symbols = np.arange(4000, dtype=np.int32).reshape(100, 2, 4, 5)
    tables = tables_by_place(symbols)
    assert 0 < tables.information_bits(symbols) < symbols.size * 60
