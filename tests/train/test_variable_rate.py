"""Training one unit for all rates: drawn positions, weights, metrics, and what comes of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsplit
from jaxsplit.errors import ConfigError
from jaxsplit.family import RateFamily
from jaxsplit.split import make_split
from jaxsplit.train import parallel, variable_rate
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase, Rate, init_state, per_image_loss, rate_states
from jaxsplit.units import BottleneckSpec, ResidualSpec, VariableRate

FEATURES = Distortion(distillation=0, features=1)
RATES = (Rate("low", 1e-2), Rate("middle", 1e-3), Rate("high", 1e-4))
UNIT = VariableRate(BottleneckSpec(channels=3), (1e-4, 1e-2))


@pytest.fixture(scope="module")
def start(problem):
    """(split, state, batch, constants) of a variable-rate unit at the tiny problem's cut."""
    split = make_split(problem.backbone, problem.split.cut, UNIT, parallel.AXIS)
    state = jax.device_get(init_state(split, RATES[:1], optax.sgd(1.0), 0))
    return split, state, problem.batch(), problem.constants(RATES[:1])


def run(split, state, batch, constants, phase, devices=1, **options):
    used = jax.devices()[:devices]
    step = variable_rate.make_step(split, phase, optax.sgd(1.0), RATES, **options)
    state, constants = (parallel.replicate(tree, used) for tree in (state, constants))
    program = parallel.parallel_step(step, used)
    after, metrics = program(state, parallel.shard(batch, used), constants)
    return parallel.unreplicate(after), parallel.unreplicate(metrics)


@pytest.mark.parametrize(("quantization", "weighting"), [("noise", 0.0), ("round", 0.5)])
def test_the_gradient_is_the_mean_of_those_of_images_at_their_own_lambdas(
    start, quantization, weighting
):
    split, state, batch, constants = start
    phase = Phase(1, FEATURES, quantization)
    after, _ = run(split, state, batch, constants, phase, weighting=weighting)
    own = jax.tree.map(lambda x: x[0], rate_states(state, constants.rates))
    count = len(batch.index)
    inside = [jax.random.uniform(jax.random.fold_in(own.key, slot)) for slot in range(count)]
    positions = (np.arange(count) + np.array(inside)) / count
    weights = 1e-2 * (1e-4 / 1e-2) ** positions

    def loss(params):
        rate = own._replace(
            params=params, lmbda=jnp.asarray(weights), position=jnp.asarray(positions)
        )
        alone = dataclasses.replace(split, axis_name=None)
        values, *_ = per_image_loss(alone, phase, "float32", rate, batch, constants)
        return jnp.mean(values * (1e-3 / weights) ** weighting)

    expected = jax.grad(loss)(own.params)
    found = jax.tree.map(lambda old, new: (old - new)[0], state.params, after.params)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        scale = float(np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * scale + 1e-7, err_msg=str(path))


def test_four_devices_give_the_step_of_one(start):
    split, state, batch, constants = start
    (one, metrics), (four, same) = (
        run(split, state, batch, constants, Phase(1, FEATURES), n) for n in (1, 4)
    )
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, same[name], rtol=1e-4)


def test_metrics_are_of_the_images_near_each_rate(start):
    _, metrics = run(*start, Phase(1, FEATURES))
    assert {value.shape for value in metrics.values()} == {(3,)}
    assert list(metrics["bits"]) == sorted(metrics["bits"])


def test_a_rate_without_an_image_near_it_has_the_mean_of_all():
    named, position = np.array([0.0, 0.5, 1.0], np.float32), jnp.array([0.0, 0.1, 0.95, 1.0])
    found = parallel.parallel_step(
        lambda _, batch, __: ((), variable_rate.near(named, batch, {"x": batch * 10})),
        jax.devices()[:1],
    )((), parallel.shard(position, jax.devices()[:1]), parallel.replicate((), jax.devices()[:1]))
    np.testing.assert_allclose(parallel.unreplicate(found[1])["x"], [0.5, 5.125, 9.75])


