"""Frames are read as they arrive, from sockets and files, and forged lengths are refused."""

import io
import socket
import threading
import tracemalloc

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
    write_container,
)
from jaxsplit.errors import BitstreamError, ConfigError

HEADER = Header(
    "01" * 16, (RateInfo("a", "23" * 16, (4, 4, 8)), RateInfo("b", "45" * 16, (1, 1, 1)))
)
FRAMES = [Frame(0, b"abc"), Frame(1, b""), Frame(0, bytes(300))]
STREAM = pack_header(HEADER) + b"".join(pack_frame(f.payload, f.rate_index, 2) for f in FRAMES)


def test_a_frame_is_read_before_the_next_one_is_sent():
    device, server = socket.socketpair()
    seen = threading.Event()

    def send():
        device.sendall(pack_header(HEADER))
        for frame in FRAMES:
            seen.clear()
            # One byte at a time: the network decides what arrives together.
            for byte in pack_frame(frame.payload, frame.rate_index, 2):
                device.sendall(bytes([byte]))
            assert seen.wait(10)
        device.close()

    thread = threading.Thread(target=send)
    thread.start()
    server.settimeout(10)
    with server, server.makefile("rb") as file:
        reader = Reader(file, stream=True)
        assert reader.header == HEADER
        read = []
        for frame in reader:
            read.append(frame)
            seen.set()
    thread.join()
    assert read == FRAMES


@pytest.mark.parametrize("frame_checks", [False, True])
def test_a_container_ends_by_itself_and_leaves_what_follows(frame_checks):
    file = io.BytesIO()
    with Writer(file, HEADER, frame_checks=frame_checks) as writer:
        for frame in FRAMES:
            writer.write(frame.payload, frame.rate_index)
    file.write(b"more")
    file.seek(0)
    assert list(Reader(file)) == FRAMES
    assert file.read() == b"more"


def test_a_stream_may_end_after_a_frame_and_nowhere_else():
    ends = [len(pack_header(HEADER))]
    for frame in FRAMES:
        ends.append(ends[-1] + len(pack_frame(frame.payload, frame.rate_index, 2)))
    for size in range(len(STREAM) + 1):
        file = io.BytesIO(STREAM[:size])
        if size in ends:
            assert list(Reader(file, stream=True)) == FRAMES[: ends.index(size)]
            continue
        with pytest.raises(BitstreamError, match="truncated"):
            list(Reader(file, stream=True))
    with pytest.raises(BitstreamError, match="truncated"):
        list(Reader(io.BytesIO(STREAM)))


def test_a_finished_container_stays_finished():
    reader = Reader(io.BytesIO(write_container(HEADER, FRAMES) + b"more"))
    assert list(reader) == FRAMES
    assert list(reader) == []


@pytest.mark.parametrize("damage", ["checksum", "length"])
def test_behind_an_error_no_frame_is_read(damage):
    data = bytearray(write_container(HEADER, FRAMES))
    data[-1 if damage == "checksum" else len(pack_header(HEADER))] ^= 0x7F
    reader = Reader(io.BytesIO(data))
    for _ in range(2):
        with pytest.raises(BitstreamError, match="corrupted"):
            list(reader)


def test_nothing_yet_is_not_the_end():
    device, server = socket.socketpair()
    with device, server, server.makefile("rb") as file:
        device.sendall(STREAM)
        reader = Reader(file, stream=True)
        server.setblocking(False)
        with pytest.raises((ConfigError, BlockingIOError)):
            list(reader)


def test_a_payload_longer_than_its_latent_can_be_is_not_written():
    most = 9 * 1 * 1 * 1
    assert len(write_container(HEADER, [Frame(1, b"x" * most)])) > most
    with pytest.raises(ConfigError, match=f"payload of {most + 1} bytes"):
        write_container(HEADER, [Frame(1, b"x" * (most + 1))])


def test_a_payload_longer_than_its_latent_can_be_is_not_read():
    most = 9 * 4 * 4 * 8
    reader = Reader(io.BytesIO(pack_header(HEADER) + pack_frame(bytes(most), 0, 2)), stream=True)
    assert len(next(iter(reader)).payload) == most
    file = io.BytesIO(pack_header(HEADER) + pack_frame(bytes(most + 1), 0, 2))
    with pytest.raises(
        BitstreamError, match=f"a frame of {most + 1} bytes, expected at most {most}"
    ):
        list(Reader(file, stream=True))
    assert file.tell() <= len(pack_header(HEADER)) + 5


def test_a_lying_length_takes_no_memory():
    # Only a few bytes arrive of the longest frame of the largest latent.
    header = Header("01" * 16, (RateInfo("a", "23" * 16, (2048, 2048, 1)),))
    lying = pack_header(header) + b"\xff" + (1 << 24).to_bytes(5, "big")
    read_end, write_end = socket.socketpair()
    with read_end, read_end.makefile("rb") as file:
        write_end.sendall(lying + b"few")
        write_end.close()
        tracemalloc.start()
        try:
            with pytest.raises(BitstreamError, match="truncated: the frame payload needs"):
                list(Reader(file, stream=True))
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("frame_checks", [False, True])
def test_sizes_are_what_the_frames_take_in_the_file(frame_checks):
    data = write_container(HEADER, FRAMES, frame_checks=frame_checks)
    assert list(frame_sizes(data)) == [
        (frame, len(pack_frame(frame.payload, frame.rate_index, 2))) for frame in FRAMES
    ]
    with pytest.raises(BitstreamError, match="4 bytes follow its end"):
        list(frame_sizes(data + b"more"))


def test_a_flood_of_empty_frames_takes_no_memory():
    data = write_container(HEADER, [Frame(0, b"")] * 200_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in frame_sizes(data)) == 200_000
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + (1 << 20)
    finally:
        tracemalloc.stop()
