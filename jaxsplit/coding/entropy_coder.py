"""Symbols + tables ↔ bytes: one range-coder stream for one latent.

Channels are coded one after the other, those that share a table in one go; the values outside
their tables follow at the end of the stream. The payload is the shortest byte string that, read
as a big-endian fraction with zeros behind it, lies in the coder's final interval; its last byte
is therefore never zero, and a payload may be empty.
"""

from typing import Any

import constriction
import numpy as np

from jaxsplit.coding.escapes import decode_escapes, encode_escapes, escape_bits
from jaxsplit.coding.intervals import categorical
from jaxsplit.coding.tables import CodingTables
from jaxsplit.errors import BitstreamError, ConfigError

#: Most symbols in one latent; looked at before memory is taken. A flood of escapes takes about
#: 100 bytes and a third of a microsecond each.
MAX_SYMBOLS = 1 << 22

_INT32 = np.iinfo(np.int32)
# A symbol costs at most 16 bits, an escape 48 more, and the coder's own rounding under 0.03.
_MAX_SYMBOL_BYTES = 9
# The coder's range is at least 2**32 and loses less than 2**24 of it to rounding at every step,
# so a step costs at most 0.0057 bits more than its information; an escape takes three more.
_ROUNDING_BYTES = 0.0057 / 8
_ESCAPE_STEPS = 3
# What constriction raises on invalid words, depending on the model.
_CODER_ERRORS = (AssertionError, KeyError, ValueError)


