"""Networks without weights: shapes in place of arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxsplit import networks
from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError, did_you_mean
from jaxsplit.tasks import Classification
from jaxsplit.weights import imagenet
from jaxsplit.weights.load import PACKAGES, load_backbone

_SMALL = (32, 32)  # input of the networks for small images, as in CIFAR
_SMALL_CLASSES = 10


def abstract_backbone(
    name: str,
    weights: Path | None = None,
    size: Sequence[int] | None = None,
    classes: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> networks.Backbone:
    """Creates a network whose variables are shapes, as in `jax.eval_shape`.

    Args:
      name: a network of `networks.names()`; else weights as in `load_backbone`.
      weights: file of a network's weights.
      size: (H, W) of its input; default: that of its weights, 32 × 32 for small networks.
      classes: number of classes of a network without weights; default: 1000, 10 for small ones.
      preprocessing: of a network without weights; default: that of its published weights.

    Raises:
      ConfigError: there is no such network, a number is below 1, or `classes` is given beside
        weights.
      WeightsError: there are no such weights.
    """
    if min(classes or 1, *(size or (1,))) < 1 or classes == 0:
        raise ConfigError(f"{classes} classes, images of {size}; expected at least 1 of each")
    if weights is None and name in networks.names():
        small = name.endswith("_small")
        preprocessing = preprocessing or (
            Preprocessing(_SMALL) if small else imagenet.preprocessing(name)
        )
        count = classes or (_SMALL_CLASSES if small else imagenet.NUM_CLASSES)
        module, key = networks.create(name, count), jax.eval_shape(lambda: jax.random.key(0))
        image = jax.ShapeDtypeStruct((1, *preprocessing.input_shape), jnp.float32)
        shapes = jax.eval_shape(module.init, key, image)
        network, task = networks.as_network(module), Classification(tuple(map(str, range(count))))
        found = networks.Backbone(name, network, shapes, preprocessing, task, "", {})
    else:
        known = (*networks.names(), *networks.embedded_weights())
        if weights is None and name not in (*known, *PACKAGES) and not Path(name).exists():
            raise ConfigError(
                f"no network called {name!r}: give one of {', '.join(known)}, or a file of weights"
                f"{did_you_mean(name, known)}"
            )
        if classes is not None:
            raise ConfigError(f"{classes} classes: the weights of {name} have their own")
        loaded = load_backbone(name, weights)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), loaded.variables)
        found = dataclasses.replace(loaded, variables=shapes)
    if size is None:
        return found
    resized = dataclasses.replace(found.preprocessing, size=(size[0], size[1]), resize=None)
    return dataclasses.replace(found, preprocessing=resized)
