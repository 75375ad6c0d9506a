"""A backbone: a frozen network with its weights and preprocessing, as a value and as a file."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxsplit.data import Preprocessing, Source
from jaxsplit.errors import ConfigError, DataError, WeightsError

#: Where the weights are that come with the package.
ASSETS = Path(__file__).parent.parent / "assets" / "backbones"
_CARD = "card.json"
# What zipfile, zlib, json and numpy raise on damaged or foreign bytes.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    ConfigError,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,  # an encrypted entry; NotImplementedError: an unknown compression
    TypeError,
    ValueError,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network: what a cut is made in, and what a family is bound to.

    Attributes:
      name: model name, as `jaxsplit.models.create` knows it.
      module: Linen module with `endpoints()` and `(x, start=…, stop=…)`.
      variables: {"params", "batch_stats"}, float32.
      preprocessing: how an image becomes the network's input.
      class_names: in the order of the logits.
      fingerprint: sha256 of the canonical float32 parameters.
      card: where the weights come from (command, seed, data, accuracy).
      weights: name under which `open_backbone` finds them in the package; None for other files.
    """

    name: str
    module: Any
    variables: dict[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    fingerprint: str
    card: dict[str, Any]
    weights: str | None = None

    def check_classes(self, source: Source) -> None:
        """Refuses images whose labels count other classes, or in another order.

        Raises:
          DataError: the class names of the source are not those of the backbone.
        """
        ours, theirs = self.class_names, source.class_names
        if ours == theirs:
            return
        message = f"{source.name} has {len(theirs)} classes"
        if len(ours) == len(theirs):
            i = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len({*pair}) > 1)
            raise DataError(f"{message}; number {i} is {theirs[i]}, but the backbone's {ours[i]}")
        raise DataError(
            f"{message} ({theirs[0]}, …); the backbone's {len(ours)} are others ({ours[0]}, …)"
        )


def embedded_weights() -> tuple[str, ...]:
    """Names of the weights that come with the package."""
    return tuple(sorted(path.stem for path in ASSETS.glob("*.npz")))


def open_backbone(weights: str | os.PathLike[str]) -> Backbone:
    """The backbone of a file, or of weights that come with the package, by their name.

    Raises:
      WeightsError: there is neither, or the file is damaged.

    >>> open_backbone("fashion_mnist_resnet8").name
    'resnet8_small'
    """
    path = Path(weights)
    if path.suffix == ".npz" or path.is_file():
        return load_backbone(path)
    if str(weights) not in embedded_weights():
        raise WeightsError(
            f"no weights called {str(weights)!r}: give a .npz file or one of "
            f"{', '.join(embedded_weights())}"
        )
    backbone = load_backbone(ASSETS / f"{weights}.npz")
    return dataclasses.replace(backbone, weights=str(weights))


def fingerprint(variables: dict[str, Any]) -> str:
    """sha256 over the sorted names, shapes and little-endian float32 values of a tree.

    >>> fingerprint({"params": {"w": np.zeros((2,))}})[:8]
    '2d09e3a0'
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
        value = np.asarray(leaf, dtype="<f4")
        digest.update(f"{path}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def save_backbone(
    path: str | os.PathLike[str],
    variables: dict[str, Any],
    *,
    name: str,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...],
    card: dict[str, Any],
    dtype: str = "float16",
) -> None:
    """Writes weights and card as one npz file (a zip of .npy arrays; nothing is pickled).

    The same weights always give the same bytes.

    Args:
      path: file to write; replaced atomically.
      variables: {"params", "batch_stats"}.
      name, preprocessing, class_names, card: as in `Backbone`.
      dtype: of the stored arrays; they are float32 again when loaded.
    """
    header = {
        "name": name,
        "preprocessing": preprocessing.to_dict(),
        "class_names": list(class_names),
        "card": card,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(_CARD), json.dumps(header, indent=1, sort_keys=True))
        for key, leaf in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(leaf, dtype=dtype), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{key}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue())
    os.replace(partial, path)


def load_backbone(path: str | os.PathLike[str]) -> Backbone:
    """Reads a file of `save_backbone`.

    Raises:
      WeightsError: the file is missing, is no such file, or does not fit the model that it names.
    """
    from jaxsplit import models  # `models` re-exports this module

    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read(_CARD))
            flat = {}
            for entry in archive.namelist():
                if entry.endswith(".npy"):
                    with archive.open(entry) as file:
                        array = np.lib.format.read_array(file, allow_pickle=False)
                    flat[entry.removesuffix(".npy")] = array.astype(np.float32)
        preprocessing = Preprocessing.from_dict(header["preprocessing"])
        class_names = tuple(header["class_names"])
        name, card = header["name"], header["card"]
        module = models.create(name, len(class_names))
    except FileNotFoundError as error:
        raise WeightsError(f"no weights at {path}") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} is not a backbone file of jaxsplit: {reason}") from error
    expected = jax.eval_shape(
        lambda: module.init(
            jax.random.key(0), np.zeros((1, *preprocessing.input_shape), np.float32)
        )
    )
    expected = traverse_util.flatten_dict(expected, sep="/")
    wrong = [k for k in expected.keys() | flat.keys() if _shape(expected, k) != _shape(flat, k)]
    if wrong:
        key = min(wrong)
        raise WeightsError(
            f"{path} does not fit {name}: {key} is {_shape(flat, key)}, "
            f"expected {_shape(expected, key)}"
        )
    variables = traverse_util.unflatten_dict(flat, sep="/")
    digest = fingerprint(variables)
    return Backbone(name, module, variables, preprocessing, class_names, digest, card)


def _shape(tree: dict[str, Any], key: str) -> tuple[int, ...] | None:
    return tree[key].shape if key in tree else None
