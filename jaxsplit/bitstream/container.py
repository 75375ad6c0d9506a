"""Writes and reads `.jspl` containers and streams; FORMAT.md beside this file specifies them."""

import dataclasses
import io
import math
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from jaxsplit._moved import renamed_attributes
from jaxsplit.bitstream.frames import FileCursor, Frame, pack_frame, read_frame
from jaxsplit.bitstream.header import FRAME_CHECKS, Header, RateInfo, pack_header, read_header
from jaxsplit.bitstream.range_coder import MAX_SYMBOL_BYTES
from jaxsplit.errors import BitstreamError, ConfigError, ReadError

_END = b"\0"
#: Bytes of a frame's check and of a container's checksum.
CHECK_BYTES = 4


class Writer:
    """Context manager that writes a container to a binary file, frame by frame.

    Leaving the block writes the end marker and the checksum, but not after an exception, so that a
    reader sees a truncated file. Behind a write that failed nothing can be written: a ConfigError.
    The file stays open.

    Args:
      file: only its `write` is called; a ConfigError if that does not take everything.
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
        self._version, self._original = header.version, header.original
        self._checked = frame_checks
        self._count = 0
        self._crc = 0
        self._failed = False
        self._write(pack_header(header, FRAME_CHECKS if frame_checks else 0))

    def write(self, payload: bytes, rate_index: int, size: tuple[int, int] | None = None) -> int:
        """Appends one frame.

        Args:
          payload: as `EntropyCoder.encode` returns it; a ConfigError if it exceeds the header's.
          rate_index: index of its rate in the header, levels counted.
          size: (H, W) of the image, see `Frame.size`; a ConfigError below a header without
            `original`. Where it is that one, it takes no bytes.

        Returns:
          Size of the frame in bytes: the total cost of the image.
        """
        if size is not None and self._original is None:
            raise ConfigError("the header has no sizes of images: give it original = (H, W)")
        own = None if size == self._original else size
        frame = pack_frame(payload, rate_index, len(self._longest), self._version, own)
        if len(payload) > self._longest[rate_index]:
            raise ConfigError(
                f"payload of {len(payload)} bytes, expected at most {self._longest[rate_index]} "
                "for the header's latent shape; give the header of the family that encoded it"
            )
        if self._checked:
            frame += frame_check(self._count, frame)
        self._write(frame)
        self._count += 1
        return len(frame)

    def close(self) -> None:
        """Writes the end marker and the checksum."""
        self._write(_END)
        self._write(_checksum(self._crc))

    def _write(self, data: bytes) -> None:
        if self._failed:
            raise ConfigError("an earlier write failed, perhaps within a frame; write anew")
        self._failed = True  # until all of the data is written
        if (written := self._file.write(data)) not in (None, len(data)):
            raise ConfigError(
                f"the file took {written} of {len(data)} bytes; give a buffered and blocking one"
            )
        self._crc = zlib.crc32(data, self._crc)
        self._failed = False

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.close()


@renamed_attributes
class Reader:
    """Iterator over the frames of a container or an open-ended stream, as they arrive.

    At the end of a container the checksum is verified; bytes behind it stay unread. After an
    exception of any kind the position within a frame is unknown: every further frame is a
    BitstreamError.

    Args:
      file: binary and blocking, such as an open file or `socket.makefile("rb")`.
      stream: the input may end after any frame, as when a connection is closed.
      max_frames: most frames to read, since an empty one of a single byte takes as much computing
        as others; a BitstreamError behind them. None: any number.
      max_seconds: time from now to the end of the input, checked whenever something arrives: a
        connection needs a timeout of its own for where nothing does. None: any time.

    Attributes:
      header: give it to `Header.check` before reading on: it bounds the size of a frame.

    Raises:
      BitstreamError: not a container, newer, truncated or corrupted; also while iterating.
      ReadTimeoutError: a BitstreamError and a TimeoutError, of `max_seconds` or of the connection.
      ConnectionLostError: a BitstreamError and a ConnectionError; `ReadError` for another OSError.

    >>> header = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))
    >>> sent = pack_header(header) + pack_frame(b"abc", rate_index=0, n_rates=1)
    >>> list(Reader(io.BytesIO(sent), stream=True))
    [Frame(rate_index=0, payload=b'abc')]
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        stream: bool = False,
        max_frames: int | None = None,
        max_seconds: float | None = None,
    ) -> None:
        if not hasattr(file, "read"):
            kind = type(file).__name__
            raise BitstreamError(f"a {kind} is no open file: give open(path, 'rb')")
        self._cursor = FileCursor(file, stream=stream, max_seconds=max_seconds)
        self._stream = stream
        self._max_frames = max_frames
        self._count = 0
        self._ended = False
        self._error: BitstreamError | None = None
        self._interrupted = BitstreamError(
            f"an earlier read of this {self._cursor.kind} was interrupted, perhaps within a frame; "
            f"{self._cursor.remedy}"
        )
        self.header, self._version, flags = read_header(self._cursor)
        self._checked = bool(flags & FRAME_CHECKS)
        self._longest = _longest_payloads(self.header.rates)

    def __iter__(self) -> "Reader":
        return self

    def __next__(self) -> Frame:
        if self._error is not None:
            raise self._error
        self._error = self._interrupted  # by any exception, until the whole frame is read
        try:
            frame = None if self._ended else self._read_frame()
        except BitstreamError as error:
            self._error = error
            raise
        self._error = None
        if frame is None:
            raise StopIteration
        return frame

    def _read_frame(self) -> Frame | None:
        """Reads the next frame; None at the end."""
        cursor, start = self._cursor, self._cursor.position
        try:
            sized = self.header.original is not None
            opened = read_frame(cursor, len(self._longest), self._longest, self._version, sized)
        except ReadError:
            raise
        except BitstreamError:
            if self._stream and cursor.position == start:  # the input ends after a frame
                return None
            raise
        if opened is None:
            self._ended = True
            actual = _checksum(cursor.crc)
            checksum = cursor.take(CHECK_BYTES, "checksum")
            if actual != checksum:
                raise cursor.corrupted(
                    f"checksum {actual[::-1].hex()}, expected {checksum[::-1].hex()}"
                )
            return None
        frame, content = opened
        if sized and frame.size is None:
            frame = dataclasses.replace(frame, size=self.header.original)
        if self._checked:
            check = frame_check(self._count, content)
            if cursor.take(CHECK_BYTES, "frame check") != check:
                raise cursor.corrupted(f"frame {self._count}, at byte {start}, fails its check")
        self._count += 1
        if self._max_frames is not None and self._count > self._max_frames:
            raise BitstreamError(
                f"the {cursor.kind} has more than max_frames = {self._max_frames} frames; raise "
                "it, or refuse this sender"
            )
        return frame


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
            writer.write(frame.payload, frame.rate_index, frame.size)
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
    cursor, check = reader._cursor, CHECK_BYTES if reader._checked else 0
    start = cursor.position
    for frame in reader:
        yield frame, cursor.position - start - check
        start = cursor.position
    if rest := len(file.read()):
        raise cursor.corrupted(f"{rest} bytes follow its end")


def _longest_payloads(rates: tuple[RateInfo, ...]) -> list[int]:
    """Returns the most bytes of a payload of each rate, levels counted."""
    return [MAX_SYMBOL_BYTES * math.prod(rate.shape) for rate in rates for _ in range(rate.levels)]


def frame_check(number: int, frame: bytes) -> bytes:
    """Computes the check of a frame, which includes its number to detect reordered frames.

    Args:
      number: of the frame in its container or stream, from 0; its lowest 32 bits count.
      frame: label and payload.

    Returns:
      Four bytes.

    >>> frame_check(0, b"abc") == frame_check(1, b"abc")
    False
    """
    return _checksum(zlib.crc32(frame, zlib.crc32((number & 0xFFFFFFFF).to_bytes(4, "little"))))


def _checksum(crc: int) -> bytes:
    return crc.to_bytes(CHECK_BYTES, "little")
