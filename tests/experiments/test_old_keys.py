"""Old names of keys and arguments work with one warning, and trainings are found again."""

import dataclasses
import warnings

import pytest

from jaxsplit import errors
from jaxsplit._moved import old_names
from jaxsplit.data import Augmentation, Preprocessing
from jaxsplit.errors import ConfigError, JaxsplitWarning
from jaxsplit.experiments.config import KINDS, known_keys, load, to_dataclass
from jaxsplit.search import DesignConfig
from jaxsplit.train.backbone import BackboneConfig
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.curve import train_family
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units.bottleneck import BottleneckSpec

CONFIG_NAMES = old_names()["configuration"]
# Keys by which version 0.1.0 named the folders of checkpoints.
KEYS = {
    "cifar10_backbone:resnet20": "d9f5fe4c94ad",
    "cifar10_backbone:smoke": "11b48b9235ce",
    "efficientnet_lite0:early": "a884338da351",
    "efficientnet_lite0:middle": "2e47d4a1e27c",
    "efficientnet_lite0:late": "918566b6d787",
    "efficientnet_lite0:smoke": "d9d055dd3cde",
    "fashion_mnist:full": "d4f417bd61e2",
    "fashion_mnist:quickstart": "af1108d12953",
    "fashion_mnist:smoke": "1df0d7ee16d2",
    "fashion_mnist_backbone:resnet8": "52c862fc2f11",
    "fashion_mnist_backbone:resnet20": "475ad14382b6",
    "fashion_mnist_backbone:smoke": "fb1d2fb0c373",
    "paper_recipe:fashion_mnist": "2a31b957c79d",
    "paper_recipe:cifar10": "515cba91b631",
    "paper_recipe:early": "07a35e853802",
    "paper_recipe:middle": "af1c2da558f0",
    "paper_recipe:late": "49df3f62b2ab",
    "paper_recipe:smoke": "11a1404c9166",
    "resnet20_design:fashion_mnist": "a08112fdabb8",
    "resnet20_design:cifar10": "a814f94bb1f8",
    "resnet20_design:smoke": "b3cd84b6de07",
    "resnet20_small:fashion_mnist": "d49a8337d9e1",
    "resnet20_small:cifar10": "01ead54a00c5",
    "resnet20_small:smoke": "10fd7b1432f5",
}
# Values of then that have changed since.
SINCE = {
    "fashion_mnist:smoke": {
        "max_samples": "128",
        **{f"phases.{i}.steps": "5" for i in range(3)},
    },
    "paper_recipe:smoke": {"max_samples": "500", "phases.1.steps": "10"},
}
# Kind → a shipped configuration, and its old keys with values and the new ones.
CURVE = {
    "limit": (9, "max_samples"),
    "evaluate_limit": (8, "max_eval_samples"),
    "views": (2, "augmentations_per_image"),
    "batching": ("map", "rate_vectorization"),
    "decay_to": (0.5, "final_lr_fraction"),
    "prior_rate": (2.0, "prior_lr_multiplier"),
    "network_rate": (0.5, "network_lr_multiplier"),
    "start": ("random", "initialization"),
}
OLD = {
    "fashion_mnist:smoke": {**CURVE, "augmentation": ({}, "augmentation")},
    "fashion_mnist_backbone:smoke": {"limit": (9, "max_samples")},
    "resnet20_design:smoke": {
        name: CURVE[name] for name in ("limit", "evaluate_limit", "prior_rate")
    },
}
CASES = [
    (name, old, *values)
    for name, keys in OLD.items()
    for old, values in keys.items()
    if old not in ("views", "augmentation")
]
SPEC = BottleneckSpec(4, stride=2, kernel=2, padding=0)
RATES, PHASES = (Rate("a", 1e-3),), (Phase(3, Distortion(features=1.0)),)
LINEAR = dataclasses.replace(
    SPEC, decoder_kernel=2, decoder_padding=0, multiplier=4, decoder_multiplier=4, activation="none"
)


@pytest.fixture(autouse=True)
def _nothing_was_warned_of(monkeypatch):
    monkeypatch.setattr(errors, "_WARNED", set())


