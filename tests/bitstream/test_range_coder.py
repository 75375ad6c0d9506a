"""Every int32 latent round-trips at its information content."""

import concurrent.futures
import time

import constriction
import numpy as np
import pytest

from jaxsplit.bitstream import MAX_SYMBOLS, CodingTables, EntropyCoder
from jaxsplit.bitstream.range_coder import _finish
from jaxsplit.errors import BitstreamError, ConfigError, JaxsplitError

EXTREMES = (-(2**31), 2**31 - 1)


def _one_channel(minimum, counts=(30000, 30000, 5536)):
    return CodingTables(
        counts=np.array([counts], np.int32),
        sizes=np.array([len(counts)], np.int32),
        minima=np.array([minimum], np.int32),
        offsets=np.zeros(1, np.float32),
    )


def _round_trip(tables, symbols):
    coder = EntropyCoder(tables)
    payload = coder.encode(symbols)
    decoded = coder.decode(payload, symbols.shape[:2])
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)
    rows = tables.rows(*symbols.shape[:2])
    escapes = ((symbols < tables.minima[rows]) | (symbols > tables.maxima[rows])).sum()
    # One byte for the end, plus the coder's rounding at every step.
    bound = tables.information_bits(symbols) / 8 + 1 + 0.0057 / 8 * (symbols.size + 3 * escapes)
    assert len(payload) <= bound
    return payload


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (7, 3)])
@pytest.mark.parametrize("sizes", [[3], [2] * 9, [2, 9, 2, 30, 9, 400], [12] * 64])
def test_round_trip_within_a_byte_of_the_information(make_tables, draw, shape, sizes):
    tables = make_tables(sizes, scale=2.0)
    for seed in range(20):
        _round_trip(tables, draw(tables, shape, seed))


def test_mean_excess_is_a_fraction_of_a_byte(make_tables, draw):
    tables = make_tables([12] * 32)
    coder = EntropyCoder(tables)
    latents = [draw(tables, (4, 4), seed) for seed in range(200)]
    excess = [len(coder.encode(x)) - tables.information_bits(x) / 8 for x in latents]
    assert 0 < np.mean(excess) < 0.5


@pytest.mark.parametrize("escapes", [1, 7, 1000])
def test_round_trip_of_escapes(make_tables, draw, escapes):
    tables = make_tables([2, 9, 2, 30])
    rng = np.random.default_rng(escapes)
    symbols = draw(tables, (17, 15))
    flat = symbols.reshape(-1)
    spread = rng.uniform(-1, 1, escapes) * 2.0 ** rng.integers(1, 31, escapes)
    flat[rng.choice(flat.size, escapes, replace=False)] = spread.astype(np.int32)
    _round_trip(tables, symbols)


@pytest.mark.parametrize("minimum", [-(2**31), -(2**31) + 1, -1, 0, 2**31 - 2])
def test_every_kind_of_int32_is_codable(minimum):
    near = minimum + np.arange(-70000, 70000, 997)
    steps = minimum + np.concatenate([s * 2 ** np.arange(32) + d for s in (-1, 1) for d in (0, 1)])
    values = np.concatenate([near, steps, EXTREMES, [-1, 0, 1, minimum, minimum + 1]])
    values = values[(values >= EXTREMES[0]) & (values <= EXTREMES[1])].astype(np.int32)
    _round_trip(_one_channel(minimum), values.reshape(-1, 1, 1))
    for value in values:
        _round_trip(_one_channel(minimum), value.reshape(1, 1, 1))


def test_constant_channels_are_free(make_tables):
    tables = make_tables([2] * 64)
    symbols = np.broadcast_to(tables.minima, (4, 4, 64))
    assert _round_trip(tables, symbols) == b""


def test_dead_channels_beside_live_ones_are_free(make_tables, draw):
    live = make_tables([9] * 8)
    mixed = make_tables([9, 2] * 8)
    rows = live.counts.repeat(2, axis=0)
    rows[1::2] = mixed.counts[1]
    mixed = CodingTables(rows, mixed.sizes, live.minima.repeat(2), live.offsets.repeat(2))
    for seed in range(10):
        symbols = draw(live, (5, 5), seed)
        both = symbols.repeat(2, axis=-1)
        both[..., 1::2] = live.minima
        assert abs(len(_round_trip(mixed, both)) - len(_round_trip(live, symbols))) <= 1


@pytest.mark.parametrize("silent", [0, 1])
def test_a_channel_at_its_lowest_is_free_where_it_is_coded_last(silent):
    """Trailing lowest symbols, as ReLU channels have, add no bytes."""
    counts = np.tile(np.array([59000, 4000, 2536], np.int32), (2, 1))
    sizes, minima = np.array([3, 3], np.int32), np.zeros(2, np.int32)
    tables = CodingTables(counts, sizes, minima, np.zeros(2, np.float32))
    symbols = np.zeros((20, 50, 2), np.int32)
    symbols[..., 1 - silent] = np.random.default_rng(0).choice(2, (20, 50), p=[0.9, 0.1])
    excess = len(_round_trip(tables, symbols)) - tables.information_bits(symbols) / 8
    silence = 1000 * np.log2(65536 / 59000) / 8  # bytes
    assert abs(excess + silence * silent) < silence / 2


