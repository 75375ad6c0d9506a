"""Packs and reads frames: a label of length and rate, then the payload, as in FORMAT.md."""

import operator
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from jaxsplit.errors import (
    BitstreamError,
    ConfigError,
    ConnectionLostError,
    ReadError,
    ReadTimeoutError,
    reason,
)

#: Longest payload of one image.
MAX_PAYLOAD_BYTES = 1 << 28

#: Longest side of an image.
MAX_IMAGE_SIDE = 1 << 20
# Two varints of three bytes, and the zero that says that they are there.
_MAX_SIZE_BYTES = 7

# Enough for the longest payload of the last of 255 rates, which takes 37 bits.
_MAX_VARINT_BYTES = 6
# Lowest first byte of labels of two and of six bytes.
_TWO, _SIX = 0x80, 0xFF
# Format version → lowest first byte of labels of three bytes; older ones have varints.
_THREE = {3: 0xF8, 4: 0xC0}
_VERSION = 3
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Frame:
    """One coded image: its rate and its payload.

    Attributes:
      rate_index: index of the rate among all of `Header.rates`, with their levels.
      payload: as `EntropyCoder.encode` returns it; may be empty.
      size: (H, W) of the image before it was resized or cropped, where the frame carries it, or the
        header as `Header.original`.

    >>> unpack_frame(pack_frame(b"abc", rate_index=2, n_rates=5), n_rates=5)
    (Frame(rate_index=2, payload=b'abc'), 4)
    """

    rate_index: int
    payload: bytes
    size: tuple[int, int] | None = None

    def __repr__(self) -> str:
        size = "" if self.size is None else f", size={self.size}"
        return f"Frame(rate_index={self.rate_index}, payload={self.payload!r}{size})"


def pack_frame(
    payload: bytes,
    rate_index: int,
    n_rates: int,
    version: int = _VERSION,
    size: tuple[int, int] | None = None,
) -> bytes:
    """Packs one frame; its length is the total cost of an image in bytes.

    Args:
      payload: as `EntropyCoder.encode` returns it.
      rate_index: index of the rate, 0 … n_rates - 1.
      n_rates: number of rates in the header, `Header.n_rates`.
      version: of the format, `Header.version`.
      size: of the image, see `Frame`; only below a header with `original`, and not that one.

    Returns:
      Label, payload and size; a ConfigError if the rate, the size or a payload
      of over 2**28 bytes does not fit.

    >>> pack_frame(b"abc", rate_index=2, n_rates=5)
    b'\\x12abc'
    """
    rate_index = operator.index(rate_index)
    if not 0 <= rate_index < n_rates:
        raise ConfigError(
            f"frame of rate {rate_index}, expected 0 … {n_rates - 1}; name a rate of the header"
        )
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ConfigError(
            f"payload of {len(payload)} bytes, expected at most {MAX_PAYLOAD_BYTES}; "
            "encode with a lower rate"
        )
    content = payload if size is None else payload + _pack_size(size)
    return _pack_label(1 + len(content) * n_rates + rate_index, _THREE[version]) + content


def unpack_frame(
    data: bytes, n_rates: int, start: int = 0, version: int = _VERSION, *, sized: bool = False
) -> tuple[Frame, int]:
    """Reads the frame at `start`; `Reader` reads older formats too.

    Args:
      data: bytes that contain the frame.
      n_rates: number of rates in the header, `Header.n_rates`.
      start: offset of the frame.
      version: of the format, `Header.version`.
      sized: the header has `original`: frames may carry a size.

    Returns:
      The frame, and the offset of the next one; a BitstreamError if there is no whole frame.

    >>> unpack_frame(pack_frame(b"abc", 1, n_rates=2), n_rates=2)
    (Frame(rate_index=1, payload=b'abc'), 4)
    """
    cursor = Cursor(data, start)
    opened = read_frame(cursor, n_rates, version=version, sized=sized)
    if opened is None:
        raise BitstreamError(
            "got a container's end marker, expected a frame; read whole files with Reader"
        )
    return opened[0], cursor.position


