"""Learning rates over time, and the optimizer that takes them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.errors import ConfigError
from jaxsplit.train.config import SCHEDULES, CurveConfig, clipped_adam, make_schedule
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units import BottleneckSpec


def rates(name, steps=100, **options):
    schedule = make_schedule(name, 0.5, steps, **options)
    return np.array([float(schedule(step)) for step in range(steps + 1)])


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_rises_to_its_peak_and_falls_from_there(name):
    values = rates(name, warmup=20, final_lr_fraction=0.01)
    np.testing.assert_allclose(values[:21], np.linspace(0, 0.5, 21), rtol=1e-5, atol=1e-8)
    assert (np.diff(values[20:]) <= 0).all()
    np.testing.assert_allclose(values[-1], 0.5 if name == "constant" else 0.005, rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_does_without_a_warm_up_and_in_one_step(name):
    assert rates(name, warmup=0)[0] == 0.5
    assert np.isfinite(rates(name, steps=1, warmup=20)).all()


def test_schedules_take_their_own_ways_down():
    steps = np.arange(101)
    cosine = 0.5 * (0.1 + 0.9 * (1 + np.cos(np.pi * steps / 100)) / 2)
    np.testing.assert_allclose(rates("cosine", final_lr_fraction=0.1), cosine, rtol=1e-5)
    np.testing.assert_allclose(
        rates("exponential", final_lr_fraction=0.1), 0.5 * 0.1 ** (steps / 100), 1e-5
    )
    stairs = np.select([steps < 30, steps < 60, steps < 90], [0.5, 0.25, 0.125], 0.0625)
    three = {"final_lr_fraction": 0.125, "milestones": (0.3, 0.6, 0.9)}
    for warmup in (0, 10):
        values = rates("step", warmup=warmup, **three)
        np.testing.assert_allclose(values[warmup:], stairs[warmup:], rtol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "linear"},
        {"milestones": (0.5, 0.2)},
        {"milestones": (0.5, 0.5)},
        {"milestones": (0.5, 1.0)},
        {"milestones": (0.0,)},
    ],
    ids=str,
)
def test_what_is_no_schedule_is_refused(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments)).removeprefix("name") or "schedule"):
        make_schedule(**{"name": "step", "peak": 1.0, "steps": 10, **arguments})


def test_the_prior_learns_faster_and_the_gradient_is_bounded():
    params = {"encoder": jnp.zeros(2), "prior": jnp.zeros(2)}
    gradient = {"encoder": jnp.array([3.0, 0.0]), "prior": jnp.array([0.0, 4.0])}
    optimizer = clipped_adam(lambda step: 0.1, max_norm=1.0, prior=3.0)
    change, state = optimizer.update(gradient, optimizer.init(params), params)
    # Adam's first step is the learning rate, whatever the gradient.
    np.testing.assert_allclose(change["encoder"], [-0.1, 0], rtol=1e-4)
    np.testing.assert_allclose(change["prior"], [0, -0.3], rtol=1e-4)
    first_moment = state[1][0].mu
    np.testing.assert_allclose(first_moment["encoder"], [0.1 * 3 / 5, 0], rtol=1e-5)
    unbounded = clipped_adam(lambda step: 0.1)
    _, state = unbounded.update(gradient, unbounded.init(params), params)
    np.testing.assert_allclose(state[1][0].mu["prior"], [0, 0.4], rtol=1e-5)


def test_layers_that_begin_as_pca_learn_at_a_rate_of_their_own():
    start = CurveConfig(
        "b", "c", BottleneckSpec(4), (Rate("r1", 0.5),), (Phase(3, Distortion(1.0)),), warmup=0
    )
    slow = dataclasses.replace(start, linear_lr_multiplier=0.1)
    layers = {name: {"kernel": jnp.zeros(1)} for name in ("embedding", "block1", "output")}
    params = {"encoder": layers, "prior": jnp.zeros(1)}
    adam = slow.make_optimizer()
    change, _ = adam.update(jax.tree.map(jnp.ones_like, params), adam.init(params), params)
    found = {name: float(layer["kernel"][0]) for name, layer in change["encoder"].items()}
    assert found["embedding"] == found["output"] == pytest.approx(0.1 * found["block1"])
    assert float(change["prior"][0]) == pytest.approx(3 * found["block1"])
    assert slow.key != start.key


def test_numbers_of_numpy_are_python_s():
    rate, phase = Rate("r1", np.float32(0.5)), Phase(np.int64(3), Distortion(np.float32(1.0)))
    assert [type(x) for x in (rate.lmbda, phase.steps)] == [float, int]
    plain, given = BottleneckSpec(4), BottleneckSpec(np.int64(4))
    first = CurveConfig("b", "c", plain, (Rate("r1", 0.5),), (Phase(3, Distortion(1.0)),))
    second = CurveConfig("b", "c", given, (rate,), (phase,), learning_rate=np.float64(5e-3))
    assert first == second
    assert first.key == second.key
    for wrong in (np.float32(-1), np.array([1.0, 2.0]), "1"):
        with pytest.raises(ConfigError, match="lambda of rate r1"):
            Rate("r1", wrong)
