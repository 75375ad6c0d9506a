"""Maps tensor names and layouts of other packages to the variables of our networks.

A convention maps a layer of ours, such as ("stage1_block2", "conv3"), to the prefix of its tensors'
names, such as "layer1.1.conv3". PyTorch's kernels are [out, in, k, k] and its matrices [out, in];
ours are [k, k, in, out] and [in, out].
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from flax import traverse_util

from jaxsplit import networks
from jaxsplit.errors import ConfigError, WeightsError
from jaxsplit.io.untrusted import check_tensors, finite_floats
from jaxsplit.networks.deeplab import DeepLab
from jaxsplit.networks.network import variable_shapes
from jaxsplit.networks.residual import ResNet, ResNetSize
from jaxsplit.weights import deeplab_names

VariablePath = tuple[str, ...]

#: Name of a variable → PyTorch's; the others are a "weight".
TORCH_NAMES = {"bias": "bias", "mean": "running_mean", "var": "running_var"}
# Layers of inverted-residual networks outside the blocks, and their names in these packages.
_PACKAGES = ("torchvision", "timm", "efficientnet_lite_pytorch")
_ENDS = {
    "stem_conv": ("features.0.0", "conv_stem", "_conv_stem"),
    "stem_bn": ("features.0.1", "bn1", "_bn0"),
    "top_conv": ("features.18.0", "conv_head", "_conv_head"),
    "top_bn": ("features.18.1", "bn2", "_bn1"),
    "logits_dense": ("classifier.1", "classifier", "_fc"),
}
# Block and variable of the only bias that has an entry for each class.
_LAST_BIAS = ("logits", "bias")
# PyTorch's order of the axes of our arrays, by rank.
_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}


def packages(name: str) -> tuple[str, ...]:
    """Returns the packages that publish weights of the network; () for our own networks."""
    module = networks.create(name, 1)
    if isinstance(module, ResNet) and module.size.small:
        return ()
    if isinstance(module, DeepLab):
        return ("torchvision",) if isinstance(module.size.backbone, ResNetSize) else ()
    return ("efficientnet_lite_pytorch" if "lite" in name else "torchvision", "timm")


def source_names(name: str, package: str) -> dict[VariablePath, str]:
    """Returns path of each variable → name of its tensor in one of a network's `packages`.

    Paths are those of `flax.traverse_util.flatten_dict`. Raises a ConfigError for other packages.

    >>> source_names("resnet18", "timm")["params", "stage1_block2", "conv1", "kernel"]
    'layer1.1.conv1.weight'
    """
    if package not in packages(name):
        raise ConfigError(f"{package} has no {name}; choose from {packages(name)}")
    module = networks.create(name, 1)
    convention: Callable[[str, str], str] = _resnet
    if isinstance(module, DeepLab):
        convention = functools.partial(deeplab_names.torchvision_name, _resnet)
    elif not isinstance(module, ResNet):
        blocks = [end.replace(".", "_") for end in module.endpoints() if end.startswith("stage")]
        convention = functools.partial(_inverted_residual, package, blocks)
    return {
        path: f"{convention(path[1], path[2])}.{TORCH_NAMES.get(path[3], 'weight')}"
        for path in _shapes(name, 1000)
    }


def from_tensors(
    name: str, tensors: dict[str, np.ndarray], where: str
) -> tuple[dict[str, Any], int]:
    """Converts the tensors of one of a network's `packages` to our variables.

    Removes them from the dict meanwhile, so that a large file is not in memory twice. `where` names
    the file in errors.

    Returns:
      {"params", "batch_stats"}, float32, and the number of classes.

    Raises:
      WeightsError: see `check_tensors` and `finite_floats`.
    """
    known = packages(name)
    if not known:
        advice = "give a file of Backbone.save"
        raise WeightsError(f"no other package has weights of jaxsplit's own {name}; {advice}")
    for key in [key for key in tensors if key.endswith("num_batches_tracked")]:
        del tensors[key]
    if isinstance(networks.create(name, 1), DeepLab):
        for key in [key for key in tensors if key.startswith(deeplab_names.AUXILIARY)]:
            del tensors[key]
    # If no package's names fit, the errors refer to the best match.
    candidates = [source_names(name, package) for package in known]
    sources = max(candidates, key=lambda names: len(tensors.keys() & names.values()))
    bias = tensors.get(next(key for path, key in sources.items() if path[1::2] == _LAST_BIAS))
    classes = len(bias) if bias is not None and bias.ndim == 1 and len(bias) else 1000
    shapes = {sources[path]: _to_torch(shape) for path, shape in _shapes(name, classes).items()}
    named = f"whose tensors are named as in {' or '.join(known)}"
    check_tensors(tensors, shapes, f"{where} does not fit {name}, {named}")
    floats = finite_floats(tensors, where)
    flat = {path: _from_torch(floats.pop(key)) for path, key in sources.items()}
    return traverse_util.unflatten_dict(flat), classes


def _to_torch(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _AXES.get(len(shape), range(len(shape))))


def _from_torch(value: np.ndarray) -> np.ndarray:
    axes = _AXES.get(value.ndim, range(value.ndim))
    return np.ascontiguousarray(value.transpose(np.argsort(axes)))


@functools.lru_cache
def _shapes(name: str, classes: int) -> dict[VariablePath, tuple[int, ...]]:
    """Returns path of each variable → its shape."""
    tree = variable_shapes(networks.create(name, classes), (64, 64, 3))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}


def _resnet(block: str, layer: str) -> str:
    if block == "logits":
        return "fc"
    if block == "stem":
        return f"{layer}1"
    stage, number = map(int, re.findall(r"\d+", block))  # of "stage2_block3"
    layer = {"conv_shortcut": "downsample.0", "bn_shortcut": "downsample.1"}.get(layer, layer)
    return f"layer{stage}.{number - 1}.{layer}"


def _inverted_residual(package: str, blocks: list[str], block: str, layer: str) -> str:
    if f"{block}_{layer}" in _ENDS:
        return _ENDS[f"{block}_{layer}"][_PACKAGES.index(package)]
    stage, number = map(int, re.findall(r"\d+", block))
    kind, role = layer.split("_")
    order = ("expand", "depthwise", "project")
    if package == "efficientnet_lite_pytorch":
        own = f"_{role}_conv" if kind == "conv" else f"_bn{order.index(role)}"
        return f"_blocks.{blocks.index(block)}.{own}"
    # The first stage has no expansion: its blocks begin with the depthwise convolution.
    index = order.index(role) - (stage == 1)
    if package == "timm":
        convs = ("conv_dw", "conv_pw") if stage == 1 else ("conv_pw", "conv_dw", "conv_pwl")
        own = convs[index] if kind == "conv" else f"bn{index + 1}"
        return f"blocks.{stage - 1}.{number - 1}.{own}"
    is_bn = int(kind == "bn")
    own = f"{index + is_bn}" if role == "project" else f"{index}.{is_bn}"
    return f"features.{blocks.index(block) + 1}.conv.{own}"
