"""A family on disk: an index, and the parameters and tables of each rate.

`family.json` describes the rates and their origin. Each `rates/<rate_id>-<digest>` holds a rate's
parameters and coding tables: an orbax folder, or in a packed family (format 2) a safetensors file,
which has half the size, loads in a thirtieth of the time, is deterministic, and stores float32 as
float16 where that is exact. The digest reveals a damaged rate, the self-test a coder that changed.
Saving leaves the files of the previous index: replacing `family.json` is the one atomic step.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
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
from jaxsplit.io.files import parse_json, write_whole
from jaxsplit.io.untrusted import read_safetensors
from jaxsplit.units import Variables
from jaxsplit.units.unit import check_stored, spec_from_form

FORMAT_VERSION, PACKED_VERSION = 1, 2
INDEX = "family.json"
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
    try:
        (directory / "rates").mkdir(parents=True, exist_ok=True)
        entries = [_write_rate(directory, rate, packed) for rate in rates]
        index = {"format": PACKED_VERSION if packed else FORMAT_VERSION, **described}
        text = json.dumps({**index, "rates": entries}, indent=1) + "\n"
        # Lists of numbers on one line; JSON strings contain no line breaks.
        text = re.sub(r"\[\n[-+.\deE,\s]*\]", lambda found: " ".join(found[0].split()), text)
        write_whole(directory / INDEX, text.encode())
        named = {directory / entry["file" if packed else "folder"] for entry in entries}
        for path in {*(directory / "rates").iterdir()} - named:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    except (OSError, ConfigError) as error:
        raise FamilyError(f"cannot write the family to {directory}: {error}") from error


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


def _write_rate(directory: Path, rate: FamilyRate, packed: bool) -> dict[str, Any]:
    place = f"rates/{rate.rate_id}-{rate.digest[:12]}" + (".safetensors" if packed else "")
    if not _holds(directory / place, rate, packed):
        if packed:
            write_whole(directory / place, safetensors.numpy.save(rate.packed_arrays()))
        else:
            tree = {"variables": rate.variables, "tables": rate.tables.to_arrays()}
            checkpoint.save_tree(directory / place, tree)
    return {
        "rate_id": rate.rate_id,
        "lambda": rate.lmbda,
        "spec": rate.spec.form,
        "measured": rate.measured,
        "tables": rate.tables.fingerprint,
        "digest": rate.digest,
        "self_test": write_self_test(rate.coder).hex(),
        "file" if packed else "folder": place,
    }


def _read_rate(directory: Path, entry: _Rate, packed: bool) -> FamilyRate:
    # Links are not resolved: downloaded files are links into a cache.
    place = entry["file" if packed else "folder"]
    if not re.fullmatch(r"rates/[A-Za-z0-9][A-Za-z0-9._-]*", place):
        raise FamilyError(f"{place!r} lies outside of the family")
    rate = FamilyRate(
        entry["rate_id"],
        entry["lambda"],
        spec_from_form(entry["spec"]),
        *_read_arrays(directory / place, packed),
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
