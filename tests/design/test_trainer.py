"""Real short trainings on features that are drawn at random."""

import numpy as np
import pytest

from jaxsplit import models
from jaxsplit.design.candidates import DesignConfig, candidates
from jaxsplit.design.features import CutFeatures
from jaxsplit.design.trainer import Trainer
from jaxsplit.plan import make_plan

CUT = "stage3.block1"
CONFIG = DesignConfig(
    "any", cuts=(CUT,), channels=(3,), strides=(4,), lambdas=(1e-4, 3e-2), batch_size=16
)


@pytest.fixture(scope="module")
def trained():
    """Both candidates trained together, and the first one alone; with their comparisons."""
    backbone = models.open_embedded("fashion_mnist_resnet8").fold()
    plan = make_plan(backbone.module, (28, 28, 1), backbone.variables, channels=(3,), strides=(4,))
    rng = np.random.default_rng(0)
    features = np.abs(rng.standard_normal((64, 1, 1, 64)) * np.ones((64, 7, 7, 64)))
    sets = CutFeatures(
        {CUT: features.astype(np.float16)},
        rng.integers(0, 10, 64).astype(np.int32),
        {CUT: float(np.square(features).mean())},
        0.5,
    )
    trainer = Trainer(CONFIG, backbone, sets, sets)
    found = candidates(CONFIG, plan)
    (both,), (alone,) = trainer.members(found), trainer.members(found[:1])
    sums = {"fresh": trainer.compare(both, 0)}
    # Few steps: in many, Adam makes much of the last digit of a small gradient.
    for members, name in ((both, "together"), (alone, "alone")):
        trainer.advance(members, 2)
        trainer.advance(members, 1)
        sums[name] = trainer.compare(members, 0)
    trainer.advance(both, 57)
    return sums, both, trainer.compare(both, 0)


def test_bits_that_cost_more_are_fewer(trained):
    sums, both, after = trained
    assert sums["fresh"]["bits"][0] == pytest.approx(sums["fresh"]["bits"][1])
    assert after["bits"][1] < 0.9 * after["bits"][0]
    assert int(both.state.step) == 60
    assert after["images"] == 64
    assert ((after["top1"] >= 0) & (after["top1"] <= 64)).all()


def test_who_is_trained_beside_it_changes_no_candidate(trained):
    sums, _, _ = trained
    fresh, together, alone = (sums[name]["bits"][0] for name in ("fresh", "together", "alone"))
    assert alone == pytest.approx(together, rel=2e-3)
    assert abs(together / fresh - 1) > 5e-3  # something was learned meanwhile
