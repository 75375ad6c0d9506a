"""A family on disk: an index, and the parameters and tables of each rate.

`family.json` describes the rates and their origin. Each `rates/<rate_id>-<digest>` holds a rate's
parameters and coding tables: an orbax folder, or in a packed family (format 2) a safetensors file,
which has half the size, loads in a thirtieth of the time, is deterministic, and stores float32 as
float16 where that is exact. A variable-rate unit and the tables of its levels are stored once, as
`rates/levels-<digest>` (formats 3 and 4, packed). The digest reveals a damaged rate, the self-test
a coder that changed.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import numpy as np
import safetensors.numpy
from flax import traverse_util

from jaxsplit import _moved
from jaxsplit.bitstream import (
    CodingTables,
    EntropyCoder,
    LevelTables,
    run_self_test,
    write_self_test,
)
from jaxsplit.codec.rates import FamilyRate, Levels
from jaxsplit.data import Preprocessing
from jaxsplit.errors import CheckpointError, ConfigError, FamilyError, WeightsError
from jaxsplit.io import checkpoint
from jaxsplit.io.fields import build
from jaxsplit.io.files import delete_whole, locked, parse_json, release, write_whole
from jaxsplit.io.untrusted import read_safetensors
from jaxsplit.units import UnitSpec, VariableRate
from jaxsplit.units.unit import check_stored, spec_from_dict

FORMAT_VERSION, PACKED_VERSION = 1, 2
_OF_LEVELS = 2  # added to these where rates are levels of one unit
INDEX = "family.json"
#: Weights of a family's network, in its folder or beside it.
BACKBONE_FILE = "backbone.safetensors"
_LOG = ".family-files.jaxsplit"
# Rates as they are written; only these are deleted.
_PATH = re.compile(r"rates/[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{12}(\.safetensors)?")
#: Patterns of the files of a packed family.
FILES = (INDEX, "rates/*.safetensors")

_RateOrLevels = TypeVar("_RateOrLevels", FamilyRate, Levels)
_Family = TypeVar("_Family")

_DAMAGES = (
    *(AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(MemoryError, RecursionError, ConfigError, CheckpointError, WeightsError),
)


class _Network(TypedDict):
    name: str
    fingerprint: str | None
    weights: str | None


#: A rate, or the levels, in a file of a packed family, or in a folder.
class _Stored(TypedDict):
    spec: dict[str, object]
    tables: NotRequired[str]
    digest: str
    self_test: str
    file: NotRequired[str]
    folder: NotRequired[str]


_Named = TypedDict(
    "_Named",
    {
        "rate_id": str,
        "lambda": float | None,
        "measured": dict[str, float | list[float] | None],
    },
)


class _Rate(_Named, _Stored):
    """An entry of the rates that are units of their own."""


class _Level(_Named):
    """An entry of the rates that are levels."""

    level: int


class _Index(TypedDict):
    """The content of `family.json`, but the rates."""

    backbone: _Network
    preprocessing: Preprocessing
    cut: str
    card: NotRequired[dict[str, object]]


def write_family(
    directory: Path,
    described: dict[str, Any],
    rates: tuple[FamilyRate, ...],
    levels: Levels | None,
    *,
    packed: bool,
) -> None:
    """Writes a family atomically, see `RateFamily.save`.

    `described` has the other entries of the index. An unregistered unit is a ConfigError.
    """
    stored: list[FamilyRate | Levels] = [*rates] if levels is None else [levels]
    for one in stored:
        check_stored(one.spec)
    index: dict[str, Any] = {"format": PACKED_VERSION if packed else FORMAT_VERSION, **described}
    if levels is None:
        index["rates"] = [{**_named(rate), **_described(rate, packed)} for rate in rates]
    else:
        index["format"] += _OF_LEVELS
        index["levels"] = _described(levels, packed)
        index["rates"] = [{**_named(rate), "level": rate.level} for rate in rates]
    text = json.dumps(index, indent=1) + "\n"
    # Lists of numbers on one line; JSON strings contain no line breaks.
    text = re.sub(r"\[\n[-+.\deE,\s]*\]", lambda found: " ".join(found[0].split()), text)
    paths = _entry_paths(index)
    try:
        check_folder(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with _replacing(directory, paths):
            (directory / "rates").mkdir(exist_ok=True)
            for path, one in zip(paths, stored, strict=True):
                _write_stored(directory / path, one, packed)
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
    """Returns the paths of an index's rates, or of its levels; a FamilyError if there are none."""
    key = "file" if _is_packed(index) else "folder"
    try:
        entries = [index["levels"]] if _has_levels(index) else index["rates"]
        return [str(entry[key]) for entry in entries]
    except (LookupError, TypeError) as error:
        raise FamilyError(f"{INDEX} names no rates: it is damaged, or of something else") from error


def _delete(path: Path) -> None:
    """Deletes a rate and what a killed save left of it; a link, but nothing behind one."""
    if path.parent.is_symlink():
        return
    checkpoint.delete_tree(path)
    delete_whole(path)


def read_family(directory: Path, make: Callable[..., _Family]) -> _Family:
    """Makes a `RateFamily` of the fields that are stored, see `RateFamily.load`."""
    found = _read_index(directory)
    packed = _is_packed(found)
    beside = (folder / BACKBONE_FILE for folder in (directory, directory.absolute().parent))
    try:
        index: _Index = build(_Index, found, what=INDEX)
        return make(
            backbone_file=next((path for path in beside if path.is_file()), None),
            backbone=index["backbone"]["name"],
            backbone_fingerprint=index["backbone"]["fingerprint"],
            weights=index["backbone"]["weights"],
            preprocessing=index["preprocessing"],
            cut=index["cut"],
            card=index.get("card", {}),
            **(_read_levels if _has_levels(found) else _read_rates)(directory, found, packed),
        )
    except _DAMAGES as error:
        raise FamilyError(f"the family at {directory} is damaged: {error}") from error


