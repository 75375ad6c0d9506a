"""One frame of a stream: a varint that holds length and rate, then the payload.

Varints are little-endian base 128 in the fewest bytes.
"""

from dataclasses import dataclass

from jaxsplit.errors import BitstreamError, ConfigError

#: Longest payload of one image.
MAX_PAYLOAD_BYTES = 1 << 28

# Enough for the longest payload of the last of 255 rates, which takes 37 bits.
_MAX_VARINT_BYTES = 6


@dataclass(frozen=True, slots=True)
class Frame:
    """The bytes of one image: which rate of the header, and its payload."""

    rate_index: int
    payload: bytes


def pack_frame(payload: bytes, rate_index: int, n_rates: int) -> bytes:
    """One frame as it stands in a container; its length is what an image really costs.

    Args:
      payload: the coded latent.
      rate_index: which rate, 0 … n_rates - 1.
      n_rates: the number of rates in the header.

    Raises:
      ConfigError: the rate is not in the header, or the payload exceeds 2**28 bytes.

    >>> pack_frame(b"abc", rate_index=2, n_rates=5)
    b'\\x12abc'
    >>> unpack_frame(b"\\x12abc", n_rates=5)
    (Frame(rate_index=2, payload=b'abc'), 4)
    """
    if not 0 <= rate_index < n_rates:
        raise ConfigError(f"frame of rate {rate_index}, expected 0 … {n_rates - 1}")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ConfigError(f"payload of {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES}")
    return pack_varint(1 + len(payload) * n_rates + rate_index) + payload


def unpack_frame(data: bytes, n_rates: int, start: int = 0) -> tuple[Frame, int]:
    """Reads the frame that begins at `start`.

    Args:
      data: bytes that hold the frame, and maybe more.
      n_rates: the number of rates in the header.
      start: where the frame begins.

    Returns:
      The frame, and where the next one begins.

    Raises:
      BitstreamError: truncated, corrupted, or the end marker stands there.
    """
    cursor = Cursor(data, start)
    value = cursor.varint("frame length")
    if value == 0:
        raise BitstreamError("no frame: the end marker of a container stands here")
    length, rate_index = divmod(value - 1, n_rates)
    if length > MAX_PAYLOAD_BYTES:
        raise corrupted(f"a frame of {length} bytes, at most {MAX_PAYLOAD_BYTES}")
    payload = cursor.take(length, "frame payload")
    return Frame(rate_index, payload), cursor.position


def pack_varint(value: int) -> bytes:
    """Writes a number >= 0, seven bits a byte, lowest first."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


class Cursor:
    """A position in untrusted bytes; every reading past the end is a truncation.

    Args:
      data: the bytes.
      position: where to begin.
    """

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes; `what` names them in the error."""
        end = self.position + size
        if end > len(self._data):
            raise BitstreamError(
                f"truncated: the {what} needs {size} bytes at byte {self.position} and "
                f"{max(0, len(self._data) - self.position)} are left; get the whole file again"
            )
        taken = bytes(self._data[self.position : end])
        self.position = end
        return taken

    def byte(self, what: str) -> int:
        """The next byte."""
        return self.take(1, what)[0]

    def varint(self, what: str) -> int:
        """The next number as `pack_varint` writes it."""
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            byte = self.byte(what)
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if byte == 0 and index:
                    break
                return value
        raise corrupted(f"the {what} before byte {self.position} is not a number in its short form")


def corrupted(what: str) -> BitstreamError:
    """The error for bytes that no writer produces."""
    return BitstreamError(f"corrupted: {what}; get the file again or encode it again")
