"""The states of a search on disk: what is left of it, as it was after the last steps of all."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsplit.errors import CheckpointError
from jaxsplit.io.files import read_file, write_whole
from jaxsplit.search.candidates import Candidate
from jaxsplit.search.journal import Journal
from jaxsplit.search.trainer import Trainer, Trial


class Keeper:
    """Keeps the states of what is left, for a search that is stopped."""

    def __init__(self, workdir: Path, journal: Journal) -> None:
        self.workdir, self.journal = workdir, journal

    def trials(self, trainer: Trainer, everything: Sequence[Candidate]) -> tuple[list[Trial], bool]:
        """The trials that were kept, or fresh ones of all; whether they learn answers already."""
        kept = self.journal.values["kept"]
        if kept is None:
            self._forget()
            return trainer.trials(everything), False
        names = set(kept["names"])
        trials = trainer.trials([one for one in everything if one.name in names])
        path = self.workdir / kept["states"]
        try:
            with np.load(io.BytesIO(read_file(path))) as found:
                for one in trials:
                    one.state = _unpacked(found[one.candidate.name], one.state)
                    one.settled = kept["distilled"]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"cannot read {path}: {error}; delete {self.journal.path} to begin anew"
            ) from error
        return trials, kept["distilled"]

    def keep(self, trials: Sequence[Trial], distilled: bool) -> None:
        """Writes all down: first the states, then the journal that names them."""
        name = f"states_{int(trials[0].state.step)}_{len(trials)}.npz"
        packed: dict[str, Any] = {one.candidate.name: _packed(one.state) for one in trials}
        before = self.journal.values["kept"]
        if before is None or before["states"] != name:  # else they are there
            content = io.BytesIO()
            np.savez(content, **packed)
            write_whole(self.workdir / name, content.getvalue())
        kept = {"names": list(packed), "states": name, "distilled": distilled}
        self.journal.values["kept"] = kept
        self.journal.write()
        self._forget(name)

    def _forget(self, but: str | None = None) -> None:
        for file in self.workdir.glob("states_*.npz"):
            if file.name != but:
                file.unlink()


def _packed(state: Any) -> np.ndarray:
    """The bytes of all arrays of a tree: a search has ten thousands of small ones."""
    leaves = jax.tree.leaves(state)
    return np.concatenate([np.frombuffer(np.asarray(x).tobytes(), np.uint8) for x in leaves])


def _unpacked(packed: np.ndarray, like: Any) -> Any:
    """The tree again, of arrays like those of `like`."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([np.asarray(x).nbytes for x in leaves])
    parts = np.split(np.asarray(packed), ends[:-1])
    return jax.tree.unflatten(
        structure,
        [
            np.frombuffer(part.tobytes(), np.asarray(x).dtype).reshape(np.shape(x))
            for part, x in zip(parts, leaves, strict=True)
        ],
    )
