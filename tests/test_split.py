"""The four stages as pure functions: shapes, errors, and where the gradient goes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsplit import networks, ops
from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError
from jaxsplit.split import make_split
from jaxsplit.train import losses
from jaxsplit.train.step import Rate, init_state
from jaxsplit.units.bottleneck import BottleneckSpec

SPEC = BottleneckSpec(3, stride=2, kernel=2, padding=0)


def drawn(tree, seed=0):
    """Values for a tree of shapes, as if trained: nothing is at its initial zero or one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        elif leaf.ndim > 1:
            value = rng.normal(0, math.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        else:
            value = rng.normal(0, 0.3, leaf.shape)
        return value.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, tree)


@pytest.fixture(scope="module")
def backbone():
    preprocessing = Preprocessing((12, 10), channels=1)
    module = networks.create("resnet8_small", 4)
    image = jnp.zeros((1, 12, 10, 1))
    variables = drawn(jax.eval_shape(lambda: module.init(jax.random.key(0), image)))
    digest = networks.fingerprint(variables)
    classes = ("a", "b", "c", "d")
    return networks.Backbone("resnet8_small", module, variables, preprocessing, classes, digest, {})


@pytest.fixture(scope="module")
def split(backbone):
    return make_split(backbone, "stage2.block1", SPEC)


@pytest.fixture(scope="module")
def unit(split):
    return drawn(jax.eval_shape(split.init, jax.random.key(0)), seed=1)


@pytest.fixture(scope="module")
def at_the_cut(backbone, split):
    """(features, logits of the unsplit network) of four images."""
    images = np.random.default_rng(2).normal(size=(4, 12, 10, 1)).astype(np.float32)
    features = split.head(backbone.variables, images)
    logits = backbone.module.apply(backbone.variables, images)
    return np.asarray(features), np.asarray(logits)


@pytest.mark.parametrize("cut", ["stem", "stage1.block1", "stage2.block1", "stage3.block1"])
@pytest.mark.parametrize("spec", [SPEC, BottleneckSpec(2, stride=3, kernel=3, padding=1)])
def test_the_stages_fit_together_at_every_cut(backbone, cut, spec):
    split = make_split(backbone, cut, spec)
    key = jax.random.key(0)
    unit = jax.eval_shape(split.init, key)
    x = jax.ShapeDtypeStruct((5, 12, 10, 1), jnp.float32)
    features = jax.eval_shape(split.head, backbone.variables, x)
    assert features.shape == (5, *split.shape)
    latent = jax.eval_shape(split.encode, unit, features)
    assert latent.shape == (5, *split.latent_shape)
    assert jax.eval_shape(split.bits, unit, latent).shape == latent.shape
    reconstruction = jax.eval_shape(split.decode, unit, latent)
    assert reconstruction.shape == features.shape
    logits = jax.eval_shape(split.tail, backbone.variables, reconstruction)
    assert logits.shape == (5, 4)


def test_head_and_tail_are_the_backbone(backbone, split, at_the_cut):
    features, logits = at_the_cut
    np.testing.assert_array_equal(split.tail(backbone.variables, features), logits)


def test_images_do_not_mix(split, unit, at_the_cut):
    features, _ = at_the_cut

    @jax.jit
    def run(unit, features):
        z = split.encode(unit, features)
        return split.decode(unit, jnp.round(z)), split.bits(unit, jnp.round(z))

    alone = [run(unit, features[i : i + 1]) for i in range(4)]
    together = run(unit, features)
    for part in range(2):
        joined = np.concatenate([result[part] for result in alone])
        np.testing.assert_allclose(together[part], joined, rtol=1e-5, atol=1e-5)
    assert (together[1] > 0).all()


def test_a_split_is_seeded_and_holds_a_small_tree(backbone, split):
    init = jax.jit(split.init)
    one, same, other = init(jax.random.key(0)), init(jax.random.key(0)), init(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    kernel = one["params"]["encoder"]["pointwise"]["kernel"]
    assert (kernel != other["params"]["encoder"]["pointwise"]["kernel"]).any()
    assert set(one["params"]) == {"encoder", "decoder", "prior"}
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(t)) for t in (one, backbone.variables)]
    assert sizes[0] < sizes[1] / 20


def test_another_rate_traces_nothing(split, unit):
    traces = []

    @jax.jit
    def encode(unit, features):
        traces.append(None)
        return split.encode(unit, features)

    features = np.ones((1, *split.shape), np.float32)
    first = encode(unit, features)
    second = encode(jax.tree.map(lambda leaf: 2 * leaf, unit), features)
    assert np.abs(first - second).max() > 1e-3
    assert len(traces) == 1
    # Splits are values: equal ones share their programs.
    assert dataclasses.replace(split) == split
    assert hash(dataclasses.replace(split)) == hash(split)


