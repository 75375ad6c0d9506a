"""Maps tensor names and layouts of other packages to the variables of our networks.

A convention is a function from a layer of ours, such as ("stage1_block2", "conv3"), to the prefix
of its tensors' names, such as "layer1.1.conv3". PyTorch's kernels are [out, in, k, k] and its
matrices [out, in]; ours are [k, k, in, out] and [in, out].
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
from jaxsplit.io.untrusted import finite_floats, is_floating, listed, shown, shown_shape
from jaxsplit.networks.network import variable_shapes
from jaxsplit.networks.residual import ResNet

Convention = Callable[[str, str], str]
VariablePath = tuple[str, ...]

_TENSORS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_IGNORED = "num_batches_tracked"
# Layers outside the blocks, and their names in the two packages.
_ENDS = ("stem_conv", "stem_bn", "top_conv", "top_bn", "logits_dense")
_TIMM = ("conv_stem", "bn1", "conv_head", "bn2", "classifier")
_LITE = ("_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc")
# PyTorch's order of the axes of our arrays, by rank.
_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}


def packages(name: str) -> tuple[str, ...]:
    """Returns the packages that publish weights of the network; () for our own networks."""
    module = networks.create(name, 1)
    if isinstance(module, ResNet) and module.size.small:
        return ()
    return ("efficientnet_lite_pytorch" if "lite" in name else "torchvision", "timm")


def source_names(name: str, package: str) -> dict[VariablePath, str]:
    """Returns the names of the tensors of one of a network's `packages`; a ConfigError for others.

    Returns:
      Path of each variable, as in `flax.traverse_util.flatten_dict` → name of its tensor.

    >>> source_names("resnet18", "timm")["params", "stage1_block2", "conv1", "kernel"]
    'layer1.1.conv1.weight'
    """
    if package not in packages(name):
        raise ConfigError(f"{package} has no {name}; choose from {packages(name)}")
    convention = _convention(name, package)
    return {
        path: f"{convention(path[1], path[2])}.{_TENSORS[path[3]]}" for path in _shapes(name, 1000)
    }


def from_tensors(
    name: str, tensors: dict[str, np.ndarray], where: str
) -> tuple[dict[str, Any], int]:
    """Converts the tensors of one of a network's `packages` to our variables.

    Tensors are removed from the dict as they are converted, so that a large file is not in memory
    twice. `where` names the file in errors.

    Returns:
      {"params", "batch_stats"}, float32, and the number of classes.

    Raises:
      WeightsError: tensors are missing, unused, of another shape, not floating point, not finite,
        or negative variances.
    """
    known = packages(name)
    if not known:
        raise WeightsError(
            f"{name} is jaxsplit's own network, for which no other package has weights; give a "
            "file of networks.save_backbone"
        )
    for key in [key for key in tensors if key.endswith(_IGNORED)]:
        del tensors[key]
    # If no package's names fit, the errors refer to the best match.
    sources = max(
        (source_names(name, package) for package in known),
        key=lambda names: len(tensors.keys() & names.values()),
    )
    bias = tensors.get(sources["params", "logits", "dense", "bias"])
    classes = len(bias) if bias is not None and bias.ndim == 1 and len(bias) else 1000
    shapes = {sources[path]: _theirs(shape) for path, shape in _shapes(name, classes).items()}
    problems = _problems(tensors, shapes)
    if problems:
        raise WeightsError(
            f"{where} does not fit {name}, whose tensors are named as in {' or '.join(known)}; "
            + "; ".join(f"{kind}: {listed(parts)}" for kind, parts in problems.items())
        )
    floats = finite_floats(tensors, where)
    flat = {path: _ours(floats.pop(key)) for path, key in sources.items()}
    return traverse_util.unflatten_dict(flat), classes


def _problems(
    tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> dict[str, list[str]]:
    """Returns kind of problem → affected tensors, formatted for a message."""
    both = [key for key in shapes if key in tensors]
    problems = {
        "missing": map(shown, sorted(shapes.keys() - tensors.keys())),
        "unused": map(shown, sorted(tensors.keys() - shapes.keys())),
        "of another shape": (
            f"{shown(key)} is {shown_shape(tensors[key].shape)}, expected {shapes[key]}"
            for key in both
            if tensors[key].shape != shapes[key]
        ),
        "not floating point": (
            f"{shown(key)} is {tensors[key].dtype}"
            for key in both
            if not is_floating(tensors[key].dtype)
        ),
    }
    return {kind: found for kind, parts in problems.items() if (found := list(parts))}


def _theirs(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Converts the shape of our array to PyTorch's layout."""
    return tuple(shape[axis] for axis in _AXES.get(len(shape), range(len(shape))))


