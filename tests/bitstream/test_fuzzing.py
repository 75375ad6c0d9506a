"""Any bytes give `BitstreamError` or symbols of the right shape, in bounded time."""

import math
import tracemalloc
import zlib

import numpy as np
import pytest
from bitstream import mutations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxsplit.bitstream import (
    EntropyCoder,
    Frame,
    pack_frame,
    read_container,
    unpack_frame,
    write_container,
)
from jaxsplit.errors import BitstreamError

CODERS = mutations.make_coders()
CONTAINERS, FRAMES = mutations.make_seeds(CODERS)
HEADER = read_container(CONTAINERS[0])[0]
BOUNDED = settings(
    max_examples=150,
    deadline=1000,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_seeded_mutations():
    """See `mutations.py`, which also runs others."""
    outcome = mutations.run(25_000, seed=0)
    assert outcome.decoded > 400  # undetected without a checksum
    assert outcome.refused > 4_000


@BOUNDED
@given(data=st.binary(max_size=400), start=st.sampled_from([b"", *CONTAINERS]), cut=st.integers(0))
def test_any_bytes_behind_any_beginning_of_a_container(data, start, cut):
    body = start[: cut % (len(start) + 1)] + data
    for content in (body, body + zlib.crc32(body).to_bytes(4, "little")):
        mutations.read(content, CODERS, whole=True)


@BOUNDED
@given(data=st.binary(max_size=400))
def test_any_bytes_as_a_frame_and_as_a_payload(data):
    mutations.read(data, CODERS, whole=False)
    for coder, shape in zip(CODERS, mutations.SHAPES, strict=True):
        try:
            symbols = coder.decode(data, shape[:2])
        except BitstreamError:
            continue
        assert symbols.shape == shape
        assert symbols.dtype == np.int32


@BOUNDED
@given(
    symbols=hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)),
    minimum=st.integers(-(2**31), 2**31 - 8),
)
def test_any_latent_comes_back(symbols, minimum):
    tables = CODERS[0].tables
    one = mutations.CodingTables(
        tables.counts[:1], tables.sizes[:1], np.array([minimum], np.int32), tables.offsets[:1]
    )
    latent = symbols[..., None]
    coder = EntropyCoder(one)
    np.testing.assert_array_equal(coder.decode(coder.encode(latent), symbols.shape), latent)


@BOUNDED
@given(
    frames=st.lists(st.tuples(st.integers(0, len(HEADER.rates) - 1), st.binary(max_size=300))),
    frame_checks=st.booleans(),
)
def test_any_frames_come_back(frames, frame_checks):
    # As long as a payload of the rate can be; longer ones are refused.
    longest = [9 * math.prod(rate.shape) for rate in HEADER.rates]
    frames = [Frame(rate, payload[: longest[rate]]) for rate, payload in frames]
    data = write_container(HEADER, frames, frame_checks=frame_checks)
    assert read_container(data) == (HEADER, frames)
    for frame in frames:
        packed = pack_frame(frame.payload, frame.rate_index, len(HEADER.rates))
        assert unpack_frame(packed, len(HEADER.rates)) == (frame, len(packed))


def _peak(run):
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError):
            run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


HUGE = b"\xff" * 9 + b"\x7f"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"JSPL",
        HUGE,
        b"JSPL\3\0" + bytes(16) + HUGE,
        b"JSPL\3\0" + bytes(16) + b"\1\1\1" + b"\xff",
        b"JSPL\3\0" + bytes(16) + b"\1\1\1\1\1a" + bytes(16) + b"\xff\xff\xff\xff\x0f" * 3,
        b"JSPL\3\0" + bytes(16) + b"\1\1\1\1\1a" + bytes(16) + b"\1\1\1" + b"\x80\x80\x80\x80\1",
        CONTAINERS[3][:-5] + HUGE,
        CONTAINERS[3][:-5] + b"\x80" * 10_000,
        CONTAINERS[3] + bytes(1000),
    ],
)
def test_lying_sizes_take_no_memory(data):
    assert _peak(lambda: read_container(data)) < 1 << 20
    assert _peak(lambda: unpack_frame(HUGE + data, 3)) < 1 << 20
    assert _peak(lambda: CODERS[0].decode(data + HUGE * 100, (4, 4))) < 1 << 20


@pytest.mark.parametrize("data", mutations.FAULTS)
def test_what_once_found_a_fault(data):
    mutations.read(data, CODERS, whole=True)
    mutations.read(data, CODERS, whole=False)
