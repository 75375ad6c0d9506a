"""Frames are read as they arrive, from sockets and files, and forged lengths are refused."""

import errno
import io
import itertools
import socket
import struct
import threading
import time
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
    unpack_frame,
    write_container,
)
from jaxsplit.errors import (
    BitstreamError,
    ConfigError,
    ConnectionLostError,
    JaxsplitError,
    ReadTimeoutError,
)

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


class Interrupting(io.BytesIO):
    """A file whose n-th read takes its bytes and is interrupted before it gives them."""

    def __init__(self, data, error, at):
        super().__init__(data)
        self.error, self.left = error, at

    def read(self, size=-1):
        taken = super().read(size)
        self.left -= 1
        if self.left == 0:
            raise self.error
        return taken


@pytest.mark.parametrize("frame_checks", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("lost"), TimeoutError("timed out")])
def test_a_reader_that_was_interrupted_anywhere_gives_no_frame_that_nobody_sent(
    frame_checks, error
):
    # Payloads that would pass for frames, were one read from its middle.
    sent = [Frame(0, pack_frame(b"x", 1, 2) * 4), Frame(1, b"\5abc"), Frame(0, b"")] * 3
    data = write_container(HEADER, sent, frame_checks=frame_checks)
    for at in itertools.count(1):
        file = Interrupting(data, error, at)
        try:
            reader = Reader(file)
        except (type(error), ReadTimeoutError):
            continue  # no header, no reader
        got = []
        try:
            got.extend(reader)
        except (type(error), ReadTimeoutError):
            pass
        else:
            assert got == sent
            break  # behind the last read
        for _ in range(2):
            with pytest.raises(
                BitstreamError, match=r"interrupted|timeout|cannot read the file: lost"
            ):
                got.extend(reader)
        assert got == sent[: len(got)]
    assert at > 20


def test_an_iterator_that_failed_does_not_end_as_if_the_stream_had():
    iterator = iter(Reader(Interrupting(STREAM, KeyboardInterrupt(), 25), stream=True))
    with pytest.raises(KeyboardInterrupt):
        list(iterator)
    with pytest.raises(BitstreamError, match="this stream was interrupted"):
        next(iterator)


def test_frames_left_unread_by_one_loop_are_read_by_the_next():
    reader = Reader(io.BytesIO(STREAM), stream=True)
    for frame in reader:
        assert frame == FRAMES[0]
        break
    assert list(reader) == FRAMES[1:]