def is_packed(directory: Path) -> bool:
    """Returns whether a family's index names safetensors files, whose size in memory is known."""
    return _is_packed(_read_index(directory))


def _is_packed(index: dict[str, Any]) -> bool:
    return index["format"] in (PACKED_VERSION, PACKED_VERSION + _OF_LEVELS)


def _has_levels(index: dict[str, Any]) -> bool:
    return index["format"] > _OF_LEVELS


def _read_index(directory: Path) -> dict[str, Any]:
    try:
        index = parse_json((directory / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FamilyError(f"no family at {directory}: {INDEX} is missing") from error
    except (OSError, ValueError) as error:
        raise FamilyError(f"cannot read {directory / INDEX}: {error}") from error
    found = index.get("format") if isinstance(index, dict) else None
    last = PACKED_VERSION + _OF_LEVELS
    if found not in range(FORMAT_VERSION, last + 1) or isinstance(found, bool):
        raise FamilyError(
            f"{directory / INDEX} has format {found!r}; this version reads "
            f"{FORMAT_VERSION} to {last}"
        )
    return dict(index)


def _write_stored(path: Path, stored: FamilyRate | Levels, packed: bool) -> None:
    """Writes a rate, or levels, unless it is there."""
    with contextlib.suppress(*_DAMAGES):
        arrays = _read_tree(path, packed)
        tables: Any = type(stored.tables).from_arrays(arrays["tables"])
        there = dataclasses.replace(stored, variables=arrays["variables"], tables=tables)
        if there.digest == stored.digest:
            return
    if packed:
        write_whole(path, safetensors.numpy.save(stored.packed_arrays()))
    else:
        tree = {"variables": stored.variables, "tables": stored.tables.to_arrays()}
        checkpoint.save_tree(path, tree)


def _named(rate: FamilyRate) -> dict[str, Any]:
    return {"rate_id": rate.rate_id, "lambda": rate.lmbda, "measured": rate.measured}


def _described(stored: FamilyRate | Levels, packed: bool) -> dict[str, Any]:
    """Returns the entry of a rate, or of levels, in the index."""
    name = "levels" if isinstance(stored, Levels) else stored.rate_id
    path = f"rates/{name}-{stored.digest[:12]}" + (".safetensors" if packed else "")
    return {
        "spec": stored.spec.to_dict(),
        "tables": stored.tables.fingerprint,
        "digest": stored.digest,
        "self_test": write_self_test(_coder(stored)).hex(),
        "file" if packed else "folder": path,
    }


def _coder(stored: FamilyRate | Levels) -> EntropyCoder:
    """Returns the coder of a rate, or of the highest level."""
    return stored[-1].coder if isinstance(stored, Levels) else stored.coder


def _read_rates(directory: Path, index: dict[str, Any], packed: bool) -> dict[str, Any]:
    rates = []
    for entry in build(list[_Rate], index["rates"], "rates", INDEX):
        spec, arrays = _read_stored(directory, entry, packed)
        tables = CodingTables.from_arrays(arrays["tables"])
        parts = spec, arrays["variables"], tables, entry["measured"]
        rate = FamilyRate(entry["rate_id"], entry["lambda"], *parts)
        rates.append(_checked(rate, entry, directory))
    return {"rates": tuple(rates)}


def _read_levels(directory: Path, index: dict[str, Any], packed: bool) -> dict[str, Any]:
    entry = build(_Stored, index["levels"], "levels", INDEX)
    spec, arrays = _read_stored(directory, entry, packed)
    if not isinstance(spec, VariableRate):
        raise FamilyError(f"{INDEX} has levels of {spec}, which has none")
    tables = LevelTables.from_arrays(arrays["tables"])
    levels = _checked(Levels(spec, arrays["variables"], tables), entry, directory)
    entries = build(list[_Level], index["rates"], "rates", INDEX)
    rates = [levels.named(one["level"], one["rate_id"], one["measured"]) for one in entries]
    return {"rates": tuple(rates), "levels": levels}


def _read_stored(directory: Path, entry: _Stored, packed: bool) -> tuple[UnitSpec, dict[str, Any]]:
    # Links are not resolved: downloaded files are links into a cache.
    path = entry["file" if packed else "folder"]
    if not re.fullmatch(r"rates/[A-Za-z0-9][A-Za-z0-9._-]*", path):
        raise FamilyError(f"{path!r} lies outside of the family")
    return spec_from_dict(entry["spec"]), _read_tree(directory / path, packed)


def _checked(stored: _RateOrLevels, entry: _Stored, directory: Path) -> _RateOrLevels:
    """Returns a rate, or levels, whose digest and coder are those of its entry."""
    if stored.digest != entry["digest"]:
        what = f"rate {stored.rate_id}" if isinstance(stored, FamilyRate) else "the unit"
        raise FamilyError(f"{what} of {directory} was changed after it was saved")
    run_self_test(_coder(stored), bytes.fromhex(entry["self_test"]))
    return stored


def _read_tree(path: Path, packed: bool) -> dict[str, Any]:
    if not packed:
        return dict(checkpoint.load_tree(path))
    arrays = {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in read_safetensors(path).items()
    }
    return dict(traverse_util.unflatten_dict(arrays, sep="/"))


__getattr__ = _moved.renamed(__name__)
