"""Reads named tensors from weight files: torch (zip or legacy), safetensors or npz.

The format is detected from the content, not from the suffix. No format can execute code.
"""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import begins_safetensors, opened, read_safetensors, shown
from jaxsplit.weights import torch_archive
from jaxsplit.weights.zip_archive import read_directory, read_npz

#: Keys under which checkpoints store the weights, preferred ones first.
STATE_DICTS = (
    *("state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema"),
    *("params", "weights", "net", "network", "module"),
)
_PREFIX = "module."


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns all arrays of a weight file by name, with shapes [*size] and dtypes as stored.

    The file is one of torch.save, a .safetensors or a .npz, with any suffix. A checkpoint may
    contain the weights in an entry (`STATE_DICTS`); other content, such as optimizer state, is
    ignored. A prefix "module." of all names is removed.

    Raises:
      WeightsError: no such file, another format, damaged, or without tensors.
    """
    kind = format_of(path)
    tree: object
    if kind == "torch":
        tree = torch_archive.read(path)
    elif kind == "safetensors":
        tree = read_safetensors(path)
    else:
        with opened(path) as file:
            tree = read_npz(file)
    tensors = _state_dict(tree)
    if not tensors:
        found = ", ".join(map(shown, list(tree)[:8])) if isinstance(tree, dict) else ""
        raise WeightsError(
            f"{os.fspath(path)}: got a {type(tree).__name__} without named tensors "
            f"({found or 'empty'}), expected a state dict; in torch, save model.state_dict()"
        )
    if all(name.startswith(_PREFIX) for name in tensors):
        tensors = {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
    return tensors


def format_of(path: str | os.PathLike[str]) -> str:
    """Detects the format of a file from its first bytes: "torch", "npz" or "safetensors".

    Raises a WeightsError if there is no such file, or it has another format.
    """
    with opened(path) as file:
        head = file.read(torch_archive.HEAD_BYTES)
        if torch_archive.LEGACY_MAGIC in head:
            return "torch"
        if head.startswith(torch_archive.ZIP_MAGICS):
            return "npz" if _is_npz(file) else "torch"
        if begins_safetensors(head):
            return "safetensors"
        what = f"begins with {shown(head[:8])}" if head else "is empty"
        raise WeightsError(
            f"{what}, expected a file of torch.save, a .safetensors or a .npz; "
            "get the file again, or convert it to one of these"
        )


def _is_npz(file: BinaryIO) -> bool:
    names = read_directory(file)
    torch = any(name.endswith("/data.pkl") for name in names)
    return not torch and any(name.endswith(".npy") for name in names)


def _state_dict(tree: object) -> dict[str, np.ndarray]:
    """Returns the named arrays of a dict, or of its first entry in STATE_DICTS that has any."""
    if not isinstance(tree, dict):
        return {}
    found = {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, np.ndarray)}
    nested = (_state_dict(tree.get(key)) for key in STATE_DICTS)
    return found or next(filter(None, nested), {})
