"""A backbone: a frozen network with its weights and preprocessing, as a value and as a file."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import flax.linen as nn
import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

from jaxsplit._moved import renamed_argument
from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError, DataError, WeightsError
from jaxsplit.io.fields import build
from jaxsplit.io.files import parse_json, write_whole
from jaxsplit.io.untrusted import (
    check_tensors,
    damaged,
    finite_floats,
    listed,
    quoted,
    read_metadata,
    read_safetensors,
)
from jaxsplit.networks.network import (
    LinenNetwork,
    Network,
    Variables,
    as_network,
    per_image_shapes,
    variable_shapes,
)
from jaxsplit.networks.residual import create
from jaxsplit.tasks import Classification, Task
from jaxsplit.trees import Structs, Tree

#: The weights in the package.
BACKBONES = Path(__file__).parent.parent / "assets" / "backbones"
SUFFIX = ".safetensors"
# The entry of the file's metadata that holds what isn't a tensor, as JSON.
_HEADER = "jaxsplit"


@renamed_argument("module", "network")
@renamed_argument("class_names", "task")
@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network: what is cut, and what a family is bound to. See `make_backbone`.

    Attributes:
      name: of the architecture, as in `jaxsplit.networks.create`, or of your own.
      network: a Linen module with endpoints becomes a `LinenNetwork`.
      variables: its arrays, such as {"params", "batch_stats"}, float32.
      preprocessing: how an image becomes the network's input.
      task: what the outputs mean; names of classes become a `Classification`.
      fingerprint: of the variables before any folding, see `fingerprint`.
      card: where the weights come from (command, seed, data, accuracy).
      weights: name for `jaxsplit.load_backbone`; None for a file.

    >>> backbone = open_embedded("fashion_mnist_resnet8")
    >>> backbone.name, backbone.preprocessing.input_shape, backbone.class_names[9]
    ('resnet8_small', (28, 28, 1), 'Ankle boot')
    """

    name: str
    network: Network
    variables: Variables
    preprocessing: Preprocessing
    task: Task
    fingerprint: str
    card: Mapping[str, object]
    weights: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", as_network(self.network))
        if not isinstance(self.task, Task):
            object.__setattr__(self, "task", Classification(tuple(self.task)))

    @property
    def module(self) -> Any:
        """The Linen module; a ConfigError if the network has none."""
        if not isinstance(self.network, LinenNetwork):
            raise ConfigError(f"{self.name} is a {type(self.network).__name__}, no Linen module")
        return self.network.module

    @property
    def class_names(self) -> tuple[str, ...]:
        """The task's class names, in the order of the outputs; none where it has no classes."""
        return getattr(self.task, "class_names", ())

    @functools.cached_property
    def feature_shapes(self) -> dict[str, Structs]:
        """The features of one image at every cut, see `Network.feature_shapes`."""
        return self.network.feature_shapes(self.variables, self.preprocessing.input_shape)

    @functools.cached_property
    def output_shapes(self) -> Structs:
        """The outputs for one image: `jax.ShapeDtypeStruct`s without the leading axis."""
        return per_image_shapes(self.network, self.variables, self.preprocessing.input_shape)

    def fold(self) -> Backbone:
        """Returns the backbone with its network folded, see `Network.fold`; same fingerprint."""
        network, variables = self.network.fold(self.variables)
        if variables is self.variables:
            return self
        return dataclasses.replace(self, network=network, variables=variables)


def make_backbone(
    name: str,
    network: Network | nn.Module,
    variables: Variables,
    preprocessing: Preprocessing,
    task: Task | Sequence[str],
    card: Mapping[str, object] | None = None,
) -> Backbone:
    """Returns a network of your own as a backbone: ready to be cut, trained behind and coded.

    Args:
      name: of your choice; families of the network carry it.
      network: see `as_network`; a ConfigError if it is none.
      variables, preprocessing, task, card: as in `Backbone`; class names in the logits' order.

    Returns:
      The backbone, fingerprinted.

    >>> known = open_embedded("fashion_mnist_resnet8")
    >>> parts = known.network, known.variables, known.preprocessing
    >>> make_backbone("own", *parts, "abcdefghij").class_names[9]
    'j'
    """
    known = task if isinstance(task, Task) else Classification(tuple(task))
    digest = fingerprint(variables)
    return Backbone(name, as_network(network), variables, preprocessing, known, digest, card or {})


def embedded_weights() -> tuple[str, ...]:
    """Lists the weights in the package, for `open_embedded`.

    Returns:
      Their names, sorted.

    >>> "fashion_mnist_resnet8" in embedded_weights()
    True
    """
    return tuple(sorted(path.stem for path in BACKBONES.glob(f"*{SUFFIX}")))


def open_embedded(weights: str) -> Backbone:
    """Loads a backbone with weights in the package.

    Args:
      weights: one of `embedded_weights()`; a WeightsError otherwise.

    Returns:
      The backbone.

    >>> open_embedded("fashion_mnist_resnet8").name
    'resnet8_small'
    """
    backbone = read_backbone(BACKBONES / f"{weights}{SUFFIX}")
    return dataclasses.replace(backbone, weights=weights)


