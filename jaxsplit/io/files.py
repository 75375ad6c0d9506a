"""Reads and atomically writes whole files, and locks them; failures are one-line errors."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from jaxsplit.errors import ConfigError, DataError, reason

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_LOCKED_BYTE = 2**40  # on Windows; behind every content, since others can't read a locked byte


def read_file(path: Path) -> bytes:
    """Returns the bytes of a file; raises a DataError if it cannot be read."""
    if path.is_dir():
        raise DataError(f"cannot read {path}: it is a folder; name a file in it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from error


def as_text(name: str | os.PathLike[str]) -> str:
    """Returns a file's name as text for logs, records and reports; other bytes are escaped.

    >>> as_text("caf\\udce9.png")  # the byte 0xe9, which is no UTF-8
    'caf\\\\xe9.png'
    """
    return os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_whole(path: Path, content: bytes, *, make_folder: bool = False) -> None:
    """Writes a file atomically: a temporary file, fsync, and a rename.

    A killed write leaves its temporary file, see `partial_of`, which the next write of this file
    reuses. Concurrent writers wait for each other. Pipes and devices are written directly. With
    `make_folder` a missing folder is created.

    Raises:
      ConfigError: the file cannot be written.
    """
    if not make_folder and not path.parent.exists():
        raise ConfigError(f"cannot write {path}: there is no folder {path.parent}; create it")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        path = path.resolve()  # keeps a symbolic link
        partial = partial_of(path)
        with locked(partial) as file:
            try:
                file.truncate(0)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                release(file)
                os.replace(partial, path)
            except BaseException:
                release(file)
                partial.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {reason(error)}") from error


def partial_of(path: Path) -> Path:
    """Returns the one temporary file of a file that is written."""
    return path.with_name(f".{path.name}.jaxsplit")


def delete_whole(path: Path) -> None:
    """Deletes a file and what a killed write left of it; a link, but not what it points to."""
    for file in (path, partial_of(path)):
        if file.is_symlink() or file.is_file():
            file.unlink()


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder; raises a ConfigError if there is one in it."""

    def refuse() -> None:
        other = "wait for its end, or take another folder"
        raise ConfigError(f"another process is training in {folder}: {other}")

    path = folder / ".jaxsplit.lock"
    with locked(path, refuse) as file:
        try:
            yield
        finally:
            release(file)
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[], object] = lambda: None) -> Iterator[BinaryIO]:
    """Opens a file to append to and to read, under a lock that no other process or thread shares.

    The holder may rename or delete the file: who waits then makes another. The system releases the
    lock of a killed process. On a file system without locks there is none.

    Args:
      path: made where it is missing; no link is followed.
      busy: called before waiting for another holder; may raise instead.
    """
    while True:
        with open(path, "a+b", opener=_open_itself) as file:
            try:
                _lock(file, wait=False)
            except BlockingIOError:
                busy()
                _lock(file, wait=True)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
            if _is_at(path, file):
                yield file
                return


def release(file: BinaryIO) -> None:
    """Ends a lock before its file is moved or deleted on Windows, which does neither to open ones.

    Elsewhere the lock is held until the name is gone, so that who waits takes no deleted file.
    """
    if sys.platform == "win32":
        file.close()


def _lock(file: BinaryIO, *, wait: bool) -> None:
    """Locks an open file, for its whole life; a BlockingIOError if it is taken, or waits."""
    if sys.platform == "win32":
        while True:
            file.seek(_LOCKED_BYTE)
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return
            except PermissionError as error:
                if not wait:
                    raise BlockingIOError(error.errno, "locked") from error
            finally:
                file.seek(0)
            time.sleep(0.05)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Returns whether the open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _open_itself(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)  # Windows has none


def parse_json(text: str | bytes) -> Any:
    """Parses a JSON document from elsewhere, whose numbers fit int64 and float64.

    Raises:
      ValueError: it isn't JSON, is nested too deeply, or a number is not finite or out of range.

    >>> parse_json('{"lambda": 1e999}')
    Traceback (most recent call last):
        ...
    ValueError: the number 1e999 is out of range
    """

    def refuse(number: str) -> NoReturn:
        raise ValueError(f"the number {number[:20]} is out of range")

    def whole(number: str) -> int:
        return int(number) if len(number) < 20 and abs(int(number)) < 2**63 else refuse(number)

    def real(number: str) -> float:
        return float(number) if math.isfinite(float(number)) else refuse(number)

    try:
        return json.loads(text, parse_int=whole, parse_float=real, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_json(path: Path, document: object) -> None:
    """Writes a JSON document atomically; raises a ConfigError."""
    write_whole(path, (json.dumps(document, indent=1) + "\n").encode())


def check_writable(directory: Path) -> None:
    """Creates a folder if it is missing; raises a ConfigError if it is not writable."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):  # a unique name: other processes may check too
            pass
    except OSError as error:
        is_file = isinstance(error, FileExistsError)
        why = "it is a file; give another folder" if is_file else reason(error)
        raise ConfigError(f"cannot write to {directory}: {why}") from error
