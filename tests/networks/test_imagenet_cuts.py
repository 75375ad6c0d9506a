"""Head and tail of ResNets, EfficientNet-Lite and MobileNetV2 are the unsplit network at every cut.

Whole networks, which compile hastily: `test_imagenet_networks.py` compares their blocks with
float64, compiled as users do.
"""

import functools

import jax
import numpy as np
import pytest

from jaxsplit import networks


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_lite0"])
def test_head_then_tail_is_the_unsplit_network_at_every_cut(randomised, name):
    """Block by block, and as head and tail: equal up to rounding."""
    shape = (33, 40, 3)  # odd sizes too
    module = networks.create(name, 5)
    variables = randomised(module, shape)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    names = module.endpoints()
    steps = {
        stop: jax.jit(functools.partial(module.apply, start=start, stop=stop))
        for start, stop in zip((None, *names), names, strict=False)
    }
    features, outputs = x, {}
    for stop, step in steps.items():
        outputs[stop] = features = step(variables, features)
    whole = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(outputs["logits"], whole, rtol=1e-4, atol=1e-5)
    for cut, expected in networks.cuts(name, shape).items():
        assert outputs[cut].shape == (2, *expected)
    # Head and tail as one program each, at a cut in the middle.
    cut = names[len(names) // 2]
    head = jax.jit(functools.partial(module.apply, stop=cut))(variables, x)
    tail = jax.jit(functools.partial(module.apply, start=cut))(variables, head)
    np.testing.assert_allclose(tail, whole, rtol=1e-4, atol=1e-5)