def warned(run, *args, **kwargs):
    """The result, and the texts of the warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = run(*args, **kwargs)
    assert {one.category for one in found} <= {JaxsplitWarning}
    return result, [str(one.message) for one in found]


def own_file(path, name, lines):
    """A file whose configuration is a shipped one with further lines."""
    file, arg = name.split(":")
    path.write_text(
        "import runpy\nfrom jaxsplit.experiments.config import find\n"
        f"def get_config():\n    shipped = runpy.run_path(str(find({file!r})))\n"
        f"    config = shipped['get_config']({arg!r})\n{lines}    return config\n"
    )
    return str(path)


@pytest.mark.parametrize(("name", "key"), KEYS.items())
def test_a_workdir_of_the_first_version_is_found_again(name, key):
    assert load(name, SINCE.get(name)).key == key


def test_all_variants_are_compared():
    for name in {name.partition(":")[0] for name in KEYS}:
        with pytest.raises(ConfigError) as error:
            load(f"{name}:?")
        there = str(error.value).split("there are ")[1].split(";")[0].split(", ")
        assert {f"{name}:{arg}" for arg in there} == {key for key in KEYS if f"{name}:" in key}


def test_the_key_of_values_that_no_shipped_configuration_has():
    old = {name: value for name, (value, _) in CURVE.items()}
    old |= {"limit": 7, "evaluate_limit": 5, "tables": "places", "trainable": "tail"}
    config, texts = warned(
        CurveConfig, "any", "stem", SPEC, RATES, PHASES, augmentation=Augmentation(), **old
    )
    assert config.key == "73498050a5ca"
    assert len(texts) == len(CONFIG_NAMES) - 1  # one for each, but the start was random
    backbone, texts = warned(
        BackboneConfig, "resnet8_small", "embedded", Preprocessing((28, 28), 1), limit=9
    )
    assert backbone.key == "f2665b5d68a5"
    assert texts == [
        "BackboneConfig(limit=…) is now max_samples=…; the old name goes with the next version"
    ]
    design, texts = warned(DesignConfig, "any", limit=5, evaluate_limit=6, prior_rate=2.0)
    assert (design.key, len(texts)) == ("53db0a8d77f4", 3)


@pytest.mark.parametrize(("name", "old", "value", "new"), CASES)
def test_a_file_and_an_override_may_have_the_old_key(tmp_path, name, old, value, new):
    assert new in known_keys(name)
    assert old not in known_keys(name)
    said = f"{old}=… is now {new}=…; the old name goes with the next version"
    file = own_file(tmp_path / "own.py", name, f"    config.{old} = {value!r}\n")
    loaded, texts = warned(load, file)
    assert texts == [f"the configuration key {said}"]
    overridden, texts = warned(load, name, {old: str(value)})
    assert not texts  # told once
    assert loaded == overridden == load(name, {new: str(value)})
    assert getattr(loaded, new) == value
    read, texts = warned(getattr, loaded, old)
    assert (read, len(texts)) == (value, 1)
    changed, texts = warned(dataclasses.replace, loaded, **{old: value})
    assert (changed, len(texts)) == (loaded, 1)


def test_an_override_changes_what_a_file_sets_by_the_old_key(tmp_path):
    file = own_file(tmp_path / "own.py", "fashion_mnist:smoke", "    config.limit = 9\n")
    for key in ("limit", "max_samples"):
        assert warned(load, file, {key: "11"})[0].max_samples == 11


def test_augmentations_by_their_old_key():
    keys = {"augmentation.zoom": "0.7", "views": "2", "specs.r2.channels": "5"}
    loaded, texts = warned(load, "fashion_mnist:smoke", keys)
    assert loaded.augmentations_per_image == 2
    (text,) = texts
    assert text.startswith("the configuration key views=… is now augmentations_per_image=…")


def test_a_rate_may_have_a_name_that_was_a_key():
    lambdas = {"lambdas": "{'start': 1e-3, 'limit': 1e-4}", "specs": "{}"}
    loaded = load("fashion_mnist:smoke", lambdas)
    assert [rate.rate_id for rate in loaded.rates] == ["start", "limit"]


@pytest.mark.parametrize(
    ("old", "value", "new", "now"),
    [("start", "principal", "initialization", "pca"), ("tables", "places", "tables", "positions")],
)
def test_old_values(old, value, new, now):
    shipped = "efficientnet_lite0:smoke" if old == "start" else "fashion_mnist:smoke"
    overrides = {new: "random" if old == "start" else "prior"}
    assert getattr(load(shipped, overrides), new) == overrides[new]
    loaded, texts = warned(load, shipped, {old: value})
    assert getattr(loaded, new) == now
    assert texts[-1].startswith(f"the configuration key {new}={value} is now {new}={now};")
    config, texts = warned(CurveConfig, "any", "stem", LINEAR, RATES, PHASES, **{new: value})
    assert getattr(config, new) == now
    assert len(texts) == 1


def test_another_kind_of_configuration_does_not_get_a_key_it_never_had():
    with pytest.raises(ConfigError, match=r"no key 'views'"):
        load("fashion_mnist_backbone:smoke", {"views": "2"})


def test_dicts_may_have_old_keys():
    preprocessing = {"size": [28, 28], "channels": 1}
    values = {"kind": "backbone", "model": "resnet8_small", "data": "embedded"}
    config, texts = warned(to_dataclass, {**values, "preprocessing": preprocessing, "limit": 7})
    assert (config.max_samples, len(texts)) == (7, 1)


def test_train_family_takes_the_old_arguments(tiny_backbone):
    options = {"limit": 16, "batch_size": 16, "prior_rate": 2.0, "phases": [Phase(1, Distortion())]}
    call = train_family, tiny_backbone, "stage2.block1", {"a": 1e-3}
    family, texts = warned(*call, channels=4, **options)
    said = sorted(text.partition(" is now ")[0] for text in texts)
    assert said == ["train_family(limit=…)", "train_family(prior_rate=…)"]
    with pytest.raises(ConfigError, match=r"no argument 'limits'; did you mean limit\?"):
        train_family(*call[1:], limits=3)
    assert family.cut == "stage2.block1"


def test_what_has_ended_says_what_to_use():
    config = load("fashion_mnist:smoke")
    with pytest.raises(AttributeError, match=r"in its place: .*\.make_schedule$"):
        config.learning_rates  # noqa: B018
    with pytest.raises(AttributeError, match="'CurveConfig' object has no attribute 'colour'"):
        config.colour  # noqa: B018


def test_every_new_key_exists():
    keys = {field.name for kind in KINDS.values() for field in dataclasses.fields(kind)}
    assert {new.partition("=")[0] for new in CONFIG_NAMES.values()} <= keys
