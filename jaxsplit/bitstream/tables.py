"""Frozen integer probability tables of one rate, shared by sender and receiver."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from jaxsplit._moved import renamed_field
from jaxsplit.bitstream.probability_models import COUNT_BITS, TOTAL, escape_bits
from jaxsplit.errors import ConfigError

#: Most symbols in one latent, checked before memory is allocated. An escape takes about 100 bytes
#: and a third of a microsecond.
MAX_SYMBOLS = 1 << 22

_INT32 = np.iinfo(np.int32)
# Name of an array in a checkpoint → its dtype.
_DTYPES = {
    "counts": np.int32,
    "sizes": np.int32,
    "minima": np.int32,
    "offsets": np.float32,
    "places": np.uint8,
}
_FIELDS = {"places": "table_indices"}  # where it is not the name in a checkpoint


@renamed_field("places", "table_indices")
@dataclass(frozen=True, eq=False, repr=False)
class CodingTables:
    """Integer probabilities of the symbols of a latent, in units of 1 / 65536.

    Tables are saved with the rate and never recomputed: two devices can get different integers
    from the same floating-point probabilities. Instances compare and hash by `fingerprint`; their
    arrays are read-only copies. Invalid ones are a ConfigError.

    Args:
      counts: int32 [tables, width]. Row t holds `sizes[t]` entries >= 1 with sum 65536, then
        zeros. The last used entry is the escape; escaped values are coded after all entries.
      sizes: int32 [tables], each 2 … width: number of used entries, escape included.
      minima: int32 [tables]: entry j < sizes[t] - 1 stands for the symbol minima[t] + j.
      offsets: float32 [channels], finite: rounding offsets in quantization steps, only stored.
      table_indices: uint8 [h, w, channels], of each position; every table is used. None: channel
        c has table c, in latents of any size.

    >>> from jaxsplit.entropy import tables_from_counts
    >>> tables = tables_from_counts({-1: 30, 0: 30}, channels=2)
    >>> round(tables.information_bits(np.array([[-1, 0], [0, 0]], np.int32)), 2)
    4.1
    """

    counts: np.ndarray
    sizes: np.ndarray
    minima: np.ndarray
    offsets: np.ndarray
    table_indices: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, array in self.to_arrays().items():
            field, dtype = _FIELDS.get(name, name), np.dtype(_DTYPES[name])
            array = np.array(array, order="C")
            if array.dtype != dtype:
                raise _refused(f"{field} is {array.dtype}, expected {dtype}")
            array.setflags(write=False)
            object.__setattr__(self, field, array)
        if problem := self._problem():
            raise _refused(problem)

    def __repr__(self) -> str:
        each = "one a channel"
        if self.table_indices is not None:
            each = f"for positions {self.table_indices.shape}"
        return f"CodingTables({self.sizes.size} of {self.channels} channels, {each})"

    def _problem(self) -> str:
        counts, sizes, tables = self.counts, self.sizes, self.sizes.size
        if counts.ndim != 2 or sizes.shape != counts.shape[:1] or tables < 1:
            return (
                f"counts {counts.shape} and sizes {sizes.shape}, expected [tables, width] and "
                "[tables] with at least one table"
            )
        if self.minima.shape != (tables,):
            return f"minima {self.minima.shape}, expected ({tables},)"
        if problem := self._indices_problem():
            return problem
        if sizes.min() < 2 or sizes.max() > counts.shape[1]:
            return f"sizes {sizes.min()} … {sizes.max()}, expected 2 … width {counts.shape[1]}"
        used = np.arange(counts.shape[1]) < sizes[:, None]
        if (counts[used] < 1).any() or counts[~used].any():
            return "a used count is below 1 or an unused one is not 0"
        sums = counts.sum(axis=1, dtype=np.int64)
        if (sums != TOTAL).any():
            table = int(np.argmax(sums != TOTAL))
            return f"counts of table {table} sum to {sums[table]}, expected {TOTAL}"
        if (self.minima.astype(np.int64) + sizes - 2 > _INT32.max).any():
            return "a table reaches beyond the largest int32 symbol"
        if not np.isfinite(self.offsets).all():
            return "an offset is not finite"
        return ""

    def _indices_problem(self) -> str:
        tables, indices = len(self.sizes), self.table_indices
        if indices is None:
            same = self.offsets.shape == (tables,)
            return "" if same else f"offsets {self.offsets.shape}, expected ({tables},)"
        if indices.ndim != 3 or not indices.size or self.offsets.shape != indices.shape[-1:]:
            return (
                f"table indices {indices.shape} and offsets {self.offsets.shape}, expected "
                "[h, w, channels] and [channels]"
            )
        if indices.size > MAX_SYMBOLS:
            return f"table indices {indices.shape}, expected at most {MAX_SYMBOLS}"
        if not np.array_equal(np.unique(indices), np.arange(tables)):
            return f"table indices must use each of the {tables} tables and no other"
        return ""

    @property
    def channels(self) -> int:
        """Number of channels of the latent."""
        return len(self.offsets)

    def rows(self, height: int, width: int) -> np.ndarray:
        """Returns the table index of each position and channel.

        Args:
          height, width: of the latent; a ConfigError if the tables are for another size.

        Returns:
          int [height, width, channels].
        """
        if self.table_indices is None:
            return np.broadcast_to(np.arange(self.channels), (height, width, self.channels))
        if self.table_indices.shape[:2] != (height, width):
            raise ConfigError(
                f"a latent of {height} × {width}, expected {self.table_indices.shape[0]} × "
                f"{self.table_indices.shape[1]}: the tables belong to another rate"
            )
        return self.table_indices

    @cached_property
    def maxima(self) -> np.ndarray:
        """Highest symbol of each table, escape excluded: int32 [tables]."""
        return self.minima + self.sizes - 2

    @cached_property
    def entry_bits(self) -> np.ndarray:
        """Information of each entry in bits, float64 [tables, width]; 0 if unused."""
        return np.where(self.counts > 0, COUNT_BITS - np.log2(np.maximum(self.counts, 1)), 0.0)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content in the layout of FORMAT.md, 64 hexadecimal digits."""
        used = self.counts[np.arange(self.counts.shape[1]) < self.sizes[:, None]]
        # Adding 0 turns -0.0 into 0.0, which rounds equally but has different bytes.
        shape = () if self.table_indices is None else self.table_indices.shape
        parts = [
            ("<u4", np.array([len(self.sizes), used.size, *shape])),
            ("<i4", self.sizes),
            ("<i4", self.minima),
            ("<f4", self.offsets + np.float32(0)),
            ("<i4", used),
        ]
        if self.table_indices is not None:
            parts.append(("u1", self.table_indices))
        version = 1 if self.table_indices is None else 2
        digest = hashlib.sha256(b"jaxsplit coding tables %d\n" % version)
        for dtype, array in parts:
            digest.update(array.astype(dtype).tobytes())
        return digest.hexdigest()

    def information_bits(self, symbols: np.ndarray) -> float:
        """Computes the information content of symbols under the tables, escapes included.

        Args:
          symbols: int32 [..., channels]; [..., h, w, channels] for position-dependent tables; a
            ConfigError otherwise.

        Returns:
          Bits, summed over all symbols; see `EntropyCoder.encode` for the size of a payload.
        """
        symbols = np.asarray(symbols)
        rows = np.arange(self.channels) if self.table_indices is None else self.table_indices
        if symbols.dtype != np.int32 or symbols.shape[symbols.ndim - rows.ndim :] != rows.shape:
            expected = ", ".join(map(str, rows.shape))
            raise ConfigError(
                f"symbols are {symbols.dtype} {symbols.shape}, expected int32 [..., {expected}]"
            )
        values = symbols.astype(np.int64)
        minima, maxima = self.minima[rows], self.maxima[rows]
        escaped = (values < minima) | (values > maxima)
        entries = np.where(escaped, self.sizes[rows] - 1, values - minima)
        bits = self.entry_bits[rows, entries].sum()
        if escaped.any():
            outside = (np.broadcast_to(x, values.shape)[escaped] for x in (minima, maxima))
            bits += escape_bits(values[escaped], *outside).sum()
        return float(bits)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns arrays by name for a checkpoint; "places" only where there are table indices."""
        arrays = {name: getattr(self, _FIELDS.get(name, name)) for name in _DTYPES}
        return {name: array for name, array in arrays.items() if array is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "CodingTables":
        """Rebuilds tables from `to_arrays`.

        Args:
          arrays: name → array; a ConfigError if they are no tables.

        Returns:
          Tables with the same fingerprint.
        """
        if set(arrays) | {"places"} != set(_DTYPES):
            raise _refused(
                f"got the arrays {sorted(arrays)}, expected {sorted(_DTYPES)} (places may be "
                "missing)"
            )
        found = {_FIELDS.get(name, name): np.asarray(array) for name, array in arrays.items()}
        return cls(**found)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), tuple(
            vars(self)[field.name] for field in fields(self)
        )  # read-only again

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CodingTables):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


@dataclass(frozen=True, eq=False)
class LevelTables:
    """Tables of all levels of a variable-rate unit; levels and classes of like symbols share some.

    A class is a channel, or positions of like statistics. Symbols are rounded around 0.

    Args:
      shared: the tables, with table indices [1, levels, classes] and offsets 0.
      classes: uint8 [h, w, channels], of each position; every class is used. None: channel c is
        class c, in latents of any size.

    Raises:
      ConfigError: the arrays are others.

    >>> from jaxsplit.entropy import tables_by_position
    >>> symbols = np.arange(32, dtype=np.int32).reshape(4, 1, 4, 2) % 3
    >>> levels = LevelTables(tables_by_position(symbols, tables=2))
    >>> len(levels), levels.level(3)
    (4, CodingTables(2 of 2 channels, one a channel))
    """

    shared: CodingTables
    classes: np.ndarray | None = None

    def __post_init__(self) -> None:
        indices, classes = self.shared.table_indices, self.classes
        if indices is None or len(indices) != 1 or self.shared.offsets.any():
            raise _refused("tables of levels need table indices [1, levels, classes] and offsets 0")
        if classes is None:
            return
        used = np.arange(indices.shape[2])
        if classes.dtype != np.uint8 or classes.ndim != 3 or classes.size > MAX_SYMBOLS:
            raise _refused(f"classes are {classes.dtype} {classes.shape}, expected uint8 [h, w, C]")
        if not np.array_equal(np.unique(classes), used):
            raise _refused(f"classes must use each of {used.size} and no other")

    def __len__(self) -> int:
        return self.indices.shape[0]

    @property
    def indices(self) -> np.ndarray:
        """Table of each level and class, uint8 [levels, classes]."""
        assert self.shared.table_indices is not None
        return self.shared.table_indices[0]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content in the layout of FORMAT.md, 64 hexadecimal digits."""
        if self.classes is None:
            return self.shared.fingerprint
        digest = hashlib.sha256(b"jaxsplit level tables 1\n")
        digest.update(bytes.fromhex(self.shared.fingerprint))
        digest.update(np.array(self.classes.shape, "<u4").tobytes() + self.classes.tobytes())
        return digest.hexdigest()

    def level(self, level: int) -> CodingTables:
        """Returns the tables of one level.

        Args:
          level: 0 … levels - 1.

        Returns:
          A table for each class.
        """
        rows = self.indices[level]
        sizes, channels = self.shared.sizes[rows], rows.size
        if self.classes is not None:
            channels = self.classes.shape[2]
        counts, offsets = self.shared.counts[rows, : sizes.max()], np.zeros(channels, np.float32)
        return CodingTables(counts, sizes, self.shared.minima[rows], offsets, self.classes)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns arrays by name for a checkpoint: those of `shared`, with used counts alone."""
        arrays = self.shared.to_arrays()
        used = np.arange(arrays["counts"].shape[1]) < arrays["sizes"][:, None]
        classes = {} if self.classes is None else {"classes": self.classes}
        return {**arrays, "counts": arrays["counts"][used].astype(np.uint16), **classes}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "LevelTables":
        """Rebuilds tables from `to_arrays`.

        Args:
          arrays: name → array; a ConfigError if they are no tables of levels.

        Returns:
          Tables with the same fingerprint.
        """
        found = {name: np.asarray(array) for name, array in arrays.items()}
        sizes, used, classes = found.get("sizes"), found.get("counts"), found.pop("classes", None)
        if sizes is None or used is None or sizes.ndim != 1 or used.dtype != np.uint16:
            raise _refused(f"got the arrays {sorted(found)}, expected those of levels")
        if sizes.dtype != np.int32 or not sizes.size or sizes.min() < 2 or used.ndim != 1:
            raise _refused("sizes of tables are int32, at least 2")
        if used.size != sizes.sum(dtype=np.int64) or int(sizes.max()) * sizes.size > MAX_SYMBOLS:
            raise _refused(f"{used.size} counts do not fit the sizes of the tables")
        counts = np.zeros((sizes.size, sizes.max()), np.int32)
        counts[np.arange(counts.shape[1]) < sizes[:, None]] = used
        return cls(CodingTables.from_arrays({**found, "counts": counts}), classes)


def _refused(problem: str) -> ConfigError:
    return ConfigError(
        f"coding tables: {problem}; build the tables with jaxsplit.entropy or load them from a "
        "family"
    )
