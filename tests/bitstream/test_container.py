"""Containers round-trip; damaged ones give one typed error."""

import dataclasses
import io
import time
import zlib

import numpy as np
import pytest

from jaxsplit.bitstream import (
    Frame,
    Header,
    RateInfo,
    Reader,
    Writer,
    frame_sizes,
    pack_frame,
    pack_header,
    read_container,
    unpack_frame,
    write_container,
)
from jaxsplit.errors import (
    BitstreamError,
    ConfigError,
    NewerVersionError,
    OtherFamilyError,
    OtherTablesError,
)

FAMILY = "00112233445566778899aabbccddeeff" * 2
TABLES = "f0e1d2c3b4a5968778695a4b3c2d1e0f" * 2


def _header(n_rates=2):
    rates = (RateInfo(f"rate-{i}", TABLES, (4, 4 + i, 64)) for i in range(n_rates))
    return Header(FAMILY, tuple(rates), (28, 300, 3))


def _frames():
    return [Frame(0, b"abc"), Frame(1, b""), Frame(0, b""), Frame(1, bytes(range(200)))]


def _sealed(body):
    """Appends a valid checksum to any content."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize("n_rates", [1, 2, 255])
@pytest.mark.parametrize("n_frames", [0, 1, 4])
@pytest.mark.parametrize("frame_checks", [False, True])
def test_round_trip(n_rates, n_frames, frame_checks):
    header = _header(n_rates)
    frames = [Frame(f.rate_index % n_rates, f.payload) for f in _frames()[:n_frames]]
    data = write_container(header, frames, frame_checks=frame_checks)
    assert read_container(data) == (header, frames)
    without = write_container(header, frames)
    assert len(data) == len(without) + 4 * n_frames * frame_checks


def test_the_shape_of_the_images_may_be_left_out():
    header = Header(FAMILY, _header().rates)
    assert read_container(write_container(header, _frames())) == (header, _frames())


def test_a_stream_is_a_header_and_frames():
    stream = pack_header(_header()) + b"".join(
        pack_frame(frame.payload, frame.rate_index, 2) for frame in _frames()
    )
    reader = Reader(io.BytesIO(stream), stream=True)
    assert (reader.header, list(reader)) == (_header(), _frames())
    position, frames = len(pack_header(_header())), []
    while position < len(stream):
        frame, position = unpack_frame(stream, 2, position)
        frames.append(frame)
    assert frames == _frames()


SIZES = [(360, 480), (1, 2**20), (128, 127), (20, 30)]


@pytest.mark.parametrize("frame_checks", [False, True])
def test_images_have_sizes_of_their_own(frame_checks):
    header = dataclasses.replace(_header(), original=(20, 30))
    frames = [dataclasses.replace(f, size=s) for f, s in zip(_frames(), SIZES, strict=True)]
    data = write_container(header, frames, frame_checks=frame_checks)
    assert read_container(data) == (header, frames)
    assert data[5] == 2 + frame_checks
    plain = [size for _, size in frame_sizes(write_container(_header(), _frames()))]
    more = [own - one for (_, own), one in zip(frame_sizes(data), plain, strict=True)]
    assert more == [5, 5, 4, 0]  # nothing for the size that the header has
    alone = pack_frame(b"abc", 1, 2, size=(360, 480))
    assert unpack_frame(alone, 2, sized=True) == (Frame(1, b"abc", (360, 480)), len(alone))
    assert unpack_frame(alone, 2)[0].payload == alone[2 if alone[0] > 127 else 1 :]
    reader = Reader(io.BytesIO(pack_header(header) + alone), stream=True)
    assert list(reader) == [Frame(1, b"abc", (360, 480))]
    unsized = [Frame(0, b"abc")]
    [read] = read_container(write_container(header, unsized))[1]
    assert read.size == (20, 30)


@pytest.mark.parametrize("end", [b"\0", b"\0\0\0", b"\x80\0", b"\1\0", b"\xff" * 6 + b"\0"])
def test_an_impossible_size_is_refused(end):
    header = dataclasses.replace(_header(), original=(20, 30))
    with pytest.raises(BitstreamError, match="image size"):
        read_container(write_container(header, [Frame(0, end)]))


def test_a_size_without_a_header_that_says_so_is_not_written():
    with pytest.raises(ConfigError, match="original"):
        write_container(_header(), [Frame(0, b"", (20, 30))])
    for wrong in ((0, 5), (5, 2**20 + 1), (5,)):
        with pytest.raises(ConfigError, match="expected H and W from 1"):
            dataclasses.replace(_header(), original=wrong)


def test_names_beyond_ascii_and_large_shapes():
    header = Header(FAMILY, (RateInfo("λ=0.5 · größer", TABLES, (2**11, 2**11, 1)),))
    assert read_container(write_container(header, []))[0] == header


def test_fingerprints_are_compared_by_their_first_half():
    assert _header() == Header(FAMILY[:32].upper(), _header().rates, (28, 300, 3))
    assert _header() != Header(FAMILY[:31] + "0", _header().rates, (28, 300, 3))


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
    longest = 30847 // n_rates - 1
    for length in (0, 1, 50, 300, longest):
        for rate_index in {0, n_rates - 1}:
            assert len(pack_frame(bytes(length), rate_index, n_rates)) - length <= 2
    # The largest supported images, and the rates of a whole curve.
    assert len(pack_frame(bytes(5000), 5, 6)) == 5002
    for length in (longest + 1, 489599 // n_rates - 1):
        assert len(pack_frame(bytes(length), n_rates - 1, n_rates)) == length + 3


@pytest.mark.parametrize(
    "value", [1, 127, 128, 255, 256, 383, 384, 30847, 30848, 96383, 489599, 489600, 2**28 + 1]
)
def test_a_label_has_one_form(value):
    """At the specification's limits; longer encodings are refused."""
    label = b"\xff" + value.to_bytes(5, "big")
    if value <= 489599:
        with pytest.raises(BitstreamError, match="not a number in its short form"):
            unpack_frame(label + bytes(value), 1)
    if value <= 127:
        label = bytes([value])
    elif value <= 30847:
        label = (0x8000 + value - 128).to_bytes(2, "big")
    elif value <= 489599:
        label = (0xF80000 + value - 30848).to_bytes(3, "big")
    assert pack_frame(bytes(value - 1), 0, 1)[: len(label)] == label
    assert unpack_frame(label + bytes(value - 1), 1)[1] == len(label) + value - 1


