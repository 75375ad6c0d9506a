"""What other packages call the layers of our networks, and how they lay out the kernels.

A convention is a function from one of our layers, as ("stage1_block2", "conv3"), to what the names
of its tensors begin with, as "layer1.1.conv3". PyTorch's kernels are [out, in, k, k] and its
matrices [out, in]; ours are [k, k, in, out] and [in, out].
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxsplit import models
from jaxsplit.errors import WeightsError
from jaxsplit.models.inverted_residual import InvertedResidualNet
from jaxsplit.models.resnet import ResNet

Convention = Callable[[str, str], str]

_TENSORS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_IGNORED = "num_batches_tracked"
_SHOWN = 12  # tensors that an error lists of each kind


def from_tensors(
    name: str, tensors: dict[str, np.ndarray], where: str
) -> tuple[dict[str, Any], int]:
    """Another package's tensors as the variables of our network.

    Args:
      name: of the network, as `models.create` knows it.
      tensors: named as in torchvision, timm or, for EfficientNet-Lite, efficientnet_lite_pytorch.
      where: the file, for the error.

    Returns:
      {"params", "batch_stats"}, float32, and the number of classes.

    Raises:
      WeightsError: tensors are missing, of no use or of another shape: one message names them.
    """
    given = {key: value for key, value in tensors.items() if not key.endswith(_IGNORED)}
    conventions = _conventions(name)
    if not conventions:
        raise WeightsError(f"{name} is this package's own: no other one has weights for it")
    # A file of another network fits none: its errors are those of the nearest.
    sources = max(
        (_source_names(name, convention) for convention in conventions.values()),
        key=lambda names: len(given.keys() & names.values()),
    )
    bias = given.get(sources["params", "logits", "dense", "bias"])
    classes = len(bias) if bias is not None and bias.ndim == 1 and len(bias) else 1000
    shapes = _shapes(name, classes)
    flat = {path: _transposed(given[key]) for path, key in sources.items() if key in given}
    problems = {
        "missing": sorted(set(sources.values()) - given.keys()),
        "of no use": sorted(given.keys() - set(sources.values())),
        "of another shape": [
            f"{sources[path]} {given[sources[path]].shape}"
            for path, value in flat.items()
            if value.shape != shapes[path]
        ],
        "not of numbers": [
            sources[path] for path, value in flat.items() if value.dtype.kind not in "fV"
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_listed(keys)}" for kind, keys in problems.items() if keys)
        raise WeightsError(
            f"{where} does not fit {name}, whose tensors are named as in "
            f"{' or '.join(conventions)}; {listed}"
        )
    with np.errstate(over="ignore"):  # of a float64 that float32 cannot hold
        values = {path: np.ascontiguousarray(value, np.float32) for path, value in flat.items()}
    wild = [sources[path] for path, value in values.items() if not np.isfinite(value).all()]
    if wild:
        raise WeightsError(f"{where} is damaged: not finite in float32: {_listed(wild)}")
    return traverse_util.unflatten_dict(values), classes


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _transposed(value: np.ndarray) -> np.ndarray:
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)
    return value if axes is None else value.transpose(axes)


@functools.lru_cache
def _shapes(name: str, classes: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path of each variable → its shape."""
    module = models.create(name, classes)
    image = jnp.zeros((1, 64, 64, 3))
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), image))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}


def _source_names(name: str, convention: Convention) -> dict[tuple[str, ...], str]:
    """Path of each variable → name of its tensor."""
    return {
        path: f"{convention(path[1], path[2])}.{_TENSORS[path[3]]}" for path in _shapes(name, 1000)
    }


def _conventions(name: str) -> dict[str, Convention]:
    """Package → its convention for this network."""
    module = models.create(name, 1000)
    if isinstance(module, ResNet):
        return {"torchvision and timm": _resnet}
    if not isinstance(module, InvertedResidualNet):
        return {}
    endpoints = [end.replace(".", "_") for end in module.endpoints() if end.startswith("stage")]
    numbers = {block: number for number, block in enumerate(endpoints)}
    if name == "mobilenet_v2":
        flat = functools.partial(_torchvision_mobilenet, numbers)
        return {"torchvision": flat, "timm": _timm}
    flat = functools.partial(_efficientnet_lite_pytorch, numbers)
    return {"efficientnet_lite_pytorch": flat, "timm (tf_efficientnet_lite)": _timm}


def _place(block: str) -> tuple[int, int]:
    """ "stage2_block3" → (2, 3)."""
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
    if block in ("stem", "top", "logits"):
        return {
            ("stem", "conv"): "conv_stem",
            ("stem", "bn"): "bn1",
            ("top", "conv"): "conv_head",
            ("top", "bn"): "bn2",
            ("logits", "dense"): "classifier",
        }[block, layer]
    stage, number = _place(block)
    kind, place = layer.split("_")
    # The first stage expands nothing: its depthwise convolution comes first, and bn1 with it.
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
    first = 0 if _place(block)[0] == 1 else 1  # of the depthwise convolution in its block
    inner = {
        "expand": {"conv": "0.0", "bn": "0.1"},
        "depthwise": {"conv": f"{first}.0", "bn": f"{first}.1"},
        "project": {"conv": f"{first + 1}", "bn": f"{first + 2}"},
    }
    return f"features.{numbers[block] + 1}.conv.{inner[place][kind]}"


def _efficientnet_lite_pytorch(numbers: dict[str, int], block: str, layer: str) -> str:
    if block in ("stem", "top", "logits"):
        return {
            ("stem", "conv"): "_conv_stem",
            ("stem", "bn"): "_bn0",
            ("top", "conv"): "_conv_head",
            ("top", "bn"): "_bn1",
            ("logits", "dense"): "_fc",
        }[block, layer]
    kind, place = layer.split("_")
    index = ("expand", "depthwise", "project").index(place)
    return f"_blocks.{numbers[block]}.{f'_{place}_conv' if kind == 'conv' else f'_bn{index}'}"
