"""The step: what it may depend on, what it changes, and that nothing else matters."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsplit.errors import ConfigError
from jaxsplit.train import parallel
from jaxsplit.train.losses import Distortion, DistortionInputs, LinearDistortion
from jaxsplit.train.step import Phase, Rate, make_reconstruct, make_step, rate_constants

ALL = Distortion(labels=1, distillation=0.5, features=1, temperature=2)
NOISE, ROUND = Phase(1, ALL), Phase(1, ALL, "round")
FEATURES = Phase(1, Distortion(distillation=0, features=1))
RATES = (Rate("a", 1e-2), Rate("b", 1e-1))


def assert_close(ours, theirs, rtol, atol=0.0):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol, atol, err_msg=jax.tree_util.keystr(path))


# Sums in another order: float32 leaves 1e-4 of the largest entries, 1e-5 of means over the batch.
def assert_same_step(ours, theirs):
    for name in ours[0]:
        largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs[0][name]))
        assert_close(ours[0][name], theirs[0][name], 1e-4, 1e-5 * max(largest, 1e-3))
    assert_close(ours[1], theirs[1], 1e-5, 1e-6)
    assert_close(ours[2], theirs[2], 1e-5)


@pytest.fixture(scope="module")
def start(problem):
    """(state, batch, constants) of two rates, in a state that is not the initial one."""
    state = problem.state(RATES)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + rng.normal(0, 0.02, x.shape).astype(x.dtype), state.params)
    return dataclasses.replace(state, params=moved), problem.batch(), problem.constants(RATES)


@pytest.mark.slow
@pytest.mark.parametrize("phase", [NOISE, ROUND])
def test_four_devices_give_the_gradient_statistics_and_loss_of_one(problem, start, phase):
    assert_same_step(
        problem.gradient(phase, *start, devices=4), problem.gradient(phase, *start, devices=1)
    )


@pytest.mark.parametrize("phase", [NOISE, ROUND])
def test_a_tail_that_ran_by_itself_gives_the_same_gradient(problem, start, phase):
    rates = RATES[:1]
    state, batch, _ = start
    state = jax.tree.map(lambda x: x[:1] if np.ndim(x) else x, state)
    constants = problem.constants(rates)
    devices = jax.devices()[:1]
    reconstruct = make_reconstruct(problem.split, phase)
    program = parallel.parallel_step(
        lambda _, batch, given: ((), reconstruct(given[0], batch, given[1])), devices
    )
    without = dataclasses.replace(constants, backbone={"params": {}})
    given = parallel.replicate((state, without), devices)
    _, seen = program((), parallel.shard(batch, devices), given)

    def distortion(x):
        outputs = problem.split.tail(problem.backbone.variables, x)
        seen = DistortionInputs(
            *(x, batch.features, outputs, batch.teacher, batch.targets),
            *(constants.scale, problem.split.task),
        )
        return ALL(seen).sum()

    slopes = jax.grad(distortion)(seen[0][0])
    linear = Phase(1, LinearDistortion(), phase.quantization)
    sloped = dataclasses.replace(batch, teacher=slopes)
    ours = problem.gradient(linear, state, sloped, without)
    whole = problem.gradient(phase, state, batch, constants)
    assert_same_step((*ours[:2], ours[2]["bits"]), (*whole[:2], whole[2]["bits"]))
    assert not ours[2]["distortion"].any()


@pytest.mark.slow
@pytest.mark.parametrize(("batching", "devices"), [("map", 1), ("unroll", 1), ("map", 2)])
def test_rates_may_share_a_step_in_any_way(problem, start, batching, devices):
    assert_same_step(
        problem.gradient(ROUND, *start, devices, rate_vectorization=batching),
        problem.gradient(ROUND, *start, devices=1),
    )


def test_the_gradient_matches_finite_differences(problem, start):
    state, batch, constants = start
    gradient, _, _ = problem.gradient(NOISE, *start)
    step = 1e-3

    def squares(tree):
        leaves = jax.tree.leaves(tree)
        return sum(np.square(x).sum(axis=tuple(range(1, x.ndim))) for x in leaves)

    def loss(part, distance):
        """Along the gradient itself, where the loss changes most and rounding matters least."""
        norm = np.sqrt(squares(gradient[part]))

        def move(x, g):
            return x + distance * g / norm.reshape(-1, *[1] * (g.ndim - 1))

        moved = {**state.params, part: jax.tree.map(move, state.params[part], gradient[part])}
        there = dataclasses.replace(state, params=moved)
        return problem.gradient(NOISE, there, batch, constants)[2]["loss"]

    for part in gradient:
        slope = (loss(part, step) - loss(part, -step)) / (2 * step)
        np.testing.assert_allclose(slope, np.sqrt(squares(gradient[part])), rtol=0.03)


def test_only_the_unit_is_trained_and_all_of_it(problem, start):
    state, _, _ = start
    gradient, stats, _ = problem.gradient(NOISE, *start)
    assert set(gradient) == {"encoder", "decoder", "prior"}
    assert set(stats) == {"encoder", "decoder"}
    for path, leaf in jax.tree.leaves_with_path(gradient):
        per_rate = np.abs(leaf).reshape(len(RATES), -1).max(axis=1)
        assert (per_rate > 0).all(), jax.tree_util.keystr(path)
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)}
    backbone = {*problem.backbone.variables["params"]}
    assert backbone == {"stem", "stage1_block1", "stage2_block1", "stage3_block1", "logits"}
    assert not [name for name in names if any(module in name for module in backbone)]


def test_the_noise_of_an_example_does_not_depend_on_its_place(problem, start):
    state, batch, constants = start
    order = np.random.default_rng(1).permutation(len(batch.index))
    shuffled = jax.tree.map(lambda array: array[order], batch)
    assert_same_step(
        problem.gradient(NOISE, state, shuffled, constants), problem.gradient(NOISE, *start)
    )


def test_noise_differs_between_examples_steps_rates_and_seeds(problem, start):
    state, batch, _ = start
    twins = tuple(dataclasses.replace(rate, lmbda=1e-2) for rate in RATES)

    def bits(state=state, index=batch.index, seed=0):
        constants = problem.constants(twins, seed)
        batch_ = dataclasses.replace(batch, index=index)
        return problem.gradient(NOISE, state, batch_, constants)[2]["bits"]

    same = jax.tree.map(lambda x: np.stack([x[0], x[0]]) if np.ndim(x) else x, state)
    assert bits(same)[0] != bits(same)[1]  # one unit twice: only the noise differs
    drawn = [
        bits()[0],
        bits(index=batch.index + 1)[0],
        bits(dataclasses.replace(state, step=state.step + 1))[0],
        bits(seed=1)[0],
    ]
    assert len(set(drawn)) == len(drawn)


def test_the_decoder_sees_noise_or_rounding_around_the_offsets(problem, start):
    state, batch, constants = start
    other_noise = dataclasses.replace(constants, rates=rate_constants(RATES, seed=1))
    shifted = dataclasses.replace(state, offsets=state.offsets + np.float32(0.3))

    def distortion(phase, state, constants):
        return problem.gradient(phase, state, batch, constants)[2]["distortion"]

    plain = {phase: distortion(phase, state, constants) for phase in (NOISE, ROUND)}
    assert (distortion(NOISE, state, other_noise) != plain[NOISE]).all()
    np.testing.assert_array_equal(distortion(ROUND, state, other_noise), plain[ROUND])
    np.testing.assert_array_equal(distortion(NOISE, shifted, constants), plain[NOISE])
    assert (distortion(ROUND, shifted, constants) != plain[ROUND]).all()


@pytest.mark.parametrize(
    ("distortion", "heeds"),
    [
        (Distortion(labels=1, distillation=0), {"targets"}),
        (Distortion(distillation=1), {"teacher"}),
        (Distortion(distillation=0, features=1), {"scale"}),
    ],
    ids=["labels", "distillation", "features"],
)
def test_each_distortion_looks_at_its_own_target(problem, start, distortion, heeds):
    state, batch, constants = start
    phase = Phase(1, distortion)
    lmbda = jnp.asarray([rate.lmbda for rate in RATES])
    rates = dataclasses.replace(constants.rates, lmbda=lmbda)
    constants = dataclasses.replace(constants, rates=rates)
    _, _, metrics = problem.gradient(phase, state, batch, constants)
    np.testing.assert_allclose(
        metrics["loss"], metrics["distortion"] + lmbda * metrics["bits"], rtol=1e-5
    )
    assert ("top1" in metrics) == distortion.needs_tail
    assert (metrics["bits"] > 0).all()
    assert (metrics["distortion"] > 0).all()
    changed = {
        "targets": (dataclasses.replace(batch, targets=(batch.targets + 1) % 10), constants),
        "teacher": (dataclasses.replace(batch, teacher=batch.teacher[::-1]), constants),
        "scale": (batch, dataclasses.replace(constants, scale=2 * constants.scale)),
    }
    for name, (other_batch, other_constants) in changed.items():
        other = problem.gradient(phase, state, other_batch, other_constants)[2]["distortion"]
        assert (other != metrics["distortion"]).all() == (name in heeds), name


# Of features alone: `test_a_rate_in_company_of_other_forms_equals_the_rate_alone`.
@pytest.mark.slow
@pytest.mark.parametrize("phase", [NOISE, ROUND])
def test_rates_trained_together_equal_rates_trained_alone(problem, phase):
    rates = (*RATES, Rate("c", 1.0))
    batches = [problem.batch(step) for step in range(6)]

    def train(chosen):
        state, metrics = problem.run(
            phase,
            problem.state(chosen, "adam"),
            batches,
            problem.constants(chosen),
            optimizer="adam",
        )
        state = dataclasses.replace(state, step=np.zeros(len(chosen)))
        return {
            rate: jax.tree.map(lambda x, i=i: x[i], (state.variables, state.opt_state, metrics))
            for i, rate in enumerate(chosen)
        }

    together = train(rates)
    assert len({float(together[rate][2][-1]["bits"]) for rate in rates}) == 3
    reversed_ = train(rates[::-1])
    for rate in rates:
        alone = train((rate,))[rate]
        # Six steps of Adam on gradients that agree to float32.
        assert_close(together[rate], alone, 1e-3, 1e-5)
        assert_close(reversed_[rate], alone, 1e-3, 1e-5)


def test_neither_a_second_step_nor_other_lambdas_compile_again(problem, start, compiles):
    state, batch, constants = start
    problem.run(NOISE, state, [batch], constants)
    other = tuple(Rate(f"other{i}", 10.0 * i) for i in range(len(RATES)))
    constants = problem.constants(other, seed=5)
    with compiles() as programs:
        problem.run(NOISE, state, [problem.batch(2), problem.batch(3)], constants)
    assert not programs


def test_the_running_mean_follows_the_units(problem, start):
    state, batch, constants = start
    assert not jax.tree.leaves(state.ema)
    state = dataclasses.replace(state, ema=state.variables)
    mean = state.ema
    for step in range(1, 4):
        state, _ = problem.run(FEATURES, state, [batch], constants, ema=0.12)
        keep = min(0.12, step / (step + 10))  # the bound takes hold at the second step
        mean = jax.tree.map(lambda m, x, k=keep: k * m + (1 - k) * x, mean, state.variables)
        assert_close(state.ema, mean, 1e-5, 1e-7)
        assert state.result is state.ema
    without, _ = problem.run(FEATURES, start[0], [batch] * 3, constants)
    assert_close(without.variables, state.variables, 1e-6, 1e-6)  # training takes no notice
    assert without.result == without.variables


def test_bfloat16_is_for_the_arithmetic_alone(problem, start):
    state, batch, constants = start
    exact = problem.gradient(NOISE, *start)
    rough = problem.gradient(NOISE, *start, compute_dtype="bfloat16")
    kinds = [jax.tree.map(lambda x: x.dtype, tree) for tree in (rough, exact)]
    assert kinds[0] == kinds[1]
    for name in ("loss", "bits", "distortion"):
        np.testing.assert_allclose(rough[2][name], exact[2][name], rtol=0.03)
    for part in exact[0]:
        ours, theirs = (
            np.concatenate([x.ravel() for x in jax.tree.leaves(g[0][part])]) for g in (rough, exact)
        )
        cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert 0.98 < cosine < 1 - 1e-7, part
    step = make_step(
        dataclasses.replace(problem.split, axis_name=None),
        NOISE,
        optax.sgd(1.0),
        compute_dtype="bfloat16",
    )
    program = str(jax.make_jaxpr(step, axis_env=[(parallel.AXIS, 1)])(state, batch, constants))
    convolutions = re.findall(r"(\w+)\[[^\]]*\] = conv_general_dilated", program)
    assert set(convolutions) == {"bf16"}


def test_an_unknown_quantization_is_refused():
    with pytest.raises(ConfigError, match="expected noise or round"):
        Phase(1, ALL, "floor")


def test_a_unit_without_batch_normalisation_trains(problem, tiny_backbone, tiny_config):
    spec = dataclasses.replace(tiny_config.spec, batch_norm=False)
    plain = type(problem)(tiny_backbone, dataclasses.replace(tiny_config, spec=spec))
    state = plain.state(RATES)
    gradient, statistics, metrics = plain.gradient(
        FEATURES, state, plain.batch(), plain.constants(RATES)
    )
    assert not jax.tree.leaves(statistics)
    assert np.isfinite(metrics["loss"]).all()
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
