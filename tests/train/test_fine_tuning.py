"""Blocks that are trained beside the units: which, from which gradients, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsplit import data, ops, train_curve
from jaxsplit.codec import Receiver, Sender
from jaxsplit.errors import ConfigError
from jaxsplit.evaluation import evaluate
from jaxsplit.split import make_split
from jaxsplit.tasks import classification
from jaxsplit.train import features, losses, parallel, rate_groups
from jaxsplit.train.curve import train_networks
from jaxsplit.train.network_blocks import NETWORK, learning_blocks, with_blocks
from jaxsplit.train.rate_groups import make_curve_step, make_groups
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units.bottleneck import Bottleneck

HEAD = {"stem", "stage1_block1", "stage2_block1"}
TAIL = {"stage3_block1", "logits"}
DISTILLED = losses.Distortion(labels=0.5, features=0.5)
LMBDA = 1e-3


@pytest.fixture(scope="module")
def config(tiny_config, tiny_backbone):
    return dataclasses.replace(
        tiny_config,
        backbone=tiny_backbone.fingerprint,
        rates=(Rate("a", 1e-4), Rate("b", 1e-2)),
        phases=(Phase(3, DISTILLED),),
        max_samples=64,
        batch_size=16,
        rate_vectorization="vmap",
    )


@pytest.fixture(scope="module")
def trained(config, tiny_backbone):
    """Of each mask, what `train_networks` gives."""
    return {
        mask: train_networks(
            dataclasses.replace(config, trainable=mask, ema=0.0 if mask == "unit" else 0.5),
            tiny_backbone,
        )
        for mask in ("unit", "tail", "all")
    }


def changed(network, backbone):
    """(names of blocks with changed parameters, leaves of theirs that stayed)."""
    before, after = (jax.tree.leaves_with_path(x.variables["params"]) for x in (backbone, network))
    moved = {path: bool(np.any(a != b)) for (path, a), (_, b) in zip(before, after, strict=True)}
    blocks = {path[0].key for path, is_moved in moved.items() if is_moved}
    stayed = [path for path, is_moved in moved.items() if path[0].key in blocks and not is_moved]
    return blocks, stayed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mask", "blocks"), [("unit", set()), ("tail", TAIL), ("all", HEAD | TAIL)]
)
def test_only_what_is_trainable_changes_and_all_of_it(trained, tiny_backbone, mask, blocks):
    networks = [network for _, network in trained[mask]]
    for network in networks:
        assert changed(network, tiny_backbone) == (blocks, [])
        jax.tree.map(
            np.testing.assert_array_equal,
            network.variables["batch_stats"],
            tiny_backbone.variables["batch_stats"],
        )
        assert (network.fingerprint == tiny_backbone.fingerprint) == (mask == "unit")
    # Every rate has learned a network of its own.
    assert len({network.fingerprint for network in networks}) == (1 if mask == "unit" else 2)


@pytest.mark.slow
def test_the_unit_alone_is_what_a_curve_trains_to_the_bit(trained, config, tiny_backbone):
    family = train_curve(config, tiny_backbone)
    for rate, (alone, network) in zip(family.rates, trained["unit"], strict=True):
        assert alone.rates[0].digest == rate.digest
        assert network.variables["params"] == tiny_backbone.variables["params"]


@pytest.mark.slow
def test_a_rate_runs_on_its_own_network_through_bytes(trained, tiny_test_source, tiny_backbone):
    (family, network), (_, other) = trained["all"]
    images, _ = data.load_arrays(tiny_test_source, tiny_backbone.preprocessing)
    frames = Sender(family, network, 50).encode(images, "a")
    logits = Receiver(family, network, 50).decode(frames)
    point = evaluate.evaluate(family, network, tiny_test_source).points[0]
    assert point.bytes_per_image == np.mean([len(frame) for frame in frames])
    assert point.top1 == np.mean(logits.argmax(-1) == tiny_test_source.labels)
    for stranger in (other, tiny_backbone):
        with pytest.raises(Exception, match="weights"):
            Sender(family, stranger)


def plain_loss(split, backbone, unit, blocks, batch, key, scale):
    """The loss of one rate by the unfolded network and `jax.grad`'s own rules."""
    network = with_blocks(backbone.variables, blocks)
    pixels = backbone.preprocessing.normalize(batch.images)
    seen = split.head(network, pixels)

    module = Bottleneck(split.spec, split.shape)

    def run(x, method):
        return module.apply(unit, x, True, method=method, mutable=["batch_stats"])[0]

    latent = run(seen, "encode")
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch.index)
    bits = losses.rate(split.bits(unit, jax.vmap(ops.add_uniform_noise)(latent, keys)))
    rounded = latent + jax.lax.stop_gradient(jnp.round(latent) - latent)
    reconstruction = run(rounded, "decode")
    logits = split.tail(network, reconstruction)
    distortion = 0.5 * losses.feature_error(reconstruction, batch.features, scale)
    distortion += classification.distillation(logits, batch.teacher)
    distortion += 0.5 * classification.cross_entropy(logits, batch.targets)
    return jnp.mean(distortion + LMBDA * bits)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["tail", "all"])
