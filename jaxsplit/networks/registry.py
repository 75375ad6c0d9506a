"""Creates networks by name and lists the shapes of their features."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn

from jaxsplit.errors import ConfigError
from jaxsplit.networks.inverted_residual import SIZES, InvertedResidualNet
from jaxsplit.networks.layers import Chain
from jaxsplit.networks.network import LinenNetwork
from jaxsplit.networks.resnet import RESNETS, ResNet

_NETWORKS: dict[str, Callable[..., Chain]] = {
    **{name: functools.partial(ResNet, size=size) for name, size in RESNETS.items()},
    **{name: functools.partial(InvertedResidualNet, size=size) for name, size in SIZES.items()},
}


def names() -> tuple[str, ...]:
    """Lists the networks. Weights have names of their own, see `embedded_weights`.

    Returns:
      Names for `create`.

    >>> "resnet8_small" in names()
    True
    """
    return tuple(_NETWORKS)


def create(
    name: str, num_classes: int, axis_name: str | None = None, *, folded: bool = False
) -> Chain:
    """Creates the Linen module of a network, without parameters.

    Args:
      name: one of `names()`; a ConfigError otherwise.
      num_classes: length of the logits.
      axis_name, folded: see `Chain`.

    Returns:
      The module, with Flax's `init` and `apply`.

    >>> create("resnet8_small", 10).endpoints()
    ('stem', 'stage1.block1', 'stage2.block1', 'stage3.block1', 'logits')
    """
    if name not in _NETWORKS:
        raise ConfigError(f"no network is called {name!r}; expected one of {', '.join(names())}")
    return _NETWORKS[name](num_classes=num_classes, axis_name=axis_name, folded=folded)


def cuts(
    name: str, input_shape: tuple[int, int, int] = (224, 224, 3)
) -> dict[str, tuple[int, int, int]]:
    """Returns the feature shape (H, W, C) at every cut of a network.

    Args:
      name, input_shape: one of `names()`, and (H, W, c) of one image; a ConfigError otherwise.

    Returns:
      Cut → shape, in the network's order.

    >>> cuts("resnet50")["stage4.block3"]
    (7, 7, 2048)
    """
    return endpoint_shapes(create(name, num_classes=2), input_shape)


def endpoint_shapes(
    module: nn.Module, input_shape: tuple[int, int, int]
) -> dict[str, tuple[int, int, int]]:
    """Returns the feature shape (H, W, C) at every endpoint but the logits; nothing is run.

    Args:
      module: Linen module with `endpoints()` and `(x, start=…, stop=…)`, such as a `Chain`.
      input_shape: (H, W, c) of one image; a ConfigError otherwise.

    Returns:
      Endpoint → shape, in the network's order.

    >>> endpoint_shapes(create("resnet8_small", num_classes=10), (28, 28, 1))["stage3.block1"]
    (7, 7, 64)
    """
    found = LinenNetwork(module).feature_shapes(None, input_shape)
    return {name: features.shape for name, features in found.items()}
