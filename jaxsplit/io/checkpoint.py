"""Saves and restores pytrees of arrays; the only module that uses orbax."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np

from jaxsplit.errors import CheckpointError, warn_once
from jaxsplit.io.files import as_text

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

#: Of a tree whose shapes are not known beforehand, such as a rate's, which is small.
MAX_BYTES = 1 << 30
# Part of the names of orbax's unfinished folders.
_PARTIAL = ".orbax-checkpoint-tmp"
# Files of which a checkpoint has at least one.
_MARKS = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")

_State = TypeVar("_State")


def save_tree(path: str | os.PathLike[str], tree: object) -> None:
    """Writes a pytree of arrays into a folder that is new, empty or a checkpoint, atomically.

    Raises a CheckpointError.
    """
    path = Path(path).absolute()
    check_name(path)
    arrays = jax.tree.map(np.asarray, tree)
    _check_space(path, sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
    if os.path.lexists(path) and not delete_tree(path):
        raise CheckpointError(f"cannot write the checkpoint {path}: something else is there")
    advice = "the same command resumes from the last complete one"
    with _explained(f"cannot write the checkpoint {path}", advice), _checkpointer() as checkpointer:
        checkpointer.save(path, arrays)
    # On some file systems orbax leaves a file that contains the absolute path, which a shared
    # family should not reveal. The commit is the rename of the folder.
    (path / "commit_success.txt").unlink(missing_ok=True)


def check_name(path: Path) -> None:
    """Raises a CheckpointError if orbax cannot write to a path, whose bytes are no UTF-8."""
    if (text := as_text(path.absolute())) != str(path.absolute()):
        raise CheckpointError(f"cannot keep checkpoints in {text}: rename it in UTF-8")


def delete_tree(path: Path) -> bool:
    """Deletes a checkpoint and what killed saves left of it; returns whether nothing is left.

    Stays: a link, a file, and a folder of files without the marks of a checkpoint.
    """
    _delete_folders(path.parent.glob(f"{glob.escape(path.name)}{_PARTIAL}*"))
    if any((path / mark).exists() for mark in _MARKS) or all(x.is_dir() for x in path.rglob("*")):
        _delete_folders([path])
    return not os.path.lexists(path)


def _delete_folders(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _check_space(path: Path, size: int) -> None:
    """Refuses a tree that does not fit the disk; orbax reports a full disk from its threads."""
    folder = next(parent for parent in path.parents if parent.exists())
    replaced = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free + replaced
    if size > free:
        raise CheckpointError(
            f"cannot write the checkpoint {path}: it takes {size / 1e6:.1f} MB, and the disk has "
            f"{free / 1e6:.1f} MB left; free some, and the same command resumes from the last one"
        )


def load_tree(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Reads a pytree written by `save_tree`, with numpy arrays as leaves.

    The result has the containers of `like`, a tree of the expected structure and shapes; without
    it, nested dicts. Raises a CheckpointError if the folder is missing, damaged, another tree's, or
    claims far more memory than expected, before any of it is taken.
    """
    path = Path(path).absolute()
    check_name(path)
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}; check the path")
    target = None if like is None else jax.tree.map(np.asarray, like)
    expected = sum(leaf.nbytes for leaf in jax.tree.leaves(target))
    most = MAX_BYTES if like is None else 2 * expected + MAX_BYTES
    advice = "delete it to use an earlier one"
    with _explained(f"cannot read the checkpoint {path}", advice), _checkpointer() as checkpointer:
        if (size := _size(checkpointer, path)) > most:
            raise ValueError(f"its arrays take {size / 1e9:,.1f} GB, over {most / 1e9:,.1f}")
        tree = jax.tree.map(np.asarray, checkpointer.restore(path, target))
    for got, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(target), strict=False):
        if got.shape != wanted.shape:
            raise CheckpointError(
                f"the checkpoint {path} has an array of shape {got.shape}, expected "
                f"{wanted.shape}: it is of another training; use another folder"
            )
    return tree


def _size(checkpointer: ocp.StandardCheckpointer, path: Path) -> int:
    """Returns the bytes of the arrays that a checkpoint describes; a chunk may exceed its array."""

    def size(x: Any) -> int:
        chunk = (x.storage and x.storage.chunk_shape) or ()
        return max(math.prod(x.shape), math.prod(chunk)) * np.dtype(x.dtype or float).itemsize

    described = checkpointer.metadata(path).item_metadata
    if described is None:
        raise ValueError("its metadata is damaged")
    tree = described.tree
    return sum(size(x) for x in jax.tree.leaves(tree) if hasattr(x, "shape"))


@contextlib.contextmanager
def _explained(complaint: str, advice: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # orbax raises errors of several libraries
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{complaint}: {reason}; {advice}") from error


def short_key(config: str, *fingerprints: str) -> str:
    """Builds a short name of a training from its config's key and fingerprints of its inputs."""
    return f"{config}-{hashlib.sha256(' '.join(fingerprints).encode()).hexdigest()[:8]}"


def save_step(directory: str | os.PathLike[str], step: int, state: object, keep: int = 2) -> None:
    """Writes the state of one step into the training's folder; keeps the newest `keep` steps.

    Deletes remains of killed saves and later steps, which the training has discarded.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _delete_folders(directory.glob(f"step_*{_PARTIAL}*"))
    save_tree(directory / f"step_{step}", state)
    kept = [number for number in _steps(directory) if number <= step][-keep:]
    for other in set(_steps(directory)) - set(kept):
        delete_tree(directory / f"step_{other}")


def restore_latest(directory: str | os.PathLike[str], state: _State) -> _State:
    """Returns the newest readable saved state of a training, or `state` if there is none.

    Raises a CheckpointError if steps were saved, but none can be read.
    """
    failures: list[CheckpointError] = []
    for step in reversed(_steps(Path(directory))):
        try:
            tree = load_tree(Path(directory) / f"step_{step}", state)
        except CheckpointError as error:
            failures.append(error)
            continue
        if failures:
            text = f"{failures[0]}; resuming from step {step}"
            warn_once(text, text)
        return tree
    if failures:
        raise failures[0]
    return state


def _steps(directory: Path) -> list[int]:
    names = [p.name.removeprefix("step_") for p in directory.glob("step_*")]
    return sorted(int(name) for name in names if name.isdigit())


def _checkpointer() -> ocp.StandardCheckpointer:
    import orbax.checkpoint as ocp  # a slow import

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # failures are raised too
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    # Each process saves and loads alone; by default orbax waits for the others.
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process_{index}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)
