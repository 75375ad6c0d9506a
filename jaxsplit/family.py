"""A rate family: the small trees of all rates of one cut, as a value and as a folder.

On disk: `family.json`, and for each rate `rates/<rate_id>-<digest>/` with its parameters and its
coding tables. The digest is of that content, so a damaged rate is noticed; `family.json` also has
a short stream for each rate, so that a coder that changed is noticed. Saving never
touches a folder that the present `family.json` names: replacing `family.json` is the one step that
makes a new family the family.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsplit import checkpoint, models
from jaxsplit.bottleneck import BottleneckSpec
from jaxsplit.coding import CodingTables, EntropyCoder, run_self_test, write_self_test
from jaxsplit.data import Preprocessing
from jaxsplit.errors import CheckpointError, ConfigError, FamilyError
from jaxsplit.split import Split, make_split

FORMAT_VERSION = 1
#: Where the families are that come with the package.
ASSETS = Path(__file__).parent / "assets" / "families"
_INDEX = "family.json"


@dataclasses.dataclass(frozen=True, eq=False)
class FamilyRate:
    """One rate: everything that differs between two points of a curve.

    Attributes:
      rate_id: its name: letters, digits, ".", "_" and "-".
      lmbda: distortion per bit that it was trained with; None where unknown.
      spec: form of the unit.
      variables: {"params": {"encoder", "decoder", "prior"}, "batch_stats"} as trained; an imported
        unit may come without a prior.
      tables: what its symbols are coded with.
      measured: figures of an evaluation, such as bytes_per_image and top1.
    """

    rate_id: str
    lmbda: float | None
    spec: BottleneckSpec
    variables: dict[str, Any]
    tables: CodingTables
    measured: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.rate_id):
            raise ConfigError(f"{self.rate_id!r} is no name for a rate: use letters and digits")

    @property
    def digest(self) -> str:
        """sha256 of the parameters and the tables."""
        return hashlib.sha256(
            (models.fingerprint(self.variables) + self.tables.fingerprint).encode()
        ).hexdigest()

    @property
    def stored_bytes(self) -> int:
        """Bytes of all arrays that a family stores for the rate.

        Parameters and running moments as they were trained, the prior's among them, and the coding
        tables. The files hold them compressed, with an index: their sizes differ between two saves
        of the same rate.
        """
        stored = (self.variables, self.tables.to_arrays())
        return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(stored))

    @functools.cached_property
    def coder(self) -> EntropyCoder:
        """The tables' coder, built once: it reads every interval back."""
        return EntropyCoder(self.tables)


