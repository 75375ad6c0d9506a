"""Names of DeepLabV3's tensors in torchvision and in TensorFlow Lite files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import check_tensors, finite_floats
from jaxsplit.networks.architectures import create
from jaxsplit.networks.deeplab import POOLING, DeepLab
from jaxsplit.networks.layers import Chain
from jaxsplit.networks.network import variable_shapes
from jaxsplit.weights.tflite import Convolution

#: Prefix of tensors of torchvision's auxiliary head, which is left out.
AUXILIARY = "aux_classifier."
#: The network whose weights are read from .tflite files.
FROM_TFLITE = "deeplabv3_mobilenet_v2"
_STEM_WIDTH = 32  # channels of the stem at width 1

# (Block, layer) of ours → the prefix in torchvision.
_TORCHVISION = {
    ("aspp_branches", f"conv_{POOLING}"): "classifier.0.convs.4.1",
    ("aspp_branches", f"bn_{POOLING}"): "classifier.0.convs.4.2",
    **{
        ("aspp_branches", f"{kind}{i}"): f"classifier.0.convs.{i}.{j}"
        for i in range(4)
        for j, kind in enumerate(("conv", "bn"))
    },
    ("aspp", "conv"): "classifier.0.project.0",
    ("aspp", "bn"): "classifier.0.project.1",
    ("head", "conv"): "classifier.1",
    ("head", "bn"): "classifier.2",
    ("logits", "conv"): "classifier.4",
}
# (Block, layer) of ours → the scope in TensorFlow.
_TENSORFLOW = {
    ("stem", "conv"): "MobilenetV2/Conv",
    ("aspp_branches", "conv0"): "aspp0",
    ("aspp_branches", f"conv_{POOLING}"): "image_pooling",
    ("aspp", "conv"): "concat_projection",
    ("logits", "conv"): "logits/semantic",
}


def torchvision_name(resnet: Callable[[str, str], str], block: str, layer: str) -> str:
    """Returns the prefix of a layer's tensors in torchvision's DeepLabV3.

    >>> torchvision_name(lambda block, layer: "layer1.0.conv1", "stage1_block1", "conv1")
    'backbone.layer1.0.conv1'
    """
    known = _TORCHVISION.get((block, layer))
    return f"backbone.{resnet(block, layer)}" if known is None else known


class FromTflite(NamedTuple):
    """A network with the weights of a file: {"params", "batch_stats"}, float32."""

    module: Chain
    variables: Mapping[str, Any]


def from_convolutions(name: str, convolutions: Mapping[str, Convolution], where: str) -> FromTflite:
    """Makes the variables of `deeplabv3_mobilenet_v2`, of any width, from a .tflite file.

    Batch normalization is folded in the file. The network gets it back as one that adds the bias
    alone: its scale is 1, its mean 0 and its variance 1 - epsilon.

    Args:
      name: of the network; a WeightsError for another.
      convolutions: of the file.
      where: names the file in errors.

    Returns:
      The network and its variables.

    Raises:
      WeightsError: they do not fit the network, or are not finite.
    """
    if name != FROM_TFLITE:
        raise WeightsError(f"{where} is a .tflite; only {FROM_TFLITE} is read from one, not {name}")
    stem, logits = (convolutions.get(_TENSORFLOW[one, "conv"]) for one in ("stem", "logits"))
    if stem is None or logits is None:
        raise WeightsError(f"{where} has no layers of {name}, which begin with MobilenetV2/Conv")
    if not 4 <= len(stem.bias) <= 4 * _STEM_WIDTH:
        raise WeightsError(f"{where} has a stem of {len(stem.bias)} channels, expected 4 … 128")
    module = create(name, len(logits.bias), width=len(stem.bias) / _STEM_WIDTH)
    shapes = traverse_util.flatten_dict(variable_shapes(module, (64, 64, 3)))
    sources = _tensorflow_names(module)
    expected, tensors = {}, {}
    for (_, block, layer, variable), leaf in shapes.items():
        if variable == "kernel":
            source = sources[block, layer]
            expected[f"{source}/kernel"] = leaf.shape
            expected[f"{source}/bias"] = leaf.shape[-1:]
    for source, one in convolutions.items():
        tensors[f"{source}/kernel"], tensors[f"{source}/bias"] = one.kernel, one.bias
    check_tensors(tensors, expected, f"{where} does not fit {name}")
    _check_stride(module, convolutions, where)
    floats = finite_floats(tensors, where)
    # TensorFlow concatenates the pooled branch first, we last.
    projection = f"{_TENSORFLOW['aspp', 'conv']}/kernel"
    floats[projection] = np.roll(floats[projection], floats[projection].shape[2] // 2, axis=2)
    found = {
        path: _variable(path, leaf.shape, sources, floats, module.epsilon)
        for path, leaf in shapes.items()
    }
    return FromTflite(module, traverse_util.unflatten_dict(found))


def _tensorflow_names(module: Chain) -> dict[tuple[str, str], str]:
    """Returns (block, layer) of every convolution → its scope in the file."""
    names = dict(_TENSORFLOW)
    blocks = [end.replace(".", "_") for end in module.endpoints() if end.startswith("stage")]
    for i, block in enumerate(blocks):
        scope = "MobilenetV2/expanded_conv" + (f"_{i}" if i else "")
        for role in ("expand", "depthwise", "project"):
            names[block, f"conv_{role}"] = f"{scope}/{role}"
    return names


def _check_stride(module: Chain, convolutions: Mapping[str, Convolution], where: str) -> None:
    """Refuses a file whose network has another output stride, which its shapes don't show."""
    assert isinstance(module, DeepLab)
    stride = math.prod(one.stride for one in convolutions.values())
    if stride != module.size.output_stride:
        expected = module.size.output_stride
        raise WeightsError(f"{where} has an output stride of {stride}, expected {expected}")


def _variable(
    path: tuple[str, ...],
    shape: tuple[int, ...],
    sources: Mapping[tuple[str, str], str],
    floats: Mapping[str, np.ndarray],
    epsilon: float,
) -> np.ndarray:
    _, block, layer, variable = path
    source = sources[block, layer.replace("bn", "conv", 1)]
    if variable in ("kernel", "bias"):
        return floats[f"{source}/{variable}"]
    if variable == "var":
        return np.full(shape, np.float32(1) - np.float32(epsilon), np.float32)
    return np.full(shape, float(variable == "scale"), np.float32)