class EntropyCoder:
    """Codes latents of one rate; building it checks every interval against the tables.

    Args:
      tables: the rate's tables.

    Raises:
      CoderError: the installed coder does not reproduce the tables.

    >>> tables = CodingTables(
    ...     counts=np.array([[30000, 30000, 5536]], np.int32),
    ...     sizes=np.array([3], np.int32),
    ...     minima=np.array([-1], np.int32),
    ...     offsets=np.zeros(1, np.float32),
    ... )
    >>> coder = EntropyCoder(tables)
    >>> symbols = np.array([-1, 0, 0, 70], np.int32).reshape(2, 2, 1)
    >>> payload = coder.encode(symbols)
    >>> len(payload), coder.decode(payload, (2, 2)).ravel().tolist()
    (3, [-1, 0, 0, 70])
    """

    def __init__(self, tables: CodingTables) -> None:
        self.tables = tables
        alike: dict[bytes, list[int]] = {}
        for channel, (row, size) in enumerate(zip(tables.counts, tables.sizes, strict=True)):
            alike.setdefault(row[:size].tobytes(), []).append(channel)
        order = [channel for group in alike.values() for channel in group]
        # One call of the coder for every distinct table: trained latents have dead channels,
        # which all look alike. The first channel of each table decides its place.
        self._runs = [
            (categorical(np.frombuffer(row, np.int32)), len(group)) for row, group in alike.items()
        ]
        self._order = np.array(order)
        self._sorted = order == sorted(order)
        self._minima = tables.minima[self._order]
        self._maxima = tables.maxima[self._order]
        self._escapes = (tables.sizes[self._order] - 1)[:, None]
        # As they are used on every call.
        self._first = self._minima.view(np.uint32)[:, None]
        self._last = self._escapes.view(np.uint32)
        self._models = [model for model, _ in self._runs]
        self._bits = tables.entry_bits[self._order].ravel()
        self._rows = (np.arange(tables.channels, dtype=np.int32) * tables.counts.shape[1])[:, None]

    def encode(self, symbols: np.ndarray) -> bytes:
        """Writes a latent as bytes.

        Args:
          symbols: int32 [h, w, channels]; any value.

        Returns:
          The payload. On average it is 0.32 bytes longer than `tables.information_bits(symbols)`
          / 8, and by the coder's rounding of 0.00013 bits a symbol: 0.6 bytes at 18,000 symbols.
          It is never longer by more than a byte beside the rounding.

        Raises:
          ConfigError: not int32, or another shape.
        """
        symbols = np.asarray(symbols)
        if symbols.dtype != np.int32 or symbols.ndim != 3:
            raise ConfigError(
                f"symbols are {symbols.dtype} {symbols.shape}, expected int32 [h, w, channels]"
            )
        pixels = self._check_shape(symbols.shape)
        planes = symbols.reshape(pixels, -1).T
        if not self._sorted:
            planes = planes[self._order]
        # Wraps around below the minimum, so that one unsigned comparison finds both sides.
        entries = np.subtract(planes.view(np.uint32), self._first, order="C")
        escaped = entries >= self._last
        any_escaped = escaped.any()
        if any_escaped:
            np.copyto(entries, self._last, where=escaped)
        encoder = constriction.stream.queue.RangeEncoder()
        self._encode_entries(encoder, entries.view(np.int32))
        if any_escaped:
            rows = np.nonzero(escaped)[0]
            encode_escapes(encoder, planes[escaped], self._minima[rows], self._maxima[rows])
        return _finish(encoder)

    def decode(self, data: bytes, shape: tuple[int, int]) -> np.ndarray:
        """Reads a latent from bytes.

        A range coder notices little corruption: wrong bytes of a plausible length decode to wrong
        symbols. The container's checksum is there for that; here a payload is refused that is
        longer than its own symbols explain.

        Args:
          data: the payload.
          shape: h and w of the latent.

        Returns:
          int32 [h, w, channels].

        Raises:
          BitstreamError: the payload is invalid or too long.
          ConfigError: the shape is not two positive numbers, or too large.
        """
        pixels = self._check_shape((*shape, self.tables.channels))
        data = bytes(data)
        if len(data) > _MAX_SYMBOL_BYTES * pixels * self.tables.channels:
            raise BitstreamError(
                f"payload of {len(data)} bytes is too long for a latent of "
                f"{(*shape, self.tables.channels)}; it is corrupted or of another rate"
            )
        if data.endswith(b"\0"):
            raise BitstreamError(
                "payload ends in a zero byte, which the encoder never writes; it is corrupted "
                "or has bytes appended"
            )
        decoder = constriction.stream.queue.RangeDecoder(_words(data))
        try:
            entries = self._decode_entries(decoder, pixels)
            # Wraps as in encode; escapes are replaced below.
            planes = (entries.view(np.uint32) + self._first).view(np.int32)
            longest = 1 + self._bits.take(entries + self._rows).sum() / 8
            steps = entries.size
            escaped = entries == self._escapes
            if escaped.any():
                rows = np.nonzero(escaped)[0]
                minima, maxima = self._minima[rows], self._maxima[rows]
                values = decode_escapes(decoder, minima, maxima)
                if values.min() < _INT32.min or values.max() > _INT32.max:
                    raise BitstreamError(
                        "payload has a symbol beyond 32 bits; it is corrupted or of another rate"
                    )
                planes[escaped] = values
                longest += escape_bits(values, minima, maxima).sum() / 8
                steps += _ESCAPE_STEPS * rows.size
        except _CODER_ERRORS as error:
            raise BitstreamError(
                "payload is not valid under this rate's tables; it is corrupted or of another rate"
            ) from error
        if len(data) > longest + _ROUNDING_BYTES * steps:
            raise BitstreamError(
                f"payload has {len(data)} bytes, its symbols explain {longest:.0f}; it is "
                "corrupted, of another rate or has bytes appended"
            )
        symbols = np.empty((pixels, self.tables.channels), np.int32)
        symbols[:, slice(None) if self._sorted else self._order] = planes.T
        return symbols.reshape(*shape, -1)

    def _encode_entries(self, encoder: Any, entries: np.ndarray) -> None:
        encode = encoder.encode
        if len(self._runs) == len(entries):  # rows are faster to come by than slices
            for model, row in zip(self._models, entries, strict=True):
                encode(row, model)
            return
        start = 0
        for model, channels in self._runs:
            encode(entries[start : start + channels].reshape(-1), model)
            start += channels

    def _decode_entries(self, decoder: Any, pixels: int) -> np.ndarray:
        decode = decoder.decode
        # Joining buffers is several times as fast as concatenating small arrays.
        joined = b"".join([decode(model, channels * pixels) for model, channels in self._runs])
        return np.frombuffer(joined, np.int32).reshape(-1, pixels)

    def _check_shape(self, shape: tuple[int, ...]) -> int:
        height, width, channels = shape
        if channels != self.tables.channels:
            raise ConfigError(
                f"a latent of {channels} channels, expected {self.tables.channels}: the tables "
                "belong to another rate"
            )
        if min(height, width) < 1 or height * width * channels > MAX_SYMBOLS:
            raise ConfigError(
                f"a latent of {tuple(shape)}, expected positive sizes and at most {MAX_SYMBOLS} "
                "symbols; use a larger stride or a smaller image"
            )
        return int(height * width)


def _finish(encoder: Any) -> bytes:
    """The shortest bytes inside the encoder's final interval [lower, lower + width)."""
    words = encoder.get_compressed()
    position, (low, width) = encoder.pos()
    # `pos` gives the last 64 bits of lower; the digits before them may still await a carry. The
    # sealed words lie in the interval, which is narrower than 2**64, so they fix the rest.
    sealed = words.astype(">u4").tobytes().ljust(4 * position + 8, b"\0")
    # The last 16 bytes tell all, unless a carry runs through them.
    for tail in (sealed[-16:], sealed):
        lower = int.from_bytes(tail, "big")
        lower -= (lower - low) & (2**64 - 1)
        upper = lower + width - 1
        if lower > 0 and upper >> 8 * len(tail) == 0:
            break
    if lower == 0:
        return b""
    # Cutting the upper end after the first bit in which it differs from lower - 1 stays inside
    # the interval; cutting it any earlier does not.
    dropped = ((lower - 1) ^ upper).bit_length() - 1 >> 3
    kept = upper >> 8 * dropped
    return sealed[: -len(tail)] + kept.to_bytes(len(tail) - dropped, "big")


def _words(data: bytes) -> np.ndarray:
    """Big-endian 32-bit words of the payload; the decoder reads zeros behind the last."""
    return np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)
