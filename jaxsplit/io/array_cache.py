"""Cache of large arrays on disk, written in checksummed parts and memory-mapped for reading.

A folder contains one raw file per array, `manifest.json` (contents and shapes) and `parts.txt` (a
line per finished part: its number and the CRC-32 of its bytes). A part is a range of images in one
view. A cache is complete if the checksums of all parts match: an interrupted build, a short file
and a flipped bit are the same case, in which parts are recomputed. Hosts may share one cache.

The whole cache is verified when it is opened, which also warms the page cache. CRC-32 was the
fastest checksum of zlib and hashlib: 1.6 GB/s on one core, SHA-256 0.6.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np

from jaxsplit.io.files import locked, parse_json, write_json, write_whole
from jaxsplit.io.log import Log

#: name → (shape with a leading axis of rows, name of the dtype)
Shapes = dict[str, tuple[tuple[int, ...], str]]

_FORMAT = 1
_LINE = re.compile(r"(\d+) ([0-9a-f]{8})")
_THREADS = min(os.cpu_count() or 1, 8)


def array_bytes(array: tuple[tuple[int, ...], str]) -> int:
    """Computes the size of an array of this shape and dtype in bytes."""
    shape, dtype = array
    return math.prod(shape) * np.dtype(dtype).itemsize


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayCache:
    """Arrays on disk whose rows are written in parts.

    Attributes:
      folder: of the files.
      about: what the arrays depend on, as JSON values; files with another `about` are not reused.
      shapes: of the arrays, all with `images · views` rows.
      images, views: row `view · images + i` is image `i` in a view.
      part_images: images per part; part `k · views + view` is the k-th range in a view.
    """

    folder: Path
    about: Mapping[str, object]
    shapes: Shapes
    images: int
    views: int
    part_images: int

    @property
    def parts(self) -> int:
        """Number of parts."""
        return math.ceil(self.images / self.part_images) * self.views

    def lacking_bytes(self) -> int:
        """Returns the disk space that the files still need, in bytes."""
        if len(self._read_sums()) == self.parts:  # the file system may compress them
            return 0
        paths = {name: self._path(name) for name in self.shapes}
        there = {name: x.stat().st_blocks * 512 for name, x in paths.items() if x.is_file()}
        return sum(max(0, array_bytes(x) - there.get(name, 0)) for name, x in self.shapes.items())

    @contextlib.contextmanager
    def locked(self, log: Log) -> Iterator[None]:
        """Holds an exclusive lock between processes; the system releases it if one is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for another process that uses the features in {self.folder}"
        with locked(self.folder / "lock", lambda: log(waiting)):
            yield

    def missing(self, log: Log) -> list[int]:
        """Prepares the files and returns the parts that must be written; logs why."""
        if reason := self._foreign():
            log(f"the cached features in {self.folder} {reason}: recomputing all of them")
            self._clear()
        write_json(self.folder / "manifest.json", self._manifest())
        sums = self._read_sums()
        for name, shape in self.shapes.items():
            with open(self._path(name), "ab") as file:
                if file.tell() != array_bytes(shape):  # else the file stays untouched
                    file.truncate(array_bytes(shape))
        if sums and (size := sum(map(array_bytes, self.shapes.values()))) >= 2**30:
            log(f"checking {size / 2**30:.3g} GiB of cached features")
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            check = functools.partial(self._checksum, self.arrays())
            found = dict(zip(sums, pool.map(check, sums), strict=True))
        whole = {part: value for part, value in sums.items() if found[part] == value}
        cached = f"of {self.parts} parts of the cached features in {self.folder} are"
        if len(whole) < len(sums):
            log(f"{len(sums) - len(whole)} {cached} damaged: recomputing them")
        elif 0 < len(whole) < self.parts:
            log(f"{len(whole)} {cached} from an interrupted run: resuming")
        if len(whole) < self.parts:
            self._reserve(clear=not whole)
        # Drops damaged parts, and an incomplete line of a killed process.
        lines = "".join(_line(*item) for item in whole.items())
        write_whole(self.folder / "parts.txt", lines.encode())
        return [part for part in range(self.parts) if part not in whole]

    def write(self, part: int, first: int, values: dict[str, np.ndarray]) -> None:
        """Writes a part, whose first row is `first`, and then its checksum."""
        value = 0
        for name in self.shapes:
            content = _content(values[name])
            # Not through a memory map, where a full disk kills the process by SIGBUS.
            with open(self._path(name), "r+b") as file:
                file.seek(first * (content.nbytes // len(values[name])))
                file.write(content)
            value = zlib.crc32(content, value)
        with open(self.folder / "parts.txt", "a") as file:
            file.write(_line(part, value))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays, memory-mapped for reading."""
        return {
            name: np.memmap(self._path(name), np.dtype(dtype), "r", shape=shape)
            for name, (shape, dtype) in self.shapes.items()
        }

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def _manifest(self) -> dict[str, object]:
        items = self.shapes.items()
        arrays = {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in items}
        sizes = {name: getattr(self, name) for name in ("images", "views", "part_images")}
        return {"format": _FORMAT, **self.about, "arrays": arrays, **sizes}

    def _foreign(self) -> str | None:
        """Returns why the files cannot be reused; None if they can, or there are none."""
        ours = self._manifest()
        try:
            stored = parse_json((self.folder / "manifest.json").read_bytes())
        except FileNotFoundError:
            return "lack their manifest" if self._files() else None
        except ValueError:
            return "have a damaged manifest"
        if stored == ours:
            return None
        theirs = stored if isinstance(stored, dict) else {}
        differ = [name for name in ours if theirs.get(name) != ours[name]] or sorted(theirs)
        return f"are of another setting ({', '.join(differ)} differ)"

    def _files(self) -> list[Path]:
        """The files of this cache that are there; others in the folder are not touched."""
        own = (self.folder / name for name in ("manifest.json", "parts.txt"))
        return [path for path in (*own, *map(self._path, self.shapes)) if path.exists()]

    def _clear(self) -> None:
        for path in self._files():
            path.unlink()

    def _read_sums(self) -> dict[int, int]:
        try:
            text = (self.folder / "parts.txt").read_text("ascii", "replace")
        except FileNotFoundError:
            return {}
        lines = filter(None, map(_LINE.fullmatch, text.splitlines()))
        sums = {int(line[1]): int(line[2], 16) for line in lines}
        return {part: value for part, value in sums.items() if part < self.parts}

    def _reserve(self, clear: bool) -> None:
        """Reserves the disk space of all rows, so that it cannot run out after hours."""
        if not hasattr(os, "posix_fallocate"):  # macOS
            return
        try:
            for name, shape in self.shapes.items():
                with open(self._path(name), "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, array_bytes(shape))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # not on this file system
                return
            if clear:
                self._clear()  # leaves no unusable files on a full disk
            raise

    def _checksum(self, arrays: dict[str, np.ndarray], part: int) -> int:
        run, view = divmod(part, self.views)
        begin, first = run * self.part_images, view * self.images
        rows = slice(first + begin, first + min(begin + self.part_images, self.images))
        value = 0
        for array in arrays.values():
            value = zlib.crc32(_content(array[rows]), value)
        return value


def _content(rows: np.ndarray) -> memoryview:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


def _line(part: int, value: int) -> str:
    return f"{part} {value:08x}\n"
