"""Reads named tensors from weight files: torch (zip or legacy), safetensors or npz.

The format is detected from the content, not from the suffix. No format can execute code.
"""

from __future__ import annotations

import os

import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import (
    begins_safetensors,
    foreign,
    listed,
    opened,
    quoted,
    read_safetensors,
)
from jaxsplit.weights import tflite, torch_archive
from jaxsplit.weights.zip_archive import read_directory, read_npz

#: Keys under which checkpoints store the weights, preferred ones first.
STATE_DICTS = (
    *("state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema"),
    *("params", "weights", "net", "network", "module"),
)
_PREFIX = "module."


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns all arrays of a weight file by name, with shapes [*size] and dtypes as stored.

    A checkpoint may contain the weights in an entry (`STATE_DICTS`); other content, such as
    optimizer state, is ignored. A prefix "module." of all names is removed. Raises a WeightsError:
    no such file, another format, damaged, or without tensors.
    """
    readers = {"torch": torch_archive.read, "safetensors": read_safetensors, "npz": _read_npz}
    if (found := format_of(path)) not in readers:
        raise WeightsError(
            f"{os.fspath(path)} is a .{found}; expected a file of torch.save, a .safetensors or a "
            ".npz"
        )
    tree = readers[found](path)
    tensors = _state_dict(tree)
    if not tensors:
        found = listed(map(quoted, tree)) if isinstance(tree, dict) else ""
        raise WeightsError(
            f"{os.fspath(path)}: got a {type(tree).__name__} without named tensors "
            f"({found or 'empty'}), expected a state dict; in torch, save model.state_dict()"
        )
    if all(name.startswith(_PREFIX) for name in tensors):
        tensors = {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
    return tensors


def format_of(path: str | os.PathLike[str]) -> str:
    """Detects a file's format: "torch", "npz", "safetensors" or "tflite"; else a WeightsError."""
    with opened(path) as file:
        head = file.read(torch_archive.TORCH_HEAD_BYTES)
        if torch_archive.LEGACY_MAGIC in head:
            return "torch"
        if head.startswith(torch_archive.ZIP_MAGICS):
            names = read_directory(file)
            is_torch = any(name.endswith("/data.pkl") for name in names)
            is_npz = not is_torch and any(name.endswith(".npy") for name in names)
            return "npz" if is_npz else "torch"
        if begins_safetensors(head):
            return "safetensors"
        if tflite.is_tflite(head):
            return "tflite"
        raise foreign(head, "a file of torch.save, a .safetensors or a .npz")


def _read_npz(path: str | os.PathLike[str]) -> object:
    with opened(path) as file:
        return read_npz(file)


def _state_dict(tree: object) -> dict[str, np.ndarray]:
    """Returns the named arrays of a dict, or of its first entry in STATE_DICTS that has any."""
    if not isinstance(tree, dict):
        return {}
    found = {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, np.ndarray)}
    nested = (_state_dict(tree.get(key)) for key in STATE_DICTS)
    return found or next(filter(None, nested), {})