def test_channels_keep_their_places_whatever_tables_they_share(make_tables, draw):
    tables = make_tables([5, 2, 7, 2, 5, 2])
    rows = tables.counts[[0, 1, 2, 1, 0, 1]]
    tables = CodingTables(rows, tables.sizes, tables.minima, tables.offsets)
    symbols = draw(tables, (4, 3))
    symbols[0, 0] = [100, -100, 200, -200, 300, -300]
    _round_trip(tables, symbols)


@pytest.mark.parametrize("shape", [(1, 1, 6), (4, 4, 5), (7, 3, 2)])
def test_places_have_their_tables(make_placed, draw, shape):
    tables = make_placed([2, 9, 2, 30, 9, 400], shape, scale=2.0)
    for seed in range(20):
        symbols = draw(tables, shape[:2], seed)
        _round_trip(tables, symbols)
        flat = symbols.reshape(-1)
        flat[seed % flat.size] = 2**30
        flat[seed // 2 % flat.size] = -(2**31)
        _round_trip(tables, symbols)


def test_places_with_the_tables_of_their_channels_cost_the_same(make_tables, draw):
    plain = make_tables([5, 9, 30])
    places = np.broadcast_to(np.arange(3, dtype=np.uint8), (4, 6, 3))
    tables = CodingTables(plain.counts, plain.sizes, plain.minima, plain.offsets, places)
    for seed in range(10):
        symbols = draw(plain, (4, 6), seed)
        # Each channel's symbols keep their order, so the bytes are equal too.
        assert _round_trip(tables, symbols) == EntropyCoder(plain).encode(symbols)


def test_places_take_latents_of_their_size_only(make_placed):
    coder = EntropyCoder(make_placed([5, 9], (4, 6, 3)))
    with pytest.raises(ConfigError, match="a latent of 6 × 4, expected 4 × 6"):
        coder.encode(np.zeros((6, 4, 3), np.int32))
    with pytest.raises(ConfigError, match="expected 4 × 6"):
        coder.decode(b"", (1, 1))
    with pytest.raises(BitstreamError, match="too long"):
        coder.decode(b"\1" * (9 * 4 * 6 * 3 + 1), (4, 6))


def test_same_bytes_from_a_fresh_coder_of_stored_tables(make_tables, draw):
    tables = make_tables([2, 9, 30, 9])
    symbols = draw(tables, (4, 4))
    symbols[0, 0, 0] = 12345
    payload = EntropyCoder(tables).encode(symbols)
    stored = {name: array.copy() for name, array in tables.to_arrays().items()}
    again = EntropyCoder(CodingTables.from_arrays(stored))
    assert again.encode(symbols) == payload
    assert again.encode(np.asfortranarray(symbols)) == payload
    assert again.encode(symbols[::-1][::-1]) == payload


def test_golden_payload():
    # Written by constriction 0.5.0. A change makes every stored stream unreadable.
    tables = CodingTables(
        counts=np.array(
            [[9000, 30000, 20000, 6000, 536], [65535, 1, 0, 0, 0], [1, 65534, 1, 0, 0]], np.int32
        ),
        sizes=np.array([5, 2, 3], np.int32),
        minima=np.array([-1, 0, 5], np.int32),
        offsets=np.zeros(3, np.float32),
    )
    symbols = np.array([[[0, 0, 6], [1, 0, 6]], [[-1, 0, 6], [9, 0, 6]]], np.int32)
    assert EntropyCoder(tables).encode(symbols).hex() == "6dcc9e"
    symbols[1, 1] = [-(2**31), 2**31 - 1, 7]
    assert EntropyCoder(tables).encode(symbols).hex() == "6dce11760f3cc4f5baf097e5f412597fffff"


def test_payload_is_the_shortest(make_tables, draw):
    # No string that is one byte shorter decodes to the same symbols.
    tables = make_tables([4, 6])
    coder = EntropyCoder(tables)
    for seed in range(100):
        symbols = draw(tables, (2, 3), seed)
        payload = coder.encode(symbols)
        for last in range(256):
            shorter = (payload[:-2] + bytes([last])).rstrip(b"\0") if len(payload) > 1 else b""
            try:
                decoded = coder.decode(shorter, (2, 3))
            except BitstreamError:
                continue
            assert not np.array_equal(decoded, symbols)


def test_end_of_the_stream_survives_a_pending_carry():
    # Near the top of every interval the coder delays words until the carry is known.
    model = constriction.stream.model.Categorical(np.array([0.3, 0.7]), perfect=False)
    rng = np.random.default_rng(0)
    held_back = 0
    for length in range(1, 400):
        encoder = constriction.stream.queue.RangeEncoder()
        symbols = np.full(length, 1, np.int32)
        symbols[-3:] = rng.integers(0, 2, min(3, length))
        encoder.encode(symbols, model)
        _, (lower, width) = encoder.pos()
        held_back += lower + width > 2**64
        payload = _finish(encoder)
        words = np.frombuffer(payload + bytes(-len(payload) % 4), ">u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        np.testing.assert_array_equal(decoder.decode(model, length), symbols)
    assert held_back > 10


def _decodes_or_refuses(coder, data, shape):
    try:
        decoded = coder.decode(data, shape)
    except BitstreamError:
        return False
    assert decoded.shape == (*shape, coder.tables.channels)
    assert decoded.dtype == np.int32
    return True


def test_damaged_payloads_decode_or_end_in_one_error(make_tables, draw):
    coder = EntropyCoder(make_tables([2, 9, 30, 3], scale=2.0))
    symbols = draw(coder.tables, (5, 5))
    symbols[0, 0] = 2**30
    payload = coder.encode(symbols)
    rng = np.random.default_rng(0)
    cases = [payload[:n] for n in range(len(payload))]
    for index in range(len(payload)):
        for mask in (1, 0x80, 0xFF):
            cases.append(payload[:index] + bytes([payload[index] ^ mask]) + payload[index + 1 :])
    cases += [rng.bytes(rng.integers(0, 120)) for _ in range(500)]
    cases += [b"\xff" * n for n in range(40)]
    started = time.perf_counter()
    outcomes = [_decodes_or_refuses(coder, data, (5, 5)) for data in cases]
    assert time.perf_counter() - started < 10
    assert any(outcomes)
    assert not all(outcomes)


def test_appended_bytes_are_refused(make_tables, draw):
    coder = EntropyCoder(make_tables([9] * 8))
    payload = coder.encode(draw(coder.tables, (4, 4)))
    for junk in (b"\0", b"junk", b"\1" * 100):
        with pytest.raises(BitstreamError, match="appended"):
            coder.decode(payload + junk, (4, 4))
    with pytest.raises(BitstreamError, match="too long for a latent of"):
        coder.decode(b"\1" * 100_000, (4, 4))


def test_flood_of_escapes_stays_bounded():
    # The escape is probable here, so few bytes decode to many escapes.
    coder = EntropyCoder(_one_channel(0, (1, 65535)))
    started = time.perf_counter()
    for data in (b"\xff" * 100, b"\x80", b"\xfe" * 1000, b"\1" * 100):
        _decodes_or_refuses(coder, data, (512, 512))
    assert time.perf_counter() - started < 5


def test_symbol_beyond_32_bits_is_refused():
    # Under tables with higher minima the same stream gives a value above int32.
    low, high = EntropyCoder(_one_channel(0)), EntropyCoder(_one_channel(2**31 - 2))
    payload = low.encode(np.full((1, 1, 1), 2**20, np.int32))
    with pytest.raises(BitstreamError, match="beyond 32 bits"):
        high.decode(payload, (1, 1))


@pytest.mark.parametrize(
    "symbols",
    [
        np.zeros((2, 2, 3), np.int64),
        np.zeros((2, 2, 3), np.float32),
        np.zeros((2, 3), np.int32),
        np.zeros((2, 2, 4), np.int32),
        np.zeros((0, 2, 3), np.int32),
        np.broadcast_to(np.int32(0), (2**12, 2**12, 3)),
    ],
)
def test_other_latents_are_refused(make_tables, symbols):
    with pytest.raises(ConfigError, match="expected"):
        EntropyCoder(make_tables([3, 3, 3])).encode(symbols)


@pytest.mark.parametrize("shape", [(0, 1), (-1, -1), (MAX_SYMBOLS, 2), (2**40, 2**40)])
def test_other_shapes_are_refused(make_tables, shape):
    with pytest.raises(JaxsplitError, match="expected positive sizes"):
        EntropyCoder(make_tables([3])).decode(b"", shape)


def test_threads_share_a_coder(make_tables, draw):
    tables = make_tables([12, 2, 30, 2, 400])
    coder = EntropyCoder(tables)
    shapes = [(4, 4), (7, 3), (1, 1), (16, 16)]
    symbols = [draw(tables, shapes[i % 4], seed=i) for i in range(64)]
    symbols[3][0, 0, 0] = 10**6
    alone = [EntropyCoder(tables).encode(one) for one in symbols]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(coder.encode, symbols)) == alone
            shaped = (one.shape[:2] for one in symbols)
            for one, read in zip(symbols, pool.map(coder.decode, alone, shaped), strict=True):
                np.testing.assert_array_equal(read, one)
