"""The networks by name, and the features at every place where one can be cut."""

from __future__ import annotations

from typing import Any

from jaxsplit.errors import ConfigError
from jaxsplit.networks import inverted_residual, resnet
from jaxsplit.networks.chain import Chain
from jaxsplit.networks.network import LinenNetwork

_KINDS: tuple[tuple[type[Any], dict[str, Any]], ...] = (
    (resnet.SmallResNet, resnet.SMALL_SIZES),
    (resnet.ResNet, resnet.SIZES),
    (inverted_residual.InvertedResidualNet, inverted_residual.SIZES),
)


def names() -> tuple[str, ...]:
    """Names of networks.

    Returns:
      What `create` takes; weights have names of their own, as of `embedded_weights`.

    >>> "resnet8_small" in names(), "resnet50" in names(), "efficientnet_lite0" in names()
    (True, True, True)
    """
    return tuple(name for _, sizes in _KINDS for name in sizes)


def create(
    name: str, num_classes: int, axis_name: str | None = None, *, folded: bool = False
) -> Chain:
    """The Linen module called `name`, without parameters.

    Args:
      name: one of `names()`.
      num_classes: length of the logits.
      axis_name: device axis over which training averages batch statistics; inference ignores it.
      folded: for variables of `fold_normalization`.

    Returns:
      The module; `init` and `apply` are Flax's.

    Raises:
      ConfigError: there is no such model.

    >>> create("resnet8_small", 10).endpoints()
    ('stem', 'stage1.block1', 'stage2.block1', 'stage3.block1', 'logits')
    """
    for kind, sizes in _KINDS:
        if name in sizes:
            return kind(
                size=sizes[name], num_classes=num_classes, axis_name=axis_name, folded=folded
            )
    raise ConfigError(f"no model is called {name!r}; there are {', '.join(names())}")


def cuts(
    name: str, input_shape: tuple[int, int, int] = (224, 224, 3)
) -> dict[str, tuple[int, int, int]]:
    """Cut → (H, W, C) of the features there, from the image to the classifier.

    Args:
      name: one of `names()`.
      input_shape: (H, W, c) of one image.

    Returns:
      The shapes by name, in the network's order.

    Raises:
      ConfigError: there is no such model, or no such image.

    >>> cuts("resnet8_small", (28, 28, 1))["stage2.block1"]
    (14, 14, 32)
    >>> cuts("resnet50")["stage4.block3"]
    (7, 7, 2048)
    """
    return endpoint_shapes(create(name, num_classes=2), input_shape)


def endpoint_shapes(
    module: Any, input_shape: tuple[int, int, int]
) -> dict[str, tuple[int, int, int]]:
    """Endpoint → (H, W, C) of the features there, the logits left out.

    Args:
      module: Linen module with `endpoints()` and `(x, start=…, stop=…)`, such as a `Chain`.
      input_shape: (H, W, c) of one image.

    Returns:
      The shapes by name, in the network's order; nothing is run.

    Raises:
      ConfigError: there is no such image.

    >>> endpoint_shapes(create("resnet8_small", num_classes=10), (28, 28, 1))["stage3.block1"]
    (7, 7, 64)
    """
    found = LinenNetwork(module).feature_shapes(None, input_shape)
    return {name: features.shape for name, features in found.items()}
