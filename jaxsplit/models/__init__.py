"""Frozen networks with named endpoints, and the places where they can be cut."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxsplit.errors import ConfigError
from jaxsplit.models import resnet
from jaxsplit.models.backbone import (
    Backbone,
    embedded_weights,
    fingerprint,
    load_backbone,
    open_backbone,
    save_backbone,
)
from jaxsplit.models.inference import predict

__all__ = [
    "Backbone",
    "create",
    "cuts",
    "embedded_weights",
    "fingerprint",
    "load_backbone",
    "names",
    "open_backbone",
    "predict",
    "save_backbone",
]


def names() -> tuple[str, ...]:
    """Names that `create` knows."""
    return tuple(resnet.SIZES)


def create(name: str, num_classes: int, axis_name: str | None = None) -> resnet.SmallResNet:
    """The Linen module called `name`, without parameters.

    Args:
      name: one of `names()`.
      num_classes: length of the logits.
      axis_name: device axis over which training averages batch statistics; inference ignores it.

    Raises:
      ConfigError: there is no such model.

    >>> create("resnet8_small", 10).endpoints()
    ('stem', 'stage1.block1', 'stage2.block1', 'stage3.block1', 'logits')
    """
    if name not in resnet.SIZES:
        raise ConfigError(f"no model is called {name!r}; there are {', '.join(names())}")
    return resnet.SmallResNet(resnet.SIZES[name], num_classes, axis_name)


def cuts(name: str, input_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
    """Cut → (H, W, C) of the features there, from the image to the classifier.

    Args:
      name: one of `names()`.
      input_shape: (H, W, c) of one image.

    >>> cuts("resnet8_small", (28, 28, 1))["stage2.block1"]
    (14, 14, 32)
    """
    model = create(name, num_classes=2)
    image = jnp.zeros((1, *input_shape))
    shapes = {}
    for cut in model.endpoints()[:-1]:

        def run(x: jax.Array, cut: str = cut) -> jax.Array:
            return model.init_with_output(jax.random.key(0), x, stop=cut)[0]

        _, h, w, c = jax.eval_shape(run, image).shape
        shapes[cut] = (h, w, c)
    return shapes