def read_frame(
    cursor: "Cursor",
    n_rates: int,
    longest: Sequence[int] | None = None,
    version: int = _VERSION,
    sized: bool = False,
) -> tuple[Frame, bytes] | None:
    """Reads the next frame and all of its bytes; None at the end marker of a container.

    A payload with more bytes than its rate's in `longest` is refused unread, by a BitstreamError.
    """
    if version not in _THREE:
        value = cursor.varint("frame length")
        label = pack_varint(value)
    else:
        value = _read_label(cursor, _THREE[version])
        label = _pack_label(value, _THREE[version])
    if value == 0:
        return None
    length, rate_index = divmod(value - 1, n_rates)
    most = MAX_PAYLOAD_BYTES if longest is None else longest[rate_index]
    longest_frame = most + (_MAX_SIZE_BYTES if sized else 0)
    if length > longest_frame:
        raise cursor.corrupted(f"a frame of {length} bytes, expected at most {longest_frame}")
    content = cursor.take(length, "frame payload")
    payload, size = _split_size(content, cursor) if sized else (content, None)
    if len(payload) > most:
        raise cursor.corrupted(f"a payload of {len(payload)} bytes, expected at most {most}")
    return Frame(rate_index, payload, size), label + content


def checked_size(size: tuple[int, ...]) -> tuple[int, int]:
    """Returns the (H, W) of an image; a ConfigError if it is none."""
    found = tuple(int(side) for side in size)
    if len(found) != 2 or not 1 <= min(found) <= max(found) <= MAX_IMAGE_SIDE:
        raise ConfigError(f"images of {found}, expected H and W from 1 to {MAX_IMAGE_SIDE}")
    return found[0], found[1]


def _pack_size(size: tuple[int, int]) -> bytes:
    height, width = checked_size(size)
    return (pack_varint(height) + pack_varint(width))[::-1] + b"\0"


def _split_size(content: bytes, cursor: "Cursor") -> tuple[bytes, tuple[int, int] | None]:
    """Splits the content of a frame into payload and size: payloads never end in zero."""
    if content[-1:] != b"\0":
        return content, None
    backwards = Cursor(content[-2 : -_MAX_SIZE_BYTES - 1 : -1], 0)
    try:
        size = checked_size((backwards.varint("image size"), backwards.varint("image size")))
    except (BitstreamError, ConfigError) as error:
        raise cursor.corrupted(f"a frame's image size is invalid, {error}") from error
    return content[: -1 - backwards.position], size


def _pack_label(value: int, three: int) -> bytes:
    """Packs a label; `three` is the lowest first byte of those of three bytes."""
    low_three, low_six = _lowest(three)
    if value < _TWO:
        return bytes([value])
    if value < low_three:
        return ((_TWO << 8) + value - _TWO).to_bytes(2, "big")
    if value < low_six:
        return ((three << 16) + value - low_three).to_bytes(3, "big")
    return bytes([_SIX]) + value.to_bytes(5, "big")


def _read_label(cursor: "Cursor", three: int) -> int:
    low_three, low_six = _lowest(three)
    first = cursor.byte("frame length")
    if first < _TWO:
        return first
    if first < three:
        return _TWO + ((first - _TWO) << 8 | cursor.byte("frame length"))
    if first < _SIX:
        rest = int.from_bytes(cursor.take(2, "frame length"), "big")
        return low_three + ((first - three) << 16 | rest)
    value = int.from_bytes(cursor.take(5, "frame length"), "big")
    if value < low_six:
        raise cursor.not_shortest("frame length")
    return value


def _lowest(three: int) -> tuple[int, int]:
    """Returns the lowest labels of three and of six bytes."""
    low_three = _TWO + ((three - _TWO) << 8)
    return low_three, low_three + ((_SIX - three) << 16)