class Failing(io.BytesIO):
    """A file whose n-th write takes half of the bytes, and then fails or says how many."""

    def __init__(self, at, error):
        super().__init__()
        self.left, self.error = at, error

    def write(self, data):
        self.left -= 1
        if self.left:
            return super().write(data)
        written = super().write(data[: len(data) // 2])
        if self.error is not None:
            raise self.error
        return written


@pytest.mark.parametrize(
    ("error", "said"),
    [(None, "took 2 of 4"), (KeyboardInterrupt("now"), "now"), (OSError("full"), "full")],
)
def test_a_writer_whose_file_failed_writes_no_further_frame(error, said):
    file = Failing(3, error)
    writer = Writer(file, HEADER)
    writer.write(b"abc", 0)
    with pytest.raises(type(error) if error else ConfigError, match=said):
        writer.write(b"def", 0)
    size = len(file.getvalue())
    for more in (lambda: writer.write(b"ghi", 0), writer.close):
        with pytest.raises(ConfigError, match="an earlier write failed"):
            more()
    assert len(file.getvalue()) == size


@pytest.mark.parametrize("stream", [False, True])
def test_no_more_frames_than_max_frames_are_read(stream):
    frames = [Frame(1, b"")] * 1000  # each a byte on the wire, and a whole network's computing
    data = write_container(HEADER, frames)
    for most in (1000, 1001, None):
        assert list(Reader(io.BytesIO(data), stream=stream, max_frames=most)) == frames
    for most in (0, 999):
        reader, got = Reader(io.BytesIO(data), stream=stream, max_frames=most), []
        for _ in range(2):
            with pytest.raises(BitstreamError, match=f"more than max_frames = {most} frames"):
                got.extend(reader)
        assert len(got) == most


@pytest.mark.parametrize(
    "sent", [STREAM[:20], STREAM, STREAM[:-1]], ids=["header", "idle", "frame"]
)
def test_a_silent_connection_is_a_typed_timeout_not_the_end(sent):
    device, server = socket.socketpair()
    server.settimeout(0.02)
    with device, server, server.makefile("rb") as file:
        device.sendall(sent)
        with pytest.raises(TimeoutError, match="timeout: nothing arrived") as error:
            list(Reader(file, stream=True))
    assert isinstance(error.value, BitstreamError)
    assert isinstance(error.value, JaxsplitError)


@pytest.mark.parametrize("sent", [b"", STREAM, STREAM[:-1]], ids=["nothing", "frames", "part"])
def test_a_lost_connection_is_a_typed_error_not_the_end(sent):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        device = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with server, server.makefile("rb", buffering=0) as file:
        device.sendall(sent)
        while len(server.recv(len(STREAM), socket.MSG_PEEK) if sent else b"") < len(sent):
            pass
        if sent:
            reader, got = Reader(file, stream=True), []
        # Without lingering, closing resets the connection.
        device.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        device.close()
        with pytest.raises(ConnectionError, match=r"cannot read the stream: .*reset") as error:
            got.extend(reader) if sent else Reader(file, stream=True)
        assert isinstance(error.value, JaxsplitError)
        assert isinstance(error.value, ConnectionLostError)
        assert error.value.errno == errno.ECONNRESET
        if sent:
            assert got == FRAMES[: len(got)]
            with pytest.raises(ConnectionLostError):
                next(reader)


@pytest.mark.parametrize("buffering", [-1, 0])
@pytest.mark.parametrize("drips", ["frames", "payload"])
def test_a_sender_that_drips_is_given_up_after_max_seconds(drips, buffering):
    device, server = socket.socketpair()
    over = threading.Event()

    def drip():
        device.sendall(pack_header(HEADER))
        if drips == "payload":
            device.sendall(pack_frame(bytes(1000), 0, 2)[:2])
        while not over.wait(0.01):  # always within the connection's timeout
            device.sendall(b"\2" if drips == "frames" else b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    server.settimeout(10)
    started = time.monotonic()
    try:
        with server.makefile("rb", buffering=buffering) as file:
            reader = Reader(file, stream=True, max_seconds=0.2)
            for _ in range(2):
                with pytest.raises(ReadTimeoutError, match=r"more than max_seconds = 0\.2"):
                    list(reader)
        assert 0.2 <= time.monotonic() - started < 5
    finally:
        over.set()
        thread.join()
        server.close()
        device.close()


def test_a_reader_with_limits_reads_what_one_without_does():
    device, server = socket.socketpair()
    with server, server.makefile("rb") as file:
        with device:
            device.sendall(STREAM)
        assert list(Reader(file, stream=True, max_frames=3, max_seconds=60)) == FRAMES


def test_messages_speak_of_what_was_read():
    def said(data, **options):
        with pytest.raises(BitstreamError) as error:
            list(Reader(io.BytesIO(data), **options))
        return str(error.value)

    whole = write_container(HEADER, FRAMES)
    long = pack_header(HEADER) + pack_frame(bytes(9 * 4 * 4 * 8 + 1), 0, 2)
    for damaged in (b"GET / HTTP/1.1", whole[:-1], whole[:20], long, whole[:-1] + b"x"):
        of_file, of_stream = said(damaged), said(damaged, stream=True)
        assert "file" not in of_stream
        assert "stream" not in of_file
        assert "file" in of_file or "encode it again" in of_file
        assert "stream" in of_stream or "sent again over a new connection" in of_stream
    with pytest.raises(BitstreamError, match=r"truncated: .* have it sent again") as error:
        unpack_frame(pack_frame(b"abc", 0, 1)[:-1], 1)
    assert "file" not in str(error.value)
