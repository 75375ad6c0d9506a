"""Files of safetensors, from here and from elsewhere, read within bounds.

The library compares a file's header with the file before it takes memory for tensors. It does not
bound the header, and ends in a panic where memory is short; both are seen to here, beforehand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes  # noqa: F401  gives numpy the name bfloat16, which safetensors asks it for
import numpy as np
import safetensors

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import opened, shown, size_of

#: Bytes of a header: about a hundred a tensor, and ten times as many in memory.
MAX_HEADER = 2**24
#: So many bytes tell whether a file is one.
HEAD_BYTES = 9


def begins_safetensors(head: bytes) -> bool:
    """Whether a file that begins so is one: the header's length in 8 bytes, and JSON.

    >>> begins_safetensors((19_280).to_bytes(8, "little") + b'{"w":')
    True
    """
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What the file says beside its tensors.

    Raises:
      WeightsError: no such file, none of safetensors, or damaged.
    """
    with _reader(path) as reader:
        return reader.metadata() or {}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors by name, shapes [*size] and dtypes as stored.

    Raises:
      WeightsError: no such file, none of safetensors, damaged, or of dtypes that numpy lacks.
    """
    with _reader(path) as reader:
        return {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118


@contextmanager
def _reader(path: str | os.PathLike[str]) -> Iterator[Any]:
    with opened(path) as file:
        head = file.read(HEAD_BYTES)
        if not begins_safetensors(head):
            what = f"begins with {shown(head[:8])}" if head else "is empty"
            raise WeightsError(f"{what}, expected a .safetensors; get the file again")
        np.empty(size_of(file), np.uint8)  # a MemoryError, where the library would panic
        try:
            with safetensors.safe_open(os.fspath(path), framework="numpy") as reader:
                yield reader
        # A dtype that numpy lacks (8 bits and fewer) is an AttributeError or a TypeError.
        except (safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:
            raise WeightsError(
                f"is no .safetensors that numpy can hold ({shown(str(error), 200)}); "
                "get the file again, or save it in float32"
            ) from error
