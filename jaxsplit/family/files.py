"""A family on disk: an index, and the parameters and tables of each rate.

`family.json` describes the rates and their origin. Each `rates/<rate_id>-<digest>` holds a rate's
parameters and coding tables: an orbax folder, or in a packed family (format 2) a safetensors file,
which has half the size, loads in a thirtieth of the time, is deterministic, and stores float32 as
float16 where that is exact. The parameters that the rates of a variable-rate unit share are stored
once, as `rates/unit-<digest>` (formats 3 and 4, packed). The digest reveals a damaged rate, the
self-test a coder that changed.
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
from jaxsplit.codec.runtime import packed as packed_arrays
from jaxsplit.data import Preprocessing
from jaxsplit.errors import CheckpointError, ConfigError, FamilyError, WeightsError
from jaxsplit.io import checkpoint
from jaxsplit.io.fields import build
from jaxsplit.io.files import delete_whole, locked, parse_json, release, write_whole
from jaxsplit.io.untrusted import read_safetensors
from jaxsplit.networks import fingerprint
from jaxsplit.units import VariableRate, Variables
from jaxsplit.units.unit import check_stored, spec_from_dict
from jaxsplit.units.variable_rate import RATE

FORMAT_VERSION, PACKED_VERSION = 1, 2
_SHARED = 2  # added to these where rates share a unit
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
        "unit": NotRequired[str],
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
    units = _shared_units(rates, packed)
    entries = [_described(rate, packed, unit) for rate, unit in zip(rates, units, strict=True)]
    version = (PACKED_VERSION if packed else FORMAT_VERSION) + _SHARED * any(units)
    index = {"format": version, **described, "rates": entries}
    text = json.dumps(index, indent=1) + "\n"
    # Lists of numbers on one line; JSON strings contain no line breaks.
    text = re.sub(r"\[\n[-+.\deE,\s]*\]", lambda found: " ".join(found[0].split()), text)
    paths = _entry_paths(index)[: len(rates)]
    try:
        check_folder(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with _replacing(directory, _entry_paths(index)):
            (directory / "rates").mkdir(exist_ok=True)
            for path, rate, unit in zip(paths, rates, units, strict=True):
                _write_rate(directory, path, rate, packed, unit)
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
    """Returns the paths of an index's rates, then of what they share; a FamilyError if none."""
    key = "file" if _is_packed(index) else "folder"
    try:
        paths = [str(entry[key]) for entry in index["rates"]]
        units = {str(entry["unit"]) for entry in index["rates"] if "unit" in entry}
        return [*paths, *sorted(units)]
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
    packed = _is_packed(found)
    units: dict[str, dict[str, Any]] = {}  # each is read once, and its arrays are shared
    try:
        index: _Index = build(_Index, found, what=INDEX)
        return {
            "backbone": index["backbone"]["name"],
            "backbone_fingerprint": index["backbone"]["fingerprint"],
            "weights": index["backbone"]["weights"],
            "preprocessing": index["preprocessing"],
            "cut": index["cut"],
            "card": index.get("card", {}),
            "rates": tuple(_read_rate(directory, entry, packed, units) for entry in index["rates"]),
        }
    except _DAMAGES as error:
        raise FamilyError(f"the family at {directory} is damaged: {error}") from error


def is_packed(directory: Path) -> bool:
    """Returns whether a family's index names safetensors files, whose size in memory is known."""
    return _is_packed(_read_index(directory))


def _is_packed(index: dict[str, Any]) -> bool:
    return index["format"] in (PACKED_VERSION, PACKED_VERSION + _SHARED)


