"""Real short trainings on features that are drawn at random."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit import networks
from jaxsplit.cost import make_plan
from jaxsplit.search.candidates import DesignConfig, candidates
from jaxsplit.search.trainer import Trainer
from jaxsplit.train import parallel
from jaxsplit.train.batches import FeatureCache
from jaxsplit.train.losses import Distortion
from jaxsplit.train.state import Constants
from jaxsplit.train.step import Phase, make_step, rate_constants

CUT = "stage3.block1"  # small and fast
CONFIG = DesignConfig(
    "any", cuts=(CUT,), channels=(3,), strides=(4,), lambdas=(1e-4, 3e-2), batch_size=16
)


@pytest.fixture(scope="module")
def trained():
    """Both candidates after 60 steps on features; what they were worth before and then."""
    backbone = networks.open_embedded("fashion_mnist_resnet8").fold()
    plan = make_plan(backbone.network, (28, 28, 1), backbone.variables, channels=(3,), strides=(4,))
    rng = np.random.default_rng(0)
    features = np.abs(rng.standard_normal((64, 1, 1, 64)) * np.ones((64, 7, 7, 64)))
    labels = rng.integers(0, 10, 64).astype(np.int32)
    teacher = rng.normal(0, 3, (64, 10)).astype(np.float32)
    scale = float(np.square(features).mean())
    sets = {CUT: FeatureCache(features.astype(np.float16), teacher, labels, scale)}
    trainer = Trainer(CONFIG, backbone, sets, sets)
    # As if more blocks followed: a search tries nothing behind a last block.
    found = candidates(CONFIG, dataclasses.replace(plan, macs=2 * plan.macs))
    trials = trainer.trials(found)
    (part,) = trainer.parts(64)
    fresh = [trainer.compare(one, part) for one in trials]
    for one in trials:
        trainer.advance(one, 60, distilled=False)
    return fresh, [trainer.compare(one, part) for one in trials], trials, trainer


def test_bits_that_cost_more_are_fewer(trained):
    fresh, after, trials, _ = trained
    assert fresh[0]["bits"] == pytest.approx(fresh[1]["bits"])
    assert after[1]["bits"] < 0.9 * after[0]["bits"]
    for one, sums in zip(trials, after, strict=True):
        assert int(one.state.step) == 60
        assert sums["examples"] == 64
        assert 0 <= sums["top1"] <= 64


@pytest.mark.parametrize("distilled", [True, False])
def test_a_step_in_two_programs_is_one_of_the_whole_loss(trained, distilled):
    """Adam's moments are compared, which the gradient is a part of: its steps blow up rounding."""
    *_, (trial, _), trainer = trained
    assert trial.offsets_fitted
    first = trial.state
    on_features = Distortion(distillation=0.0, features=CONFIG.weight)
    phase = Phase(1, Distortion() if distilled else on_features, "round")
    step = parallel.parallel_step(
        make_step(trial.split, phase, trainer.adam, ema=CONFIG.ema), trainer.devices
    )
    constants = Constants(
        trainer.backbone.variables,
        jnp.asarray(trainer.train[CUT].scale, jnp.float32),
        rate_constants(trial.rates, CONFIG.seed),
    )
    state, constants = (parallel.replicate(x, trainer.devices) for x in (first, constants))
    batch = parallel.shard(trainer._batch(CUT, int(first.step)), trainer.devices)
    whole = parallel.unreplicate(step(state, batch, constants)[0])
    ours = dataclasses.replace(trial)
    trainer.advance(ours, 1, distilled)
    for name in ("opt_state", "batch_stats"):
        trees = (getattr(state, name) for state in (first, whole, ours.state))
        moved = []
        for before, expected, found in zip(*map(jax.tree.leaves, trees), strict=True):
            largest = np.abs(expected).max()
            np.testing.assert_allclose(found, expected, 1e-3, 1e-3 * largest)
            moved.append(np.abs(expected - before).max() > 0.01 * largest)
        assert np.mean(moved) > 0.5, name


def test_what_trains_through_the_tail_keeps_where_it_rounds(trained):
    *_, (trial, _), trainer = trained
    ours = dataclasses.replace(trial)
    offsets = ours.state.offsets
    trainer.advance(ours, 2, distilled=True)
    trainer.compare(ours, trainer.parts(64)[0])
    np.testing.assert_array_equal(ours.state.offsets, offsets)
    trainer.advance(ours, 20, distilled=False)
    assert not ours.offsets_fitted
    trainer.compare(ours, trainer.parts(64)[0])
    assert (ours.state.offsets != offsets).any()


def test_every_comparison_is_of_all_classes(trained):
    """Though images come class by class, and only those of the first five are told here."""
    *_, trainer = trained
    labels = np.repeat(np.arange(10), 100).astype(np.int32)
    teacher = np.eye(10, dtype=np.float32)[labels * (labels < 5)]
    features = np.zeros((1000, *trainer.test[CUT].features.shape[1:]), np.float16)
    many = {CUT: FeatureCache(features, teacher, labels, 1.0)}
    other = Trainer(CONFIG, trainer.backbone, trainer.train, many)
    assert len(other.parts(1000)) > 1
    assert other.unsplit_quality(1000) == 0.5
    assert other.unsplit_quality(1) == pytest.approx(0.5, abs=0.15)
