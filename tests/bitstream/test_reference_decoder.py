"""A decoder written from FORMAT.md alone reads the library's containers."""

import dataclasses

import numpy as np
import pytest
from bitstream import reference_decoder

from jaxsplit.bitstream import (
    CodingTables,
    EntropyCoder,
    Frame,
    Header,
    LevelTables,
    RateInfo,
    write_container,
)

FAMILY = "00112233445566778899aabbccddeeff" * 2
SHAPES = {"shared": (3, 5, 7), "wide": (4, 4, 3), "dead": (2, 2, 9), "one": (1, 1, 1)}


def rows(tables):
    """Tables as in the specification: (minimum, counts) of each channel."""
    return [
        (int(minimum), row[:size].tolist())
        for minimum, row, size in zip(tables.minima, tables.counts, tables.sizes, strict=True)
    ]


@pytest.fixture(scope="module")
def coders(make_tables):
    shared = make_tables([5, 2, 7, 2, 5, 2, 5])
    order = [0, 1, 2, 1, 0, 1, 0]
    return {
        # Non-adjacent channels with equal counts and several minima.
        "shared": EntropyCoder(
            CodingTables(shared.counts[order], shared.sizes, shared.minima, shared.offsets)
        ),
        "wide": EntropyCoder(make_tables([400, 30, 2], scale=9.0)),
        "dead": EntropyCoder(make_tables([2] * 9)),
        "one": EntropyCoder(make_tables([3])),
    }


@pytest.fixture(scope="module")
def latents(coders, draw):
    """(rate index, symbols): without escapes, with escapes of every size and side, and empty."""
    found = []
    for rate, (name, (height, width, _)) in enumerate(SHAPES.items()):
        tables = coders[name].tables
        for seed in range(6):
            found.append((rate, draw(tables, (height, width), seed)))
        for bits in range(31):
            symbols = draw(tables, (height, width), bits)
            flat = symbols.reshape(-1)
            flat[bits % flat.size] = 2**bits + 2**bits // 3
            flat[bits // 2 % flat.size] = -(2**bits) - bits
            found.append((rate, symbols))
        escapes = np.random.default_rng(rate).integers(-(2**31), 2**31, (height, width, 1))
        everywhere = np.broadcast_to(escapes, (height, width, tables.channels))
        found.append((rate, everywhere.astype(np.int32)))
        found.append((rate, np.full((height, width, tables.channels), -(2**31), np.int32)))
        found.append((rate, np.full((height, width, tables.channels), 2**31 - 1, np.int32)))
        found.append((rate, np.broadcast_to(tables.minima, (height, width, tables.channels))))
    return found


@pytest.mark.parametrize("frame_checks", [False, True])
def test_the_specification_decodes_what_is_written(coders, latents, frame_checks):
    names = list(SHAPES)
    infos = tuple(
        RateInfo(name, coders[name].tables.fingerprint, shape) for name, shape in SHAPES.items()
    )
    header = Header(FAMILY, infos, (28, 300, 1))
    payloads = [coders[names[rate]].encode(symbols) for rate, symbols in latents]
    assert b"" in payloads
    assert max(map(len, payloads)) > 127  # a length of two bytes
    frames = [Frame(rate, data) for (rate, _), data in zip(latents, payloads, strict=True)]
    data = write_container(header, frames, frame_checks=frame_checks)
    family, image, rates, read = reference_decoder.read_container(data)
    assert family == header.family
    assert image == header.image
    assert rates == [(info.rate_id, info.tables, info.shape) for info in header.rates]
    assert read == [(frame.rate_index, frame.payload) for frame in frames]
    for (rate, payload), (_, symbols) in zip(read, latents, strict=True):
        tables = rows(coders[names[rate]].tables)
        assert reference_decoder.decode_payload(payload, tables, *symbols.shape[:2]) == (
            symbols.tolist()
        )


def test_sizes_of_images_are_read():
    sizes = [(20, 30), (360, 480), (1, 2**20), (127, 128)]
    frames = [Frame(0, bytes([9] * i), size) for i, size in enumerate(sizes)]
    header = Header(FAMILY, (RateInfo("one", FAMILY, (4, 4, 2)),), (8, 8, 3), (20, 30))
    for checks in (False, True):
        found = reference_decoder.read_container(
            write_container(header, frames, frame_checks=checks)
        )
        assert found[3] == [(f.rate_index, f.payload, f.size) for f in frames]


def test_levels_are_rates_with_tables_of_their_own(make_placed, draw):
    placed = make_placed([2, 9, 30, 5], (1, 200, 3))
    shared = LevelTables(dataclasses.replace(placed, offsets=np.zeros(3, np.float32)))
    header = Header(FAMILY, (RateInfo("levels", shared.fingerprint, (4, 5, 3), len(shared)),))
    latents = {level: draw(shared.level(level), (4, 5), level) for level in range(0, 200, 23)}
    frames = [
        Frame(level, EntropyCoder(shared.level(level)).encode(symbols))
        for level, symbols in latents.items()
    ]
    frames.append(Frame(7, bytes(range(1, 200))))  # a label of three bytes
    _, _, rates, read = reference_decoder.read_container(write_container(header, frames))
    assert len(rates) == 200
    assert read == [(frame.rate_index, frame.payload) for frame in frames]
    for level, payload in read[:-1]:
        found = reference_decoder.decode_payload(payload, rows(shared.level(level)), 4, 5)
        assert found == latents[level].tolist()


def test_many_symbols_and_carries(make_tables, draw):
    tables = make_tables([12] * 16, scale=2.0)
    coder = EntropyCoder(tables)
    for seed in range(10):
        symbols = draw(tables, (9, 9), seed)
        read = reference_decoder.decode_payload(coder.encode(symbols), rows(tables), 9, 9)
        assert read == symbols.tolist()


def test_places_are_the_channels_of_one_pixel(make_placed, draw):
    shape = (5, 4, 3)
    tables = make_placed([2, 9, 2, 30, 9], shape)
    coder = EntropyCoder(tables)
    of_places = [rows(tables)[table] for table in tables.table_indices.ravel()]
    for seed in range(10):
        symbols = draw(tables, shape[:2], seed)
        symbols[seed % 5, 0, 1] = 1000 * (seed + 1)
        symbols[0, seed % 4] = -(2**seed) - 100
        read = reference_decoder.decode_payload(coder.encode(symbols), of_places, 1, 1)
        assert np.reshape(read, shape).tolist() == symbols.tolist()