def _read_index(directory: Path) -> dict[str, Any]:
    try:
        index = parse_json((directory / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FamilyError(f"no family at {directory}: {INDEX} is missing") from error
    except (OSError, ValueError) as error:
        raise FamilyError(f"cannot read {directory / INDEX}: {error}") from error
    found = index.get("format") if isinstance(index, dict) else None
    last = PACKED_VERSION + _SHARED
    if found not in range(FORMAT_VERSION, last + 1) or isinstance(found, bool):
        raise FamilyError(
            f"{directory / INDEX} has format {found!r}; this version reads "
            f"{FORMAT_VERSION} to {last}"
        )
    return dict(index)


def _shared_units(rates: tuple[FamilyRate, ...], packed: bool) -> list[str | None]:
    """Returns the path of each rate's unit; None where it is stored with the rate."""
    ending = ".safetensors" if packed else ""
    return [
        f"rates/unit-{fingerprint(_unit_of(rate))[:12]}{ending}"
        if isinstance(rate.spec, VariableRate)
        else None
        for rate in rates
    ]


def _unit_of(rate: FamilyRate) -> Variables:
    """Returns the variables that the rates of a variable-rate unit share."""
    return {name: tree for name, tree in rate.variables.items() if name != RATE}


def _write_rate(
    directory: Path, path: str, rate: FamilyRate, packed: bool, unit: str | None
) -> None:
    if _holds(directory, path, rate, packed, unit):
        return
    variables = rate.variables
    if unit is not None:
        shared = _unit_of(rate)
        if not _is_unit(directory / unit, shared, packed):  # an old index may name it
            _write_tree(directory / unit, {"variables": shared}, packed)
        variables = {RATE: variables[RATE]}
    tree = {"variables": variables, "tables": rate.tables.to_arrays()}
    _write_tree(directory / path, tree, packed)


def _is_unit(path: Path, unit: Variables, packed: bool) -> bool:
    """Returns whether a unit is stored there, whole."""
    try:
        return fingerprint(_read_tree(path, packed)["variables"]) == fingerprint(unit)
    except _DAMAGES:
        return False


def _write_tree(path: Path, tree: dict[str, Any], packed: bool) -> None:
    if packed:
        write_whole(path, safetensors.numpy.save(packed_arrays(tree)))
    else:
        checkpoint.save_tree(path, tree)


def _described(rate: FamilyRate, packed: bool, unit: str | None) -> dict[str, Any]:
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
        **({} if unit is None else {"unit": unit}),
    }


def _read_rate(
    directory: Path, entry: _Rate, packed: bool, units: dict[str, dict[str, Any]]
) -> FamilyRate:
    # Links are not resolved: downloaded files are links into a cache.
    path, unit = entry["file" if packed else "folder"], entry.get("unit")
    for inside in (path, unit):
        if inside is not None and not re.fullmatch(r"rates/[A-Za-z0-9][A-Za-z0-9._-]*", inside):
            raise FamilyError(f"{inside!r} lies outside of the family")
    rate = FamilyRate(
        entry["rate_id"],
        entry["lambda"],
        spec_from_dict(entry["spec"]),
        *_read_arrays(directory, path, packed, unit, units),
        entry["measured"],
    )
    if rate.digest != entry["digest"]:
        raise FamilyError(f"rate {rate.rate_id} of {directory} was changed after it was saved")
    run_self_test(rate.coder, bytes.fromhex(entry["self_test"]))
    return rate


def _read_arrays(
    directory: Path,
    path: str,
    packed: bool,
    unit: str | None,
    units: dict[str, dict[str, Any]],
) -> tuple[Variables, CodingTables]:
    tree = _read_tree(directory / path, packed)
    variables = tree["variables"]
    if unit is not None:
        if unit not in units:
            units[unit] = _read_tree(directory / unit, packed)["variables"]
        variables = {**units[unit], **variables}
    return variables, CodingTables.from_arrays(tree["tables"])


def _read_tree(path: Path, packed: bool) -> dict[str, Any]:
    if not packed:
        return dict(checkpoint.load_tree(path))
    arrays = {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in read_safetensors(path).items()
    }
    return dict(traverse_util.unflatten_dict(arrays, sep="/"))


def _holds(directory: Path, path: str, rate: FamilyRate, packed: bool, unit: str | None) -> bool:
    """Returns whether the files or folders with the rate's digest have the rate's content."""
    try:
        variables, tables = _read_arrays(directory, path, packed, unit, {})
        return dataclasses.replace(rate, variables=variables, tables=tables).digest == rate.digest
    except _DAMAGES:
        return False


__getattr__ = _moved.renamed(__name__)
