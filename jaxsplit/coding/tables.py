"""The frozen integer tables of one rate: all that sender and receiver must agree on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxsplit.coding.escapes import escape_bits
from jaxsplit.coding.intervals import COUNT_BITS, TOTAL
from jaxsplit.errors import ConfigError

_INT32 = np.iinfo(np.int32)
_DTYPES = {"counts": np.int32, "sizes": np.int32, "minima": np.int32, "offsets": np.float32}


@dataclass(frozen=True, eq=False)
class CodingTables:
    """Integer probabilities of every channel's symbols, in units of 1 / 65536.

    Built once from a trained prior, saved with the rate and never computed again: two devices
    that compute the same probabilities in floating point need not get the same integers.
    Instances compare and hash by `fingerprint`; their arrays are read-only copies.

    Args:
      counts: int32 [channels, width]. Row c holds `sizes[c]` entries >= 1 with sum 65536, then
        zeros. The last used entry is the escape: its symbols are written out after the others.
      sizes: int32 [channels], each 2 … width: the used entries, with the escape.
      minima: int32 [channels]: entry j < sizes[c] - 1 stands for the symbol minima[c] + j.
      offsets: float32 [channels], finite, in units of the quantisation step: where the unit
        rounds. The coder only carries them.

    Raises:
      ConfigError: the arrays are not such tables.

    >>> tables = CodingTables(
    ...     counts=np.array([[30000, 30000, 5536], [65535, 1, 0]], np.int32),
    ...     sizes=np.array([3, 2], np.int32),
    ...     minima=np.array([-1, 0], np.int32),
    ...     offsets=np.zeros(2, np.float32),
    ... )
    >>> tables.channels, tables.maxima.tolist()
    (2, [0, 0])
    >>> round(tables.information_bits(np.array([[-1, 0], [0, 0]], np.int32)), 3)
    2.255
    """

    counts: np.ndarray
    sizes: np.ndarray
    minima: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            array = np.asarray(getattr(self, name))
            if array.dtype != dtype:
                raise ConfigError(
                    f"coding tables: {name} is {array.dtype}, expected {np.dtype(dtype)}; "
                    "build the tables with jaxsplit.entropy or load them from a family"
                )
            array = np.array(array, order="C")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        problem = self._problem()
        if problem:
            raise ConfigError(
                f"coding tables: {problem}; build the tables with jaxsplit.entropy or load "
                "them from a family"
            )

    def _problem(self) -> str:
        counts, sizes, channels = self.counts, self.sizes, len(self.sizes)
        if counts.ndim != 2 or sizes.ndim != 1 or counts.shape[0] != channels or channels < 1:
            return (
                f"counts {counts.shape} and sizes {sizes.shape}, expected [channels, width] and "
                "[channels] with at least one channel"
            )
        for name in ("minima", "offsets"):
            if getattr(self, name).shape != (channels,):
                return f"{name} {getattr(self, name).shape}, expected ({channels},)"
        if sizes.min() < 2 or sizes.max() > counts.shape[1]:
            return f"sizes {sizes.min()} … {sizes.max()}, expected 2 … width {counts.shape[1]}"
        used = np.arange(counts.shape[1]) < sizes[:, None]
        if (counts[used] < 1).any() or counts[~used].any():
            return "a used count is below 1 or an unused one is not 0"
        sums = counts.sum(axis=1, dtype=np.int64)
        if (sums != TOTAL).any():
            channel = int(np.argmax(sums != TOTAL))
            return f"counts of channel {channel} sum to {sums[channel]}, expected {TOTAL}"
        if (self.minima.astype(np.int64) + sizes - 2 > _INT32.max).any():
            return "a table reaches beyond the largest int32 symbol"
        if not np.isfinite(self.offsets).all():
            return "an offset is not finite"
        return ""

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.sizes)

    @cached_property
    def maxima(self) -> np.ndarray:
        """The highest symbol of each table, int32 [channels]; the escape stands for none."""
        return self.minima + self.sizes - 2

    @cached_property
    def entry_bits(self) -> np.ndarray:
        """Information of each entry in bits, float64 [channels, width]; 0 where unused."""
        return np.where(self.counts > 0, COUNT_BITS - np.log2(np.maximum(self.counts, 1)), 0.0)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content in a canonical layout, 64 hexadecimal digits.

        Unused columns don't count: tables that code alike and round alike are the same tables.
        """
        used = self.counts[np.arange(self.counts.shape[1]) < self.sizes[:, None]]
        # Adding 0 turns -0.0 into 0.0, which rounds alike but has other bytes.
        parts = (
            ("<u4", np.array([self.channels, used.size])),
            ("<i4", self.sizes),
            ("<i4", self.minima),
            ("<f4", self.offsets + np.float32(0)),
            ("<i4", used),
        )
        digest = hashlib.sha256(b"jaxsplit coding tables 1\n")
        for dtype, array in parts:
            digest.update(array.astype(dtype).tobytes())
        return digest.hexdigest()

    def information_bits(self, symbols: np.ndarray) -> float:
        """Information content of symbols under the tables, with their escapes.

        Real payloads are longer by less than a byte, 0.32 bytes on average, and by the coder's
        rounding.

        Args:
          symbols: int32 [..., channels].

        Returns:
          Bits, summed over all symbols.

        Raises:
          ConfigError: not int32, or another number of channels.
        """
        symbols = np.asarray(symbols)
        if symbols.dtype != np.int32 or symbols.shape[-1:] != (self.channels,):
            raise ConfigError(
                f"symbols are {symbols.dtype} {symbols.shape}, expected int32 "
                f"[..., {self.channels}]"
            )
        flat = symbols.reshape(-1, self.channels).astype(np.int64)
        escaped = (flat < self.minima) | (flat > self.maxima)
        entries = np.where(escaped, self.sizes - 1, flat - self.minima)
        bits = self.entry_bits[np.arange(self.channels), entries].sum()
        if escaped.any():
            channel = np.nonzero(escaped)[1]
            bits += escape_bits(flat[escaped], self.minima[channel], self.maxima[channel]).sum()
        return float(bits)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The four arrays by name, for a checkpoint."""
        return {name: getattr(self, name) for name in _DTYPES}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "CodingTables":
        """Rebuilds tables from `to_arrays`.

        Raises:
          ConfigError: a name is missing or unknown, or the arrays are not tables.
        """
        if set(arrays) != set(_DTYPES):
            raise ConfigError(
                f"coding tables: got the arrays {sorted(arrays)}, expected {sorted(_DTYPES)}"
            )
        return cls(**{name: np.asarray(arrays[name]) for name in _DTYPES})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CodingTables):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)
