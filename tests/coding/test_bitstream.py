"""The container returns what was put in, or one error that says what is wrong."""

import io
import time
import zlib

import numpy as np
import pytest

from jaxsplit.coding import (
    Frame,
    Header,
    RateInfo,
    Writer,
    pack_frame,
    read_container,
    unpack_frame,
    write_container,
)
from jaxsplit.errors import BitstreamError, ConfigError

FAMILY = "00112233445566778899aabbccddeeff" * 2
TABLES = "f0e1d2c3b4a5968778695a4b3c2d1e0f" * 2


def _header(n_rates=2):
    rates = (RateInfo(f"rate-{i}", TABLES, (4, 4 + i, 64)) for i in range(n_rates))
    return Header(FAMILY, tuple(rates))


def _frames():
    return [Frame(0, b"abc"), Frame(1, b""), Frame(0, b""), Frame(1, bytes(range(200)))]


def _sealed(body):
    """A file whose checksum is right, whatever its content."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize("n_rates", [1, 2, 255])
@pytest.mark.parametrize("n_frames", [0, 1, 4])
def test_round_trip(n_rates, n_frames):
    header = _header(n_rates)
    frames = [Frame(f.rate_index % n_rates, f.payload) for f in _frames()[:n_frames]]
    assert read_container(write_container(header, frames)) == (header, frames)


def test_names_beyond_ascii_and_large_shapes():
    header = Header(FAMILY, (RateInfo("λ=0.5 · größer", TABLES, (2**11, 2**11, 1)),))
    assert read_container(write_container(header, []))[0] == header


def test_fingerprints_are_compared_by_their_first_half():
    assert _header() == Header(FAMILY[:32].upper(), _header().rates)
    assert _header() != Header(FAMILY[:31] + "0", _header().rates)


def test_writer_writes_the_same_bytes_and_counts_them():
    file = io.BytesIO()
    with Writer(file, _header()) as writer:
        sizes = [writer.write(frame.payload, frame.rate_index) for frame in _frames()]
    assert file.getvalue() == write_container(_header(), _frames())
    assert sizes == [len(pack_frame(f.payload, f.rate_index, 2)) for f in _frames()]
    fixed = len(write_container(_header(), []))
    assert len(file.getvalue()) == fixed + sum(sizes)


def test_interrupted_writer_leaves_a_truncated_file():
    file = io.BytesIO()
    writer = Writer(file, _header())

    def interrupted():
        with writer:
            writer.write(b"abc", 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(BitstreamError, match="truncated"):
        read_container(file.getvalue())


@pytest.mark.parametrize("n_rates", [1, 5, 20])
def test_an_image_costs_at_most_two_bytes_beside_its_payload(n_rates):
    for length in (0, 1, 50, 300, 16382 // n_rates):
        for rate_index in {0, n_rates - 1}:
            if 1 + length * n_rates + rate_index < 2**14:
                frame = pack_frame(bytes(length), rate_index, n_rates)
                assert len(frame) - length <= 2
    assert len(pack_frame(bytes(3000), min(4, n_rates - 1), min(n_rates, 5))) == 3002


def test_frames_pack_and_unpack_anywhere():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n_rates = int(rng.integers(1, 256))
        frame = Frame(int(rng.integers(n_rates)), rng.bytes(int(2 ** rng.uniform(0, 17)) - 1))
        packed = pack_frame(frame.payload, frame.rate_index, n_rates)
        assert unpack_frame(packed, n_rates) == (frame, len(packed))
        assert unpack_frame(b"xyz" + packed + b"more", n_rates, 3) == (frame, 3 + len(packed))


def test_golden_stream():
    # Format version 1. A change here makes every stored file unreadable: raise the version.
    rates = (RateInfo("low", TABLES, (4, 4, 64)), RateInfo("hi", TABLES, (7, 7, 200)))
    header = Header(FAMILY, rates)
    frames = [Frame(1, b"jaxsplit"), Frame(0, b""), Frame(0, b"\xff" * 70)]
    data = write_container(header, frames)
    head = (
        "4a53504c0100112233445566778899aabbccddeeff02036c6f77f0e1d2c3b4a5968778695a4b3c2d"
        "1e0f040440026869f0e1d2c3b4a5968778695a4b3c2d1e0f0707c801126a617873706c6974018d01"
    )
    assert data.hex() == head + "ff" * 70 + "00" + "865807c4"
    assert read_container(data) == (header, frames)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: b"\x89PNG\r\n\x1a\n" + d, "not a jaxsplit file: it begins with"),
        (lambda d: b"jspl" + d[4:], "not a jaxsplit file"),
        (lambda d: d[:4] + b"\x02" + d[5:], "format version 2, this library reads 1"),
        (lambda d: b"", "truncated: the header needs 4 bytes at byte 0 and 0 are left"),
        (lambda d: d[:3], "truncated: the header"),
        (lambda d: d[:30], "truncated"),
        (lambda d: d[:-5], "truncated: the frame length"),
        (lambda d: d[:-1], "truncated: the checksum needs 4 bytes"),
        (lambda d: d[:-6] + b"?" + d[-5:], "corrupted: checksum [0-9a-f]{8}, expected"),
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "corrupted: checksum"),
        (lambda d: d + b"\0", "corrupted: 1 bytes follow its end"),
        (lambda d: d + d, "bytes follow its end"),
    ],
)
def test_each_damage_has_its_message(damage, message):
    with pytest.raises(BitstreamError, match=message):
        read_container(damage(write_container(_header(), _frames())))


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (b"\0", "a container of 0 rates"),
        (b"\1\0" + bytes(16) + b"\1\1\1", "has 0 bytes, expected 1"),
        (b"\1\1\xff" + bytes(16) + b"\1\1\1", "codec can't decode"),
        (b"\1\1a" + bytes(16) + b"\1\0\1", "expected positive h, w and channels"),
        (b"\1\1a" + bytes(16) + b"\xff\xff\x7f" * 3, "at most 4194304 symbols"),
        (b"\1\1a" + bytes(16) + b"\xff" * 9, "not a number in its short form"),
        (b"\1\1a" + bytes(16) + b"\x81\0\1\1", "not a number in its short form"),
        (2 * (b"\1a" + bytes(16) + b"\1\1\1"), "truncated"),
        (b"\2" + 2 * (b"\1a" + bytes(16) + b"\1\1\1"), "with different ids"),
    ],
)
def test_invalid_header_with_a_right_checksum(rates, message):
    with pytest.raises(BitstreamError, match=message):
        read_container(_sealed(b"JSPL\1" + bytes(16) + rates + b"\0"))


def test_length_beyond_the_data_takes_no_memory():
    header = write_container(_header(1), [])[:-5]
    with pytest.raises(BitstreamError, match="truncated: the frame payload needs 268435455"):
        read_container(_sealed(header + b"\x80\x80\x80\x80\x01\0"))
    with pytest.raises(BitstreamError, match=r"corrupted: a frame of .* bytes, at most"):
        read_container(_sealed(header + b"\xff\xff\xff\xff\xff\x7f\0"))
    with pytest.raises(BitstreamError, match="end marker"):
        unpack_frame(b"\0", 1)


def test_every_flip_and_every_truncation_is_noticed():
    data = write_container(_header(), _frames())
    started = time.perf_counter()
    for index in range(len(data)):
        for mask in (0x01, 0x10, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[index] ^= mask
            with pytest.raises(BitstreamError):
                read_container(bytes(damaged))
        with pytest.raises(BitstreamError, match="truncated"):
            read_container(data[:index])
    assert time.perf_counter() - started < 20


def test_random_bytes_end_in_one_error():
    rng = np.random.default_rng(0)
    start = write_container(_header(), [])[:-5]
    for _ in range(2000):
        junk = rng.bytes(rng.integers(0, 300))
        for data in (junk, b"JSPL\1" + junk, start + junk):
            with pytest.raises(BitstreamError):
                read_container(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RateInfo("", TABLES, (1, 1, 1)),
        lambda: RateInfo("ü" * 33, TABLES, (1, 1, 1)),
        lambda: RateInfo("a", TABLES[:31], (1, 1, 1)),
        lambda: RateInfo("a", "x" * 64, (1, 1, 1)),
        lambda: RateInfo("a", TABLES, (1, 0, 1)),
        lambda: RateInfo("a", TABLES, (1, 1)),
        lambda: RateInfo("a", TABLES, (2**12, 2**12, 2)),
        lambda: Header(FAMILY, ()),
        lambda: Header(FAMILY, _header(2).rates * 2),
        lambda: _header(256),
        lambda: Header("", _header().rates),
        lambda: pack_frame(b"", 2, 2),
        lambda: pack_frame(b"", -1, 2),
        lambda: pack_frame(bytes(2**28 + 1), 0, 1),
        lambda: write_container(_header(2), [Frame(2, b"")]),
    ],
)
def test_what_does_not_fit_the_format_is_refused_when_written(make):
    with pytest.raises(ConfigError, match=r"expected|at most"):
        make()
