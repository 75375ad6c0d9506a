"""The files of an exported bundle: manifest, tables and model, read and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsplit.bitstream import CodingTables, Header, LevelTables, Reader
from jaxsplit.data.preprocessing import Preprocessing
from jaxsplit.errors import FamilyError, JaxsplitError

#: Version of the bundle's layout.
FORMAT = "jaxsplit bundle 1"
#: Names of files in a bundle.
MANIFEST, MODEL, TABLES, HEADER = "manifest.json", "device.onnx", "tables.npz", "header.jspl"
SAMPLE_IMAGE, SAMPLE_FRAMES, VECTORS = (
    "samples/image.png",
    "samples/frames.jspl",
    "samples/vectors.json",
)
_LEVELS = "levels"


@dataclasses.dataclass(frozen=True)
class BundleRate:
    """One rate of a bundle.

    Attributes:
      index: of the rate in a frame.
      name: in the family.
      latent_shape: (h, w, C) of its symbols.
      output: of the model.
    """

    index: int
    name: str
    latent_shape: tuple[int, int, int]
    output: str


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """A written bundle, all but its model.

    Attributes:
      folder: where it is.
      header: of containers and streams of the family.
      preprocessing: of images.
      rates: those that the model has; none where rates are levels.
      levels: tables of all levels; None where rates are units of their own.
      gains: float32 [levels, C] that multiply the latents.
      level_names: name → level, of those that have one.
      by_accuracy: indices of `rates` by falling accuracy; none if that was not measured.
    """

    folder: Path
    header: Header
    preprocessing: Preprocessing
    rates: tuple[BundleRate, ...]
    levels: LevelTables | None
    gains: np.ndarray | None
    level_names: Mapping[str, int]
    by_accuracy: tuple[int, ...]

    def tables(self, index: int) -> CodingTables:
        """Returns the tables of a rate.

        Args:
          index: of the rate in a frame; a FamilyError if the bundle has none.

        Returns:
          The tables.
        """
        if self.levels is not None:
            return self.levels.level(index)
        with np.load(self.folder / TABLES, allow_pickle=False) as stored:
            return CodingTables.from_arrays(_below(stored, str(index)))


def read_bundle(folder: str | Path) -> Bundle:
    """Reads manifest, header and tables; nothing in them is executed.

    Args:
      folder: written by `jaxsplit export`.

    Returns:
      The bundle; a FamilyError if it is missing, damaged, or of a newer layout.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        found = manifest.get("format")
        if found != FORMAT:
            raise FamilyError(
                f"{folder} has the layout {found!r}, expected {FORMAT!r}: use its own run.py"
            )
        with (folder / HEADER).open("rb") as file:
            header = Reader(file, stream=True).header
        levels, gains = None, None
        if manifest["levels"] is not None:
            with np.load(folder / TABLES, allow_pickle=False) as stored:
                levels = LevelTables.from_arrays(_below(stored, _LEVELS))
                gains = stored["gains"]
        return Bundle(
            folder,
            header,
            Preprocessing.from_dict(manifest["preprocessing"]),
            tuple(
                BundleRate(x["index"], x["name"], tuple(x["latent_shape"]), x["output"])
                for x in manifest["rates"]
            ),
            levels,
            gains,
            {} if manifest["levels"] is None else manifest["levels"]["names"],
            tuple(manifest["by_accuracy"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise FamilyError(
            f"{folder} is no bundle of jaxsplit export, or damaged: {text}"
        ) from error


def check_files(folder: str | Path) -> int:
    """Compares every file with the checksum in the manifest.

    Args:
      folder: of a bundle.

    Returns:
      The number of files; a FamilyError names the first that differs.
    """
    folder = Path(folder)
    files: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_bytes())["files"]
    for name, entry in files.items():
        try:
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise FamilyError(f"{folder} lacks {name}: copy the whole bundle again") from error
        if digest != entry["sha256"]:
            raise FamilyError(f"{name} differs from its checksum: copy the whole bundle again")
    return len(files)


def _below(stored: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """Returns the arrays PART/NAME by name."""
    names = [name for name in stored if name.startswith(f"{part}/")]
    return {name.partition("/")[2]: stored[name] for name in names}


def pack_tables(
    tables: Mapping[int, CodingTables], levels: LevelTables | None, gains: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Returns the arrays of `TABLES`, as `read_bundle` reads them.

    Args:
      tables: index → tables of rates of their own.
      levels, gains: of levels, in place of these.

    Returns:
      Name → array.
    """
    if levels is not None and gains is not None:
        return {f"{_LEVELS}/{name}": x for name, x in levels.to_arrays().items()} | {"gains": gains}
    return {f"{i}/{name}": x for i, one in tables.items() for name, x in one.to_arrays().items()}


def as_error(error: Exception) -> JaxsplitError:
    """Returns an error of onnxruntime as one of this package."""
    text = " ".join(str(error).split())
    return FamilyError(f"the model cannot be run: {text[:400]}")