def test_cuts_and_units_that_do_not_fit_are_refused(backbone):
    for cut in ("stage2", "stage2_block1", "logits", ""):
        with pytest.raises(ConfigError, match=r"stage1\.block1, stage2\.block1"):
            make_split(backbone, cut, SPEC)
    with pytest.raises(ConfigError, match="too small"):
        make_split(backbone, "stage3.block1", BottleneckSpec(2, kernel=4, padding=0))
    make_split(backbone, "stage3.block1", BottleneckSpec(2, kernel=3, padding=0))


LAMBDA = 1e-3
DISTORTION = losses.Distortion(labels=0.5, distillation=1.0, features=1.0, temperature=2.0)


def rate_distortion(split, features, teacher, noise):
    """The loss of one rate as a function of (unit's parameters, its statistics, backbone)."""

    def loss(params, stats, backbone):
        unit = {"params": params, "batch_stats": stats}
        z = split.encode(unit, features) + noise
        reconstruction = split.decode(unit, z)
        distortion = DISTORTION(
            losses.DistortionInputs(
                reconstruction=reconstruction,
                features=features,
                outputs=split.tail(backbone, reconstruction),
                teacher=teacher,
                targets=np.arange(len(features)) % 4,
                scale=1.0,
                task=split.task,
            )
        )
        return (distortion + LAMBDA * losses.rate(split.bits(unit, z))).mean()

    return loss


def test_the_gradient_reaches_the_unit_and_only_the_unit(backbone, split, unit, at_the_cut):
    """Only the unit is trained: its state has no leaf of the backbone, and no idle leaf."""
    noise = np.random.default_rng(4).uniform(-0.5, 0.5, (4, *split.latent_shape))
    loss = rate_distortion(split, *at_the_cut, noise.astype(np.float32))
    both = jax.jit(jax.grad(loss, argnums=(0, 2)))
    gradients = both(unit["params"], unit["batch_stats"], backbone.variables)
    trained, frozen = jax.tree.map(np.asarray, gradients)
    # The loss does depend on the backbone: it is frozen because no optimiser is given it.
    assert any(leaf.any() for leaf in jax.tree.leaves(frozen))
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained):
        assert np.isfinite(leaf).all(), path
        assert leaf.any(), path
    rates = (Rate("a", 1.0), Rate("b", 2.0))
    state = jax.eval_shape(lambda: init_state(split, rates, optax.adam(1e-3), seed=0))
    assert jax.tree.structure(state.params) == jax.tree.structure(trained)
    shapes = jax.tree.map(lambda leaf: (2, *leaf.shape), trained)
    assert jax.tree.map(jnp.shape, state.params) == shapes
    count = sum(leaf.size for leaf in jax.tree.leaves(state))
    own = sum(leaf.size for leaf in jax.tree.leaves(unit))
    assert count < 2 * 3 * own + 10  # parameters, two moments, counters


def test_straight_through_rounding_trains_the_encoder(split, unit, at_the_cut):
    """With rounded latents the encoder's gradient is that of the decoder's input, unchanged."""
    features, _ = at_the_cut
    stats = unit["batch_stats"]

    @jax.jit
    def gradients(params):
        def error(z):
            out = split.decode({"params": params, "batch_stats": stats}, z)
            return losses.feature_error(out, features, 1.0).sum()

        def encode(params):
            return split.encode({"params": params, "batch_stats": stats}, features)

        z, pullback = jax.vjp(encode, params)
        (expected,) = pullback(jax.grad(error)(jnp.round(z)))
        got = jax.grad(lambda p: error(ops.round_straight_through(encode(p))))(params)
        return got["encoder"], expected["encoder"]

    got, expected = gradients(unit["params"])
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.any(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_gradient_matches_finite_differences(backbone, split, unit, at_the_cut):
    """In float64, for every parameter array along a direction of its own."""
    rng = np.random.default_rng(6)
    noise = rng.uniform(-0.5, 0.5, (4, *split.latent_shape))
    features, teacher = at_the_cut
    with jax.enable_x64(True):
        params, stats, frozen = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64),
            (unit["params"], unit["batch_stats"], backbone.variables),
        )
        loss = rate_distortion(split, features.astype(np.float64), teacher, noise)
        value = jax.jit(lambda params: loss(params, stats, frozen))
        gradient = jax.jit(jax.grad(lambda params: loss(params, stats, frozen)))(params)
        assert value(params).dtype == jnp.float64
        leaves, structure = jax.tree.flatten(params)
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        step = 1e-6
        for i, (path, slope) in enumerate(zip(paths, jax.tree.leaves(gradient), strict=True)):
            direction = rng.normal(size=slope.shape)
            ends = []
            for sign in (1, -1):
                moved = list(leaves)
                moved[i] = leaves[i] + sign * step * direction
                ends.append(float(value(jax.tree.unflatten(structure, moved))))
            difference = (ends[0] - ends[1]) / (2 * step)
            along = float(np.sum(np.asarray(slope) * direction))
            assert along == pytest.approx(difference, rel=1e-5, abs=1e-8), path
