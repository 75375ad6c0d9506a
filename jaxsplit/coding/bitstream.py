"""The `.jspl` container: one header, then frames of one varint and a payload each.

    "JSPL" · version (1 byte) · family fingerprint (16 bytes) · number of rates (1 byte)
    per rate: id length (1 byte) · id (UTF-8) · table fingerprint (16 bytes) · varints h, w, C
    per frame: varint 1 + length · n_rates + rate_index · payload
    varint 0 · CRC-32 of everything before it (4 bytes, little-endian)

Varints are little-endian base 128 in the fewest bytes. A frame's costs two bytes up to
16383 // n_rates - 1 bytes of payload: 3275 for five rates. Every size is compared with what is
there and with a limit before memory is taken for it.
"""

import io
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO

from jaxsplit.coding.entropy_coder import MAX_SYMBOLS
from jaxsplit.coding.frames import Cursor, Frame, corrupted, pack_frame, pack_varint, unpack_frame
from jaxsplit.errors import BitstreamError, ConfigError

MAGIC = b"JSPL"
VERSION = 1
MAX_RATES = 255

_FINGERPRINT_BYTES = 16
_MAX_ID_BYTES = 64
_END = b"\0"
_CRC_BYTES = 4


@dataclass(frozen=True)
class RateInfo:
    """What a container says about one rate.

    Args:
      rate_id: its name in the family, 1 … 64 bytes of UTF-8.
      tables: fingerprint of its coding tables in hexadecimal; the first 32 digits are kept.
      shape: h, w and channels of its latents; at most 2**22 symbols.

    Raises:
      ConfigError: one of them does not fit the format.
    """

    rate_id: str
    tables: str
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        size = len(self.rate_id.encode())
        if not 1 <= size <= _MAX_ID_BYTES:
            raise ConfigError(
                f"rate id {self.rate_id[:80]!r} has {size} bytes, expected 1 … {_MAX_ID_BYTES}; "
                "choose a shorter name"
            )
        object.__setattr__(self, "tables", _digits(self.tables))
        shape = tuple(int(size) for size in self.shape)
        if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > MAX_SYMBOLS:
            raise ConfigError(
                f"rate {self.rate_id} has latents of {shape}, expected positive h, w and channels "
                f"with at most {MAX_SYMBOLS} symbols"
            )
        object.__setattr__(self, "shape", shape)


@dataclass(frozen=True)
class Header:
    """The head of a container; compare it with `==` to the one your family gives.

    Args:
      family: fingerprint of the family in hexadecimal; the first 32 digits are kept.
      rates: 1 … 255 rates with different ids; a frame's rate_index counts into them.

    Raises:
      ConfigError: one of them does not fit the format.
    """

    family: str
    rates: tuple[RateInfo, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", _digits(self.family))
        object.__setattr__(self, "rates", tuple(self.rates))
        ids = [rate.rate_id for rate in self.rates]
        if not 1 <= len(ids) <= MAX_RATES or len(set(ids)) != len(ids):
            raise ConfigError(
                f"a container of {len(ids)} rates, expected 1 … {MAX_RATES} with different ids"
            )


class Writer:
    """Writes a container to a binary file, frame by frame; a context manager.

    Leaving the block writes the end marker and the checksum; leaving it by an exception does not,
    so a reader sees a truncated file. The file stays open.

    Args:
      file: where to write; needs only `write`.
      header: the container's header.
    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._n_rates = len(header.rates)
        self._crc = 0
        self._write(_pack_header(header))

    def write(self, payload: bytes, rate_index: int) -> int:
        """Appends one frame; returns its bytes with everything that the image cost."""
        frame = pack_frame(payload, rate_index, self._n_rates)
        self._write(frame)
        return len(frame)

    def close(self) -> None:
        """Writes the end marker and the checksum."""
        self._write(_END)
        self._file.write(self._crc.to_bytes(_CRC_BYTES, "little"))

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


def write_container(header: Header, frames: Iterable[Frame]) -> bytes:
    """A whole container as bytes.

    Raises:
      ConfigError: a frame does not fit the header.

    >>> header = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))
    >>> data = write_container(header, [Frame(0, b"abc"), Frame(0, b"")])
    >>> read_container(data) == (header, [Frame(0, b"abc"), Frame(0, b"")])
    True
    """
    file = io.BytesIO()
    with Writer(file, header) as writer:
        for frame in frames:
            writer.write(frame.payload, frame.rate_index)
    return file.getvalue()


def read_container(data: bytes) -> tuple[Header, list[Frame]]:
    """Reads a container; time and memory are proportional to its size.

    Args:
      data: the whole file.

    Raises:
      BitstreamError: not a container, of another format version, truncated or corrupted.
    """
    data = bytes(data)
    header, position = _unpack_header(data)
    n_rates = len(header.rates)
    frames = []
    while data[position : position + 1] != _END:
        frame, position = unpack_frame(data, n_rates, position)
        frames.append(frame)
    cursor = Cursor(data, position + 1)
    checksum = int.from_bytes(cursor.take(_CRC_BYTES, "checksum"), "little")
    if cursor.position < len(data):
        raise corrupted(f"{len(data) - cursor.position} bytes follow its end")
    actual = zlib.crc32(memoryview(data)[: position + 1])
    if actual != checksum:
        raise corrupted(f"checksum {actual:08x}, expected {checksum:08x}")
    return header, frames


def _pack_header(header: Header) -> bytes:
    parts = [MAGIC, bytes([VERSION]), bytes.fromhex(header.family), bytes([len(header.rates)])]
    for rate in header.rates:
        name = rate.rate_id.encode()
        parts += [bytes([len(name)]), name, bytes.fromhex(rate.tables)]
        parts += [pack_varint(size) for size in rate.shape]
    return b"".join(parts)


def _unpack_header(data: bytes) -> tuple[Header, int]:
    """The header, and where the first frame begins."""
    if not data.startswith(MAGIC) and not MAGIC.startswith(data):
        raise BitstreamError(
            f"not a jaxsplit file: it begins with {data[:4]!r}, expected {MAGIC!r}; "
            "give a file that `jaxsplit encode` wrote"
        )
    cursor = Cursor(data, 0)
    cursor.take(len(MAGIC), "header")
    version = cursor.byte("format version")
    if version != VERSION:
        raise BitstreamError(
            f"format version {version}, this library reads {VERSION}; "
            "decode it with the jaxsplit that wrote it, or encode it again"
        )
    family = cursor.take(_FINGERPRINT_BYTES, "family fingerprint").hex()
    rates = []
    try:
        for _ in range(cursor.byte("number of rates")):
            rate_id = cursor.take(cursor.byte("rate id"), "rate id").decode()
            tables = cursor.take(_FINGERPRINT_BYTES, "table fingerprint").hex()
            height, width, channels = (cursor.varint("latent shape") for _ in range(3))
            rates.append(RateInfo(rate_id, tables, (height, width, channels)))
        return Header(family, tuple(rates)), cursor.position
    except (ConfigError, UnicodeDecodeError) as error:
        raise corrupted(f"its header is invalid, {error}") from error


def _digits(fingerprint: str) -> str:
    digits = fingerprint[: 2 * _FINGERPRINT_BYTES].lower()
    if len(digits) != 2 * _FINGERPRINT_BYTES or set(digits) - set("0123456789abcdef"):
        raise ConfigError(
            f"fingerprint {fingerprint[:80]!r}, expected at least {2 * _FINGERPRINT_BYTES} "
            "hexadecimal digits"
        )
    return digits