@pytest.mark.parametrize("value", [1, 127, 128, 16511, 16512, 82047, 4145279, 4145280])
def test_a_label_of_version_4_has_one_form(value):
    label = b"\xff" + value.to_bytes(5, "big")
    if value <= 4145279:
        with pytest.raises(BitstreamError, match="not a number in its short form"):
            unpack_frame(label + bytes(value), 1, version=4)
    if value <= 127:
        label = bytes([value])
    elif value <= 16511:
        label = (0x8000 + value - 128).to_bytes(2, "big")
    elif value <= 4145279:
        label = (0xC00000 + value - 16512).to_bytes(3, "big")
    packed = pack_frame(bytes(value - 1), 0, 1, version=4)
    assert packed[: len(label)] == label
    assert unpack_frame(packed, 1, version=4) == (Frame(0, bytes(value - 1)), len(packed))


def test_an_image_costs_at_most_three_bytes_with_64_levels():
    for length in (0, 1, 256, 257, 5000, 60000, 64768):
        for level in (0, 63):
            over = len(pack_frame(bytes(length), level, 64, version=4)) - length
            assert over <= (2 if length <= 256 else 3)


@pytest.mark.parametrize("frame_checks", [False, True])
def test_levels_count_as_rates_and_make_version_4(frame_checks):
    shape = (4, 4, 64)
    rates = RateInfo("one", TABLES, shape), RateInfo("levels", TABLES, shape, levels=64)
    header = Header(TABLES, rates)
    assert (header.n_rates, header.version, Header(TABLES, rates[:1]).version) == (65, 4, 3)
    frames = [Frame(index, bytes([index]) * 9) for index in (0, 1, 64)]
    data = write_container(header, frames, frame_checks=frame_checks)
    assert data[4] == 4
    assert read_container(data) == (header, frames)
    stream = pack_header(header) + b"".join(
        pack_frame(x.payload, x.rate_index, 65, version=4) for x in frames
    )
    assert list(Reader(io.BytesIO(stream), stream=True)) == frames
    with pytest.raises(ConfigError, match=r"frame of rate 65, expected 0 … 64"):
        write_container(header, [Frame(65, b"")])


