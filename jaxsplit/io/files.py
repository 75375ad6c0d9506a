"""Reads and atomically writes whole files; failures are one-line errors."""

from __future__ import annotations

import json
import math
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from jaxsplit.errors import ConfigError, DataError, reason


def read_file(path: Path) -> bytes:
    """Returns the bytes of a file; raises a DataError if it cannot be read."""
    if path.is_dir():
        raise DataError(f"cannot read {path}: it is a folder; name a file in it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from error


def write_whole(path: Path, content: bytes, *, make_folder: bool = False) -> None:
    """Writes a file atomically: a temporary file, fsync, and a rename.

    Pipes and devices are written directly. With `make_folder` a missing folder is created.

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
        # A temporary file per writer: of two concurrent writers one wins, with a whole file.
        partial = path.with_name(path.name + secrets.token_hex(4))
        try:
            with open(partial, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {reason(error)}") from error


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
