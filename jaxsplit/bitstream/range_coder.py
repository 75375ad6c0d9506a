"""Codes the symbols of one latent as one range-coder stream, see Payload in FORMAT.md.

Channels that share a table are coded together in one call; escapes follow at the end. A payload is
the shortest byte string in the coder's final interval: it never ends in zero, and may be empty.

A self-test is the payload of symbols that are derived from the tables by integer arithmetic. It is
stored with a family, and detects a coder that divides, orders channels or writes escapes otherwise.
"""

from collections import deque
from typing import Any

import constriction
import numpy as np

from jaxsplit.bitstream.probability_models import (
    categorical,
    decode_escapes,
    encode_escapes,
    escape_bits,
)
from jaxsplit.bitstream.tables import MAX_SYMBOLS, CodingTables
from jaxsplit.errors import BitstreamError, CoderError, ConfigError

_INT32 = np.iinfo(np.int32)
#: Most bytes per symbol: 16 bits, 48 more for an escape, and less than 0.03 of coder rounding.
MAX_SYMBOL_BYTES = 9
# The coder's range is at least 2**32 and loses less than 2**24 to rounding at every step, so a step
# costs at most 0.0057 bits more than its information. An escape takes three more steps.
_ROUNDING_BYTES = 0.0057 / 8
_ESCAPE_STEPS = 3
# Exceeds the total information of any latent's entries, in bits.
_ESCAPE_MARK = 2.0**27
# One symbol in so many of a self-test is an escape.
_ESCAPE_EVERY = 13
# Exceptions that constriction raises on invalid words, depending on the model.
_CODER_ERRORS = (AssertionError, KeyError, ValueError)


