"""Tables and symbols from fixed seeds: dead channels to a thousand entries."""

import numpy as np
import pytest

from jaxsplit.bitstream import CodingTables


def _row(rng, size, scale):
    weights = np.exp(-np.abs(np.arange(size) - size // 2) / scale)
    weights[-1] = 1e-5
    counts = np.maximum(1, weights / weights.sum() * 65536 * rng.uniform(0.8, 1, size)).astype(int)
    counts[counts.argmax()] += 65536 - counts.sum()
    return counts


def _tables(sizes, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    counts = np.zeros((len(sizes), max(sizes)), np.int32)
    for row, size in zip(counts, sizes, strict=True):
        row[:size] = _row(rng, size, scale) if size > 2 else (65535, 1)
    minima = rng.integers(-40, 3, len(sizes)).astype(np.int32)
    offsets = rng.uniform(-0.5, 0.5, len(sizes)).astype(np.float32)
    return CodingTables(counts, np.array(sizes, np.int32), minima, offsets)


def _draw(tables, shape, seed=0):
    """Draws symbols from the tables' distribution, without escapes."""
    rng = np.random.default_rng(seed)
    rows = tables.rows(*shape)
    symbols = np.empty(rows.shape, np.int32)
    for table in range(len(tables.sizes)):
        weights = tables.counts[table, : tables.sizes[table] - 1].astype(float)
        draws = rng.choice(weights.size, (rows == table).sum(), p=weights / weights.sum())
        symbols[rows == table] = draws + tables.minima[table]
    return symbols


def _placed(sizes, shape, scale=1.0, seed=0):
    """Position-dependent tables: each of `_tables` at some positions of a latent."""
    tables = _tables(sizes, scale, seed)
    rng = np.random.default_rng(seed)
    places = rng.permutation(np.arange(np.prod(shape)) % len(sizes)).reshape(shape)
    offsets = rng.uniform(-0.5, 0.5, shape[-1]).astype(np.float32)
    return CodingTables(
        tables.counts, tables.sizes, tables.minima, offsets, places.astype(np.uint8)
    )


@pytest.fixture(scope="session")
def make_placed():
    return _placed


@pytest.fixture(scope="session")
def make_tables():
    return _tables


@pytest.fixture(scope="session")
def draw():
    return _draw