@pytest.mark.parametrize(
    ("spec", "start"),
    [(BottleneckSpec(channels=4), "random"), (ResidualSpec(channels=4, width=8), "pca")],
)
def test_a_family_of_one_unit_is_trained_stored_and_coded(spec, start, tmp_path):
    backbone = jaxsplit.load_backbone("fashion_mnist_resnet8")
    options = {"batch_size": 16, "max_samples": 64, "progress": False, "initialization": start}
    arguments = backbone, "stage3.block1", {"low": 1e-2, "middle": 1e-3, "high": 1e-4}
    phases = [Phase(20, FEATURES), Phase(10, FEATURES, "round")]
    family = jaxsplit.train_family(
        *arguments,
        unit=spec,
        variable_rate=True,
        phases=phases,
        workdir=tmp_path / "run",
        **options,
    )
    trees = [rate.variables for rate in family.rates]
    for part in set(trees[0]) - {"rate"}:
        for tree in trees[1:]:
            jax.tree.map(np.testing.assert_array_equal, tree[part], trees[0][part])
    assert family["low"].spec == VariableRate(spec, (1e-4, 1e-2))
    family.save(tmp_path / "family", packed=True)
    loaded = RateFamily.load(tmp_path / "family")
    assert loaded.fingerprint == family.fingerprint
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1)).astype(np.uint8)
    sender, receiver = loaded.codec(backbone, batch_size=4)
    sizes = {}
    for rate in loaded:
        symbols = sender.symbols(images, rate)
        frames = sender(images, rate)
        np.testing.assert_array_equal(receiver.symbols(frames, rate), symbols)
        sizes[rate] = sum(map(len, frames))
    assert sizes["low"] < sizes["middle"] < sizes["high"]
    again = jaxsplit.train_family(
        *arguments,
        unit=spec,
        variable_rate=True,
        phases=phases,
        workdir=tmp_path / "run",
        **options,
    )
    assert again.fingerprint == family.fingerprint  # from its last checkpoint


def test_one_unit_for_all_and_units_of_their_own_are_refused():
    spec = BottleneckSpec(channels=4)
    rates = Rate("a", 1e-3), Rate("b", 1e-4, BottleneckSpec(channels=8))
    with pytest.raises(ConfigError, match="one unit for all; b has its own"):
        CurveConfig("any", "stem", spec, rates, (Phase(1, FEATURES),), variable_rate=True)
    with pytest.raises(ConfigError, match="two rising numbers above 0"):
        CurveConfig("any", "stem", spec, rates[:1], (Phase(1, FEATURES),), variable_rate=True)


def test_impossible_trainings_are_refused_before_they_begin():
    spec, phases = BottleneckSpec(channels=4), (Phase(1, FEATURES),)
    rates = Rate("a", 1e-3), Rate("b", 1e-4)

    def config(spec, rates, **options):
        return CurveConfig("any", "stem", spec, rates, phases, **options)

    unit, other = (VariableRate(spec, (1e-4, high)) for high in (1e-3, 1e-2))
    for own in (spec, other):
        with pytest.raises(ConfigError, match="one for all rates; some have others"):
            config(unit, (rates[0], Rate("b", 1e-4, own)))
    with pytest.raises(ConfigError, match=r"outside of the unit's 0\.0001"):
        config(unit, (rates[0], Rate("b", 1e-5)))
    with pytest.raises(ConfigError, match="'level5' is the name of a level"):
        config(spec, (rates[0], Rate("level5", 1e-4)), variable_rate=True)
    with pytest.raises(ConfigError, match="trainable is 'tail', which gives each rate"):
        config(spec, rates, variable_rate=True, trainable="tail")
    assert config(unit, rates).unit == config(spec, rates, variable_rate=True).unit


def test_it_starts_from_principal_components():
    """In the middle of its range it is what one rate of that lambda starts from."""
    backbone = jaxsplit.load_backbone("fashion_mnist_resnet8")
    window = {"stride": 2, "kernel": 2, "padding": 0, "multiplier": 4}
    spec = BottleneckSpec(6, **window, activation="none", output_activation="none")
    frozen = {"learning_rate": 1e-12, "max_samples": 64, "batch_size": 16, "progress": False}
    one, all_rates = (
        jaxsplit.train_family(
            *(backbone, "stage3.block1", lambdas),
            **{"unit": spec, "initialization": "pca", "variable_rate": len(lambdas) > 1},
            **{"phases": [Phase(1, FEATURES)], **frozen},
        )
        for lambdas in ({"middle": 1e-3}, {"low": 1e-2, "middle": 1e-3, "high": 1e-4})
    )
    source = jaxsplit.data.open_source("embedded", max_samples=8)
    images, _ = jaxsplit.data.load_arrays(source, backbone.preprocessing)
    expected, found = (
        family.codec(backbone, batch_size=8)[0].symbols(images, "middle").astype(float)
        for family in (one, all_rates)
    )
    assert np.abs(expected).mean() > 0.3
    assert np.abs(found - expected).mean() < 0.03  # the nearest level differs by a hundredth
