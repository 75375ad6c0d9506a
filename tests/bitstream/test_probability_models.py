"""The coder's intervals equal the tables' integers; a coder that differs is refused."""

import numpy as np
import pytest

from jaxsplit.bitstream import probability_models as module
from jaxsplit.bitstream.probability_models import LENGTH_COUNTS
from jaxsplit.errors import BitstreamError


def _stored(counts):
    counts = np.asarray(counts, np.int64)
    return (np.cumsum(counts) - counts) * 256, counts * 256


def _random_counts(size, sharpness, seed):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(size=size) ** sharpness
    counts = np.maximum(1, weights / weights.sum() * (65536 - size)).astype(np.int64)
    counts[rng.integers(size)] += 65536 - counts.sum()
    return counts


@pytest.mark.parametrize(
    "counts",
    [
        [1, 65535],
        [65535, 1],
        [32768, 32768],
        [1, 65534, 1],
        [1] * 20 + [65536 - 20],
        [16] * 4096,
        LENGTH_COUNTS,
        *(_random_counts(size, sharpness, size) for size in (3, 17, 999) for sharpness in (1, 30)),
    ],
    ids=lambda counts: f"{len(counts)} entries",
)
def test_every_interval_reads_back_as_stored(counts):
    starts, widths = module.intervals(module.categorical(np.array(counts)), len(counts))
    expected_starts, expected_widths = _stored(counts)
    np.testing.assert_array_equal(starts, expected_starts)
    np.testing.assert_array_equal(widths, expected_widths)
    assert starts[-1] + widths[-1] == 2**24


def test_every_interval_of_whole_tables_reads_back(make_tables):
    tables = make_tables([2, 3, 9, 40, 300], scale=3.0)
    for row, size in zip(tables.counts, tables.sizes, strict=True):
        starts, widths = module.intervals(module.categorical(row[:size]), size)
        expected_starts, expected_widths = _stored(row[:size])
        np.testing.assert_array_equal(starts, expected_starts)
        np.testing.assert_array_equal(widths, expected_widths)


def test_coder_that_rounds_differently_is_refused(monkeypatch):
    categorical = module.constriction.stream.model.Categorical

    class Model:
        @staticmethod
        def Categorical(weights, perfect):
            # With plain probabilities some intervals are off by one unit.
            return categorical((weights + 1) / 2**24, perfect=perfect)

    class Stream:
        model = Model
        queue = module.constriction.stream.queue

    monkeypatch.setattr(module.constriction, "stream", Stream)
    with pytest.raises(BitstreamError, match="install constriction"):
        module.categorical(np.array([30000, 30001, 5535]))
