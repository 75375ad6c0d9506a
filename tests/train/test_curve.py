"""Whole trainings: from plain arguments or a configuration, with and without a cache."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit import data, train_curve, train_family
from jaxsplit.codec import Sender
from jaxsplit.errors import ConfigError, JaxsplitError, JaxsplitWarning, NonFiniteError
from jaxsplit.io import files
from jaxsplit.tasks import Classification
from jaxsplit.train import arguments, curve, features, rate_groups
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units import BottleneckSpec

FEATURES = Distortion(distillation=0, features=1)
PHASES = (Phase(4, FEATURES), Phase(4, FEATURES, "round"))


@pytest.fixture(scope="module")
def config(tiny_config, tiny_backbone):
    wide = dataclasses.replace(tiny_config.spec, channels=5, stride=1)
    return dataclasses.replace(
        tiny_config,
        backbone=tiny_backbone.fingerprint,
        rates=(Rate("a", 1e-4), Rate("wide", 1e-3, wide), Rate("c", 1e-2)),
        phases=PHASES,
        max_samples=64,
        batch_size=16,
        ema=0.9,
        evaluate_every=4,
        max_eval_samples=30,
    )


@pytest.fixture(scope="module")
def family(config, tiny_backbone):
    return train_curve(config, tiny_backbone)


def test_plain_arguments_train_what_a_configuration_does(config, family, tiny_backbone, tmp_path):
    told = []
    ours = train_family(
        tiny_backbone,
        config.cut,
        {rate.rate_id: rate.lmbda for rate in config.rates},
        channels=3,
        unit={"wide": config.rates[1].spec},
        phases=PHASES,
        workdir=tmp_path,
        log=told.append,
        **{
            name: getattr(config, name)
            for name in ("max_samples", "batch_size", "ema", "learning_rate")
        },
        evaluate_every=4,
        max_eval_samples=30,
    )
    assert ours.fingerprint == family.fingerprint
    assert any("computing features" in text for text in told)
    assert [(rate.rate_id, rate.spec.channels) for rate in ours.rates] == [
        ("a", 3),
        ("wide", 5),
        ("c", 3),
    ]
    # What evaluations say of each rate is written down beside the training's own metrics.
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    said = {line["step"]: line for line in lines if "eval_bits" in line}
    assert sorted(said) == [4, 8]
    for line in said.values():
        assert list(line["eval_bits"]) == ["a", "wide", "c"]
        assert all(0 <= value <= 1 for value in line["eval_top1"].values())
    # Of nine positions and of 36: the larger latent costs more.
    assert said[8]["eval_bits"]["wide"] > 2 * said[8]["eval_bits"]["a"]
    assert list(tmp_path.glob(f"checkpoints-{config.key}-*"))
    assert dataclasses.replace(config, evaluate_every=0).key == config.key


def test_a_training_without_a_cache_ends_where_one_with_it_does(config, family, tiny_backbone):
    direct = train_curve(dataclasses.replace(config, cache="none", evaluate_every=0), tiny_backbone)
    for one, other in zip(direct.rates, family.rates, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-2, 1e-3),
            one.variables["params"]["decoder"],
            other.variables["params"]["decoder"],
        )


def test_a_batch_that_the_devices_cannot_share_is_refused_before_features(
    config, tiny_backbone, monkeypatch
):
    monkeypatch.setattr(features, "compute", _never)
    with pytest.raises(ConfigError, match="4 or 8"):
        train_curve(dataclasses.replace(config, batch_size=6), tiny_backbone)


def _never(*_, **__):
    raise AssertionError("too late")


def test_a_state_that_is_no_number_is_said_to_be_a_rates(config, tiny_backbone, monkeypatch):
    init = rate_groups.first_state

    def spoiled(*args):
        state = init(*args)  # one group of a and c, one of wide
        first = state.groups[0]
        ema = jax.tree.map(lambda x: x.at[1].set(np.nan), first.ema)
        return state.replace(groups=(first.replace(ema=ema), *state.groups[1:]))

    monkeypatch.setattr(rate_groups, "first_state", spoiled)
    with pytest.raises(NonFiniteError, match=r"step 4: .*ema.* not finite for the rates c;"):
        train_curve(dataclasses.replace(config, evaluate_every=0), tiny_backbone)


def test_another_task_behind_the_same_network_is_another_training(tiny_backbone):
    @dataclasses.dataclass(frozen=True)
    class Own(Classification):
        margin: float = 1.0

    names = tiny_backbone.class_names
    tasks = tiny_backbone.task, Own(names), Own(names, margin=2.0)
    backbones = [dataclasses.replace(tiny_backbone, task=task) for task in tasks]
    assert len({curve.training_key("key", backbone, "images") for backbone in backbones}) == 3


@pytest.mark.parametrize("tables", ["shared", "channels"])
def test_tables_may_follow_the_training_images(config, family, tiny_backbone, tables):
    fitted = train_curve(dataclasses.replace(config, tables=tables), tiny_backbone)
    source = data.open_source("embedded", split="train", max_samples=config.max_samples)
    images, _ = data.load_arrays(source, tiny_backbone.preprocessing)
    sender = Sender(family, tiny_backbone, batch_size=16)
    for before, after in zip(family.rates, fitted.rates, strict=True):
        np.testing.assert_array_equal(before.tables.offsets, after.tables.offsets)
        assert (len(np.unique(after.tables.counts, axis=0)) == 1) == (tables == "shared")
        symbols = sender.symbols(images, before.rate_id)
        if tables == "channels":
            assert after.tables.information_bits(symbols) < before.tables.information_bits(symbols)


def test_latents_behind_a_relu_round_around_zero(config, tiny_backbone):
    spec = dataclasses.replace(config.spec, latent_activation="relu")
    published = dataclasses.replace(config, spec=spec, rates=config.rates[::2])
    for rate in train_curve(published, tiny_backbone).rates:
        assert not rate.tables.offsets.any()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rates": {"a": 1.0}}, "no argument 'rates'; lambdas are the rates"),
        ({"log": True}, "log is True; expected a function"),
        ({"batchsize": 3}, "no argument 'batchsize'; did you mean batch_size?"),
        ({"chanels": 3}, "did you mean channels?"),
        ({"learning_rates": 3}, "did you mean learning_rate?"),
        ({"unit": {"d": None}}, "unit has d; the rates are a"),
        ({"unit": 12}, "a unit is 12; expected a jaxsplit.BottleneckSpec"),
        ({"unit": BottleneckSpec}, "a unit is the class BottleneckSpec"),
        ({"phases": 3}, "phases is 3; expected a list of jaxsplit.Phase"),
        ({"progress": "yes"}, "progress is 'yes'; expected a function, or True or False"),
        ({"loss": "mse"}, "loss is 'mse'; expected a jaxsplit.Distortion"),
        ({"optimizer": 1e-3}, "optimizer is 0.001; expected one of optax"),
        ({"batch_size": "64"}, "batch_size is '64'; expected at least 1"),
        ({"ema": 1.0}, "ema"),
        ({"steps": 10.0}, "steps is 10.0; expected a whole number"),
        ({"data": 3}, "data is a int; expected a name such as folder:PATH"),
        (
            {"data": np.zeros((2, 9, 9), np.uint8), "evaluate_every": 5},
            "evaluate_every measures test images",
        ),
        ({"data": np.zeros((2, 9, 9))}, "an image is float64"),
        ({"lambdas": {"a b": 1.0}}, "'a b' is not a name of a rate"),
        ({"lambdas": ["r1", "r2"]}, "lambda of rate r1 is 'r1'; expected a number"),
        ({"lambdas": []}, "at least one rate"),
        ({"lambdas": -1.0}, "lambda of rate r1 is -1.0"),
        ({"backbone": "fashion_mnist"}, "fashion_mnist_resnet8"),
        ({"backbone": None}, "got a NoneType in place of the backbone"),
        ({"steps": -9}, "-1 steps"),
        ({"data": "nowhere:"}, "nowhere"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tiny_backbone, options, word):
    given = {"backbone": tiny_backbone, "cut": "stage2.block1", "lambdas": {"a": 1.0}}
    with pytest.raises(JaxsplitError, match=re.escape(word)):
        train_family(**{**given, "max_samples": 8, **options})


def test_numbers_of_any_library_and_old_names_count(tiny_backbone):
    options = {"limit": 8}
    with pytest.warns(JaxsplitWarning, match=r"train_family\(limit"):
        arguments.check_names(options, ())
    assert options == {"max_samples": 8}
    for several in (np.array([1e-3, 1e-4]), jnp.array([1e-3, 1e-4])):
        assert list(arguments.named_lambdas(several)) == ["r1", "r2"]
    assert arguments.named_lambdas(np.array(0.5)) == {"r1": 0.5}
    arguments.check_parts(np.int64(3), None, None, None, None, None)


@pytest.mark.filterwarnings("ignore:no labels in arrays")
def test_lambdas_without_names_and_images_in_memory_train_the_same(config, tiny_backbone, capsys):
    source = data.open_source("embedded", "train", max_samples=64)
    images = [example["image"] for example in source]
    options = dict(
        unit=config.spec, phases=PHASES[:1], batch_size=16, learning_rate=config.learning_rate
    )
    kinds = (source, (np.stack(images), source.labels), np.stack(images)[..., 0], images)
    families = [
        train_family(tiny_backbone, config.cut, [1e-4, 1e-2], data=kind, progress=False, **options)
        for kind in kinds
    ]
    assert not capsys.readouterr().err  # silent
    assert list(families[0]) == ["r1", "r2"]
    assert len({family.fingerprint for family in families}) == 1
    assert [family.card["data"] for family in families[:2]] == ["embedded", "arrays"]
    assert families[0].card["split"] == "train"
    sender, receiver = families[1].codec()
    assert receiver(sender(images[0], "r1")).shape == (1, 10)


def test_progress_is_shown_unless_it_is_turned_off(config, tiny_backbone, capsys, monkeypatch):
    def train(config, backbone, workdir, progress, log, source):
        if progress is not None:
            progress(5, 10, {"loss": np.array([0.5])})
        return workdir

    monkeypatch.setattr(curve, "train_curve", train)
    for progress, shown in ((True, True), (False, False), (None, False)):
        train_family(tiny_backbone, config.cut, 1e-3, progress=progress, data=Path("photos"))
        assert ("step 5/10" in capsys.readouterr().err) == shown
    seen = []
    train_family(tiny_backbone, config.cut, 1e-3, progress=lambda *step: seen.append(step[:2]))
    assert seen == [(5, 10)]


def test_old_names_of_the_units_work_with_a_warning(tiny_backbone, config, monkeypatch):
    monkeypatch.setattr("jaxsplit.errors._WARNED", set())
    given = []
    monkeypatch.setattr(curve, "train_curve", lambda config, *_, **__: given.append(config))
    wide = config.rates[1].spec
    call = functools.partial(train_family, tiny_backbone, config.cut, {"a": 1e-3, "wide": 1e-3})
    with pytest.warns(JaxsplitWarning) as told:
        call(spec=config.spec, specs={"wide": wide})
    texts = sorted(str(one.message).partition(";")[0] for one in told)
    assert texts == [
        "train_family(spec=…) is now unit=…",
        "train_family(specs=…) is now unit={name: …}",
    ]
    [found] = given
    assert (found.spec, [rate.spec for rate in found.rates]) == (config.spec, [None, wide])


def test_a_busy_workdir_is_refused_before_anything_is_computed(
    tiny_config, tiny_backbone, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "compute", None)
    with files.only_run(tmp_path), pytest.raises(ConfigError, match="another process is training"):
        train_curve(tiny_config, tiny_backbone, tmp_path)


def test_compiling_is_announced_before_the_first_step(tiny_config, tiny_backbone):
    told = []
    config = dataclasses.replace(
        tiny_config, phases=(Phase(2, FEATURES),), max_samples=64, batch_size=16
    )
    train_curve(
        config,
        tiny_backbone,
        progress=lambda step, *rest: told.append(step),
        log=lambda text, *rest: told.append(text),
    )
    assert told.index("compiling the training step") == told.index(2) - 1
