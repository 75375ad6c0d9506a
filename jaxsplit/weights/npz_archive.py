"""NumPy's .npz files: zips of .npy arrays, read without pickle and without surprises in size."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
from typing import BinaryIO

import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import shown, size_of
from jaxsplit.weights.zip_entries import Entry, read_directory

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
