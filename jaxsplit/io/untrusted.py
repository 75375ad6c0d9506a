"""Opens untrusted weight files, validates their tensors and quotes their content in errors.

Every failure is a `WeightsError` that names the file. The safetensors library validates a header
against the file before it allocates tensors. It does not bound the header's size, and panics if
memory is short; both are checked here first.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors looks up
import numpy as np
import safetensors

from jaxsplit.errors import WeightsError

_LISTED = 12  # names in a message
#: Bytes of a header: about a hundred per tensor, and ten times as many in memory.
MAX_HEADER = 2**24
#: Bytes needed to recognize the format.
HEAD_BYTES = 9


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a regular file and prefixes every `WeightsError` of the block with its path.

    Also raises one for no such file, a folder or device, no permission, and too little memory.
    """
    try:
        # Opening a pipe would block, and a device has no end.
        if not _is_regular(path):
            raise WeightsError("is not a file, expected a file of weights; give the file itself")
        with open(path, "rb") as file:
            yield file
    except (WeightsError, MemoryError, OSError) as error:
        raise WeightsError(f"{_name(path)}: {_complaint(error)}") from error


def _complaint(error: WeightsError | MemoryError | OSError) -> str:
    if isinstance(error, MemoryError):
        return "its content exceeds the available memory; get another, or use a larger machine"
    if isinstance(error, FileNotFoundError):
        return "there is no such file; check the path"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error}); check the file and its permissions"
    return str(error)


def _is_regular(path: str | os.PathLike[str]) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except ValueError:  # a null byte, or not encodable for the file system
        return False


def _name(path: str | os.PathLike[str]) -> str:
    """Returns a path as given, escaped if it is not printable."""
    text = os.fspath(path)
    return text if text.isprintable() else quoted(text, 200)


def size_of(file: BinaryIO) -> int:
    """Returns the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def quoted(value: object, length: int = 60) -> str:
    """Formats a value of the file for a message: escaped, shortened; containers by type only."""
    if not isinstance(value, str | bytes):
        return str(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
    return repr(value[:length]) + "…" * (len(value) > length)


def shown_shape(shape: tuple[int, ...]) -> str:
    """Formats a shape [*size] of the file for a message."""
    return str(shape) if len(shape) <= 8 else f"of {len(shape)} axes"


def listed(parts: Iterable[str]) -> str:
    """Joins parts of a message, such as names formatted by `quoted`: at most the first twelve.

    >>> listed(str(i) for i in range(20))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more'
    """
    parts = list(parts)
    more = f" and {len(parts) - _LISTED} more" if len(parts) > _LISTED else ""
    return ", ".join(parts[:_LISTED]) + more


def check_tensors(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], complaint: str
) -> None:
    """Compares names and shapes [*size] of tensors with the expected ones.

    Raises a WeightsError, `complaint` and those that are missing, unused or of another shape.
    """
    problems = {
        "missing": [quoted(name) for name in sorted(shapes.keys() - tensors.keys())],
        "unused": [quoted(name) for name in sorted(tensors.keys() - shapes.keys())],
        "of another shape": [
            f"{quoted(name)} is {shown_shape(tensors[name].shape)}, expected {shape}"
            for name, shape in shapes.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    listings = [f"{kind}: {listed(parts)}" for kind, parts in problems.items() if parts]
    if listings:
        raise WeightsError("; ".join([complaint, *listings]))


def finite_floats(tensors: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Converts the tensors [*size] of the file `where` to float32.

    Removes them from the dict meanwhile, so that a large file is not in memory twice.

    Raises:
      WeightsError: tensors are not floating point, not finite in float32, or negative variances.
    """
    integers = [name for name, value in tensors.items() if not is_floating(value.dtype)]
    _refuse_any(integers, where, "not floating point")
    floats, wild, negative = {}, [], []
    for name in list(tensors):
        with np.errstate(over="ignore"):  # float64 values beyond float32's range
            value = floats[name] = np.asarray(tensors.pop(name), np.float32)
        if not np.isfinite(value).all():
            wild.append(name)
        elif is_variance(name) and value.size and value.min() < 0:
            negative.append(name)
    _refuse_any(wild, where, "not finite in float32")
    _refuse_any(negative, where, "negative variances")
    return floats


def is_variance(name: str) -> bool:
    """Returns whether a tensor of this name is the variance of a batch normalization.

    >>> [is_variance(x) for x in ("batch_stats/bn/var", "bn.running_var", "params/log_var")]
    [True, True, False]
    """
    ours = name.startswith("batch_stats/") and name.endswith("/var")
    return ours or name.rpartition(".")[2] == "running_var"


def is_floating(dtype: np.dtype) -> bool:
    """Returns whether the dtype is floating point, bfloat16 included."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _refuse_any(names: list[str], where: str, what: str) -> None:
    if names:
        raise damaged(f"{where} has no usable weights: {what}: {listed(map(quoted, names))}")


def damaged(what: str) -> WeightsError:
    """Makes the error for content that no writer produces."""
    return WeightsError(f"{what}; get the file again")


def foreign(head: bytes, expected: str) -> WeightsError:
    """Makes the error for a file of another format, which begins with `head`."""
    what = f"begins with {quoted(head[:8])}" if head else "is empty"
    return damaged(f"{what}, expected {expected}")


def begins_safetensors(head: bytes) -> bool:
    """Recognizes a safetensors file by its start: the header's length in 8 bytes, then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Returns the metadata of a file; see `read_safetensors`."""
    with _reader(path) as reader:
        return reader.metadata() or {}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the tensors by name, with shapes [*size] and dtypes as stored.

    Raises a WeightsError: no such file, not safetensors, damaged, or with dtypes that numpy lacks.
    """
    with _reader(path) as reader:
        return {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _reader(path: str | os.PathLike[str]) -> Iterator[safetensors.safe_open]:
    with opened(path) as file:
        head = file.read(HEAD_BYTES)
        if not begins_safetensors(head):
            raise foreign(head, "a .safetensors")
        np.empty(size_of(file), np.uint8)  # raises MemoryError where the library would panic
        try:
            with safetensors.safe_open(os.fspath(path), framework="numpy") as reader:
                yield reader
        # Dtypes that numpy lacks (8 bits and fewer) give an AttributeError or a TypeError.
        except (safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:
            what = f"is not a .safetensors that numpy can read ({quoted(str(error), 200)})"
            raise WeightsError(f"{what}; get the file again, or save it in float32") from error
