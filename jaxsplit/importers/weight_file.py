"""A file of weights, opened: whatever is wrong with it is a `WeightsError` that names the file."""

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from jaxsplit.errors import WeightsError


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a regular file; inside the block every `WeightsError` gets the path in front.

    Raises:
      WeightsError: there is no such file, it is a folder or a device, or it cannot be read.
    """
    try:
        # A pipe would block on opening, and a device has no end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise WeightsError("is not a file, expected a file of weights; give the file itself")
        with open(path, "rb") as file:
            yield file
    except WeightsError as error:
        raise WeightsError(f"{os.fspath(path)}: {error}") from error
    except FileNotFoundError as error:
        raise WeightsError(f"{os.fspath(path)}: there is no such file; check the path") from error
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(
            f"{os.fspath(path)}: cannot be read ({reason}); check the file and its permissions"
        ) from error


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def shown(value: object, length: int = 60) -> str:
    """A value of the file as it may stand in a message: escaped, on one line, short.

    Of a container only the type is told: it may contain itself.
    """
    if not isinstance(value, str | bytes):
        return str(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
    return ascii(value[:length]) + "…" * (len(value) > length)
