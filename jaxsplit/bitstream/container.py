"""The `.jspl` container, and the whole of its format.

What follows is enough to write a decoder in another language, given a family's integer tables.
Numbers of several bytes are little-endian, but for the payload's and the labels'. A varint has
seven bits a byte, lowest first, bit 7 set on all but its last byte, in the fewest bytes and at most
six.

Container
---------
    "JSPL" · version (1 byte: 3) · flags (1 byte) · family fingerprint (16 bytes)
    varints H, W, c of the images, or three zeros · number of rates n (1 byte, 1 … 255)
    per rate: id length (1 byte, 1 … 64) · id (UTF-8) · table fingerprint (16 bytes)
              varints h, w, C of its latents, h·w·C ≤ 2**22
    frames · 0 (1 byte) · CRC-32 of everything before it (4 bytes)

Rate ids differ and have none of the controls U+0000 … 1F, 7F … 9F, 2028 … 202E and 2066 … 2069.
H, W and c are at most 2**20. Fingerprints are the first halves of SHA-256 digests:
of tables that of `CodingTables.fingerprint`, of a family that of `RateFamily.fingerprint`. Flag 1:
frames carry checks; other flags are for later versions and refused. Version 1 has neither the
flags' byte nor the images' shape.

A stream (socket) is the header and then frames, without an end or checks: beside its payload an
image costs at most two bytes up to 30847 // n - 1 bytes of payload, 5140 for six rates, and three
up to 489599 // n - 1.

Frame
-----
    label · payload (length bytes, at most 9·h·w·C and 2**28)
    with flag 1: CRC-32 (4 bytes) of the frame's number in the file, 0, 1, … (4 bytes), of the
    label and of the payload

A label is v = 1 + length·n + rate index, big-endian: the byte v up to 127; 0x8000 + (v - 128) in
two bytes up to 30847; 0xF80000 + (v - 30848) in three up to 489599; else the byte 0xFF and v in
five. Versions 1 and 2 write v as a varint.

CRC-32 is zlib's (polynomial 0x04C11DB7 reflected, initial and final value 0xFFFFFFFF).

Tables
------
A rate's tables give for every channel c, or for every place (row, column, channel) of the latent, a
minimum m, a size n >= 2 and n counts T >= 1 with sum 65536. Entry j < n - 1 stands for the symbol m
+ j; the last entry is the escape. The interval of entry j starts at 256·(T_0 + … + T_(j-1)) and is
256·T_j wide, in units of 2**-24. All is integer. Tables also carry the offset that each channel is
rounded around: the latent is symbol + offset. A channel's scale is folded into the unit's
convolutions. Channels that share a table repeat its counts, each with its own minimum and offset.

A table fingerprint is the SHA-256 of "jaxsplit coding tables 1", a line feed, and then, little-
endian: the number of tables and of all counts together (u32 each), n and then m of each table
(i32), the offset of each channel (f32, 0 for -0), and the counts, table by table (i32). Where
places have tables the line says 2, h, w and C (u32) follow the first two numbers, and the table of
each place (u8) follows the counts.

Payload
-------
One range-coder stream of one latent of h × w × C symbols.

Order: channels with identical counts (whatever their minima) form a group; groups go by their first
channel, channels within a group rise. Each channel gives its h·w entries row by row. Where places
have tables, a latent is coded as one of 1 × 1 × h·w·C, whose channels are the places, row by row
and the channels of each. After the last channel follow the escapes of all channels, e of them in
the order in which their escape entries came: first e bit lengths, then e low pieces, then the high
pieces of those that have one.

Escape: a symbol d >= 1 steps outside of its table (d = m - symbol below, d = symbol - (m + n - 2)
above) has the bit length k of d, 1 ≤ k ≤ 32, so 2**(k-1) ≤ d < 2**k. The length is coded as the
entry k - 1 of a table with the counts 32753, 16384 >> 0, 16384 >> 1, …, 16384 >> 14 (which is 1),
and then sixteen times 1: 32 counts with sum 65536. The k bits f = 2·(d - 2**(k-1)) + below, with
below 1 or 0, are coded with equal widths: the low piece f mod 2**min(k, 16), of width
2**(24 - min(k, 16)), and where k > 16 the high piece f >> 16, of width 2**(24 - (k - 16)). A
symbol beyond int32 is an error.

Decoder: the payload is followed by zeros without end. D is its first 8 bytes, big-endian, and
R = 2**64 - 1. For each entry:

    s = R >> 24;  q = D // s;  q >= 2**24 is an error
    find the entry with start ≤ q < start + width
    D = D - s·start;  R = s·width
    if R < 2**32:  D = D·2**32 + the next 4 bytes, big-endian;  R = R·2**32

Encoder: L = 0, an integer of unlimited length, and R = 2**64 - 1. For each entry L = L + s·start
and R = s·width; where R < 2**32 both are multiplied by 2**32, so that after w such steps L has
4·w + 8 bytes, and a carry may run through all of them. At the end the payload is the shortest
byte string that, as a big-endian number of 4·w + 8 bytes with zeros behind it, lies in
[L, L + R): empty where L = 0, else the fewest first bytes of L + R - 1 that do. So its last byte
is never zero. A decoder refuses a payload that ends in zero or has more bytes than
1 + (the information of its symbols and 0.0057 bits for each step of the coder) / 8.

Every size is compared with what is there and with a limit before memory is taken for it.
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
