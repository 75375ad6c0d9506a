"""A backbone: a frozen network with its weights and preprocessing, as a value and as a file."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxsplit._moved import renamed_argument
from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError, WeightsError, choices
from jaxsplit.networks import backbone_file, registry
from jaxsplit.networks.inference import head_program
from jaxsplit.networks.network import (
    LinenNetwork,
    Network,
    Variables,
    as_network,
    count_logits,
    per_image_shapes,
    without_batch,
)
from jaxsplit.tasks import Classification, Task
from jaxsplit.tasks.classification import check_classes
from jaxsplit.trees import Structs

#: The weights in the package.
BACKBONES = Path(__file__).parent.parent / "assets" / "backbones"
SUFFIX = ".safetensors"


@renamed_argument("module", "network")
@renamed_argument("class_names", "task")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
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
        if not isinstance(self.preprocessing, Preprocessing):
            kind = type(self.preprocessing).__name__
            raise ConfigError(f"preprocessing is a {kind}; expected a jaxsplit.Preprocessing")
        if not isinstance(self.task, Task):
            object.__setattr__(self, "task", Classification(tuple(self.task)))
        object.__setattr__(self, "task", self.task.fitted(self.preprocessing))
        if isinstance(self.task, Classification) or (self.task.has_maps and self.class_names):
            logits = count_logits(self.network, self.variables, self.preprocessing.input_shape)
            check_classes(self.name, logits, len(self.class_names))

    def __repr__(self) -> str:
        size = "×".join(map(str, self.preprocessing.input_shape))
        numbers = sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(self.variables))
        return f"Backbone({self.name!r}, {size} images, {self.task!r}, {numbers:,} values)"

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

    def features_at(self, cut: str) -> Structs:
        """The features of one image at one cut: traces no further, and each cut once.

        Args:
          cut: endpoint of the network; a ConfigError if there is no such cut.

        Returns:
          `jax.ShapeDtypeStruct`, or a tree of them, without the leading axis.
        """
        if cut not in (cuts := self.network.cuts()):
            raise ConfigError(f"{self.name} has no cut {cut!r}; it has {choices(cut, cuts)}")
        if not isinstance(self.network, LinenNetwork) or "feature_shapes" in self.__dict__:
            return self.feature_shapes[cut]
        if cut not in self._heads:
            # The sender's program of one image: jax keeps its trace for the first image.
            program = head_program(self.network, (cut,), self.preprocessing)
            image = jax.ShapeDtypeStruct((1, *self.preprocessing.input_shape), np.uint8)
            features = program.eval_shape(self.variables, image)[0][cut]
            self._heads[cut] = without_batch(features)
        return self._heads[cut]

    @functools.cached_property
    def _heads(self) -> dict[str, Structs]:
        return {}

    @functools.cached_property
    def output_shapes(self) -> Structs:
        """The outputs for one image: `jax.ShapeDtypeStruct`s without the leading axis."""
        return per_image_shapes(self.network, self.variables, self.preprocessing.input_shape)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the backbone as one file for `jaxsplit.load_backbone`, in float32.

        A network of your own is found by its name: call `networks.register` before you save it, and
        in every program that loads the file.

        Args:
          path: file to write, NAME.safetensors; replaced atomically.

        Raises:
          ConfigError: the file cannot be written, or its network or task is not registered.
          WeightsError: these variables could not be read again, such as those of `fold`.

        >>> import tempfile
        >>> own = open_embedded("fashion_mnist_resnet8")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     own.save(f"{folder}/own.safetensors")
        ...     read_backbone(f"{folder}/own.safetensors").fingerprint == own.fingerprint
        True
        """
        if Path(path).suffix != SUFFIX:
            raise ConfigError(f"cannot write {os.fspath(path)}: the name must end in {SUFFIX}")
        values = {name: getattr(self, name) for name in backbone_file.BackboneContent._fields}
        content = backbone_file.BackboneContent(**values)
        if not self.network.folded and fingerprint(self.variables) != self.fingerprint:
            raise WeightsError(
                f"cannot write {os.fspath(path)}: its variables are not those of its fingerprint; "
                "make the backbone with jaxsplit.make_backbone"
            )
        backbone_file.write_content(Path(path), content, "float32")

    def fold(self) -> Backbone:
        """Returns the backbone with its network folded, see `Network.fold`; same fingerprint."""
        network, variables = self.network.fold(self.variables)
        if variables is self.variables:
            return self
        return dataclasses.replace(self, network=network, variables=variables)


