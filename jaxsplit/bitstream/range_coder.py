"""Symbols + tables ↔ bytes: one range-coder stream for one latent.

Tables are coded one after the other, each with all its symbols in one go; the values outside of
their tables follow at the end of the stream. The payload is the shortest byte string that, read
as a big-endian fraction with zeros behind it, lies in the coder's final interval; its last byte
is therefore never zero, and a payload may be empty.
"""

from collections import deque
from typing import Any

import constriction
import numpy as np

from jaxsplit.bitstream.coder_models import categorical, decode_escapes, encode_escapes, escape_bits
from jaxsplit.bitstream.tables import MAX_SYMBOLS, CodingTables
from jaxsplit.errors import BitstreamError, ConfigError

_INT32 = np.iinfo(np.int32)
#: Most bytes of a symbol: 16 bits, 48 more of an escape, and the coder's rounding of under 0.03.
MAX_SYMBOL_BYTES = 9
# The coder's range is at least 2**32 and loses less than 2**24 of it to rounding at every step,
# so a step costs at most 0.0057 bits more than its information; an escape takes three more.
_ROUNDING_BYTES = 0.0057 / 8
_ESCAPE_STEPS = 3
# More bits than the entries of a latent can have.
_ESCAPE_MARK = 2.0**27
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
        self._by_place = tables.places is not None
        # Where places have tables, a latent is coded as one pixel with a channel for each place.
        used = np.arange(tables.channels) if tables.places is None else tables.places.ravel()
        # One call of the coder for every distinct table: trained latents have dead channels,
        # which all look alike. The first channel of each table decides its place.
        order, self._groups, first = _by_counts(tables, used)
        self._models = [
            categorical(tables.counts[table, : tables.sizes[table]]) for table in used[first]
        ]
        self._order = order
        self._sorted = bool((order[1:] > order[:-1]).all())
        rows = used[order]
        self._minima, self._maxima = tables.minima[rows], tables.maxima[rows]
        self._escapes = (tables.sizes[rows] - 1)[:, None]
        # As they are used on every call.
        self._lowest = self._minima[:, None]
        self._first = self._lowest.view(np.uint32)
        self._last = self._escapes.view(np.uint32)
        # One look at a table tells what an entry costs and whether any entry is an escape.
        bits = tables.entry_bits.copy()
        bits[np.arange(len(bits)), tables.sizes - 1] += _ESCAPE_MARK
        self._bits = bits.ravel()
        self._rows = (rows.astype(np.int32) * tables.counts.shape[1])[:, None]
        # Taken out while in use, so that threads share a coder.
        self._scratch: list[_Scratch] = []

    def encode(self, symbols: np.ndarray) -> bytes:
        """Writes a latent as bytes.

        Args:
          symbols: int32 [h, w, channels]; any value.

        Returns:
          The payload. On average it is 0.32 bytes longer than `tables.information_bits(symbols)`
          / 8, and by the coder's rounding of 0.00013 bits a symbol: 0.62 bytes at 18,816 symbols.
          It is never longer by more than a byte beside the rounding, but it may be shorter: symbols
          at the end that are the lowest of their tables leave the interval's lower end where it
          is, and so add nothing.

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
        scratch = self._take_scratch(pixels)
        entries, escaped = scratch.entries, scratch.escaped
        # Wraps around below the minimum, so that one unsigned comparison finds both sides.
        np.subtract(planes.view(np.uint32), self._first, out=entries)
        np.greater_equal(entries, self._last, out=escaped)
        any_escaped = b"\1" in escaped.tobytes()  # in less than half the time of .any()
        if any_escaped:
            np.copyto(entries, self._last, where=escaped)
        encoder = constriction.stream.queue.RangeEncoder()
        deque(map(encoder.encode, scratch.runs, self._models), maxlen=0)
        if any_escaped:
            rows = np.nonzero(escaped)[0]
            encode_escapes(encoder, planes[escaped], self._minima[rows], self._maxima[rows])
        self._scratch.append(scratch)
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
        if len(data) > MAX_SYMBOL_BYTES * pixels * len(self._order):
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
            lengths = [pixels * channels for channels in self._groups]
            # Joining buffers is several times as fast as concatenating small arrays.
            joined = b"".join(map(decoder.decode, self._models, lengths))
            entries = np.frombuffer(joined, np.int32).reshape(-1, pixels)
            # An escape's place may wrap around here; its value is filled in below.
            planes = entries + self._lowest
            bits = self._bits.take(entries + self._rows).sum()
            steps = entries.size
            longest = 1 + bits % _ESCAPE_MARK / 8
            if bits >= _ESCAPE_MARK:
                escaped = entries == self._escapes
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
        if self._sorted:
            symbols = planes.T.copy()
        else:
            symbols = np.empty((pixels, len(self._order)), np.int32)
            symbols[:, self._order] = planes.T
        return symbols.reshape(*shape, -1)

    def _take_scratch(self, pixels: int) -> "_Scratch":
        try:
            scratch = self._scratch.pop()
        except IndexError:
            return _Scratch(pixels, self._groups)
        return scratch if scratch.pixels == pixels else _Scratch(pixels, self._groups)

    def _check_shape(self, shape: tuple[int, ...]) -> int:
        """Symbols for each of the coder's channels."""
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
        if self._by_place:
            self.tables.rows(height, width)  # refuses latents of another size
            return 1
        return int(height * width)


def _by_counts(tables: CodingTables, used: np.ndarray) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Channels with tables `used` in coding order, sizes of their groups, first of each group."""
    kinds: dict[bytes, int] = {}
    kind_of = [
        kinds.setdefault(row[:size].tobytes(), len(kinds))
        for row, size in zip(tables.counts, tables.sizes, strict=True)
    ]
    kind = np.array(kind_of)[used]
    _, first, sizes = np.unique(kind, return_index=True, return_counts=True)
    turn = np.argsort(first)
    ranks = np.argsort(turn)
    return np.argsort(ranks[kind], kind="stable"), sizes[turn].tolist(), first[turn]


class _Scratch:
    """Memory of one encoding, kept for the next of its size: slicing costs as much as coding."""

    def __init__(self, pixels: int, groups: list[int]) -> None:
        self.pixels = pixels
        self.entries = np.empty((sum(groups), pixels), np.uint32)
        self.escaped = np.empty(self.entries.shape, bool)
        ends = np.cumsum(groups)[:-1] * pixels
        self.runs = np.split(self.entries.view(np.int32).reshape(-1), ends)


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