def fingerprint(variables: Variables) -> str:
    """Returns the sha256 of the sorted names, shapes and little-endian float32 values.

    Args:
      variables: a pytree of arrays, such as {"params", "batch_stats"}.

    Returns:
      64 hexadecimal digits.

    >>> fingerprint({"params": {"w": np.zeros((2,))}})[:8]
    '2d09e3a0'
    """
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(variables)
    }
    digest = hashlib.sha256()
    for path, leaf in sorted(leaves.items()):
        value = np.asarray(leaf, dtype="<f4")
        digest.update(f"{path}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def save_backbone(
    path: str | os.PathLike[str],
    variables: Variables,
    *,
    name: str,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...],
    card: Mapping[str, object],
    dtype: str = "float16",
) -> None:
    """Writes weights and card as one safetensors file; equal ones give equal bytes.

    Args:
      path: file to write; replaced atomically.
      variables: {"params", "batch_stats"}, not folded.
      name, preprocessing, class_names, card: as in `Backbone`.
      dtype: of the stored arrays; they are float32 again when read.

    Raises:
      ConfigError: the file cannot be written.
      WeightsError: these variables could not be read again.

    >>> import tempfile
    >>> own = open_embedded("fashion_mnist_resnet8")
    >>> known = {name: getattr(own, name) for name in ("name", "preprocessing", "class_names")}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_backbone(f"{folder}/own.safetensors", own.variables, card={"seed": 0}, **known)
    ...     read_backbone(f"{folder}/own.safetensors").card
    {'seed': 0}
    """
    if "batch_stats" not in cast("Mapping[str, Tree]", variables):
        raise WeightsError(
            f"cannot write {path}: its batch normalization is folded away; "
            "save the variables as they were before fold()"
        )
    header = {
        "name": name,
        "preprocessing": preprocessing.to_dict(),
        "class_names": list(class_names),
        "card": card,
    }
    flat = traverse_util.flatten_dict(variables, sep="/")
    with np.errstate(over="ignore"):
        arrays = {key: np.ascontiguousarray(leaf, dtype) for key, leaf in flat.items()}
    not_finite = [key for key, value in arrays.items() if not np.isfinite(value).all()]
    if not_finite:
        raise WeightsError(
            f"cannot write {path}: not finite in {dtype}: {listed(map(quoted, not_finite))}; "
            "use float32, or train again"
        )
    content = safetensors.numpy.save(arrays, {_HEADER: json.dumps(header, sort_keys=True)})
    write_whole(Path(path), content, make_folder=True)


def holds_backbone(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is a file of `save_backbone`.

    Args:
      path: of any file.

    Returns:
      False for weights of another package, and for a missing or unreadable file.

    >>> holds_backbone("nowhere")
    False
    """
    try:
        return _HEADER in read_metadata(path)
    except WeightsError:
        return False


def read_backbone(path: str | os.PathLike[str]) -> Backbone:
    """Reads a file of `save_backbone`; nothing in it is executed.

    Args:
      path: of the file.

    Returns:
      The backbone, without a name for its weights.

    Raises:
      WeightsError: the file is missing, is no such file, or does not fit the model that it names.

    >>> read_backbone(BACKBONES / "fashion_mnist_resnet8.safetensors").name
    'resnet8_small'
    """
    where, metadata = os.fspath(path), read_metadata(path)
    if _HEADER not in metadata:
        raise WeightsError(
            f"{where}: weights of another package: they do not say which network they are of; "
            "name it too"
        )
    try:
        found = _without_variables(metadata[_HEADER])
    except (ConfigError, DataError, ValueError) as error:
        text = quoted(str(error), 200)
        raise damaged(f"{where} is not a backbone file of jaxsplit ({text})") from error
    tree = variable_shapes(found.module, found.preprocessing.input_shape)
    shapes = {key: x.shape for key, x in traverse_util.flatten_dict(tree, sep="/").items()}
    tensors = read_safetensors(path)
    check_tensors(tensors, shapes, f"{where} does not fit {found.name}")
    variables = traverse_util.unflatten_dict(finite_floats(tensors, where), sep="/")
    return dataclasses.replace(found, variables=variables, fingerprint=fingerprint(variables))


class _Description(TypedDict):
    """The description of a backbone in its file."""

    name: str
    class_names: tuple[str, ...]
    card: dict[str, object]
    preprocessing: Preprocessing


def _without_variables(text: str) -> Backbone:
    """Makes the backbone that a file describes beside its tensors."""
    header: _Description = build(_Description, parse_json(text), what="its description")
    name, class_names = header["name"], header["class_names"]
    if not class_names:
        raise ConfigError("it has no class names")
    module, preprocessing = create(name, len(class_names)), header["preprocessing"]
    return make_backbone(name, module, {}, preprocessing, class_names, header["card"])