def pack_varint(value: int) -> bytes:
    """Packs a number >= 0, seven bits per byte, lowest first."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


class Cursor:
    """A read position in untrusted bytes; reading past the end raises a `BitstreamError`.

    `kind` names the input in messages, and `remedy` is what to do about a damaged one.
    """

    kind, remedy = "frame", "have it sent again"

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    def take_up_to(self, size: int) -> bytes:
        """Returns the next `size` bytes, fewer at the end."""
        taken = bytes(self._data[self.position : self.position + size])
        self.position += len(taken)
        return taken

    def take(self, size: int, what: str) -> bytes:
        """Returns the next `size` bytes; `what` names them in the error."""
        start = self.position
        taken = self.take_up_to(size)
        if len(taken) < size:
            raise BitstreamError(
                f"truncated: the {what} needs {size} bytes at byte {start} and {len(taken)} are "
                f"left; {self.remedy}"
            )
        return taken

    def byte(self, what: str) -> int:
        """Returns the next byte."""
        return self.take(1, what)[0]

    def varint(self, what: str) -> int:
        """Returns the next varint; refuses encodings longer than needed."""
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            byte = self.byte(what)
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if byte == 0 and index:
                    break
                return value
        raise self.not_shortest(what)

    def not_shortest(self, what: str) -> BitstreamError:
        """Makes the error for a number in a longer encoding than needed."""
        return self.corrupted(
            f"the {what} before byte {self.position} is not a number in its short form"
        )

    def corrupted(self, what: str) -> BitstreamError:
        """Makes the error for bytes that no writer produces."""
        return BitstreamError(f"corrupted: {what}; {self.remedy}")


class FileCursor(Cursor):
    """A cursor over a file, pipe or socket, with the CRC-32 of all bytes read so far.

    Memory is bounded by the bytes received. The file must be blocking: `read` returns fewer bytes
    than requested only at the end. For the arguments and their errors see `container.Reader`.
    """

    def __init__(
        self, file: BinaryIO, *, stream: bool = False, max_seconds: float | None = None
    ) -> None:
        super().__init__(b"", 0)
        self.kind = "stream" if stream else "file"
        self.remedy = (
            "have it sent again over a new connection"
            if stream
            else "get the whole file again or encode it again"
        )
        self.crc = 0
        self._max_seconds = max_seconds
        self._started = time.monotonic()
        # `read` would wait for all that is requested, however slowly it comes.
        self._read = file.read if max_seconds is None else getattr(file, "read1", file.read)

    def take_up_to(self, size: int) -> bytes:
        """See `Cursor.take_up_to`."""
        parts, left = [], size
        while left:
            if self._max_seconds is not None and (
                time.monotonic() - self._started > self._max_seconds
            ):
                raise ReadTimeoutError(
                    f"timeout: the {self.kind} takes more than max_seconds = {self._max_seconds}; "
                    "raise it, or refuse this sender"
                )
            try:
                # In chunks: `read` may allocate all that is requested: a forged length is large.
                part = self._read(min(left, _CHUNK_BYTES))
            except TimeoutError as error:
                raise ReadTimeoutError(
                    f"timeout: nothing arrived in the time that the {self.kind}'s connection "
                    "waits; raise its timeout, or refuse this sender"
                ) from error
            except OSError as error:
                kind = ConnectionLostError if isinstance(error, ConnectionError) else ReadError
                failed = kind(f"cannot read the {self.kind}: {reason(error)}; {self.remedy}")
                failed.errno = error.errno
                raise failed from error
            if part is None:  # "nothing yet" must not pass for the end
                raise ConfigError(f"the {self.kind} is non-blocking; give a blocking one")
            if not part:
                break
            parts.append(part)
            left -= len(part)
        taken = b"".join(parts)
        self.position += len(taken)
        self.crc = zlib.crc32(taken, self.crc)
        return taken
