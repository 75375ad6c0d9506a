"""The entries of a zip file, checked before one is read. Nothing is ever written to disk.

Every entry lies inside the file, none overlaps another, none is there twice, encrypted, or named
so that it would leave a folder. An entry gives exactly the bytes that the directory promises,
with their checksum, if there is one, so that no more memory is taken than was asked for.
"""

from __future__ import annotations

import dataclasses
import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from typing import BinaryIO, cast

import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import shown, size_of

#: Bytes of a zip's directory: about a hundred an entry.
MAX_DIRECTORY = 2**23
_ENCRYPTED = 0x1 | 0x40
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry: `stored` bytes of the file from `start` on, which become `size` bytes."""

    name: str
    start: int
    stored: int
    size: int
    crc: int
    deflated: bool

    def read(self, file: BinaryIO) -> bytes:
        """Its content, `size` bytes; takes `stored` more while it is inflated.

        Raises:
          WeightsError: the content is shorter, longer or other than the directory says.
        """
        file.seek(self.start)
        data = file.read(self.stored)
        if self.deflated:
            try:
                # One byte more than promised tells that there is more.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
            except zlib.error as error:
                raise WeightsError(
                    f"entry {shown(self.name)} is corrupted; get the file again"
                ) from error
        if len(data) != self.size:
            raise WeightsError(
                f"entry {shown(self.name)} does not hold the {self.size} bytes that the zip's "
                "directory says; get the file again"
            )
        self._check(data)
        return data

    def read_array(self, file: BinaryIO) -> np.ndarray:
        """The content of an entry that is not deflated, as bytes [size] in memory of their own.

        Raises:
          WeightsError: the content is other than the directory says.
        """
        array = np.empty(self.size, np.uint8)
        file.seek(self.start)
        file.readinto(array.data)  # type: ignore[attr-defined]
        self._check(array.data)
        return array

    def _check(self, data: bytes | memoryview) -> None:
        # torch writes 0 where it was told to spare the time for a checksum.
        if self.crc and (crc := zlib.crc32(data)) != self.crc:
            raise WeightsError(
                f"entry {shown(self.name)} is corrupted: its checksum is {crc:08x}, expected "
                f"{self.crc:08x}; get the file again"
            )


class _Bounded:
    """A file of which `zipfile` reads the directory, unless that is too large to keep."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY:
            raise WeightsError(
                f"its zip directory claims {size} bytes, expected at most {MAX_DIRECTORY}; "
                "get the file again"
            )
        return self._file.read(size)


def read_directory(file: BinaryIO) -> dict[str, Entry]:
    """The entries of a zip file by name, without folders.

    Raises:
      WeightsError: it is damaged, or has entries that a file of weights does not have.
    """
    try:
        infos = zipfile.ZipFile(cast(BinaryIO, _Bounded(file))).infolist()
    except (ArithmeticError, LookupError, NotImplementedError, ValueError) as error:
        raise _damaged(error) from error
    except (EOFError, struct.error, zipfile.BadZipFile) as error:
        raise _damaged(error) from error
    entries: dict[str, Entry] = {}
    file_size = size_of(file)
    for info in infos:
        entry = _entry(file, info, file_size)
        if entry.name in entries:
            raise WeightsError(f"entry {shown(entry.name)} is there twice; get the file again")
        entries[entry.name] = entry
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.start):
        if entry.start < end and entry.stored:
            raise WeightsError(f"entry {shown(entry.name)} overlaps another; get the file again")
        end = max(end, entry.start + entry.stored)
    return {name: entry for name, entry in entries.items() if not name.endswith("/")}


def _entry(file: BinaryIO, info: zipfile.ZipInfo, file_size: int) -> Entry:
    name = info.orig_filename
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise WeightsError(f"entry {shown(name)} names a place outside; get the file again")
    if info.flag_bits & _ENCRYPTED:
        raise WeightsError(f"entry {shown(name)} is encrypted; decrypt the file first")
    if info.compress_type not in _METHODS:
        raise WeightsError(
            f"entry {shown(name)} is compressed by method {info.compress_type}, expected stored "
            "or deflated; save the file again"
        )
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    if not deflated and info.compress_size != info.file_size:
        raise WeightsError(f"entry {shown(name)} is stored with two sizes; get the file again")
    header = b""
    if 0 <= info.header_offset < file_size:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
        raise WeightsError(f"entry {shown(name)} is not where the zip says; get the file again")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if start + info.compress_size > file_size:
        raise WeightsError(f"entry {shown(name)} is cut off; get the file again")
    return Entry(name, start, info.compress_size, info.file_size, info.CRC, deflated)


def _damaged(error: Exception) -> WeightsError:
    return WeightsError(f"its zip directory is damaged ({shown(str(error))}); get the file again")


#: How much larger than the file its arrays may be, if they are larger than _FREE bytes.
MAX_RATIO = 20
_FREE = 2**26
_SUFFIX = ".npy"
# What numpy's parsing of a header raises; it ends in Python's own parser.
_DAMAGE = (MemoryError, RecursionError, SyntaxError, TypeError, ValueError, tokenize.TokenError)


def read_npz(file: BinaryIO) -> dict[str, np.ndarray]:
    """The numeric arrays of an open .npz by name, in this machine's byte order.

    Raises:
      WeightsError: damaged, larger than MAX_RATIO times the file, or with arrays of other things
        than numbers.
    """
    entries = [entry for name, entry in read_directory(file).items() if name.endswith(_SUFFIX)]
    limit = max(_FREE, MAX_RATIO * size_of(file))
    total = sum(entry.size for entry in entries)
    if total > limit:
        raise WeightsError(
            f"its arrays claim {total} bytes, expected at most {limit}; save them with np.savez"
        )
    return {entry.name.removesuffix(_SUFFIX): _array(entry, file) for entry in entries}


def _array(entry: Entry, file: BinaryIO) -> np.ndarray:
    data = io.BytesIO(entry.read(file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            version = np.lib.format.read_magic(data)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = header(data)
    except (*_DAMAGE, Warning) as error:
        raise WeightsError(
            f"array {shown(entry.name)} has a damaged header ({shown(str(error))}); "
            "get the file again"
        ) from error
    if dtype.kind not in "biuf":
        raise WeightsError(
            f"array {shown(entry.name)} holds {shown(str(dtype))}, expected numbers; "
            "save float32 arrays"
        )
    left = entry.size - data.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise WeightsError(
            f"array {shown(entry.name)} of shape {shown(str(shape))} and {dtype} has {left} bytes; "
            "get the file again"
        )
    if not left and math.prod(max(size, 1) for size in shape) > 2**48:
        raise WeightsError(
            f"array {shown(entry.name)} has a shape without sense: {shown(str(shape))}"
        )
    flat = np.frombuffer(data.getbuffer(), dtype, offset=data.tell())
    return flat.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="))
