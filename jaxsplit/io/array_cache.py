"""The files of cached features: written part by part, each with a checksum, and mapped for reading.

A folder holds one raw file per array, `manifest.json` (what the arrays are of, and their form) and
`parts.txt` (a line per finished part: its number and the CRC-32 of its bytes). A part is a run of
images in one view. Nothing says that a cache is complete but every part's checksum: a stopped
build, a short file and a flipped bit are one case, and only parts that aren't whole are computed
again. A file system that several hosts share may hold one cache for all of them.

All of it is checked whenever it is opened. CRC-32 finds damage (nobody forges a cache) and was the
fastest of zlib's and hashlib's sums, 1.6 GB/s on a core where SHA-256 did 0.6. The reading isn't
lost either: the same pages are about to be read in random order.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  makes bfloat16 a dtype that numpy knows by name
import numpy as np

from jaxsplit.io.files import write_whole

#: Told what begins, in words for people.
Tell = Callable[[str], None]
#: name → (shape with leading axis of rows, name of the dtype)
Forms = dict[str, tuple[tuple[int, ...], str]]

_FORMAT = 1
_LINE = re.compile(r"(\d+) ([0-9a-f]{8})")
_THREADS = min(os.cpu_count() or 1, 8)


def form_bytes(form: tuple[tuple[int, ...], str]) -> int:
    """Bytes of an array.

    >>> form_bytes(((10, 3), "bfloat16"))
    60
    """
    shape, dtype = form
    return math.prod(shape) * np.dtype(dtype).itemsize


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureFiles:
    """Arrays whose rows are written in parts.

    Attributes:
      folder: where the files lie.
      about: what the features depend on, ready for JSON; files about anything else are foreign.
      forms: of the arrays; all have `images · views` rows.
      images, views: row `view · images + i` is image `i` in a view.
      part_images: how many images a part has, the last run of them fewer; part `k · views + view`
        is the k-th run in a view.
    """

    folder: Path
    about: dict[str, Any]
    forms: Forms
    images: int
    views: int
    part_images: int

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return math.ceil(self.images / self.part_images) * self.views

    def lacking_bytes(self) -> int:
        """What the files still want of the disk."""
        if len(self._read_sums()) == self.parts:  # they may be compressed there
            return 0
        lacking = 0
        for name, form in self.forms.items():
            path = self._path(name)
            there = path.stat().st_blocks * 512 if path.is_file() else 0
            lacking += max(0, form_bytes(form) - there)
        return lacking

    @contextlib.contextmanager
    def locked(self, tell: Tell) -> Iterator[None]:
        """Keeps every other process out; the system lifts the lock even from a killed one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"another process is at the features in {self.folder}: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def missing(self, tell: Tell) -> list[int]:
        """Prepares the files, and says which parts are to be written.

        Args:
          tell: told why anything that is there is not used.
        """
        if reason := self._foreign():
            tell(f"the cached features in {self.folder} {reason}: computing all of them again")
            self._clear()
        manifest = json.dumps(self._manifest(), indent=1) + "\n"
        write_whole(self.folder / "manifest.json", manifest.encode())
        sums = self._read_sums()
        for name, form in self.forms.items():
            with open(self._path(name), "ab") as file:
                os.ftruncate(file.fileno(), form_bytes(form))
        if sums and (size := sum(map(form_bytes, self.forms.values()))) >= 2**30:
            tell(f"checking {size / 2**30:.3g} GiB of cached features")
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            check = functools.partial(self._checksum, self.arrays())
            found = dict(zip(sums, pool.map(check, sums), strict=True))
        whole = {part: value for part, value in sums.items() if found[part] == value}
        if len(whole) < len(sums):
            tell(
                f"{len(sums) - len(whole)} of {self.parts} parts of the cached features in "
                f"{self.folder} are damaged: computing them again"
            )
        elif 0 < len(whole) < self.parts:
            tell(
                f"{len(whole)} of {self.parts} parts of the features are in {self.folder} from a "
                "run that was stopped: going on from there"
            )
        if len(whole) < self.parts:
            self._reserve(clear=not whole)
        # Without the damaged, and without half a line that a killed process may have left.
        lines = "".join(_line(*item) for item in whole.items())
        write_whole(self.folder / "parts.txt", lines.encode())
        return [part for part in range(self.parts) if part not in whole]

    def write(self, part: int, first: int, values: dict[str, np.ndarray]) -> None:
        """Writes a part, which begins with row `first`, and then its checksum."""
        value = 0
        for name in self.forms:
            content = _content(values[name])
            # Not through a mapping, where a full disk is a signal that ends the process.
            with open(self._path(name), "r+b") as file:
                file.seek(first * (content.nbytes // len(values[name])))
                file.write(content)
            value = zlib.crc32(content, value)
        with open(self.folder / "parts.txt", "a") as file:
            file.write(_line(part, value))

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays, mapped for reading."""
        return {
            name: np.memmap(self._path(name), np.dtype(dtype), "r", shape=shape)
            for name, (shape, dtype) in self.forms.items()
        }

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def _manifest(self) -> dict[str, Any]:
        arrays = {
            name: {"shape": list(shape), "dtype": dtype}
            for name, (shape, dtype) in self.forms.items()
        }
        return {
            "format": _FORMAT,
            **self.about,
            "arrays": arrays,
            "images": self.images,
            "views": self.views,
            "part_images": self.part_images,
        }

    def _foreign(self) -> str | None:
        """Why the files are not ours to go on with; None if they are, or there are none."""
        try:
            stored = json.loads((self.folder / "manifest.json").read_text())
        except FileNotFoundError:
            others = [path for path in self.folder.iterdir() if path.name != "lock"]
            return "have lost their manifest" if others else None
        except ValueError:
            return "have a damaged manifest"
        ours = self._manifest()
        if stored == ours:
            return None
        theirs = stored if isinstance(stored, dict) else {}
        differ = [name for name in ours if theirs.get(name) != ours[name]] or sorted(theirs)
        return f"are of something else ({', '.join(differ)} differ)"

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != "lock":
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
        """Takes the space for all rows, so that it can't run out after hours."""
        if not hasattr(os, "posix_fallocate"):  # macOS
            return
        try:
            for name, form in self.forms.items():
                with open(self._path(name), "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, form_bytes(form))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # not on this file system
                return
            if clear:
                self._clear()  # what a full disk could not take should not fill it
            raise

    def _checksum(self, arrays: dict[str, np.ndarray], part: int) -> int:
        run, view = divmod(part, self.views)
        begin = run * self.part_images
        end = min(begin + self.part_images, self.images)
        rows = slice(view * self.images + begin, view * self.images + end)
        value = 0
        for array in arrays.values():
            value = zlib.crc32(_content(array[rows]), value)
        return value


def _content(rows: np.ndarray) -> memoryview:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


def _line(part: int, value: int) -> str:
    return f"{part} {value:08x}\n"
