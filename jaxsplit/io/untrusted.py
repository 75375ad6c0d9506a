"""A file of weights, opened: whatever is wrong with it is a `WeightsError` that names the file."""

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
    """Opens a regular file; inside the block every `WeightsError` gets the path in front.

    Raises:
      WeightsError: there is no such file, it is a folder or a device, it cannot be read, or the
        block ran out of memory.
    """
    try:
        # A pipe would block on opening, and a device has no end.
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
            f"{_name(path)}: what it holds takes more memory than there is; get the file again, or "
            "use a larger machine"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(
            f"{_name(path)}: cannot be read ({reason}); check the file and its permissions"
        ) from error


def _is_regular(path: str | os.PathLike[str]) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except ValueError:  # a null byte, or what the file system cannot spell
        return False


def _name(path: str | os.PathLike[str]) -> str:
    """A path as the user wrote it, unless it would not stay on its line."""
    text = os.fspath(path)
    return text if text.isprintable() else shown(text, 200)


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def shown(value: object, length: int = 60) -> str:
    """A value of the file as it may stand in a message: escaped, on one line, short.

    Of a container only the type is told: it may contain itself.
    """
    if not isinstance(value, str | bytes):
        return str(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
    return repr(value[:length]) + "…" * (len(value) > length)


def shown_shape(shape: tuple[int, ...]) -> str:
    """A shape [*size] of the file as it may stand in a message."""
    return str(shape) if len(shape) <= 8 else f"of {len(shape)} axes"


def listed(parts: Iterable[str]) -> str:
    """Parts of a message, such as names made safe by `shown`: the first twelve, in order.

    >>> listed(str(i) for i in range(20))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more'
    """
    parts = list(parts)
    more = f" and {len(parts) - _LISTED} more" if len(parts) > _LISTED else ""
    return ", ".join(parts[:_LISTED]) + more


def finite_floats(tensors: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Tensors [*size] of a file as float32.

    They leave the dict that is given as they are converted, so that no large file is in memory
    twice.

    Args:
      tensors: by name; a variance is one whose name ends in "var".
      where: the file, for the error.

    Raises:
      WeightsError: some are not floating point, not finite in float32, or negative variances: one
        message names them.
    """
    integers = [name for name, value in tensors.items() if not is_floating(value.dtype)]
    _refuse_any(integers, where, "not floating point")
    floats, wild, negative = {}, [], []
    for name in list(tensors):
        with np.errstate(over="ignore"):  # of a float64 that float32 cannot hold
            value = floats[name] = np.asarray(tensors.pop(name), np.float32)
        if not np.isfinite(value).all():
            wild.append(name)
        elif name.endswith("var") and value.size and value.min() < 0:
            negative.append(name)
    _refuse_any(wild, where, "not finite in float32")
    _refuse_any(negative, where, "negative variances")
    return floats


def is_floating(dtype: np.dtype) -> bool:
    """Whether values of the dtype are floating point, bfloat16 included."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _refuse_any(names: list[str], where: str, what: str) -> None:
    if names:
        raise WeightsError(
            f"{where} holds no usable weights: {what}: {listed(map(shown, names))}; "
            "get the file again"
        )