def test_gradients_are_those_of_the_plain_loss(config, problem, monkeypatch, mask):
    """Folded inside of the step or not: the same function of the same parameters."""
    config = dataclasses.replace(
        config, rates=(Rate("a", LMBDA),), trainable=mask, optimizer=optax.sgd(1.0)
    )
    backbone, folded = problem.backbone, problem.backbone.fold()
    groups = make_groups(folded, config.cut, config.spec, config.rates, parallel.AXIS)
    phase = Phase(1, DISTILLED, "round")
    step = make_curve_step(config, groups, phase, folded.preprocessing)
    images, _ = data.load_arrays(
        data.open_source("embedded", split="train", max_samples=64), folded.preprocessing
    )
    batch = problem.batch()
    batch = dataclasses.replace(batch, images=images[batch.index])
    state = rate_groups.first_state(config, backbone, groups)
    constants = rate_groups.make_constants(config, backbone, problem.cache.scale)
    devices = jax.devices()[:1]
    replicated = (parallel.replicate(tree, devices) for tree in (state, constants))
    first, fixed = replicated
    after, metrics = parallel.parallel_step(step, devices)(
        first, parallel.shard(batch, devices), fixed
    )
    before = jax.tree.map(lambda x: np.asarray(x[0]), state.groups[0].variables)
    learned = jax.tree.map(lambda x: np.asarray(x[0, 0]), after.groups[0].params)
    ours = jax.tree.map(np.subtract, before["params"], learned)

    split = dataclasses.replace(make_split(backbone, config.cut, config.spec), axis_name=None)
    blocks = before["params"].pop(NETWORK)
    key = jax.random.fold_in(constants.rates.key[0], 0)
    if mask == "tail":  # the cached features, not the images, are what the tail learns from
        monkeypatch.setattr(type(split), "head", lambda *_: jnp.asarray(batch.features))

    @jax.jit
    @jax.value_and_grad
    def plain(params):
        unit = {"params": params["unit"], "batch_stats": before["batch_stats"]}
        return plain_loss(split, backbone, unit, params["blocks"], batch, key, problem.cache.scale)

    value, theirs = plain({"unit": before["params"], "blocks": blocks})
    np.testing.assert_allclose(metrics["loss"][0, 0], value, rtol=1e-4)
    for name, gradient in ({**theirs["unit"], NETWORK: theirs["blocks"]}).items():
        largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
        assert largest > 0
        jax.tree.map(
            lambda a, b, at=largest: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * at),
            ours[name],
            gradient,
        )


@pytest.mark.slow
def test_a_head_learns_the_same_without_cached_features(trained, config, tiny_backbone):
    direct = dataclasses.replace(config, trainable="all", ema=0.5, cache="none")
    pairs = zip(train_networks(direct, tiny_backbone), trained["all"], strict=True)
    for (_, ours), (_, theirs) in pairs:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-2, 1e-3),
            ours.variables["params"],
            theirs.variables["params"],
        )


def test_images_come_with_their_own_features(problem):
    source = data.open_source("embedded", split="train", max_samples=64)
    shown = features.ImageBatches(problem.backbone, source, data.Views(), 1.0)
    both = dataclasses.replace(problem.cache, images=shown)
    images, labels = data.load_arrays(source, problem.backbone.preprocessing)
    ours, theirs = both.batches(8, 0, 9), problem.cache.batches(8, 0, 9)
    for _ in range(3):
        one, other = next(ours), next(theirs)
        np.testing.assert_array_equal(one.images, images[other.index])
        np.testing.assert_array_equal(one.targets, labels[other.index])
        np.testing.assert_array_equal(one.features, other.features)


def test_blocks_before_and_behind_the_cut(problem):
    variables = problem.backbone.variables
    found = {mask: set(learning_blocks(problem.split, variables, mask)) for mask in ("tail", "all")}
    assert found == {"tail": TAIL, "all": HEAD | TAIL}
    assert not learning_blocks(problem.split, variables, "unit")


def test_the_network_learns_at_a_rate_of_its_own(config, tiny_backbone):
    for mask, rate in (("unit", None), ("tail", 0.0), ("all", 0.25)):
        masked = dataclasses.replace(
            config, trainable=mask, network_lr_multiplier=rate or 0.0, warmup=0
        )
        params = {"encoder": jnp.zeros(1), "prior": jnp.zeros(1), NETWORK: jnp.zeros(1)}
        if rate is None:
            del params[NETWORK]
        adam = masked.make_optimizer()
        gradient = jax.tree.map(jnp.ones_like, params)
        change, _ = adam.update(gradient, adam.init(params), params)
        unit = float(change["encoder"][0])
        np.testing.assert_allclose(change["prior"][0], config.prior_lr_multiplier * unit, rtol=1e-5)
        if rate is not None:
            np.testing.assert_allclose(change[NETWORK][0], rate * unit, rtol=1e-5)


def test_settings_of_networks_do_not_rename_trainings_without_one(config):
    assert dataclasses.replace(config, network_lr_multiplier=0.5).key == config.key
    tail = dataclasses.replace(config, trainable="tail")
    others = {tail.key, dataclasses.replace(tail, network_lr_multiplier=0.5).key}
    assert len(others | {config.key}) == 3


def test_what_does_not_fit_is_refused(config, tiny_backbone):
    with pytest.raises(ConfigError, match="trainable is 'head'; expected one of unit, tail, all"):
        dataclasses.replace(config, trainable="head")
    with pytest.raises(ConfigError, match="network_lr_multiplier is -1"):
        dataclasses.replace(config, network_lr_multiplier=-1.0)
    with pytest.raises(ConfigError, match="evaluate_every 5"):
        dataclasses.replace(config, trainable="all", evaluate_every=5)
    with pytest.raises(ConfigError, match="train_networks"):
        train_curve(dataclasses.replace(config, trainable="tail"), tiny_backbone)
