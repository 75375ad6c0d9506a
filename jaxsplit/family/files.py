"""A family on disk: an index, and the parameters and tables of each rate.

`family.json` describes the rates and their origin. Each `rates/<rate_id>-<digest>` holds a rate's
parameters and coding tables: an orbax folder, or in a packed family (format 2) a safetensors file,
which has half the size, loads in a thirtieth of the time, is deterministic, and stores float32 as
float16 where that is exact. The digest reveals a damaged rate, the self-test a coder that changed.
Replacing `family.json` is the one atomic step of saving. Only rates that it no longer names are
deleted: a save first lists the old and the new ones in `.family-files.jaxsplit`. It deletes this
list at its end; the list of a killed save is read and deleted by the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import safetensors.numpy
from flax import traverse_util

from jaxsplit import _moved
from jaxsplit.bitstream import CodingTables, run_self_test, write_self_test
from jaxsplit.codec.runtime import FamilyRate
from jaxsplit.data import Preprocessing
from jaxsplit.errors import CheckpointError, ConfigError, FamilyError, WeightsError
from jaxsplit.io import checkpoint
from jaxsplit.io.fields import build
from jaxsplit.io.files import delete_whole, locked, parse_json, release, write_whole
from jaxsplit.io.untrusted import read_safetensors
from jaxsplit.units import Variables
from jaxsplit.units.unit import check_stored, spec_from_dict

FORMAT_VERSION, PACKED_VERSION = 1, 2
INDEX = "family.json"
_LOG = ".family-files.jaxsplit"
# Rates as they are written; only these are deleted.
_PATH = re.compile(r"rates/[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{12}(\.safetensors)?")
#: Patterns of the files of a packed family.
FILES = (INDEX, "rates/*.safetensors")

_DAMAGES = (
    *(AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(MemoryError, RecursionError, ConfigError, CheckpointError, WeightsError),
)


class _Network(TypedDict):
    name: str
    fingerprint: str | None
    weights: str | None


#: An entry of the rates. A family is packed, with a "file" for each rate, or has a "folder".
_Rate = TypedDict(
    "_Rate",
    {
        "rate_id": str,
        "lambda": float | None,
        "spec": dict[str, object],
        "measured": dict[str, float | list[float] | None],
        "digest": str,
        "self_test": str,
        "file": NotRequired[str],
        "folder": NotRequired[str],
    },
)


class _Index(TypedDict):
    """The content of `family.json`."""

    backbone: _Network
    preprocessing: Preprocessing
    cut: str
    card: NotRequired[dict[str, object]]
    rates: list[_Rate]


def write_family(
    directory: Path, described: dict[str, Any], rates: tuple[FamilyRate, ...], *, packed: bool
) -> None:
    """Writes a family atomically, see `RateFamily.save`.

    `described` has the other entries of the index. An unregistered unit is a ConfigError.
    """
    for rate in rates:
        check_stored(rate.spec)
    entries = [_described(rate, packed) for rate in rates]
    index = {"format": PACKED_VERSION if packed else FORMAT_VERSION, **described, "rates": entries}
    text = json.dumps(index, indent=1) + "\n"
    # Lists of numbers on one line; JSON strings contain no line breaks.
    text = re.sub(r"\[\n[-+.\deE,\s]*\]", lambda found: " ".join(found[0].split()), text)
    paths = _entry_paths(index)
    try:
        check_folder(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with _replacing(directory, paths):
            (directory / "rates").mkdir(exist_ok=True)
            for path, rate in zip(paths, rates, strict=True):
                _write_rate(directory / path, rate, packed)
            write_whole(directory / INDEX, text.encode())
    except (OSError, ConfigError, CheckpointError) as error:
        raise FamilyError(f"cannot write the family to {directory}: {error}") from error


def check_folder(directory: Path) -> None:
    """Raises a FamilyError if a folder holds something else than a family, or a link to rates."""
    if (directory / "rates").is_symlink():
        what = "its rates folder is a link, which is not followed; name a new folder"
        raise FamilyError(f"cannot write a family to {directory}: {what}")
    if (directory / INDEX).exists():
        _entry_paths(_read_index(directory))
    elif directory.is_dir() and not (directory / _LOG).exists():
        names = [path.name for path in directory.iterdir()]
        # Hidden files are of file managers and version control.
        if found := sorted(name for name in names if not name.startswith(".")):
            what = f"it holds {found[0]}, but no family; name a new folder"
            raise FamilyError(f"cannot write a family to {directory}: {what}")


@contextlib.contextmanager
def _replacing(directory: Path, paths: Sequence[str]) -> Iterator[None]:
    """Deletes, at the end of a save, the rates of the previous index and of killed saves.

    Args:
      directory: of the family; one process at a time saves into it.
      paths: of the new rates. They and the old ones are written down before the save begins.
    """
    with locked(directory / _LOG) as log:
        log.write("\n".join(["", *_current(directory), *paths, ""]).encode())
        log.flush()
        os.fsync(log.fileno())
        try:
            yield
        finally:  # the index on disk is the old or the new one
            log.seek(0)
            listed = filter(_PATH.fullmatch, log.read().decode(errors="replace").split("\n"))
            for path in {*listed} - {*_current(directory)}:
                _delete(directory / path)
            release(log)
            (directory / _LOG).unlink()


def _current(directory: Path) -> list[str]:
    return _entry_paths(_read_index(directory)) if (directory / INDEX).exists() else []


def _entry_paths(index: dict[str, Any]) -> list[str]:
    """Returns the paths of an index's rates; a FamilyError if it has none."""
    key = "file" if index["format"] == PACKED_VERSION else "folder"
    try:
        return [str(entry[key]) for entry in index["rates"]]
    except (LookupError, TypeError) as error:
        raise FamilyError(f"{INDEX} names no rates: it is damaged, or of something else") from error


