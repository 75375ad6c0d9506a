"""Writes and reads the `.jspl` container.

FORMAT.md beside this module specifies the format: container, stream, frames, tables and payload.
Every size is compared with the bytes that are present, and with a limit, before memory is
allocated for it.
"""

import io
import math
import zlib
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import BinaryIO

from jaxsplit.bitstream.frames import FileCursor, Frame, corrupted, pack_frame, read_frame
from jaxsplit.bitstream.header import FRAME_CHECKS, Header, pack_header, read_header
from jaxsplit.bitstream.range_coder import MAX_SYMBOL_BYTES
from jaxsplit.errors import BitstreamError, ConfigError

_END = b"\0"
_CRC_BYTES = 4


class Writer:
    """Writes a container to a binary file, frame by frame; a context manager.

    Leaving the block writes the end marker and the checksum; leaving it by an exception does not,
    so a reader sees a truncated file. The file stays open.

    Args:
      file: where to write; needs only `write`.
      header: the container's header.
      frame_checks: adds four bytes to every frame, which tell the damaged frame from the others.

    >>> from jaxsplit.bitstream import RateInfo
    >>> file = io.BytesIO()
    >>> with Writer(file, Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))) as writer:
    ...     writer.write(b"abc", rate_index=0)
    4
    >>> [frame.payload for frame in Reader(io.BytesIO(file.getvalue()))]
    [b'abc']
    """

    def __init__(self, file: BinaryIO, header: Header, *, frame_checks: bool = False) -> None:
        self._file = file
        self._longest = _longest_payloads(header)
        self._checked = frame_checks
        self._count = 0
        self._crc = 0
        self._write(pack_header(header, FRAME_CHECKS if frame_checks else 0))

    def write(self, payload: bytes, rate_index: int) -> int:
        """Appends one frame.

        Args:
          payload: as of `EntropyCoder.encode`.
          rate_index: place of its rate in the header.

        Returns:
          Bytes of the frame, with everything that the image cost.

        Raises:
          ConfigError: the frame does not fit the header.
        """
        frame = pack_frame(payload, rate_index, len(self._longest))
        if len(payload) > self._longest[rate_index]:
            raise ConfigError(
                f"payload of {len(payload)} bytes, but the header's latent takes at most "
                f"{self._longest[rate_index]}"
            )
        if self._checked:
            frame += _frame_check(self._count, frame)
        self._write(frame)
        self._count += 1
        return len(frame)

    def close(self) -> None:
        """Writes the end marker and the checksum."""
        self._write(_END)
        self._file.write(_checksum(self._crc))

    def _write(self, data: bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._file.write(data)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del error, trace
        if kind is None:
            self.close()


class Reader:
    """Reads a container, or a stream without an end, frame by frame as they come.

    Iterating gives every `Frame`. At the end of a container its checksum is compared; what follows
    it in the file stays unread.

    Args:
      file: binary and blocking, such as an open file or `socket.makefile("rb")`; needs only `read`.
      stream: the file may end after any frame, as a connection does that is closed.

    Attributes:
      header: what the file begins with. Compare it with your own by `Header.check` before reading
        on: what a frame may take is bounded by it.

    Raises:
      NewerVersionError: a newer jaxsplit wrote it.
      BitstreamError: not a container, truncated or corrupted; also while iterating.

    >>> from jaxsplit.bitstream import RateInfo, pack_frame, pack_header
    >>> header = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))
    >>> sent = pack_header(header) + pack_frame(b"abc", rate_index=0, n_rates=1)
    >>> [frame.payload for frame in Reader(io.BytesIO(sent), stream=True)]
    [b'abc']
    """

    def __init__(self, file: BinaryIO, *, stream: bool = False) -> None:
        self._cursor = FileCursor(file)
        self._stream = stream
        self._count = 0
        self._ended = False
        self._error: BitstreamError | None = None
        self.header, self._version, self._flags = read_header(self._cursor)
        self._longest = _longest_payloads(self.header)

    @property
    def position(self) -> int:
        """How many bytes were read so far: at first the header's."""
        return self._cursor.position

    @property
    def check_bytes(self) -> int:
        """What its own check adds to a frame."""
        return _CRC_BYTES if self._flags & FRAME_CHECKS else 0

    def __iter__(self) -> Iterator[Frame]:
        if self._error is not None:  # behind an error nobody knows where a frame begins
            raise self._error
        try:
            yield from self._frames()
        except BitstreamError as error:
            self._error = error
            raise

    def _frames(self) -> Iterator[Frame]:
        cursor, n_rates = self._cursor, len(self.header.rates)
        while not (self._ended or (self._stream and cursor.at_end())):
            start = cursor.position
            opened = read_frame(cursor, n_rates, self._longest, self._version)
            if opened is None:
                self._ended = True
                self._check_end()
                return
            frame, label = opened
            if self._flags & FRAME_CHECKS:
                check = _frame_check(self._count, label + frame.payload)
                if cursor.take(_CRC_BYTES, "frame check") != check:
                    raise corrupted(f"frame {self._count}, at byte {start}, fails its check")
            self._count += 1
            yield frame

    def _check_end(self) -> None:
        actual = _checksum(self._cursor.crc)
        checksum = self._cursor.take(_CRC_BYTES, "checksum")
        if actual != checksum:
            raise corrupted(f"checksum {actual[::-1].hex()}, expected {checksum[::-1].hex()}")


def write_container(
    header: Header, frames: Iterable[Frame], *, frame_checks: bool = False
) -> bytes:
    """A whole container as bytes.

    Args:
      header: what all frames have in common.
      frames: in the order of the images.
      frame_checks: give each frame four bytes that find damage in it.

    Returns:
      What a `.jspl` file holds.

    Raises:
      ConfigError: a frame does not fit the header.

    >>> from jaxsplit.bitstream import RateInfo
    >>> header = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))
    >>> data = write_container(header, [Frame(0, b"abc"), Frame(0, b"")])
    >>> read_container(data) == (header, [Frame(0, b"abc"), Frame(0, b"")])
    True
    """
    file = io.BytesIO()
    with Writer(file, header, frame_checks=frame_checks) as writer:
        for frame in frames:
            writer.write(frame.payload, frame.rate_index)
    return file.getvalue()


def read_container(data: bytes) -> tuple[Header, list[Frame]]:
    """Reads a container; time and memory are proportional to its size.

    Args:
      data: the whole file.

    Returns:
      The header and all frames.

    Raises:
      NewerVersionError: a newer jaxsplit wrote it.
      BitstreamError: not a container, truncated or corrupted.

    >>> from jaxsplit.bitstream import RateInfo
    >>> header = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))
    >>> data = write_container(header, [Frame(0, b"abc")])
    >>> read_container(data)[1]
    [Frame(rate_index=0, payload=b'abc')]
    >>> read_container(data[:-1])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jaxsplit.errors.BitstreamError: truncated: the checksum needs 4 bytes at byte 54 and 3 are ...
    """
    return Reader(io.BytesIO(data)).header, [frame for frame, _ in frame_sizes(data)]


def frame_sizes(data: bytes) -> Iterator[tuple[Frame, int]]:
    """The frames of a container, one at a time, with the bytes of each in the file but its check.

    Empty frames take a byte each: a small file may hold very many. Only at the end it is known
    that the checksum is right.

    Args:
      data: the whole file.

    Returns:
      An iterator over (frame, bytes).

    Raises:
      NewerVersionError: a newer jaxsplit wrote it.
      BitstreamError: not a container, truncated or corrupted; while iterating.

    >>> from jaxsplit.bitstream import RateInfo
    >>> header = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))
    >>> data = write_container(header, [Frame(0, b"abc"), Frame(0, b"")], frame_checks=True)
    >>> [(frame.payload, size) for frame, size in frame_sizes(data)]
    [(b'abc', 4), (b'', 1)]
    """
    file = io.BytesIO(data)
    reader = Reader(file)
    start = reader.position
    for frame in reader:
        yield frame, reader.position - start - reader.check_bytes
        start = reader.position
    if rest := len(file.read()):
        raise corrupted(f"{rest} bytes follow its end")


def _longest_payloads(header: Header) -> list[int]:
    return [MAX_SYMBOL_BYTES * math.prod(rate.shape) for rate in header.rates]


def _frame_check(number: int, frame: bytes) -> bytes:
    # The number is in it so that frames that changed places are noticed.
    return _checksum(zlib.crc32(frame, zlib.crc32((number & 0xFFFFFFFF).to_bytes(4, "little"))))


def _checksum(crc: int) -> bytes:
    return crc.to_bytes(_CRC_BYTES, "little")