@pytest.mark.parametrize("levels", [0, 256])
def test_impossible_numbers_of_levels_are_refused(levels):
    with pytest.raises(ConfigError, match="levels, expected 1 … 255"):
        RateInfo("levels", TABLES, (4, 4, 64), levels)
    rates = RateInfo("a", TABLES, (1, 1, 1), 255), RateInfo("b", TABLES, (1, 1, 1))
    with pytest.raises(ConfigError, match="a container of 256 rates"):
        Header(TABLES, rates)


def test_levels_of_another_number_are_refused():
    ours, theirs = (Header(TABLES, (RateInfo("levels", TABLES, (1, 1, 1), n),)) for n in (8, 9))
    with pytest.raises(OtherTablesError, match=r"9 levels, but this family has .* 8 levels"):
        ours.check(theirs)


def test_any_whole_number_is_a_rate_index():
    assert pack_frame(bytes(100), np.int64(1), 6) == pack_frame(bytes(100), 1, 6)


def test_frames_pack_and_unpack_anywhere():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n_rates = int(rng.integers(1, 256))
        frame = Frame(int(rng.integers(n_rates)), rng.bytes(int(2 ** rng.uniform(0, 17)) - 1))
        packed = pack_frame(frame.payload, frame.rate_index, n_rates)
        assert unpack_frame(packed, n_rates) == (frame, len(packed))
        assert unpack_frame(b"xyz" + packed + b"more", n_rates, 3) == (frame, 3 + len(packed))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: b"\x89PNG\r\n\x1a\n" + d, "not a jaxsplit file: it begins with"),
        (lambda d: b"jspl" + d[4:], "not a jaxsplit file"),
        (lambda d: d[:4] + b"\x00" + d[5:], "corrupted: format version 0"),
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


@pytest.mark.parametrize("what", ["version", "flags"])
def test_what_a_newer_version_writes_is_refused(what):
    data = bytearray(write_container(_header(), _frames()))
    if what == "version":
        data[4] = 5
    else:
        data[5] |= 4
    with pytest.raises(NewerVersionError, match=f"format {what} .*decode it with the jaxsplit"):
        read_container(_sealed(data[:-4]))


def test_a_damaged_frame_is_named_by_its_check():
    data = bytearray(write_container(_header(), _frames(), frame_checks=True))
    start = data.index(b"abc")
    for index in range(start - 1, start + 7):
        damaged = data.copy()
        damaged[index] ^= 0x40
        with pytest.raises(BitstreamError, match=r"frame 0, at byte|truncated"):
            read_container(_sealed(damaged[:-4]))


def test_frames_that_changed_places_are_noticed():
    same = [Frame(0, b"abc"), Frame(0, b"xyz")]
    ours, theirs = (
        write_container(_header(), frames, frame_checks=True) for frames in (same, same[::-1])
    )
    head = len(write_container(_header(), [])) - 5
    size = (len(ours) - head - 5) // 2
    swapped = ours[:head] + ours[head + size : head + 2 * size] + ours[head : head + size]
    assert swapped != theirs[: len(swapped)]
    with pytest.raises(BitstreamError, match=r"frame 0, at byte .* fails its check"):
        read_container(_sealed(swapped + b"\0"))


