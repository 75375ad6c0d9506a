"""The included networks by name, and the features at their cuts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax

from jaxsplit.errors import ConfigError, choices
from jaxsplit.networks.convnext import CONVNEXTS, ConvNeXt
from jaxsplit.networks.deeplab import DEEPLABS, DeepLab
from jaxsplit.networks.layers import Chain
from jaxsplit.networks.mobilenet_v3 import MOBILENETS_V3, MobileNetV3
from jaxsplit.networks.network import LinenNetwork
from jaxsplit.networks.residual import RESNETS, SIZES, InvertedResidualNet, ResNet
from jaxsplit.networks.vision_transformer import VISION_TRANSFORMERS, VisionTransformer

#: (H, W, C) of one array.
MapShape = tuple[int, int, int]
_Shapes = dict[str, MapShape | dict[str, MapShape]]

_SIZES: tuple[tuple[Callable[..., Chain], Mapping[str, object]], ...] = (
    (ResNet, RESNETS),
    (InvertedResidualNet, SIZES),
    (MobileNetV3, MOBILENETS_V3),
    (ConvNeXt, CONVNEXTS),
    (VisionTransformer, VISION_TRANSFORMERS),
    (DeepLab, DEEPLABS),
)
_NETWORKS: dict[str, Callable[..., Chain]] = {
    name: functools.partial(module, size=size)
    for module, sizes in _SIZES
    for name, size in sizes.items()
}


def names() -> tuple[str, ...]:
    """Lists the networks; weights have names of their own, see `embedded_weights`.

    Returns:
      Names for `create`.

    >>> "resnet8_small" in names()
    True
    """
    return tuple(_NETWORKS)


def create(
    name: str,
    num_classes: int,
    axis_name: str | None = None,
    *,
    folded: bool = False,
    width: float = 1.0,
) -> Chain:
    """Creates the Linen module of a network, without parameters.

    Args:
      name: one of `names()`; a ConfigError otherwise.
      num_classes: length of the logits.
      axis_name, folded: see `Chain`.
      width: multiple of the published channels, see `deeplab.DeepLab`; a ConfigError for a network
        of one width.

    Returns:
      The module, with Flax's `init` and `apply`.

    >>> create("resnet8_small", 10).endpoints()
    ('stem', 'stage1.block1', 'stage2.block1', 'stage3.block1', 'logits')
    """
    if name not in _NETWORKS:
        listed = choices(name, names())
        raise ConfigError(f"no network is called {name!r}; expected one of {listed}")
    make = _NETWORKS[name]
    if width != 1:
        if name not in DEEPLABS:
            raise ConfigError(f"width is {width}; {name} has a width of 1 alone")
        make = functools.partial(make, width=width)
    return make(num_classes=num_classes, axis_name=axis_name, folded=folded)


def cuts(name: str, input_shape: MapShape = (224, 224, 3)) -> _Shapes:
    """Returns the feature shape (H, W, C) at every cut of a network.

    Args:
      name, input_shape: one of `names()`, and (H, W, c) of one image; a ConfigError otherwise.

    Returns:
      Cut → shape, in the network's order; a dictionary of shapes where several arrays cross.

    >>> cuts("resnet50")["stage4.block3"]
    (7, 7, 2048)
    >>> cuts("deeplabv3_mobilenet_v2", (513, 513, 3))["aspp.branches"]
    {'branch0': (33, 33, 256), 'pooling': (1, 1, 256)}
    >>> cuts("deit_tiny")["block3"]
    {'class_token': (1, 1, 192), 'patches': (14, 14, 192)}
    """
    return endpoint_shapes(create(name, num_classes=2), input_shape)


def endpoint_shapes(module: nn.Module, input_shape: MapShape) -> _Shapes:
    """Returns the feature shape (H, W, C) at every endpoint but the logits; nothing is run.

    Args:
      module: Linen module with `endpoints()` and `(x, start=…, stop=…)`, such as a `Chain`.
      input_shape: (H, W, c) of one image; a ConfigError otherwise.

    Returns:
      Endpoint → shape, in the network's order; a dictionary of shapes where several arrays cross.

    >>> endpoint_shapes(create("resnet8_small", num_classes=10), (28, 28, 1))["stage3.block1"]
    (7, 7, 64)
    """
    found = LinenNetwork(module).feature_shapes({}, input_shape)
    return {name: jax.tree.map(lambda leaf: leaf.shape, one) for name, one in found.items()}
