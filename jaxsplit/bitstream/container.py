"""Writes and reads `.jspl` containers and streams; FORMAT.md beside this file specifies them."""

import io
import math
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from jaxsplit._moved import renamed_attributes
from jaxsplit.bitstream.frames import FileCursor, Frame, corrupted, pack_frame, read_frame
from jaxsplit.bitstream.header import FRAME_CHECKS, Header, RateInfo, pack_header, read_header
from jaxsplit.bitstream.range_coder import MAX_SYMBOL_BYTES
from jaxsplit.errors import BitstreamError, ConfigError

_END = b"\0"
_CRC_BYTES = 4


class Writer:
    """Context manager that writes a container to a binary file, frame by frame.

    Leaving the block writes the end marker and the checksum, but not after an exception, so that a
    reader sees a truncated file. The file stays open.

    Args:
      file: only its `write` is called.
      header: the container's header.
      frame_checks: add a checksum of four bytes to every frame, which locates damage.

    >>> header = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))
    >>> with Writer(io.BytesIO(), header) as writer:
    ...     writer.write(b"abc", rate_index=0)
    4
    """

    def __init__(self, file: BinaryIO, header: Header, *, frame_checks: bool = False) -> None:
        self._file = file
        self._longest = _longest_payloads(header.rates)
        self._checked = frame_checks
        self._count = 0
        self._crc = 0
        self._write(pack_header(header, FRAME_CHECKS if frame_checks else 0))

    def write(self, payload: bytes, rate_index: int) -> int:
        """Appends one frame.

        Args:
          payload: as `EntropyCoder.encode` returns it; a ConfigError if it exceeds the header's.
          rate_index: index of its rate in the header.

        Returns:
          Size of the frame in bytes: the total cost of the image.
        """
        frame = pack_frame(payload, rate_index, len(self._longest))
        if len(payload) > self._longest[rate_index]:
            raise ConfigError(
                f"payload of {len(payload)} bytes, expected at most {self._longest[rate_index]} "
                "for the header's latent shape; give the header of the family that encoded it"
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

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.close()


@renamed_attributes
class Reader:
    """Iterates over the frames of a container or an open-ended stream, as they arrive.

    At the end of a container the checksum is verified; bytes behind it stay unread.

    Args:
      file: binary and blocking, such as an open file or `socket.makefile("rb")`.
      stream: the input may end after any frame, as when a connection is closed.

    Attributes:
      header: give it to `Header.check` before reading on: it bounds the size of a frame.

    Raises:
      BitstreamError: not a container, newer, truncated or corrupted; also while iterating.

    >>> header = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))
    >>> sent = pack_header(header) + pack_frame(b"abc", rate_index=0, n_rates=1)
    >>> list(Reader(io.BytesIO(sent), stream=True))
    [Frame(rate_index=0, payload=b'abc')]
    """

    def __init__(self, file: BinaryIO, *, stream: bool = False) -> None:
        self._cursor = FileCursor(file)
        self._stream = stream
        self._count = 0
        self._ended = False
        self._error: BitstreamError | None = None
        self.header, self._version, flags = read_header(self._cursor)
        self._checked = bool(flags & FRAME_CHECKS)
        self._longest = _longest_payloads(self.header.rates)

    def __iter__(self) -> Iterator[Frame]:
        if self._error is not None:  # frame boundaries are unknown after an error
            raise self._error
        try:
            yield from self._frames()
        except BitstreamError as error:
            self._error = error
            raise

    def _frames(self) -> Iterator[Frame]:
        cursor, n_rates = self._cursor, len(self.header.rates)
        while not self._ended:
            start = cursor.position
            try:
                opened = read_frame(cursor, n_rates, self._longest, self._version)
            except BitstreamError:
                if self._stream and cursor.position == start:  # the input ends after a frame
                    return
                raise
            if opened is None:
                self._ended = True
                actual = _checksum(cursor.crc)
                checksum = cursor.take(_CRC_BYTES, "checksum")
                if actual != checksum:
                    raise corrupted(
                        f"checksum {actual[::-1].hex()}, expected {checksum[::-1].hex()}"
                    )
                return
            frame, label = opened
            if self._checked:
                check = _frame_check(self._count, label + frame.payload)
                if cursor.take(_CRC_BYTES, "frame check") != check:
                    raise corrupted(f"frame {self._count}, at byte {start}, fails its check")
            self._count += 1
            yield frame


def write_container(
    header: Header, frames: Iterable[Frame], *, frame_checks: bool = False
) -> bytes:
    """Writes a whole container.

    Args:
      header, frame_checks: as for `Writer`.
      frames: in the order of the images; a ConfigError if one does not fit the header.

    Returns:
      The content of a `.jspl` file.

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
      data: the whole file; for errors see `Reader`.

    Returns:
      The header and all frames.

    >>> header = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))
    >>> read_container(write_container(header, [Frame(0, b"abc")]))[1]
    [Frame(rate_index=0, payload=b'abc')]
    """
    return Reader(io.BytesIO(data)).header, [frame for frame, _ in frame_sizes(data)]


def frame_sizes(data: bytes) -> Iterator[tuple[Frame, int]]:
    """Iterates over the frames of a container and their sizes in bytes, without frame checks.

    Args:
      data: the whole file, which may hold very many empty frames; for errors see `Reader`.

    Returns:
      An iterator over (frame, bytes).

    >>> header = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))
    >>> data = write_container(header, [Frame(0, b"abc"), Frame(0, b"")], frame_checks=True)
    >>> [size for _, size in frame_sizes(data)]
    [4, 1]
    """
    file = io.BytesIO(data)
    reader = Reader(file)
    cursor, check = reader._cursor, _CRC_BYTES if reader._checked else 0
    start = cursor.position
    for frame in reader:
        yield frame, cursor.position - start - check
        start = cursor.position
    if rest := len(file.read()):
        raise corrupted(f"{rest} bytes follow its end")


def _longest_payloads(rates: tuple[RateInfo, ...]) -> list[int]:
    return [MAX_SYMBOL_BYTES * math.prod(rate.shape) for rate in rates]


def _frame_check(number: int, frame: bytes) -> bytes:
    # The number is included so that reordered frames are detected.
    return _checksum(zlib.crc32(frame, zlib.crc32((number & 0xFFFFFFFF).to_bytes(4, "little"))))


def _checksum(crc: int) -> bytes:
    return crc.to_bytes(_CRC_BYTES, "little")
