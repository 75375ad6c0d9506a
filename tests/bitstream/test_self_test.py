"""The self-test passes with the coder that wrote it and fails with one that deviates."""

import numpy as np
import pytest

from jaxsplit.bitstream import CodingTables, EntropyCoder, run_self_test, write_self_test
from jaxsplit.bitstream.range_coder import self_test_symbols
from jaxsplit.errors import CoderError


@pytest.fixture(scope="module")
def coder(make_tables):
    return EntropyCoder(make_tables([12, 2, 30, 2, 400, 9, 2, 5] * 4, scale=2.0))


def test_it_covers_entries_and_escapes_of_many_sizes(coder):
    symbols = self_test_symbols(coder.tables)
    outside = np.maximum(coder.tables.minima - symbols, symbols - coder.tables.maxima)
    sizes = np.log2(outside[outside > 0])
    assert len(set(sizes.tolist())) >= 5
    assert sizes.max() > 16  # with a high piece
    assert (symbols < coder.tables.minima).any()
    assert (symbols > coder.tables.maxima).any()
    assert (outside <= 0).mean() > 0.8


def test_it_passes_and_is_short(coder):
    payload = write_self_test(coder)
    run_self_test(coder, payload)
    assert len(payload) < 200


@pytest.mark.parametrize("minimum", [-(2**31), 2**31 - 2])
def test_tables_at_the_ends_of_int32_have_one(minimum):
    tables = CodingTables(
        np.array([[30000, 30000, 5536]] * 40, np.int32),
        np.full(40, 3, np.int32),
        np.full(40, minimum, np.int32),
        np.zeros(40, np.float32),
    )
    run_self_test(EntropyCoder(tables), write_self_test(EntropyCoder(tables)))


def test_other_bytes_and_other_tables_fail(coder, make_tables):
    payload = write_self_test(coder)
    other = EntropyCoder(make_tables([12, 2, 30, 2, 400, 9, 2, 5] * 4, scale=2.5))
    with pytest.raises(CoderError, match="does not reproduce the self-test"):
        run_self_test(other, payload)
    for index in range(len(payload)):
        damaged = bytearray(payload)
        damaged[index] ^= 1
        with pytest.raises(CoderError):
            run_self_test(coder, bytes(damaged))


def test_a_coder_that_orders_or_escapes_differently_fails(coder, monkeypatch):
    payload = write_self_test(coder)
    with monkeypatch.context() as patch:
        patch.setattr("jaxsplit.bitstream.probability_models._PIECE", 15)
        with pytest.raises(CoderError):
            run_self_test(coder, payload)
    with monkeypatch.context() as patch:
        patch.setattr(coder, "_models", coder._models[::-1])
        with pytest.raises(CoderError):
            run_self_test(coder, payload)
    run_self_test(coder, payload)


def test_tables_of_places_have_one(make_placed):
    coder = EntropyCoder(make_placed([12, 2, 30, 9], (4, 6, 5)))
    payload = write_self_test(coder)
    run_self_test(coder, payload)
    other = EntropyCoder(make_placed([12, 2, 30, 9], (4, 6, 5), seed=1))
    with pytest.raises(CoderError):
        run_self_test(other, payload)
