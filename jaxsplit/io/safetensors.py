"""Reads untrusted safetensors files with bounded memory.

The safetensors library validates the header against the file before it allocates tensors. It does
not bound the header's size, and panics if memory is short. Both are checked here first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors looks up
import numpy as np
import safetensors

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import opened, shown, size_of

#: Bytes of a header: about a hundred per tensor, and ten times as many in memory.
MAX_HEADER = 2**24
#: Bytes needed to recognize the format.
HEAD_BYTES = 9


def begins_safetensors(head: bytes) -> bool:
    """Whether `head` begins a safetensors file: the header's length in 8 bytes, then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Returns the metadata of a file; see `read_safetensors`."""
    with _reader(path) as reader:
        return reader.metadata() or {}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the tensors by name, with shapes [*size] and dtypes as stored.

    Raises:
      WeightsError: no such file, not safetensors, damaged, or with dtypes that numpy lacks.
    """
    with _reader(path) as reader:
        return {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118


@contextmanager
def _reader(path: str | os.PathLike[str]) -> Iterator[safetensors.safe_open]:
    with opened(path) as file:
        head = file.read(HEAD_BYTES)
        if not begins_safetensors(head):
            what = f"begins with {shown(head[:8])}" if head else "is empty"
            raise WeightsError(f"{what}, expected a .safetensors; get the file again")
        np.empty(size_of(file), np.uint8)  # raises MemoryError where the library would panic
        try:
            with safetensors.safe_open(os.fspath(path), framework="numpy") as reader:
                yield reader
        # Dtypes that numpy lacks (8 bits and fewer) give an AttributeError or a TypeError.
        except (safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:
            raise WeightsError(
                f"is not a .safetensors that numpy can read ({shown(str(error), 200)}); "
                "get the file again, or save it in float32"
            ) from error
