"""Reads untrusted zip files, and .npz files of numeric arrays, with bounded memory.

All entries are validated before one is read: each lies inside the file, and none overlaps another,
appears twice, is encrypted or has a name that would leave its folder. An entry has exactly the size
and, if given, the checksum of the directory. Arrays are read without pickle. Nothing is written to
disk.
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
from jaxsplit.io.untrusted import damaged, shown, size_of

#: Bytes of a zip's directory: about a hundred per entry.
MAX_DIRECTORY = 2**23
_ENCRYPTED = 0x1 | 0x40
_LOCAL_HEADER = struct.Struct("<4s22xHH")
# Exceptions of zipfile on a damaged directory.
_DIRECTORY_ERRORS = (
    *(ArithmeticError, EOFError, LookupError, NotImplementedError, ValueError),
    *(struct.error, zipfile.BadZipFile),
)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry: `stored` bytes at offset `start` of the file, `size` bytes when decompressed.

    Its methods raise a WeightsError if size or checksum differ from the directory's.
    """

    name: str
    start: int
    stored: int
    size: int
    crc: int
    deflated: bool

    def read(self, file: BinaryIO) -> bytes:
        """Returns the content; takes `stored` more bytes while decompressing."""
        file.seek(self.start)
        data = file.read(self.stored)
        if self.deflated:
            try:
                # One byte more than promised detects longer content.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
            except zlib.error as error:
                raise damaged(f"entry {shown(self.name)} is corrupted") from error
        if len(data) != self.size:
            raise damaged(
                f"entry {shown(self.name)} does not have the {self.size} bytes that the zip's "
                "directory says"
            )
        self._check(data)
        return data

    def read_array(self, file: BinaryIO) -> np.ndarray:
        """Returns the content of an uncompressed entry as a new uint8 array [size]."""
        array = np.empty(self.size, np.uint8)
        file.seek(self.start)
        file.readinto(array.data)  # type: ignore[attr-defined]
        self._check(array.data)
        return array

    def _check(self, data: bytes | memoryview) -> None:
        # torch writes 0 if its checksums are disabled.
        if self.crc and (crc := zlib.crc32(data)) != self.crc:
            raise damaged(
                f"entry {shown(self.name)} is corrupted: its checksum is {crc:08x}, expected "
                f"{self.crc:08x}"
            )


class _Bounded:
    """File wrapper that bounds the directory that `zipfile` reads into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY:
            raise damaged(
                f"its zip directory claims {size} bytes, expected at most {MAX_DIRECTORY}"
            )
        return self._file.read(size)


def read_directory(file: BinaryIO) -> dict[str, Entry]:
    """Returns the validated entries of a zip file by name, without folders.

    Raises a WeightsError if it is damaged, or has entries that a weight file does not have.
    """
    try:
        infos = zipfile.ZipFile(cast(BinaryIO, _Bounded(file))).infolist()
    except _DIRECTORY_ERRORS as error:
        raise damaged(f"its zip directory is damaged ({shown(str(error))})") from error
    entries: dict[str, Entry] = {}
    file_size = size_of(file)
    for info in infos:
        entry = _entry(file, info, file_size)
        if entry.name in entries:
            raise damaged(f"entry {shown(entry.name)} appears twice")
        entries[entry.name] = entry
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.start):
        if entry.start < end and entry.stored:
            raise damaged(f"entry {shown(entry.name)} overlaps another")
        end = max(end, entry.start + entry.stored)
    return {name: entry for name, entry in entries.items() if not name.endswith("/")}


def _entry(file: BinaryIO, info: zipfile.ZipInfo, file_size: int) -> Entry:
    name = info.orig_filename
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise damaged(f"entry {shown(name)} would leave the folder")
    if info.flag_bits & _ENCRYPTED:
        raise WeightsError(f"entry {shown(name)} is encrypted; decrypt the file first")
    if info.compress_type not in _METHODS:
        raise WeightsError(
            f"entry {shown(name)} is compressed by method {info.compress_type}, expected stored "
            "or deflated; save the file again"
        )
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    if not deflated and info.compress_size != info.file_size:
        raise damaged(f"entry {shown(name)} is stored with two sizes")
    header = b""
    if 0 <= info.header_offset < file_size:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
        raise damaged(f"entry {shown(name)} is not where the zip says")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if start + info.compress_size > file_size:
        raise damaged(f"entry {shown(name)} is truncated")
    return Entry(name, start, info.compress_size, info.file_size, info.CRC, deflated)


#: The arrays of a .npz may be this many times larger than the file, or _FREE bytes.
MAX_RATIO = 20
_FREE = 2**26
_SUFFIX = ".npy"
# Exceptions of numpy's header parser, which uses Python's own parser.
_DAMAGE = (MemoryError, RecursionError, SyntaxError, TypeError, ValueError, tokenize.TokenError)


def read_npz(file: BinaryIO) -> dict[str, np.ndarray]:
    """Returns the numeric arrays of an open .npz by name, in native byte order.

    Raises:
      WeightsError: damaged, larger than MAX_RATIO times the file, or with non-numeric arrays.
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
        raise damaged(
            f"array {shown(entry.name)} has a damaged header ({shown(str(error))})"
        ) from error
    if dtype.kind not in "biuf":
        raise WeightsError(
            f"array {shown(entry.name)} has dtype {shown(str(dtype))}, expected numbers; "
            "save float32 arrays"
        )
    left = entry.size - data.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise damaged(
            f"array {shown(entry.name)} of shape {shown(str(shape))} and {dtype} has {left} bytes"
        )
    if not left and math.prod(max(size, 1) for size in shape) > 2**48:
        raise damaged(f"array {shown(entry.name)} has the invalid shape {shown(str(shape))}")
    flat = np.frombuffer(data.getbuffer(), dtype, offset=data.tell())
    return flat.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="))
