"""Cuts of the small residual networks, and their values against a reference from the paper."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from jaxsplit import networks
from jaxsplit.errors import ConfigError
from jaxsplit.networks import network
from jaxsplit.weights import name_maps

DEPTHS = {"resnet8_small": 1, "resnet20_small": 3, "resnet56_small": 9}


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv3x3(x, kernel, stride):
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = ((n - 3) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), h, w, kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            y += x[:, i:, j:][:, ::stride, ::stride][:, :h, :w] @ kernel[i, j]
    return y


def normalize(x, params, stats):
    unit = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    return unit * params["scale"] + params["bias"]


def block(x, params, stats, stride):
    """y = F(x) + x of He et al., identity shortcut with zeros for the new channels, then ReLU."""
    y = conv3x3(x, params["conv1"]["kernel"], stride)
    y = np.maximum(normalize(y, params["bn1"], stats["bn1"]), 0)
    y = conv3x3(y, params["conv2"]["kernel"], 1)
    y = normalize(y, params["bn2"], stats["bn2"])
    shortcut = x[:, ::stride, ::stride]
    before = (y.shape[-1] - x.shape[-1]) // 2
    y[..., before : before + x.shape[-1]] += shortcut
    return np.maximum(y, 0)


def reference(variables, x, blocks):
    """The whole network in float64: section 4.2 of He et al. 2016, shortcuts of kind A."""
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    params, stats = variables["params"], variables["batch_stats"]
    x = conv3x3(np.asarray(x, np.float64), params["stem"]["conv"]["kernel"], 1)
    x = np.maximum(normalize(x, params["stem"]["bn"], stats["stem"]["bn"]), 0)
    for stage in (1, 2, 3):
        for index in range(1, blocks + 1):
            name = f"stage{stage}_block{index}"
            stride = 2 if stage > 1 and index == 1 else 1
            x = block(x, params[name], stats[name], stride)
    dense = params["logits"]["dense"]
    return x.mean(axis=(1, 2)) @ dense["kernel"] + dense["bias"]


@pytest.mark.parametrize(("channels", "size"), [(1, (12, 12)), (3, (9, 11))])
@pytest.mark.parametrize("name", ["resnet8_small", "resnet20_small"])
def test_agrees_with_the_paper_in_float64(randomised, name, channels, size):
    module = networks.create(name, 7)
    variables = randomised(module, (*size, channels))
    x = images(3, *size, channels)
    expected = reference(variables, x, DEPTHS[name])
    got = jax.jit(module.apply)(variables, x)
    assert np.ptp(expected, axis=0).min() > 1e-2  # the images do matter
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["resnet8_small", "resnet20_small"])
def test_head_then_tail_is_the_uncut_network_at_every_cut(randomised, name, channels):
    """Without jit, each operation is the same program, split or unsplit: bit-identical."""
    shape = (10, 9, channels)
    module = networks.create(name, 5)
    variables = randomised(module, shape)
    x = images(2, *shape)
    whole = module.apply(variables, x)
    cuts = networks.cuts(name, shape)
    assert len(cuts) == 1 + 3 * DEPTHS[name]
    for cut, features_shape in cuts.items():
        features = module.apply(variables, x, stop=cut)
        assert features.shape == (2, *features_shape)
        assert features.dtype == jnp.float32
        np.testing.assert_array_equal(module.apply(variables, features, start=cut), whole, cut)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitted_head_then_tail_is_the_jitted_network(randomised, channels):
    """XLA fuses a split network differently: equal to a few units in the last place."""
    shape = (12, 12, channels)
    module = networks.create("resnet8_small", 5)
    variables = randomised(module, shape)
    x = images(2, *shape)
    whole = jax.jit(module.apply)(variables, x)
    for cut in networks.cuts("resnet8_small", shape):
        features = jax.jit(functools.partial(module.apply, stop=cut))(variables, x)
        logits = jax.jit(functools.partial(module.apply, start=cut))(variables, features)
        np.testing.assert_allclose(logits, whole, rtol=1e-5, atol=1e-5, err_msg=cut)


@pytest.mark.parametrize("name", DEPTHS)
def test_cuts_are_the_shapes_of_the_features(name):
    shape = (29, 32, 3)
    cuts = networks.cuts(name, shape)
    module = networks.create(name, 10)
    assert (*cuts, "logits") == module.endpoints()
    key = jax.random.key(0)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, key, x)
    previous, features = None, x
    for cut, expected in cuts.items():
        step = functools.partial(module.apply, start=previous, stop=cut)
        features = jax.eval_shape(step, variables, features)
        assert features.shape == (2, *expected)
        previous = cut
    sizes = [cuts[f"stage{i}.block{DEPTHS[name]}"] for i in (1, 2, 3)]
    assert sizes == [(29, 32, 16), (15, 16, 32), (8, 8, 64)]


@pytest.mark.parametrize(("name", "millions"), [("resnet20_small", 0.27), ("resnet56_small", 0.85)])
def test_sizes_are_those_of_table_6(name, millions):
    module = networks.create(name, 10)
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert round(count / 1e6, 2) == millions
    depth = sum(leaf.ndim > 1 for leaf in jax.tree.leaves(params))
    assert depth == 6 * DEPTHS[name] + 2


def test_only_training_touches_the_batch_statistics(randomised):
    shape = (8, 8, 1)
    module = networks.create("resnet8_small", 4)
    variables = randomised(module, shape)
    x = images(4, *shape)

    @functools.partial(jax.jit, static_argnames="train")
    def run(x, train):
        return module.apply(variables, x, train=train, mutable=["batch_stats"])

    logits, untouched = run(x, train=False)
    jax.tree.map(np.testing.assert_array_equal, untouched["batch_stats"], variables["batch_stats"])
    # An image's logits depend on the rest of the batch only with batch statistics.
    np.testing.assert_allclose(run(x[:2], train=False)[0], logits[:2], rtol=1e-5, atol=1e-5)
    trained, moved = run(x, train=True)
    assert np.abs(trained - logits).max() > 1e-2
    for path, before in jax.tree_util.tree_leaves_with_path(variables["batch_stats"]):
        after = functools.reduce(lambda tree, key: tree[key.key], path, moved["batch_stats"])
        assert np.abs(after - before).max() > 1e-4, path


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"resnet9_small.*resnet8_small"):
        networks.create("resnet9_small", 10)
    with pytest.raises(ConfigError, match="resnet9_small"):
        networks.cuts("resnet9_small", (8, 8, 1))
    module = networks.create("resnet8_small", 2)
    for place in ({"start": "stage9"}, {"stop": "stage1"}):
        with pytest.raises(ConfigError, match=r"stage1\.block1"):
            module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), **place)
    own = {name for name in networks.names() if not name_maps.packages(name)}
    assert set(DEPTHS) == {name for name in own if not name.startswith("deeplabv3_")}


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet8_small", (9, 8, 1)),
        ("mobilenet_v2", (33, 40, 3)),
        ("mobilenet_v3_large", (33, 40, 3)),
        ("convnext_tiny", (33, 40, 3)),
        ("deit_tiny", (33, 40, 3)),
    ],
)
def test_variables_are_declared_as_they_are_initialized(name, shape, folded):
    module = networks.create(name, num_classes=3).clone(folded=folded)
    declared = network.variable_shapes(module, shape)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    made = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), image)
    assert jax.tree.structure(declared) == jax.tree.structure(made)
    assert jax.tree.leaves(declared) == jax.tree.leaves(made)


def test_variables_of_another_shape_are_refused_with_their_place():
    module = networks.create("resnet8_small", num_classes=3)
    variables = network.variable_shapes(module, (8, 8, 1))
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    with pytest.raises(ScopeParamShapeError, match=r"kernel.*stem/conv"):
        jax.eval_shape(module.apply, variables, image)
