"""Reads untrusted zip files, and .npz files of numeric arrays, with bounded memory.

`zipfile` compares headers, sizes and checksums with the directory. Checked here before an entry is
read: the directory's size, and that every entry lies inside the file, overlaps no other, appears
once and has a name that stays in its folder. Arrays are read without pickle.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zipfile
import zlib
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import damaged, quoted, size_of

#: Bytes of a zip's directory: about a hundred per entry.
MAX_DIRECTORY = 2**23
_PIECE = 2**20
_HIGHEST_RATIO = 1032  # of deflate
_ENCRYPTED = 0x41  # flags of both kinds of encryption
_LOCAL_HEADER = 30  # bytes before an entry's name
# Exceptions of zipfile on damaged content.
_DAMAGE = (
    *(ArithmeticError, EOFError, LookupError, RuntimeError, ValueError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


class Entry(NamedTuple):
    """An entry of a zip file."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    def read(self) -> bytearray:
        """Returns the content, of the directory's size and checksum; else a WeightsError."""
        name, size = quoted(self.info.orig_filename), self.info.file_size
        try:
            data, filled = bytearray(size), 0  # in pieces, so that it is in memory once
            with self.archive.open(self.info) as content:
                while piece := content.read(min(_PIECE, size - filled)):
                    data[filled : filled + len(piece)] = piece
                    filled += len(piece)
        except _DAMAGE as error:
            raise damaged(f"entry {name} is damaged ({quoted(str(error), 150)})") from error
        if filled != size:
            raise damaged(f"entry {name} has {filled} bytes, but {size} in the zip's directory")
        return data


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
    """Returns the validated entries of a zip file by name, without folders; else a WeightsError."""
    try:
        archive = zipfile.ZipFile(cast(BinaryIO, _Bounded(file)))
    except _DAMAGE as error:
        raise damaged(f"its zip directory is damaged ({quoted(str(error))})") from error
    archive.fp = file  # entries may be larger than the directory
    entries: dict[str, Entry] = {}
    file_size, end = size_of(file), 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        name, method = info.orig_filename, info.compress_type
        begin, previous_end = info.header_offset, end
        end = begin + _LOCAL_HEADER + info.compress_size
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
            raise damaged(f"entry {quoted(name)} would leave the folder")
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightsError(
                f"entry {quoted(name)} is compressed by method {method}, expected stored or "
                "deflated; save the file again"
            )
        if info.flag_bits & _ENCRYPTED:
            raise WeightsError(f"entry {quoted(name)} is encrypted; decrypt the file first")
        is_stored = method == zipfile.ZIP_STORED
        most = info.compress_size * (1 if is_stored else _HIGHEST_RATIO)
        if info.file_size > most or (is_stored and info.file_size < most):
            raise damaged(f"entry {quoted(name)} cannot have {info.file_size} bytes")
        if begin < 0 or end > file_size:
            raise damaged(f"entry {quoted(name)} is not inside the file")
        if name in entries:
            raise damaged(f"entry {quoted(name)} appears twice")
        if begin < previous_end:
            raise damaged(f"entry {quoted(name)} overlaps another")
        if is_stored and not info.CRC:
            del info.CRC  # torch writes 0 if its checksums are disabled
        entries[name] = Entry(archive, info)
    return {name: entry for name, entry in entries.items() if not name.endswith("/")}


#: The arrays of a .npz may be this many times larger than the file, or _FREE bytes.
MAX_RATIO = 20
_FREE = 2**26


def read_npz(file: BinaryIO) -> dict[str, np.ndarray]:
    """Returns the numeric arrays of an open .npz by name, in native byte order.

    Raises a WeightsError: damaged, larger than MAX_RATIO times the file, or not of numbers.
    """
    entries = read_directory(file)
    arrays = {x.removesuffix(".npy"): one for x, one in entries.items() if x.endswith(".npy")}
    limit = max(_FREE, MAX_RATIO * size_of(file))
    if (total := sum(entry.info.file_size for entry in arrays.values())) > limit:
        raise WeightsError(
            f"its arrays claim {total} bytes, expected at most {limit}; save them with np.savez"
        )
    return {name: _array(entry) for name, entry in arrays.items()}


def _array(entry: Entry) -> np.ndarray:
    content = entry.read()
    name, data = f"array {quoted(entry.info.orig_filename)}", io.BytesIO(content)
    npy = np.lib.format
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            is_old = npy.read_magic(data) == (1, 0)
            read = npy.read_array_header_1_0 if is_old else npy.read_array_header_2_0
            shape, fortran, dtype = read(data)
    except Exception as error:  # numpy parses the header by Python's parser: errors of many kinds
        raise damaged(f"{name} has a damaged header ({quoted(str(error))})") from error
    if dtype.kind not in "biuf":
        raise WeightsError(
            f"{name} has dtype {quoted(str(dtype))}, expected numbers; save float32 arrays"
        )
    left = len(content) - data.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise damaged(f"{name} of shape {quoted(str(shape))} and {dtype} has {left} bytes")
    if not left and math.prod(max(size, 1) for size in shape) > 2**48:
        raise damaged(f"{name} has the invalid shape {quoted(str(shape))}")
    flat = np.frombuffer(content, dtype, offset=data.tell())
    return flat.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="))