@dataclasses.dataclass(frozen=True, eq=False)
class RateFamily:
    """The rates of one cut of one backbone, lowest lambda last or in any other order.

    Attributes:
      backbone: name of the model.
      backbone_fingerprint: of its weights; None for a family that was imported without any.
      weights: name under which `load_backbone` finds the weights; None: they must be given.
      preprocessing: of the images.
      cut: endpoint of the backbone.
      rates: at least one.
    """

    backbone: str
    backbone_fingerprint: str | None
    weights: str | None
    preprocessing: Preprocessing
    cut: str
    rates: tuple[FamilyRate, ...]

    def __post_init__(self) -> None:
        ids = [rate.rate_id for rate in self.rates]
        if not ids or len(set(ids)) < len(ids):
            raise ConfigError(f"a family needs rates with different names; got {ids}")

    def __getitem__(self, rate_id: str) -> FamilyRate:
        for rate in self.rates:
            if rate.rate_id == rate_id:
                return rate
        known = ", ".join(rate.rate_id for rate in self.rates)
        raise FamilyError(f"the family has no rate {rate_id!r}; it has {known}")

    def select(self, rate_ids: Iterable[str]) -> RateFamily:
        """The family of only some rates, in the given order."""
        return dataclasses.replace(self, rates=tuple(self[rate_id] for rate_id in rate_ids))

    @property
    def fingerprint(self) -> str:
        """sha256 of all that sender and receiver must share."""
        identity = {
            "backbone": self.backbone_fingerprint,
            "cut": self.cut,
            "preprocessing": self.preprocessing.to_dict(),
            "rates": [[rate.rate_id, _form(rate.spec), rate.digest] for rate in self.rates],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def bind(self, backbone: models.Backbone) -> RateFamily:
        """This family with `backbone`, which it must have been trained on.

        Raises:
          FamilyError: the family belongs to another backbone, or to other preprocessing.
        """
        if self.backbone != backbone.name:
            raise FamilyError(
                f"the family was trained on {self.backbone}, not on {backbone.name}: "
                "give it that backbone"
            )
        if self.backbone_fingerprint not in (None, backbone.fingerprint):
            raise FamilyError(
                f"these weights of {backbone.name} are {backbone.fingerprint[:12]}, but the family "
                f"was trained on {str(self.backbone_fingerprint)[:12]}: give it those weights"
            )
        if self.preprocessing != backbone.preprocessing:
            raise FamilyError(
                f"the backbone is given images by {backbone.preprocessing}, but the family was "
                f"trained with {self.preprocessing}: use dataclasses.replace(backbone, "
                "preprocessing=family.preprocessing)"
            )
        return dataclasses.replace(self, backbone_fingerprint=backbone.fingerprint)

    def split(self, backbone: models.Backbone, rate_id: str) -> Split:
        """The cut with one rate's unit."""
        return make_split(backbone, self.cut, self[rate_id].spec)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the family; a save that is killed leaves the family that was there.

        Raises:
          FamilyError: the folder cannot be written.
        """
        directory = Path(directory)
        try:
            (directory / "rates").mkdir(parents=True, exist_ok=True)
            entries = [self._save_rate(directory, rate) for rate in self.rates]
            index = {
                "format": FORMAT_VERSION,
                "backbone": {
                    "name": self.backbone,
                    "fingerprint": self.backbone_fingerprint,
                    "weights": self.weights,
                },
                "preprocessing": self.preprocessing.to_dict(),
                "cut": self.cut,
                "rates": entries,
            }
            partial = directory / f"{_INDEX}.partial"
            partial.write_text(json.dumps(index, indent=1) + "\n")
            os.replace(partial, directory / _INDEX)
            named = {entry["folder"] for entry in entries}
            for folder in (directory / "rates").iterdir():
                if f"rates/{folder.name}" not in named:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise FamilyError(f"cannot write the family to {directory}: {error}") from error

    @staticmethod
    def _save_rate(directory: Path, rate: FamilyRate) -> dict[str, Any]:
        folder = f"rates/{rate.rate_id}-{rate.digest[:12]}"
        if not _holds(directory / folder, rate):
            tree = {"variables": rate.variables, "tables": rate.tables.to_arrays()}
            checkpoint.save_tree(directory / folder, tree)
        return {
            "rate_id": rate.rate_id,
            "lambda": rate.lmbda,
            "spec": _form(rate.spec),
            "measured": rate.measured,
            "tables": rate.tables.fingerprint,
            "digest": rate.digest,
            "self_test": write_self_test(rate.coder).hex(),
            "folder": folder,
        }

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> RateFamily:
        """Reads a family.

        Raises:
          FamilyError: there is none, it is damaged, or its format is of another version.
          CoderError: the installed coder does not reproduce a rate's self-test.
        """
        directory = Path(directory)
        try:
            index = json.loads((directory / _INDEX).read_text())
        except FileNotFoundError as error:
            raise FamilyError(f"no family at {directory}: {_INDEX} is missing") from error
        except (OSError, ValueError) as error:
            raise FamilyError(f"cannot read {directory / _INDEX}: {error}") from error
        if not isinstance(index, dict) or index.get("format") != FORMAT_VERSION:
            found = index.get("format") if isinstance(index, dict) else None
            raise FamilyError(
                f"{directory / _INDEX} has format {found!r}; this version reads {FORMAT_VERSION}"
            )
        try:
            return cls(
                backbone=index["backbone"]["name"],
                backbone_fingerprint=index["backbone"]["fingerprint"],
                weights=index["backbone"]["weights"],
                preprocessing=Preprocessing.from_dict(index["preprocessing"]),
                cut=index["cut"],
                rates=tuple(cls._load_rate(directory, entry) for entry in index["rates"]),
            )
        except (KeyError, TypeError, ValueError, ConfigError, CheckpointError) as error:
            raise FamilyError(f"the family at {directory} is damaged: {error}") from error

    @staticmethod
    def _load_rate(directory: Path, entry: dict[str, Any]) -> FamilyRate:
        folder = (directory / entry["folder"]).resolve()
        if directory.resolve() not in folder.parents:
            raise FamilyError(f"{entry['folder']!r} lies outside of the family")
        tree = checkpoint.load_tree(folder)
        rate = FamilyRate(
            entry["rate_id"],
            entry["lambda"],
            BottleneckSpec(**entry["spec"]),
            tree["variables"],
            CodingTables.from_arrays(tree["tables"]),
            entry["measured"],
        )
        if rate.digest != entry["digest"]:
            raise FamilyError(f"rate {rate.rate_id} of {directory} was changed after it was saved")
        run_self_test(rate.coder, bytes.fromhex(entry["self_test"]))
        return rate


def _form(spec: BottleneckSpec) -> dict[str, Any]:
    """A unit's form; what was added to it later is left out where it says nothing."""
    form = dataclasses.asdict(spec)
    if spec.decoder_multiplier is None:
        del form["decoder_multiplier"]
    return form


def _holds(folder: Path, rate: FamilyRate) -> bool:
    """Whether a folder that bears the rate's digest really has its content."""
    try:
        tree = checkpoint.load_tree(folder)
        tables = CodingTables.from_arrays(tree["tables"])
        stored = dataclasses.replace(rate, variables=tree["variables"], tables=tables)
        return stored.digest == rate.digest
    except (KeyError, TypeError, AttributeError, ConfigError, CheckpointError):
        return False


def embedded_families() -> tuple[str, ...]:
    """Names of the families that come with the package."""
    return tuple(sorted(path.parent.name for path in ASSETS.glob(f"*/{_INDEX}")))


def open_family(name: str | os.PathLike[str]) -> RateFamily:
    """The family in a folder, or one that comes with the package, by its name.

    Raises:
      FamilyError: there is neither, or it is damaged.
    """
    if not (Path(name) / _INDEX).exists() and str(name) in embedded_families():
        return RateFamily.load(ASSETS / str(name))
    return RateFamily.load(name)