class EntropyCoder:
    """Range coder for latents of one rate.

    Args:
      tables: the rate's tables; a CoderError if the installed coder does not reproduce them.

    >>> from jaxsplit.entropy import tables_from_counts
    >>> coder = EntropyCoder(tables_from_counts({-1: 9, 0: 9}, channels=1))
    >>> payload = coder.encode(np.array([-1, 0, 0, 70], np.int32).reshape(2, 2, 1))
    >>> len(payload), coder.decode(payload, (2, 2)).ravel().tolist()
    (3, [-1, 0, 0, 70])
    """

    def __init__(self, tables: CodingTables) -> None:
        self.tables = tables
        # With position-dependent tables, a latent is one pixel with a channel for each position.
        used = (
            np.arange(tables.channels)
            if tables.table_indices is None
            else tables.table_indices.ravel()
        )
        # One coder call per distinct table: dead channels of trained latents all share one.
        order, self._groups, first = _by_counts(tables, used)
        self._models = [
            categorical(tables.counts[table, : tables.sizes[table]]) for table in used[first]
        ]
        self._order = order
        self._sorted = bool((order[1:] > order[:-1]).all())
        rows = used[order]
        self._minima, self._maxima = tables.minima[rows], tables.maxima[rows]
        self._escapes = (tables.sizes[rows] - 1)[:, None]
        # In the shapes and dtypes that every call needs.
        self._lowest = self._minima[:, None]
        self._first = self._lowest.view(np.uint32)
        self._last = self._escapes.view(np.uint32)
        # One table lookup gives the cost of an entry and marks escapes.
        bits = tables.entry_bits.copy()
        bits[np.arange(len(bits)), tables.sizes - 1] += _ESCAPE_MARK
        self._bits = bits.ravel()
        self._rows = (rows.astype(np.int32) * tables.counts.shape[1])[:, None]
        # Buffers are removed while in use, so a coder can be shared between threads.
        self._scratch: list[_Scratch] = []

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.tables,)  # copies are built anew: models cannot be pickled

    def encode(self, symbols: np.ndarray) -> bytes:
        """Encodes a latent.

        Args:
          symbols: int32 [h, w, channels], of any value; a ConfigError for others.

        Returns:
          The payload. On average it exceeds `tables.information_bits(symbols)` / 8 by 0.32 bytes
          and a rounding of 0.00013 bits per symbol, never by more than a byte and the rounding. It
          may be shorter: trailing symbols that are the lowest of their tables add nothing.
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
        # Values below the minimum wrap around, so one unsigned comparison detects both sides.
        np.subtract(planes.view(np.uint32), self._first, out=entries)
        np.greater_equal(entries, self._last, out=escaped)
        any_escaped = b"\1" in escaped.tobytes()  # takes less than half the time of .any()
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
        """Decodes a latent.

        Wrong bytes of a plausible length decode to wrong symbols, which only the container's
        checksum detects. A payload longer than the information of its symbols is refused.

        Args:
          data: the payload; a BitstreamError if it is invalid or too long.
          shape: (h, w) of the latent; a ConfigError if it is not positive, or too large.

        Returns:
          int32 [h, w, channels].
        """
        pixels = self._check_shape((*shape, self.tables.channels))
        data = bytes(data)
        if len(data) > MAX_SYMBOL_BYTES * pixels * len(self._order):
            latent = (*shape, self.tables.channels)
            raise _refused(f"of {len(data)} bytes is too long for a latent of {latent}")
        if data.endswith(b"\0"):
            raise _refused("ends in a zero byte, which the encoder never writes")
        # Big-endian words of 32 bits; the decoder reads zeros behind the last.
        words = np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        try:
            lengths = [pixels * channels for channels in self._groups]
            # Joining buffers is several times faster than concatenating small arrays.
            joined = b"".join(map(decoder.decode, self._models, lengths))
            entries = np.frombuffer(joined, np.int32).reshape(-1, pixels)
            # Escapes may overflow here; their values are filled in below.
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
                    raise _refused("has a symbol beyond 32 bits")
                planes[escaped] = values
                longest += escape_bits(values, minima, maxima).sum() / 8
                steps += _ESCAPE_STEPS * rows.size
        except _CODER_ERRORS as error:
            raise _refused("is not valid under this rate's tables") from error
        if len(data) > longest + _ROUNDING_BYTES * steps:
            raise _refused(f"has {len(data)} bytes, its symbols explain {longest:.0f}")
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
        """Returns the number of symbols of each of the coder's channels."""
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
        if self.tables.table_indices is not None:
            self.tables.rows(height, width)  # refuses latents of another size
            return 1
        return int(height * width)


def _by_counts(tables: CodingTables, used: np.ndarray) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Returns the coding order of channels with tables `used`, group sizes and first members."""
    kind = np.unique(tables.counts, axis=0, return_inverse=True)[1].ravel()[used]
    _, first, sizes = np.unique(kind, return_index=True, return_counts=True)
    turn = np.argsort(first)
    ranks = np.argsort(turn)
    return np.argsort(ranks[kind], kind="stable"), sizes[turn].tolist(), first[turn]


class _Scratch:
    """Buffers of one encoding, reused by the next of its size: slicing costs as much as coding."""

    def __init__(self, pixels: int, groups: list[int]) -> None:
        self.pixels = pixels
        self.entries = np.empty((sum(groups), pixels), np.uint32)
        self.escaped = np.empty(self.entries.shape, bool)
        ends = np.cumsum(groups)[:-1] * pixels
        self.runs = np.split(self.entries.view(np.int32).reshape(-1), ends)


def _finish(encoder: Any) -> bytes:
    """Returns the shortest bytes inside the encoder's final interval [lower, lower + width)."""
    words = encoder.get_compressed()
    position, (low, width) = encoder.pos()
    # `pos` gives the last 64 bits of lower; a carry into the bits before them may be pending. The
    # sealed words lie in the interval, which is narrower than 2**64, so they determine the rest.
    sealed = words.astype(">u4").tobytes().ljust(4 * position + 8, b"\0")
    # The last 16 bytes suffice unless a carry runs through all of them.
    for tail in (sealed[-16:], sealed):
        lower = int.from_bytes(tail, "big")
        lower -= (lower - low) & (2**64 - 1)
        upper = lower + width - 1
        if lower > 0 and upper >> 8 * len(tail) == 0:
            break
    if lower == 0:
        return b""
    # Truncating the upper end behind the first bit that differs from lower - 1 stays inside the
    # interval; truncating it earlier does not.
    dropped = ((lower - 1) ^ upper).bit_length() - 1 >> 3
    kept = upper >> 8 * dropped
    return sealed[: -len(tail)] + kept.to_bytes(len(tail) - dropped, "big")


