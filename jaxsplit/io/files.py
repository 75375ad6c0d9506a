"""Whole files in and out, refused with one line where the machine refuses."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jaxsplit.errors import ConfigError, DataError, reason


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
      DataError: it can't be read.
    """
    if path.is_dir():
        raise DataError(f"cannot read {path}: it is a folder; name a file in it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; into what is there but no file, such as a pipe.

    Raises:
      ConfigError: it can't be written.
    """
    if not path.parent.exists():
        raise ConfigError(f"cannot write {path}: there is no folder {path.parent}; create it")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder; name a file in it")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        path = path.resolve()  # a link stays one
        # Each writer has its own: of two that write at once one wins, whole.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            partial = Path(file.name)
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                partial.chmod(0o666 & ~_umask())
                os.replace(partial, path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {reason(error)}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(directory: Path) -> None:
    """Refuses an unwritable folder before hours of training end there.

    Raises:
      ConfigError: nothing can be written to it; a missing one is made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):  # a name of its own: others may look too
            pass
    except FileExistsError as error:
        raise ConfigError(
            f"cannot write to {directory}: it is a file; give another folder"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot write to {directory}: {reason(error)}") from error
