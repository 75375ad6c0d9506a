"""Rates of several forms: grouped by shape, trained behind one head, back in their order."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from jaxsplit import data
from jaxsplit.errors import ConfigError
from jaxsplit.train import parallel
from jaxsplit.train.losses import Distortion
from jaxsplit.train.rate_groups import (
    first_state,
    in_order,
    make_curve_step,
    make_groups,
    with_best_offsets,
)
from jaxsplit.train.state import Batch, Constants
from jaxsplit.train.step import Phase, Rate, rate_constants

FEATURES = Phase(1, Distortion(distillation=0, features=1))
ALL = Phase(1, Distortion(labels=1, distillation=0.5, features=1), "round")


@pytest.fixture(scope="module")
def rates(tiny_config):
    wide = dataclasses.replace(tiny_config.spec, channels=5, stride=1)
    return (Rate("a", 1e-2), Rate("wide", 1e-2, wide), Rate("c", 1e-1))


@pytest.fixture(scope="module")
def train(problem, tiny_config):
    """(rates, phase, batches) → (groups, state, metrics of the last step)."""

    def run(rates, phase, batches, optimizer, **options):
        groups = make_groups(
            problem.backbone, tiny_config.cut, tiny_config.spec, rates, parallel.AXIS
        )
        devices = jax.devices()[:1]
        config = dataclasses.replace(
            tiny_config, optimizer=optimizer, ema=0.0, rate_vectorization="vmap", **options
        )
        step = make_curve_step(config, groups, phase, problem.backbone.preprocessing)
        program = parallel.parallel_step(step, devices)
        constants = Constants(
            backbone=problem.backbone.variables,
            scale=np.float32(problem.cache.scale),
            rates=rate_constants(rates, 0),
        )
        state = parallel.replicate(first_state(config, problem.backbone, groups), devices)
        constants = parallel.replicate(constants, devices)
        for batch in batches:
            state, metrics = program(state, parallel.shard(batch, devices), constants)
        return groups, parallel.unreplicate(state), parallel.unreplicate(metrics)

    return run


def assert_close(ours, theirs, rtol=1e-3, atol=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), ours, theirs)


def test_rates_of_one_form_are_a_group(problem, tiny_config, rates):
    # A form of one's own that is the curve's is no form of one's own.
    same = Rate("d", 1.0, dataclasses.replace(tiny_config.spec))
    groups = make_groups(problem.backbone, tiny_config.cut, tiny_config.spec, (*rates, same))
    assert [[rate.rate_id for rate in group.rates] for group in groups] == [
        ["a", "c", "d"],
        ["wide"],
    ]
    assert [group.split.spec.channels for group in groups] == [3, 5]
    lambdas = in_order(groups, [np.array([rate.lmbda for rate in group.rates]) for group in groups])
    np.testing.assert_allclose(lambdas, [1e-2, 1e-2, 1e-1, 1.0])
    places = in_order(groups, [np.array(group.indices) for group in groups])
    assert places.tolist() == [0, 1, 2, 3]


def test_a_form_that_does_not_fit_is_refused(problem, tiny_config):
    huge = dataclasses.replace(tiny_config.spec, kernel=40)
    with pytest.raises(ConfigError, match="too small"):
        make_groups(
            problem.backbone, tiny_config.cut, tiny_config.spec, [Rate("a", 1), Rate("b", 1, huge)]
        )


@pytest.mark.slow
def test_a_rate_in_company_of_other_forms_equals_the_rate_alone(problem, rates, train):
    batches = [problem.batch(step) for step in range(4)]
    groups, together, metrics = train(rates, FEATURES, batches, problem.optimizers["adam"])
    assert int(together.step) == 4
    trees = {
        place: jax.tree.map(lambda x, i=i: x[i], (state.variables, state.offsets))
        for group, state in zip(groups, together.groups, strict=True)
        for i, place in enumerate(group.indices)
    }
    for i, rate in enumerate(rates):
        _, alone, own = train((rate,), FEATURES, batches, problem.optimizers["adam"])
        (state,) = alone.groups
        assert_close(trees[i], jax.tree.map(lambda x: x[0], (state.variables, state.offsets)))
        assert_close(
            {name: value[i] for name, value in metrics.items()},
            {name: value[0] for name, value in own.items()},
        )
    assert [len(offsets) for offsets in with_best_offsets(groups, together).groups[1].offsets] == [
        5
    ]


@pytest.mark.slow
def test_images_in_the_step_give_what_cached_features_do(problem, rates, train):
    batch = problem.batch()
    source = data.open_source("embedded", split="train", max_samples=64)
    images, labels = data.load_arrays(source, problem.backbone.preprocessing)
    np.testing.assert_array_equal(labels[batch.index], batch.targets)
    seen = Batch(batch.index, batch.targets, images=images[batch.index])
    sgd = optax.sgd(1e-2)
    _, cached, ours = train(rates, ALL, [batch], sgd)
    _, direct, theirs = train(rates, ALL, [seen], sgd)
    assert_close(cached.groups, direct.groups)
    assert_close(ours, theirs)
    _, _, rough = train(rates, FEATURES, [seen], sgd, compute_dtype="bfloat16")
    _, _, exact = train(rates, FEATURES, [batch], sgd)
    assert_close(rough, exact, rtol=0.05)
