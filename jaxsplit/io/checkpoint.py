"""Trees on disk: the only module that knows orbax."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsplit.errors import CheckpointError

# In the name of a folder that orbax hasn't finished.
_PARTIAL = ".orbax-checkpoint-tmp"


def save_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Writes a tree of arrays into a new folder; the folder appears whole or not at all.

    Raises:
      CheckpointError: there is no room for it, or it can't be written.
    """
    path = Path(path).absolute()
    arrays = jax.tree.map(np.asarray, tree)
    _check_space(path, sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
    if path.exists():
        shutil.rmtree(path)
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path, arrays)
    except Exception as error:  # orbax lets errors of several libraries through
        text = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"cannot write the checkpoint {path}: {text}; the same command goes on from the last "
            "whole one"
        ) from error
    # On some file systems orbax leaves a note that names the absolute path: a family that is
    # passed on should not tell it. The rename of the folder is what commits it here.
    (path / "commit_success.txt").unlink(missing_ok=True)


def _check_space(path: Path, size: int) -> None:
    """Refuses what can't fit before it is begun: orbax reports a full disk from its threads."""
    folder = next(parent for parent in path.parents if parent.exists())
    replaced = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free + replaced
    if size > free:
        raise CheckpointError(
            f"cannot write the checkpoint {path}: it takes {size / 1e6:.1f} MB, and the disk has "
            f"{free / 1e6:.1f} MB left; free some, and the same command goes on from the last one"
        )


def load_tree(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Reads a tree that `save_tree` wrote.

    Args:
      path: the folder.
      like: a tree of the same structure and shapes, whose containers the result takes; None
        gives nested dicts.

    Raises:
      CheckpointError: the folder is missing, damaged, or holds another tree.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}")
    target = None if like is None else jax.tree.map(np.asarray, like)
    try:
        with _checkpointer() as checkpointer:
            tree = checkpointer.restore(path, target)
    except Exception as error:  # orbax lets errors of several libraries through
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"cannot read the checkpoint {path}: {reason}") from error
    tree = jax.tree.map(np.asarray, tree)
    if target is not None:
        stored, wanted = ([x.shape for x in jax.tree.leaves(t)] for t in (tree, target))
        if stored != wanted:
            got, expected = next(
                pair for pair in zip(stored, wanted, strict=True) if len({*pair}) > 1
            )
            raise CheckpointError(
                f"the checkpoint {path} holds an array of {got} where {expected} is expected: "
                "it is of another training"
            )
    return tree


def key(config: str, *fingerprints: str) -> str:
    """Short name of a training: its config's key, and the content that a config only names.

    >>> key("0a1b", "weights", "images") == key("0a1b", "weights", "other images")
    False
    """
    return f"{config}-{hashlib.sha256(' '.join(fingerprints).encode()).hexdigest()[:8]}"


def save_step(directory: str | os.PathLike[str], step: int, state: Any, keep: int = 2) -> None:
    """Writes the state of one step and leaves, beside it, only the newest before it.

    Args:
      directory: of this training alone. What killed saves have left in it is removed, and so are
        later steps: a training that saves this one couldn't read them, or was set back.
      step, state: what to write.
      keep: number of steps that stay, this one among them.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for partial in directory.glob(f"step_*{_PARTIAL}*"):
        shutil.rmtree(partial)
    save_tree(directory / f"step_{step}", state)
    kept = [number for number in _steps(directory) if number <= step][-keep:]
    for other in set(_steps(directory)) - set(kept):
        shutil.rmtree(directory / f"step_{other}")


def restore_latest(directory: str | os.PathLike[str], state: Any) -> Any:
    """The newest saved state of a training that can be read, or `state` where nothing was saved.

    Raises:
      CheckpointError: something was saved, but nothing can be read.
    """
    failure: CheckpointError | None = None
    for step in reversed(_steps(Path(directory))):
        try:
            tree = load_tree(Path(directory) / f"step_{step}", state)
        except CheckpointError as error:
            failure = failure or error
            continue
        if failure is not None:
            logging.getLogger(__name__).warning("%s; going on from step %d", failure, step)
        return tree
    if failure is not None:
        raise failure
    return state


def _steps(directory: Path) -> list[int]:
    names = [p.name.removeprefix("step_") for p in directory.glob("step_*")]
    return sorted(int(name) for name in names if name.isdigit())


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp  # a slow import

    logging.getLogger("absl").setLevel(logging.ERROR)
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    # Whoever calls saves or loads alone: orbax would wait for the other processes.
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process_{index}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)