def _refused(problem: str) -> BitstreamError:
    return BitstreamError(
        f"payload {problem}; it is corrupted, of another rate or has bytes appended"
    )


def self_test_symbols(tables: CodingTables) -> np.ndarray:
    """Returns the symbols of a self-test, int32: [2, 2, channels], or the shape of `table_indices`.

    Multiples of 40503 modulo 2**16 (the golden ratio's) replace draws from the tables. Every 13th
    symbol is moved out of its table by a third of 2**2 to 2**32, alternately above and below.
    """
    rows = tables.rows(2, 2) if tables.table_indices is None else tables.table_indices
    index = np.arange(rows.size)
    row = rows.ravel()
    draws = index * 40503 % 65536
    entries = np.empty(row.size, np.int64)
    for table, (counts, size) in enumerate(zip(tables.counts, tables.sizes, strict=True)):
        # A channel's table has a strided slice; a position's table needs a mask.
        at = slice(table, None, tables.channels) if tables.table_indices is None else row == table
        ends = np.cumsum(counts[:size], dtype=np.int64)
        entries[at] = np.searchsorted(ends, draws[at], side="right")
    steps = (np.int64(4) << index % 31) // 3
    lowest = tables.minima[row].astype(np.int64)
    highest = tables.maxima[row].astype(np.int64)
    outside = np.where(index // _ESCAPE_EVERY % 2, lowest - steps, highest + steps)
    escaped = (index % _ESCAPE_EVERY == 0) | (entries == tables.sizes[row] - 1)
    symbols = np.where(escaped, outside, lowest + entries)
    # Clipped to the end of int32, whether or not that symbol is in the table.
    return np.clip(symbols, _INT32.min, _INT32.max).astype(np.int32).reshape(rows.shape)


def write_self_test(coder: EntropyCoder) -> bytes:
    """Encodes the self-test of a rate that is saved.

    Args:
      coder: of the rate's tables.

    Returns:
      The payload for `run_self_test`.

    >>> from jaxsplit.entropy import tables_from_counts
    >>> write_self_test(EntropyCoder(tables_from_counts({0: 30, 1: 9, 3: 1}, channels=2))).hex()
    'fb1e'
    """
    return coder.encode(self_test_symbols(coder.tables))


def run_self_test(coder: EntropyCoder, payload: bytes) -> None:
    """Decodes a stored self-test, encodes its symbols again and compares both.

    Args:
      coder: of the rate's tables; a CoderError if symbols or bytes differ.
      payload: of `write_self_test`.

    >>> from jaxsplit.entropy import tables_from_counts
    >>> coder = EntropyCoder(tables_from_counts({0: 30, 1: 9, 3: 1}, channels=2))
    >>> run_self_test(coder, write_self_test(coder))
    """
    symbols = self_test_symbols(coder.tables)
    try:
        same = np.array_equal(coder.decode(payload, symbols.shape[:2]), symbols)
        same = same and coder.encode(symbols) == payload
    except Exception:  # a coder that changed may fail in any way
        same = False
    if not same:
        raise CoderError(
            "the installed entropy coder does not reproduce the self-test stored with these "
            "tables, so it would decode other symbols; install the versions of constriction and "
            "jaxsplit that saved them"
        )