def check_backbone(value: object) -> None:
    """Raises a ConfigError unless this is a backbone."""
    if not isinstance(value, Backbone):
        raise ConfigError(
            f"got a {type(value).__name__} in place of the backbone; expected what "
            "jaxsplit.load_backbone or jaxsplit.make_backbone returns"
        )


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
      network: see `as_network`.
      variables, preprocessing, task, card: as in `Backbone`; class names in the logits' order.

    Returns:
      The backbone, fingerprinted.

    Raises:
      ConfigError: `network` is none, or has another number of logits than there are class names.

    >>> known = open_embedded("fashion_mnist_resnet8")
    >>> parts = known.network, known.variables, known.preprocessing
    >>> make_backbone("own", *parts, "abcdefghij").class_names[9]
    'j'
    """
    if not isinstance(task, Task | Sequence):
        raise ConfigError(
            f"task is {task!r}; expected the names of the classes, or a jaxsplit.Task"
        )
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
    digest = hashlib.sha256()
    for path, leaf in sorted(backbone_file.by_name(variables).items()):
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
    class_names: tuple[str, ...] = (),
    task: Task | None = None,
    card: Mapping[str, object],
    dtype: str = "float16",
) -> None:
    """Writes weights and card as one safetensors file; equal ones give equal bytes.

    `Backbone.save` does the same for a backbone, in float32.

    Args:
      path: file to write; replaced atomically.
      variables: {"params", "batch_stats"}, not folded.
      name: of an included network, or of one that was registered by `register`.
      preprocessing, card: as in `Backbone`.
      class_names: of a classification.
      task: in place of class names.
      dtype: of the stored arrays; they are float32 again when read.

    Raises:
      ConfigError: the file cannot be written, or no network has this name.
      WeightsError: these variables could not be read again.

    >>> import tempfile
    >>> own = open_embedded("fashion_mnist_resnet8")
    >>> known = {name: getattr(own, name) for name in ("name", "preprocessing", "class_names")}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_backbone(f"{folder}/own.safetensors", own.variables, card={"seed": 0}, **known)
    ...     read_backbone(f"{folder}/own.safetensors").card
    {'seed': 0}
    """
    task = task or Classification(tuple(class_names))
    network = registry.find_network(name, len(getattr(task, "class_names", ()))).network
    backbone = Backbone(name, network, variables, preprocessing, task, "", card)
    values = {name: getattr(backbone, name) for name in backbone_file.BackboneContent._fields}
    content = backbone_file.BackboneContent(**values)
    backbone_file.write_content(Path(path), content, dtype)


def read_backbone(path: str | os.PathLike[str]) -> Backbone:
    """Reads a file of `Backbone.save` or `save_backbone`; nothing in it is executed.

    Args:
      path: of the file.

    Returns:
      The backbone, without a name for its weights.

    Raises:
      WeightsError: the file is missing, is no such file, names a network that is not registered, or
        does not fit it.

    >>> read_backbone(BACKBONES / "fashion_mnist_resnet8.safetensors").name
    'resnet8_small'
    """
    content = backbone_file.read_content(path)
    try:
        return make_backbone(*content)
    except ConfigError as error:  # of a registered network: an included one has these classes
        raise WeightsError(f"{os.fspath(path)}: {error}") from error