def _delete(path: Path) -> None:
    """Deletes a rate and what a killed save left of it; a link, but nothing behind one."""
    if path.parent.is_symlink():
        return
    checkpoint.delete_tree(path)
    delete_whole(path)


def read_family(directory: Path) -> dict[str, Any]:
    """Reads the fields of a `RateFamily`, see `RateFamily.load`."""
    found = _read_index(directory)
    packed = found["format"] == PACKED_VERSION
    try:
        index: _Index = build(_Index, found, what=INDEX)
        return {
            "backbone": index["backbone"]["name"],
            "backbone_fingerprint": index["backbone"]["fingerprint"],
            "weights": index["backbone"]["weights"],
            "preprocessing": index["preprocessing"],
            "cut": index["cut"],
            "card": index.get("card", {}),
            "rates": tuple(_read_rate(directory, entry, packed) for entry in index["rates"]),
        }
    except _DAMAGES as error:
        raise FamilyError(f"the family at {directory} is damaged: {error}") from error


def is_packed(directory: Path) -> bool:
    """Returns whether a family's index names safetensors files, whose size in memory is known."""
    return bool(_read_index(directory)["format"] == PACKED_VERSION)


def _read_index(directory: Path) -> dict[str, Any]:
    try:
        index = parse_json((directory / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FamilyError(f"no family at {directory}: {INDEX} is missing") from error
    except (OSError, ValueError) as error:
        raise FamilyError(f"cannot read {directory / INDEX}: {error}") from error
    found = index.get("format") if isinstance(index, dict) else None
    if found not in (FORMAT_VERSION, PACKED_VERSION):
        raise FamilyError(
            f"{directory / INDEX} has format {found!r}; this version reads "
            f"{FORMAT_VERSION} and {PACKED_VERSION}"
        )
    return dict(index)


def _write_rate(path: Path, rate: FamilyRate, packed: bool) -> None:
    if _holds(path, rate, packed):
        return
    if packed:
        write_whole(path, safetensors.numpy.save(rate.packed_arrays()))
    else:
        tree = {"variables": rate.variables, "tables": rate.tables.to_arrays()}
        checkpoint.save_tree(path, tree)


def _described(rate: FamilyRate, packed: bool) -> dict[str, Any]:
    """Returns the entry of a rate in the index."""
    path = f"rates/{rate.rate_id}-{rate.digest[:12]}" + (".safetensors" if packed else "")
    return {
        "rate_id": rate.rate_id,
        "lambda": rate.lmbda,
        "spec": rate.spec.to_dict(),
        "measured": rate.measured,
        "tables": rate.tables.fingerprint,
        "digest": rate.digest,
        "self_test": write_self_test(rate.coder).hex(),
        "file" if packed else "folder": path,
    }


def _read_rate(directory: Path, entry: _Rate, packed: bool) -> FamilyRate:
    # Links are not resolved: downloaded files are links into a cache.
    path = entry["file" if packed else "folder"]
    if not re.fullmatch(r"rates/[A-Za-z0-9][A-Za-z0-9._-]*", path):
        raise FamilyError(f"{path!r} lies outside of the family")
    rate = FamilyRate(
        entry["rate_id"],
        entry["lambda"],
        spec_from_dict(entry["spec"]),
        *_read_arrays(directory / path, packed),
        entry["measured"],
    )
    if rate.digest != entry["digest"]:
        raise FamilyError(f"rate {rate.rate_id} of {directory} was changed after it was saved")
    run_self_test(rate.coder, bytes.fromhex(entry["self_test"]))
    return rate


def _read_arrays(path: Path, packed: bool) -> tuple[Variables, CodingTables]:
    if packed:
        arrays = {
            name: array.astype(np.float32) if array.dtype == np.float16 else array
            for name, array in read_safetensors(path).items()
        }
        tree = traverse_util.unflatten_dict(arrays, sep="/")
    else:
        tree = checkpoint.load_tree(path)
    return tree["variables"], CodingTables.from_arrays(tree["tables"])


def _holds(path: Path, rate: FamilyRate, packed: bool) -> bool:
    """Returns whether the file or folder with the rate's digest has the rate's content."""
    try:
        variables, tables = _read_arrays(path, packed)
        return dataclasses.replace(rate, variables=variables, tables=tables).digest == rate.digest
    except _DAMAGES:
        return False


__getattr__ = _moved.renamed(__name__)
