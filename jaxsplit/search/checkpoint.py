"""The checkpoint of a search: finished rungs in search.json, training states in a file it names."""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np

from jaxsplit.errors import CheckpointError, ConfigError
from jaxsplit.io.fields import build
from jaxsplit.io.files import delete_whole, parse_json, read_file, write_whole
from jaxsplit.search.candidates import Candidate
from jaxsplit.search.trainer import Trainer, Trial
from jaxsplit.train.state import TrainState

_STATES = re.compile(r"states_\d+_\d+\.npz")


class _Rung(TypedDict):
    steps: int
    n_images: int
    minutes: float
    results: list[dict[str, str | float | None]]
    kept: list[str]


class _Kept(TypedDict):
    names: list[str]
    states: str
    distilled: bool


class _Content(TypedDict):
    """Of search.json."""

    key: str
    seconds: float
    rungs: list[_Rung]
    kept: _Kept | None
    files: NotRequired[list[str | None]]


class SearchCheckpoint:
    """Finished rungs, states of the remaining trials, and the time spent.

    Args:
      workdir: its folder; a ConfigError if search.json can't be read.
      key: of the search.

    Attributes:
      path: of search.json.
      values: its content: "key", "seconds", "rungs", "kept": candidates, file and objective of
        the stored states, None before the first ones; and "files": names of files with states, the
        only ones that are deleted.
      other: whether the folder held another search, which is ignored.
    """

    def __init__(self, workdir: Path, key: str) -> None:
        self.path, self._started = workdir / "search.json", time.monotonic()
        self.values: dict[str, Any] = {"key": key, "seconds": 0.0, "rungs": [], "kept": None}
        self.values["files"] = []
        self.other = False
        if self.path.is_file():
            try:
                found = build(_Content, parse_json(self.path.read_bytes()), what=self.path.name)
                matches = found["key"] == key
            except (OSError, ValueError, ConfigError) as error:
                raise self.damaged from error
            kept = found["kept"] or {}
            files = found.get("files", [kept.get("states")])  # version 0.1.0 wrote no "files"
            self.values = (found if matches else self.values) | {"files": files}
            self.other = not matches
        self._before = self.values["seconds"]

    @property
    def damaged(self) -> ConfigError:
        """The error for a search.json that no search has written."""
        return ConfigError(f"{self.path} is damaged: delete it, or use another folder")

    @property
    def seconds(self) -> float:
        """Running time of the search, without the time between its runs."""
        return self._before + time.monotonic() - self._started

    def write(self) -> None:
        """Writes search.json; raises a ConfigError."""
        self.values["seconds"] = self.seconds
        text = json.dumps(self.values, indent=1, allow_nan=False) + "\n"
        write_whole(self.path, text.encode())

    def restore(
        self, trainer: Trainer, all_candidates: Sequence[Candidate]
    ) -> tuple[list[Trial], bool]:
        """Returns the stored trials, or fresh ones of all; whether they train on outputs already.

        Raises a CheckpointError if the states can't be read.
        """
        kept = self.values["kept"]
        if kept is None:
            self._delete_states()
            return trainer.trials(all_candidates), False
        names = set(kept["names"])
        trials = trainer.trials([one for one in all_candidates if one.name in names])
        path = self.path.parent / kept["states"]
        try:
            with np.load(io.BytesIO(read_file(path))) as found:
                for one in trials:
                    one.state = _unpacked(found[one.candidate.name], one.state)
                    one.offsets_fitted = kept["distilled"]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            message = f"cannot read {path}: {error}; delete {self.path} to start again"
            raise CheckpointError(message) from error
        return trials, kept["distilled"]

    def save(self, trials: Sequence[Trial], distilled: bool) -> None:
        """Writes the states, then search.json, which lists their file before it is there."""
        name = f"states_{int(trials[0].state.step)}_{len(trials)}.npz"
        packed: dict[str, Any] = {one.candidate.name: _packed(one.state) for one in trials}
        if (self.values["kept"] or {}).get("states") != name:  # else the file is there
            self.values["files"] = [*self.values["files"], name]
            self.write()
            content = io.BytesIO()
            np.savez(content, **packed)
            write_whole(self.path.parent / name, content.getvalue())
        self.values["kept"] = {"names": list(packed), "states": name, "distilled": distilled}
        self.write()
        self._delete_states(name)

    def _delete_states(self, but: str | None = None) -> None:
        for name in map(str, self.values["files"]):
            if name != but and _STATES.fullmatch(name):
                delete_whole(self.path.parent / name)
        self.values["files"] = [but] if but else []


def _packed(state: TrainState) -> np.ndarray:
    """Bytes of all arrays in one: a search has tens of thousands of small ones."""
    content = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(state))
    return np.frombuffer(content, np.uint8)


def _unpacked(packed: np.ndarray, like: TrainState) -> TrainState:
    """The state again, with the shapes and dtypes of `like`."""
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, like))
    parts = np.split(packed, np.cumsum([x.nbytes for x in leaves])[:-1])
    arrays = [
        np.frombuffer(part.tobytes(), x.dtype).reshape(x.shape)
        for part, x in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, arrays)
