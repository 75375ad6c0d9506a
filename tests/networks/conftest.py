"""Small networks with random weights and batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit import networks
from jaxsplit.data import Preprocessing


def _randomised(module, input_shape, seed=0):
    """Variables without initial zeros or ones."""
    image = jnp.zeros((1, *input_shape))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            value = rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        elif name in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = rng.normal(0, 0.3, leaf.shape)
        return value.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def randomised():
    return _randomised


@pytest.fixture(scope="session")
def tiny():
    """(module, variables, what `save_backbone` also wants) of a network of three classes."""
    preprocessing = Preprocessing((12, 10), channels=1, mean=(0.3,), std=(0.4,))
    module = networks.create("resnet8_small", 3)
    rest = {
        "name": "resnet8_small",
        "preprocessing": preprocessing,
        "class_names": ("a", "b", "c"),
        "card": {"command": "none", "top1": 0.5},
    }
    return module, _randomised(module, preprocessing.input_shape), rest
