"""Opens untrusted weight files, validates their tensors and quotes their content in errors.

Every failure is a `WeightsError` that names the file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from jaxsplit.errors import WeightsError

_LISTED = 12  # names in a message


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a regular file and prefixes every `WeightsError` of the block with its path.

    Raises:
      WeightsError: no such file, a folder or device, not readable, or the block ran out of memory.
    """
    try:
        # Opening a pipe would block, and a device has no end.
        if not _is_regular(path):
            raise WeightsError("is not a file, expected a file of weights; give the file itself")
        with open(path, "rb") as file:
            yield file
    except WeightsError as error:
        raise WeightsError(f"{_name(path)}: {error}") from error
    except FileNotFoundError as error:
        raise WeightsError(f"{_name(path)}: there is no such file; check the path") from error
    except MemoryError as error:
        raise WeightsError(
            f"{_name(path)}: its content exceeds the available memory; get the file again, or use "
            "a larger machine"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(
            f"{_name(path)}: cannot be read ({reason}); check the file and its permissions"
        ) from error


def _is_regular(path: str | os.PathLike[str]) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except ValueError:  # a null byte, or not encodable for the file system
        return False


def _name(path: str | os.PathLike[str]) -> str:
    """Returns a path as given, escaped if it is not printable."""
    text = os.fspath(path)
    return text if text.isprintable() else shown(text, 200)


def size_of(file: BinaryIO) -> int:
    """Returns the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def shown(value: object, length: int = 60) -> str:
    """Formats a value of the file for a message: escaped, on one line, shortened.

    Containers are shown by type only, since they may contain themselves.
    """
    if not isinstance(value, str | bytes):
        return str(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
    return repr(value[:length]) + "…" * (len(value) > length)


def shown_shape(shape: tuple[int, ...]) -> str:
    """Formats a shape [*size] of the file for a message."""
    return str(shape) if len(shape) <= 8 else f"of {len(shape)} axes"


def listed(parts: Iterable[str]) -> str:
    """Joins parts of a message, such as names formatted by `shown`: at most the first twelve.

    >>> listed(str(i) for i in range(20))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more'
    """
    parts = list(parts)
    more = f" and {len(parts) - _LISTED} more" if len(parts) > _LISTED else ""
    return ", ".join(parts[:_LISTED]) + more


def finite_floats(tensors: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Converts the tensors [*size] of the file `where` to float32.

    Tensors are removed from the given dict as they are converted, so that a large file is not in
    memory twice. Those whose names end in "var" are variances.

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
        elif name.endswith("var") and value.size and value.min() < 0:
            negative.append(name)
    _refuse_any(wild, where, "not finite in float32")
    _refuse_any(negative, where, "negative variances")
    return floats


def is_floating(dtype: np.dtype) -> bool:
    """Whether the dtype is floating point, bfloat16 included."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _refuse_any(names: list[str], where: str, what: str) -> None:
    if names:
        raise WeightsError(
            f"{where} has no usable weights: {what}: {listed(map(shown, names))}; "
            "get the file again"
        )
