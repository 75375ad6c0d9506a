"""The checkpoint of a search: finished rungs in search.json, training states in a file it names."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsplit.errors import CheckpointError, ConfigError
from jaxsplit.io.fields import build
from jaxsplit.io.files import delete_whole, parse_json, read_file, write_whole
from jaxsplit.search.candidates import Candidate
from jaxsplit.search.trainer import Trainer, Trial
from jaxsplit.train.state import TrainState

# What a damaged archive raises in NumPy.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, EOFError, NotImplementedError)
_STATES = re.compile(r"states_\d+_\d+\.npz")


@dataclasses.dataclass
class Rung:
    """A finished rung of a search.

    Attributes:
      steps, n_images: of every candidate's training, and of the comparison.
      minutes: time limit of the search when the rung ended.
      results: "name" of each candidate, and its `Result.to_dict`.
      kept: names of the candidates that stay.
    """

    steps: int
    n_images: int
    minutes: float
    results: list[dict[str, str | float | None]]
    kept: list[str]


@dataclasses.dataclass
class StoredStates:
    """Candidates with stored training states, the file of these, and whether they distil."""

    names: list[str]
    states: str
    distilled: bool


@dataclasses.dataclass
class SearchRecord:
    """The content of search.json.

    Attributes:
      key: of the search.
      seconds: running time.
      rungs: finished ones.
      kept: the stored states; None before the first ones.
      files: names of files with states, the only ones that are deleted. Version 0.1.0 wrote none.
    """

    key: str
    seconds: float
    rungs: list[Rung]
    kept: StoredStates | None
    files: list[str | None] = dataclasses.field(default_factory=list)


class SearchCheckpoint:
    """Finished rungs, states of the remaining trials, and the time spent.

    Args:
      workdir: its folder; a ConfigError if search.json can't be read.
      key: of the search.

    Attributes:
      path: of search.json.
      record: its content.
      other: whether the folder held another search, which is ignored.
    """

    def __init__(self, workdir: Path, key: str) -> None:
        self.path, self._started = workdir / "search.json", time.monotonic()
        self.record, self.other = SearchRecord(key, 0.0, [], None), False
        if self.path.is_file():
            try:
                content = parse_json(self.path.read_bytes())
                found: SearchRecord = build(SearchRecord, content, what=self.path.name)
            except (OSError, ValueError, ConfigError) as error:
                raise self.damaged from error
            if "files" not in content and found.kept:
                found.files = [found.kept.states]
            self.other = found.key != key
            if self.other:
                self.record.files = found.files
            else:
                self.record = found
        self._before = self.record.seconds

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
        self.record.seconds = self.seconds
        text = json.dumps(dataclasses.asdict(self.record), indent=1, allow_nan=False) + "\n"
        write_whole(self.path, text.encode())

    def restore(
        self, trainer: Trainer, all_candidates: Sequence[Candidate]
    ) -> tuple[list[Trial], bool]:
        """Returns the stored trials, or fresh ones of all; whether they train on outputs already.

        Raises a CheckpointError if the states can't be read.
        """
        kept = self.record.kept
        if kept is None:
            self._delete_states()
            return trainer.trials(all_candidates), False
        names = set(kept.names)
        trials = trainer.trials([one for one in all_candidates if one.name in names])
        path = self.path.parent / kept.states
        try:
            with np.load(io.BytesIO(read_file(path))) as found:
                for one in trials:
                    one.state = _unpacked(found[one.candidate.name], one.state)
                    one.offsets_fitted = kept.distilled
        except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
            message = f"cannot read {path}: {error}; delete {self.path} to start again"
            raise CheckpointError(message) from error
        return trials, kept.distilled

    def save(self, trials: Sequence[Trial], distilled: bool, rung: Rung | None = None) -> None:
        """Writes the states, then search.json with them and the rung that they end, if any.

        Before, search.json only lists their file: a rung without its states would be followed by
        one of all candidates.
        """
        name = f"states_{int(trials[0].state.step)}_{len(trials)}.npz"
        packed: dict[str, Any] = {one.candidate.name: _packed(one.state) for one in trials}
        if self.record.kept is None or self.record.kept.states != name:  # else the file is there
            self.record.files.append(name)
            self.write()
            content = io.BytesIO()
            np.savez(content, **packed)
            write_whole(self.path.parent / name, content.getvalue())
        self.record.rungs += [rung] if rung else []
        self.record.kept = StoredStates(list(packed), name, distilled)
        self.write()
        self._delete_states(name)

    def _delete_states(self, but: str | None = None) -> None:
        for name in map(str, self.record.files):
            if name != but and _STATES.fullmatch(name):
                delete_whole(self.path.parent / name)
        self.record.files = [but] if but else []


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
