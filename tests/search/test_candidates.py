"""The candidates of a search, and the configuration that it writes."""

import dataclasses
import math

import pytest

from jaxsplit import networks
from jaxsplit.cost import make_plan
from jaxsplit.errors import ConfigError
from jaxsplit.experiments import config
from jaxsplit.search import DesignConfig, candidates
from jaxsplit.search.export import write_config
from jaxsplit.search.pareto import Result


@pytest.fixture(scope="module")
def plan():
    module = networks.create("resnet8_small", 10)
    return make_plan(module, (28, 28, 1), channels=(4,), strides=(2,))


DESIGN = DesignConfig(
    "fashion_mnist_resnet8",
    channels=(4, 40),
    strides=(2, 8),
    lambdas=(1e-3, 6e-5),
    full_steps=101,
    weight=3.0,
)


def test_candidates_are_all_that_fits(plan):
    found = candidates(DESIGN, plan)
    assert len({one.name for one in found}) == len(found)
    forms = {(one.cut, one.spec.channels, one.spec.stride) for one in found}
    assert len(found) == 2 * len(forms)
    assert ("stage1.block1", 4, 8) in forms
    assert ("stage1.block1", 40, 8) not in forms  # wider than the features
    assert ("stage2.block1", 40, 2) not in forms
    for one in found:
        assert plan[one.cut].device_macs < one.device_macs < plan.macs
    only = candidates(dataclasses.replace(DESIGN, cuts=("stem", "stem")), plan)
    assert {one.cut for one in only} == {"stem"}
    assert len(only) == 2 * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cuts": ("stage9",)}, "no cut 'stage9'"),
        ({"channels": (99,)}, "no unit of the grid fits"),
        # Behind the last block the device has done all there is to do.
        ({"cuts": ("stage3.block1",)}, "less to do than the whole network"),
    ],
)
def test_nothing_to_choose_from_is_said(plan, changes, words):
    with pytest.raises(ConfigError, match=words):
        candidates(dataclasses.replace(DESIGN, **changes), plan)


@pytest.mark.parametrize(
    "changes",
    [
        {"lambdas": ()},
        {"lambdas": (1e-3, 0.001)},
        {"lambdas": (-1.0,)},
        {"minutes": 0.0},
        {"minutes": math.nan},
        {"keep": 1.5},
        {"rungs": 0},
        {"full_steps": 19},
        {"on_features": 1.1},
        {"on_features": -0.1},
        {"most_drop": -0.1},
        {"most_drop": math.inf},
        {"ema": 1.0},
    ],
)
def test_impossible_searches_are_refused(changes):
    with pytest.raises(ConfigError):
        dataclasses.replace(DESIGN, **changes)


def test_more_time_is_the_same_search():
    assert dataclasses.replace(DESIGN, minutes=99.0).key == DESIGN.key
    assert dataclasses.replace(DESIGN, most_drop=0.1).key == DESIGN.key  # shown otherwise
    assert dataclasses.replace(DESIGN, seed=1).key != DESIGN.key
    assert dataclasses.replace(DESIGN, on_features=0.5).key != DESIGN.key


def test_the_written_configuration_trains_the_chosen_points(plan, tmp_path):
    found = candidates(DESIGN, plan)
    chosen = [
        Result(one, 10, size, 0.9, 100)
        for one, size in zip((found[0], found[5], found[1], found[-1]), (9, 5, 7, 1), strict=True)
    ]
    write_config(tmp_path / "chosen.py", DESIGN, chosen)
    for cut in {result.candidate.cut for result in chosen}:
        loaded = config.load(f"{tmp_path}/chosen.py:{cut}", {"seed": "3"})
        mine = [result for result in chosen if result.candidate.cut == cut]
        mine.sort(key=lambda result: result.bytes_per_image)
        assert (loaded.cut, loaded.backbone, loaded.steps) == (cut, DESIGN.backbone, 101)
        assert loaded.seed == 3
        assert loaded.phases[0].distortion.features == DESIGN.weight != DesignConfig.weight
        for name in ("data", "batch_size", "learning_rate", "prior_lr_multiplier", "ema"):
            assert getattr(loaded, name) == getattr(DESIGN, name)
        assert (loaded.train_split, loaded.test_split) == ("train", "test")
        for rate, result in zip(loaded.rates, mine, strict=True):
            assert (rate.spec or loaded.spec) == result.candidate.spec
            assert rate.lmbda == result.candidate.lmbda
        assert [rate.rate_id for rate in loaded.rates] == [f"r{i + 1}" for i in range(len(mine))]


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train[:90%]", "validation[:500]"), ("train", "validation")),
        (("validation[:90%]", "validation[90%:]"), ("validation", "test")),
        (("test[:90%]", "test[90%:]"), ("test[:90%]", "test[90%:]")),
    ],
)
def test_a_full_training_takes_whole_splits_that_are_apart(plan, tmp_path, splits, expected):
    train, test = splits
    design = dataclasses.replace(
        DESIGN,
        train_split=train,
        test_split=test,
        max_samples=None,
        prior_lr_multiplier=2.0,
        ema=0.0,
    )
    (one, *_) = candidates(design, plan)
    write_config(tmp_path / "chosen.py", design, [Result(one, 10, 9.0, 0.9, 100)])
    loaded = config.load(f"{tmp_path}/chosen.py:{one.cut}")
    assert (loaded.train_split, loaded.test_split) == expected
    assert (loaded.max_samples, loaded.prior_lr_multiplier, loaded.ema) == (None, 2.0, 0.0)


def test_a_search_is_configured_like_a_training():
    loaded = config.load("resnet20_design", {"minutes": "3.5", "cuts": "('stem',)", "rungs": "2"})
    assert isinstance(loaded, DesignConfig)
    assert (loaded.minutes, loaded.cuts, loaded.rungs) == (3.5, ("stem",), 2)
    with pytest.raises(ConfigError, match="no key 'minute'"):
        config.load("resnet20_design", {"minute": "3.5"})