def _ours(value: np.ndarray) -> np.ndarray:
    """Converts PyTorch's array to our layout, contiguous."""
    axes = _AXES.get(value.ndim, range(value.ndim))
    return np.ascontiguousarray(value.transpose(np.argsort(axes)))


@functools.lru_cache
def _shapes(name: str, classes: int) -> dict[VariablePath, tuple[int, ...]]:
    """Returns path of each variable → its shape."""
    tree = variable_shapes(networks.create(name, classes), (64, 64, 3))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}


def _convention(name: str, package: str) -> Convention:
    module = networks.create(name, 1)
    if isinstance(module, ResNet):
        return _resnet
    if package == "timm":
        return _timm
    blocks = [end.replace(".", "_") for end in module.endpoints() if end.startswith("stage")]
    numbers = {block: number for number, block in enumerate(blocks)}
    flat = _torchvision_mobilenet if package == "torchvision" else _efficientnet_lite_pytorch
    return functools.partial(flat, numbers)


def _place(block: str) -> tuple[int, int]:
    """Parses "stage2_block3" to (2, 3)."""
    stage, number = re.findall(r"\d+", block)
    return int(stage), int(number)


def _resnet(block: str, layer: str) -> str:
    if block == "logits":
        return "fc"
    if block == "stem":
        return f"{layer}1"
    stage, number = _place(block)
    layer = {"conv_shortcut": "downsample.0", "bn_shortcut": "downsample.1"}.get(layer, layer)
    return f"layer{stage}.{number - 1}.{layer}"


def _timm(block: str, layer: str) -> str:
    if f"{block}_{layer}" in _ENDS:
        return _TIMM[_ENDS.index(f"{block}_{layer}")]
    stage, number = _place(block)
    kind, place = layer.split("_")
    # The first stage has no expansion: bn1 belongs to its depthwise convolution.
    order = ("depthwise", "project") if stage == 1 else ("expand", "depthwise", "project")
    convs = ("conv_dw", "conv_pw") if stage == 1 else ("conv_pw", "conv_dw", "conv_pwl")
    index = order.index(place)
    return f"blocks.{stage - 1}.{number - 1}.{convs[index] if kind == 'conv' else f'bn{index + 1}'}"


def _torchvision_mobilenet(numbers: dict[str, int], block: str, layer: str) -> str:
    if block == "logits":
        return "classifier.1"
    if block in ("stem", "top"):
        return f"features.{0 if block == 'stem' else len(numbers) + 1}.{int(layer == 'bn')}"
    kind, place = layer.split("_")
    first = 0 if _place(block)[0] == 1 else 1  # index of the depthwise convolution in its block
    inner = {
        "expand": {"conv": "0.0", "bn": "0.1"},
        "depthwise": {"conv": f"{first}.0", "bn": f"{first}.1"},
        "project": {"conv": f"{first + 1}", "bn": f"{first + 2}"},
    }
    return f"features.{numbers[block] + 1}.conv.{inner[place][kind]}"


def _efficientnet_lite_pytorch(numbers: dict[str, int], block: str, layer: str) -> str:
    if f"{block}_{layer}" in _ENDS:
        return _LITE[_ENDS.index(f"{block}_{layer}")]
    kind, place = layer.split("_")
    index = ("expand", "depthwise", "project").index(place)
    return f"_blocks.{numbers[block]}.{f'_{place}_conv' if kind == 'conv' else f'_bn{index}'}"
