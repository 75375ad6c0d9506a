"""Payloads exceed their information by at most 0.6 bytes, from a dozen symbols to thousands."""

import numpy as np
import pytest

from jaxsplit.bitstream import CodingTables, EntropyCoder
from jaxsplit.entropy.prior_tables import integer_counts


def _laplace_tables(scales):
    """Tables of two-sided exponential channels; values beyond their tails are escaped."""
    rows = []
    for scale in scales:
        reach = max(1, int(11 * scale))
        weights = np.exp(-np.abs(np.arange(-reach, reach + 1)) / scale)
        rows.append(integer_counts(np.append(weights / weights.sum(), 2**-16)))
    counts = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, filled in zip(counts, rows, strict=True):
        row[: filled.size] = filled
    sizes = np.array([row.size for row in rows], np.int32)
    return CodingTables(counts, sizes, 1 - sizes // 2, np.zeros(len(rows), np.float32))


def _images(scales, shape, count, seed):
    """Latents with image statistics: varying activity between and within images, rare escapes."""
    rng = np.random.default_rng(seed)
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    for _ in range(count):
        centre = rng.uniform(0, height), rng.uniform(0, width)
        distance = np.hypot(rows - centre[0], columns - centre[1]) / (1 + max(shape) / 3)
        energy = rng.gamma(4, 0.25) * (0.3 + np.exp(-(distance**2)))
        values = rng.laplace(0, 1, (height, width, len(scales))) * energy[..., None] * scales
        yield np.round(values).astype(np.int32)


@pytest.mark.parametrize(
    ("size", "shape", "channels", "busiest", "count"),
    [
        (30, (4, 4), 24, 0.75, 1000),
        (100, (4, 4), 64, 1.1, 500),
        (300, (7, 7), 64, 1.3, 300),
        (5000, (14, 14), 64, 10.5, 100),
    ],
)
def test_mean_payload_is_the_information_and_at_most_a_fraction_of_a_byte(
    size, shape, channels, busiest, count
):
    lengths, information = _measure(shape, channels, busiest, count)
    assert 0.8 * size < np.mean(lengths) < 1.2 * size
    assert 0 < np.mean(lengths) - np.mean(information) <= 0.6


def test_a_symbol_costs_next_to_nothing_in_rounding():
    # The end of the payload takes 0.32 bytes on average; the rest is the coder's rounding, which
    # takes as much at 18,816 symbols: the mean there is 0.61 to 0.62 bytes.
    lengths, information = _measure((28, 28), 24, 5.5, 400)
    excess = np.mean(lengths) - np.mean(information)
    assert excess < 0.66
    assert 8 * (excess - 0.32) / (28 * 28 * 24) < 0.0002


def _measure(shape, channels, busiest, count):
    """Returns the bytes of the payloads and of their symbols' information."""
    scales = busiest * np.geomspace(1, 0.05, channels)  # a few active channels, many dead ones
    coder = EntropyCoder(_laplace_tables(scales))
    lengths, information = [], []
    for symbols in _images(scales, shape, count, seed=channels):
        payload = coder.encode(symbols)
        np.testing.assert_array_equal(coder.decode(payload, shape), symbols)
        lengths.append(len(payload))
        information.append(coder.tables.information_bits(symbols) / 8)
    print(len(scales), shape, f"{np.mean(lengths):.1f} bytes,", end=" ")
    print(f"excess {np.mean(lengths) - np.mean(information):+.3f}")
    return lengths, information
