"""Maps tensor names and layouts of other packages to the variables of our networks.

PyTorch's kernels are [out, in, k, k] and its matrices [out, in]; ours are [k, k, in, out] and
[in, out]. For the names see `weights.conventions`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from jaxsplit import networks
from jaxsplit.errors import ConfigError, WeightsError
from jaxsplit.io.untrusted import check_tensors, finite_floats, is_variance
from jaxsplit.networks.deeplab import DeepLab
from jaxsplit.networks.mobilenet_v3 import MobileNetV3
from jaxsplit.networks.network import variable_shapes
from jaxsplit.networks.vision_transformer import VisionTransformer
from jaxsplit.weights import conventions, deeplab_names, imagenet

VariablePath = tuple[str, ...]

#: Name of a variable → PyTorch's; the others are a "weight".
TORCH_NAMES = {"bias": "bias", "mean": "running_mean", "var": "running_var"}
# Block and variable of the only bias that has an entry for each class.
_LAST_BIAS = ("logits", "bias")
# PyTorch's order of the axes of our arrays, by rank.
_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
_TOKEN, _POSITION = "cls_token", "pos_embed"  # of a vision transformer
_TIMM_EPSILON = 1e-5  # of its MobileNetV3, whose other implementation has 1e-3


class Imported(NamedTuple):
    """Variables {"params", "batch_stats"}, float32, the number of classes, and the package."""

    variables: dict[str, Any]
    classes: int
    package: str


def packages(name: str) -> tuple[str, ...]:
    """Returns the packages that publish weights of the network; () for our own networks."""
    return conventions.packages(networks.create(name, 1))


def source_names(name: str, package: str) -> dict[VariablePath, str]:
    """Returns path of each variable → name of its tensor in one of a network's `packages`.

    Paths are those of `flax.traverse_util.flatten_dict`. Raises a ConfigError for other packages.

    >>> source_names("resnet18", "timm")["params", "stage1_block2", "conv1", "kernel"]
    'layer1.1.conv1.weight'
    """
    if package not in packages(name):
        raise ConfigError(f"{package} has no {name}; choose from {packages(name)}")
    prefix = conventions.convention(networks.create(name, 1), package)

    def source(path: VariablePath) -> str:
        _, block, *layers, variable = path
        if not layers:  # a parameter of the block itself
            return prefix(block, variable)
        return f"{prefix(block, '.'.join(layers))}.{TORCH_NAMES.get(variable, 'weight')}"

    return {path: source(path) for path in _shapes(name, imagenet.NUM_CLASSES)}


def from_tensors(name: str, tensors: dict[str, np.ndarray], where: str) -> Imported:
    """Converts the tensors of one of a network's `packages` to our variables.

    Removes them from the dict meanwhile, so that a large file is not in memory twice. `where` names
    the file in errors.

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
    candidates = {package: source_names(name, package) for package in known}
    package = max(known, key=lambda one: len(tensors.keys() & candidates[one].values()))
    sources = candidates[package]
    bias = tensors.get(next(key for path, key in sources.items() if path[1::2] == _LAST_BIAS))
    classes = len(bias) if bias is not None and bias.ndim == 1 and len(bias) else 1000
    shapes = {sources[path]: _to_torch(shape) for path, shape in _shapes(name, classes).items()}
    module = networks.create(name, 1)
    if isinstance(module, VisionTransformer):  # the file has the class token's position too
        batch, count, width = shapes[_POSITION]
        shapes[_POSITION] = batch, count + 1, width
    _reshape(tensors, shapes)
    named = f"whose tensors are named as in {' or '.join(known)}"
    check_tensors(tensors, shapes, f"{where} does not fit {name}, {named}")
    floats = finite_floats(tensors, where)
    if isinstance(
        module, VisionTransformer
    ):  # the token and its position are one parameter of ours
        floats[_TOKEN] = floats[_TOKEN] + floats[_POSITION][:, :1]
        floats[_POSITION] = floats[_POSITION][:, 1:]
    if isinstance(module, MobileNetV3) and package == conventions.TIMM:
        _change_epsilon(floats, _TIMM_EPSILON, module.epsilon)
    flat = {path: _from_torch(floats.pop(key)) for path, key in sources.items()}
    return Imported(traverse_util.unflatten_dict(flat), classes, package)


def _reshape(tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    """Reshapes a matrix that is a 1×1 convolution, and factors of channels that are [c, 1, 1]."""
    for key, shape in shapes.items():
        if key in tensors and _without_ones(tensors[key].shape) == _without_ones(shape):
            tensors[key] = tensors[key].reshape(shape)


def _change_epsilon(floats: dict[str, np.ndarray], before: float, after: float) -> None:
    """Scales batch normalizations so that they give the same with another epsilon."""
    for key, variance in floats.items():
        if is_variance(key):
            scale = key.removesuffix(TORCH_NAMES["var"]) + "weight"
            ratio = np.sqrt((variance + np.float32(after)) / (variance + np.float32(before)))
            floats[scale] = floats[scale] * ratio


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _to_torch(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _AXES.get(len(shape), range(len(shape))))


def _from_torch(value: np.ndarray) -> np.ndarray:
    axes = _AXES.get(value.ndim, range(value.ndim))
    return np.ascontiguousarray(value.transpose(np.argsort(axes)))


@functools.lru_cache
def _shapes(name: str, classes: int) -> dict[VariablePath, tuple[int, ...]]:
    """Returns path of each variable → its shape."""
    module = networks.create(name, classes)
    # Positions depend on the size of the image; of other networks a small one is traced faster.
    by_size = isinstance(module, VisionTransformer)
    image = imagenet.preprocessing(name).input_shape if by_size else (64, 64, 3)
    tree = variable_shapes(module, image)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}
