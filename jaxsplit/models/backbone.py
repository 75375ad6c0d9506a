"""A backbone: a frozen network with its weights and preprocessing, as a value and as a file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from jaxsplit.data import Preprocessing, Source
from jaxsplit.errors import ConfigError, DataError, WeightsError
from jaxsplit.models.layers import fold_batch_norm

#: Where the weights are that come with the package.
ASSETS = Path(__file__).parent.parent / "assets" / "backbones"
SUFFIX = ".safetensors"
# The entry of the file's metadata that holds what isn't a tensor, as JSON.
_HEADER = "jaxsplit"


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network: what a cut is made in, and what a family is bound to.

    Attributes:
      name: model name, as `jaxsplit.models.create` knows it.
      module: Linen module with `endpoints()` and `(x, start=…, stop=…)`.
      variables: {"params", "batch_stats"}, float32; {"params"} where `module.folded`.
      preprocessing: how an image becomes the network's input.
      class_names: in the order of the logits.
      fingerprint: sha256 of the canonical float32 parameters, before any folding.
      card: where the weights come from (command, seed, data, accuracy).
      weights: name under which `jaxsplit.load_backbone` finds them; None for a file.
    """

    name: str
    module: Any
    variables: dict[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    fingerprint: str
    card: dict[str, Any]
    weights: str | None = None

    def fold(self) -> Backbone:
        """The same network with its batch normalisation folded into its convolutions."""
        if self.module.folded:
            return self
        variables = fold_batch_norm(self.variables, self.module.epsilon)
        return dataclasses.replace(self, module=self.module.clone(folded=True), variables=variables)

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
    return tuple(sorted(path.stem for path in ASSETS.glob(f"*{SUFFIX}")))


def open_embedded(weights: str) -> Backbone:
    """The backbone of weights that come with the package, by their name.

    >>> open_embedded("fashion_mnist_resnet8").name
    'resnet8_small'
    """
    backbone = read_backbone(ASSETS / f"{weights}{SUFFIX}")
    return dataclasses.replace(backbone, weights=weights)


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
    """Writes weights and card as one safetensors file.

    The same weights always give the same bytes.

    Args:
      path: file to write; replaced atomically.
      variables: {"params", "batch_stats"}.
      name, preprocessing, class_names, card: as in `Backbone`.
      dtype: of the stored arrays; they are float32 again when read.

    Raises:
      WeightsError: the file cannot be written.
    """
    header = {
        "name": name,
        "preprocessing": preprocessing.to_dict(),
        "class_names": list(class_names),
        "card": card,
    }
    arrays = {
        key: np.ascontiguousarray(leaf, dtype)
        for key, leaf in traverse_util.flatten_dict(variables, sep="/").items()
    }
    content = safetensors.numpy.save(arrays, {_HEADER: json.dumps(header, sort_keys=True)})
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror}") from error


def holds_backbone(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one of `save_backbone`; False for a missing or unreadable one."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return _HEADER in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def read_backbone(path: str | os.PathLike[str]) -> Backbone:
    """Reads a file of `save_backbone`.

    Raises:
      WeightsError: the file is missing, is no such file, or does not fit the model that it names.
    """
    from jaxsplit import models  # `models` re-exports this module

    try:
        with safetensors.safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            flat = {key: file.get_tensor(key).astype(np.float32) for key in file.keys()}  # noqa: SIM118
        preprocessing = Preprocessing.from_dict(header["preprocessing"])
        class_names = tuple(header["class_names"])
        name, card = header["name"], header["card"]
        module = models.create(name, len(class_names))
    except FileNotFoundError as error:
        raise WeightsError(f"no weights at {path}") from error
    except (
        safetensors.SafetensorError,
        ConfigError,
        KeyError,
        OSError,
        TypeError,
        ValueError,
    ) as error:
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