def test_a_receiver_refuses_another_family_and_other_tables():
    ours = _header()
    ours.check(ours)
    ours.check(Header(FAMILY, ours.rates))  # version 1 has no image shape
    with pytest.raises(OtherFamilyError, match="another family, 111111111111; this one is 001122"):
        ours.check(Header("1" * 32, ours.rates))
    first, second = ours.rates
    for rates in (
        (first, RateInfo("rate-1", "1" * 32, second.shape)),
        (first, RateInfo("rate-1", TABLES, (4, 6, 64))),
        (second, first),
        (first,),
    ):
        with pytest.raises(OtherTablesError, match="decode it with the family"):
            ours.check(Header(FAMILY, rates))
    with pytest.raises(OtherTablesError, match="images of"):
        ours.check(Header(FAMILY, ours.rates, (1, 1, 1)))


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
        (b"\2" + 2 * (b"\1a" + bytes(16) + b"\1\1\1"), "with distinct ids"),
    ],
)
def test_invalid_header_with_a_right_checksum(rates, message):
    with pytest.raises(BitstreamError, match=message):
        read_container(_sealed(b"JSPL\1" + bytes(16) + rates + b"\0"))
    for version in (b"\2", b"\3"):
        with pytest.raises(BitstreamError, match=message):
            read_container(_sealed(b"JSPL" + version + bytes(17) + b"\1\1\1" + rates + b"\0"))


def test_length_beyond_the_data_takes_no_memory():
    header = write_container(_header(1), [])[:-5]
    most = 9 * 4 * 4 * 64
    with pytest.raises(BitstreamError, match=f"truncated: the frame payload needs {most} "):
        read_container(_sealed(header + b"\xa3\x81\0"))
    with pytest.raises(
        BitstreamError, match=f"a frame of {most + 1} bytes, expected at most {most};"
    ):
        read_container(_sealed(header + b"\xa3\x82\0"))
    with pytest.raises(BitstreamError, match="at most 9216;"):
        read_container(_sealed(header + b"\xff\0\x10\0\0\0\0"))
    with pytest.raises(BitstreamError, match=r"corrupted: a frame of .* bytes, expected at most"):
        read_container(_sealed(header + b"\xff\xff\xff\xff\xff\x7f\0"))
    with pytest.raises(BitstreamError, match="end marker"):
        unpack_frame(b"\0", 1)


@pytest.mark.parametrize("frame_checks", [False, True])
def test_every_flip_and_every_truncation_is_noticed(frame_checks):
    data = write_container(_header(), _frames(), frame_checks=frame_checks)
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
        for data in (junk, b"JSPL\1" + junk, b"JSPL\2\0" + junk, b"JSPL\3\0" + junk, start + junk):
            with pytest.raises(BitstreamError):
                read_container(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RateInfo("", TABLES, (1, 1, 1)),
        lambda: RateInfo("a\nb", TABLES, (1, 1, 1)),
        lambda: RateInfo("\x1b[31m", TABLES, (1, 1, 1)),
        lambda: RateInfo("ü" * 33, TABLES, (1, 1, 1)),
        lambda: RateInfo("a", TABLES[:31], (1, 1, 1)),
        lambda: RateInfo("a", "x" * 64, (1, 1, 1)),
        lambda: RateInfo("a", TABLES, (1, 0, 1)),
        lambda: RateInfo("a", TABLES, (1, 1)),
        lambda: RateInfo("a", TABLES, (2**12, 2**12, 2)),
        lambda: Header(FAMILY, ()),
        lambda: Header(FAMILY, _header(2).rates, (28, 28)),
        lambda: Header(FAMILY, _header(2).rates, (28, 0, 1)),
        lambda: Header(FAMILY, _header(2).rates, (28, 2**20 + 1, 1)),
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
