"""Configurations: overrides keep their types, and what is unknown is refused."""

import dataclasses
import itertools
import re
import runpy
import zipfile
from pathlib import Path

import pytest

from jaxsplit.cost import split_cost
from jaxsplit.errors import ConfigError
from jaxsplit.experiments.config import KINDS, describe_keys, find, known_keys, load, to_dataclass
from jaxsplit.io import fields
from jaxsplit.search import DesignConfig
from jaxsplit.split import make_split
from jaxsplit.train.backbone import BackboneConfig
from jaxsplit.train.curve import CurveConfig
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units import BottleneckSpec, ResidualSpec
from jaxsplit.units.unit import spec_from_dict
from jaxsplit.weights.load import load_backbone

SHIPPED = {
    "fashion_mnist": ("full", "quickstart", "smoke"),
    "fashion_mnist_backbone": ("resnet8", "resnet20", "smoke"),
    "cifar10_backbone": ("resnet20", "smoke"),
    "camvid_backbone": ("full", "smoke"),
    "camvid": ("stage4.block3", "stage2.block2", "stage6.block4", "smoke"),
    "paper_recipe": ("fashion_mnist", "cifar10", "early", "middle", "late", "smoke"),
    "resnet20_design": ("fashion_mnist", "cifar10", "smoke"),
    "resnet20_small": ("fashion_mnist", "cifar10", "smoke"),
    "efficientnet_lite0": ("middle", "early", "late", "smoke"),
    "efficientnet_lite0_light": (
        *("stage3.block1", "stage2.block1"),
        *("stage4.block3", "stage6.block1", "stage6.block4", "smoke"),
    ),
    "resnet50_imagenet": (
        *("S2", "S1", "S3", "S1.variable", "S2.variable", "S3.variable", "stem", "smoke"),
    ),
}
BY_NAME = {"backbone": BackboneConfig, "design": DesignConfig}  # by the end of a name
CURVE = {
    "kind": "curve",
    "backbone": "any",
    "cut": "stem",
    "spec": {"channels": 4},
    "lambdas": {"low": 1, "high": 0.1},
    "phases": [{"steps": 3, "distortion": {"distillation": 0.0, "features": 1.0}}, {"steps": 4}],
}
BACKBONE = {
    "kind": "backbone",
    "model": "resnet8_small",
    "data": "embedded",
    "preprocessing": {"size": [28, 28], "channels": 1},
}


def test_the_table_of_shipped_configurations_is_whole():
    folder = find("fashion_mnist").parent
    assert {path.stem for path in folder.glob("*.py")} == set(SHIPPED)
    for name, args in SHIPPED.items():
        module = runpy.run_path(str(folder / f"{name}.py"))
        assert set(module["VARIANTS"]) == set(args)
        documented = re.search(r"The argument is (.*?)\.\n?$", module["__doc__"], re.DOTALL)
        assert set(re.findall(r"`([\w.]+)`", documented[1])) == set(args)


@pytest.mark.parametrize("name", SHIPPED)
def test_an_unknown_variant_is_refused_with_those_that_there_are(name):
    with pytest.raises(ConfigError, match="has no variant 'smok'") as error:
        load(f"{name}:smok")
    there, near = str(error.value).split("; ")[1:]
    assert set(there.removeprefix("there are ").split(", ")) == set(SHIPPED[name])
    assert near == "did you mean smoke?"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("learning_rate", "fast", "is no number: write one such as 0.01"),
        ("batch_size", "many", "is no whole number: write one such as 32"),
        ("batch_size", "1.5", "is no whole number: write one such as 32"),
        ("flip", "maybe", "is no truth value: write one such as False"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_one_that_fits(key, value, said):
    with pytest.raises(ConfigError, match=f"{key}: '{value}' {said}$"):
        load("fashion_mnist:smoke", {key: value})


def test_known_keys_are_those_that_can_be_overridden():
    keys = known_keys("fashion_mnist:smoke")
    assert {"learning_rate", "ema", "spec"} <= set(keys)  # ema is left at its default
    assert "channels" not in keys


@pytest.mark.parametrize(
    ("name", "arg"), [(name, arg) for name, args in SHIPPED.items() for arg in args]
)
def test_every_shipped_configuration_loads(name, arg):
    config = load(f"{name}:{arg}")
    assert isinstance(config, BY_NAME.get(name.rpartition("_")[2], CurveConfig))
    assert load(f"{name}:{arg}") == config
    assert load(f"{find(name)}:{arg}") == config
    if arg == SHIPPED[name][0]:
        assert load(name) == config
    if arg == "smoke":
        # No images of ImageNet's classes or CamVid's streets may come with the package.
        other = {"efficientnet": "imagenet", "resnet50": "imagenet", "camvid": "camvid"}
        folder = next((x for begin, x in other.items() if name.startswith(begin)), None)
        assert config.data == (f"folder:{folder}" if folder else "embedded")
        assert config.max_samples <= 1000
    if isinstance(config, CurveConfig):
        lambdas = [rate.lmbda for rate in config.rates]
        assert len(lambdas) >= 4
        assert lambdas == sorted(lambdas, reverse=True)
        assert hash(config.spec) == hash(spec_from_dict(config.spec.to_dict()))


def test_a_variant_that_does_not_exist_is_refused():
    for name in SHIPPED:
        with pytest.raises(ConfigError, match="huge"):
            load(f"{name}:huge")


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"'nothing'.*fashion_mnist"):
        load("nothing")
    path = tmp_path / "own.py"
    for text, problem in (
        ("x = 1", "get_config"),
        ("def get_config(:", "own.py"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("def get_config():\n    return 3", "own.py"),
        ("def get_config():\n    return {'kind': 'curve'}", "own.py"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            load(str(path))
    path.write_text("def get_config():\n    raise ValueError('sizes differ')")
    with pytest.raises(ConfigError, match="sizes differ"):
        load(str(path))
    with pytest.raises(ConfigError, match=r"own\.py"):  # it takes no argument
        load(f"{path}:smoke")
    (tmp_path / "notes.txt").write_text("no python here")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        load(str(tmp_path / "notes.txt"))


def test_own_files_load(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import ml_collections\n"
        f"def get_config():\n    return ml_collections.ConfigDict({BACKBONE!r})\n"
    )
    assert load(str(path)) == to_dataclass(BACKBONE)


@pytest.mark.parametrize(
    ("key", "text", "path", "expected"),
    [
        ("batch_size", "32", "batch_size", 32),
        ("learning_rate", "1e-3", "learning_rate", 1e-3),
        ("learning_rate", "1", "learning_rate", 1.0),
        ("data", "folder:12", "data", "folder:12"),
        ("cut", "stem", "cut", "stem"),
        ("flip", "True", "flip", True),
        ("max_samples", "7", "max_samples", 7),
        ("spec.channels", "5", "spec.channels", 5),
        ("lambdas.r2", "2e-3", "rates.1.lmbda", 2e-3),
        ("phases.1.steps", "9", "phases.1.steps", 9),
        ("phases.0.distortion.features", "2", "phases.0.distortion.features", 2.0),
    ],
)
def test_overrides_are_typed_and_change_one_thing(key, text, path, expected):
    before = load("fashion_mnist:smoke")
    after = load("fashion_mnist:smoke", {key: text})
    value = after
    for name in path.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)
    changed = {
        f.name
        for f in dataclasses.fields(before)
        if getattr(before, f.name) != getattr(after, f.name)
    }
    assert changed <= {path.split(".")[0]}
    assert changed or key == "max_samples"


def test_overrides_of_tuples_and_of_keys_left_to_their_default():
    config = load("fashion_mnist_backbone:smoke", {"preprocessing.size": "(14, 14)"})
    assert config.preprocessing.size == (14, 14)
    assert config.preprocessing.mean == (0.2860,)
    keys = {"preprocessing.resize": "32", "augmentation.cutout": "4"}
    config = load("fashion_mnist_backbone:smoke", keys)
    assert (config.preprocessing.resize, config.augmentation.cutout) == (32, 4)
    keys = {"phases.0.quantization": "round", "phases.1.distortion.temperature": "2.0"}
    config = load("fashion_mnist:smoke", keys)
    assert config.phases[0].quantization == "round"
    assert [phase.distortion.temperature for phase in config.phases] == [1.0, 2.0, 1.0]


@pytest.mark.parametrize("images", ["fashion_mnist", "cifar10"])
def test_the_device_s_part_costs_no_more_than_in_the_paper_s_recipe(images):
    costs = []
    for recipe in ("paper_recipe", "resnet20_small"):
        config = load(f"{recipe}:{images}")
        backbone = load_backbone(config.backbone)
        [spec] = {rate.spec or config.spec for rate in config.rates}
        costs.append(split_cost(make_split(backbone, config.cut, spec), backbone))
    paper, ours = costs
    assert (ours.head, ours.head_params) == (paper.head, paper.head_params)
    assert 0 < ours.encoder <= paper.encoder
    assert 0 < ours.encoder_params <= paper.encoder_params
    assert 0 < ours.decoder <= 2 * paper.decoder
    assert 0 < ours.decoder_params <= 2 * paper.decoder_params


def test_a_whole_mapping_may_be_another_one():
    keys = {"specs.b.channels": "4", "lambdas": "{'a': 1e-3, 'b': 1e-4}"}
    config = load("resnet20_small:cifar10", keys)
    spec = load("resnet20_small:cifar10").spec
    form = dataclasses.replace(spec, channels=4)
    assert config.rates == (Rate("a", 1e-3), Rate("b", 1e-4, form))
    with pytest.raises(ConfigError, match="lambdas: '3' is no mapping: write one such as"):
        load("resnet20_small:cifar10", {"lambdas": "3"})


def test_defaults_are_filled_in_where_a_file_has_little(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import ml_collections\n"
        f"def get_config():\n    return ml_collections.ConfigDict({CURVE!r}).lock()\n"
    )
    assert load(str(path), {"seed": "0"}) == load(str(path))
    changed = load(str(path), {"phases.1.distortion.labels": "0.5"})
    assert changed.phases[1].distortion == Distortion(labels=0.5)


def test_an_installed_package_has_only_its_own_configurations(monkeypatch, tmp_path):
    for folder in ("configs", "jaxsplit/configs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "configs" / "foreign.py").write_text("")
    (tmp_path / "jaxsplit" / "configs" / "own.py").write_text("")
    monkeypatch.setattr("jaxsplit.experiments.config._PACKAGE", tmp_path / "jaxsplit")
    assert find("own") == tmp_path / "jaxsplit" / "configs" / "own.py"
    with pytest.raises(ConfigError, match=r"'foreign'; there are own$"):
        find("foreign")
    (tmp_path / "pyproject.toml").write_text("")  # a checkout
    assert find("foreign") == tmp_path / "configs" / "foreign.py"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("batchsize", "32"),
        ("batch_size", "many"),
        ("batch_size", "1.5"),
        ("batch_size", "True"),
        ("batch_size", "'32'"),
        ("flip", "1"),
        ("learning_rate", "__import__('os')"),
        ("spec", "3"),
        ("spec.sides", "3"),
        ("spec.channels.x", "3"),
        ("seed.x", "3"),
        ("backbone.x", "3"),
        ("x.channels", "3"),
        ("lambdas.r9", "1e-3"),
        ("phases.9.steps", "3"),
        ("phases.one.steps", "3"),
        ("phases.0", "3"),
        ("spec.channels", "0"),
        ("phases.1.distortion.distillation", "-1"),
        ("max_samples", "1.5"),
        ("max_samples", "True"),
        ("max_samples", "'all'"),
        ("spec.decoder_kernel", "2.5"),
        ("learning_rate", "-1.0"),
        ("learning_rate", "1e999"),
        ("max_norm", "0.0"),
        ("prior_lr_multiplier", "-1.0"),
        ("warmup", "-5"),
        ("", "3"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(key, text):
    with pytest.raises(ConfigError) as caught:
        load("fashion_mnist:smoke", {key: text})
    assert "\n" not in str(caught.value)


def test_dicts_become_dataclasses():
    curve = to_dataclass(CURVE)
    assert curve.rates == (Rate("low", 1.0), Rate("high", 0.1))
    assert curve.spec == BottleneckSpec(4)
    assert curve.phases[0] == Phase(3, Distortion(distillation=0.0, features=1.0))
    assert curve.phases[1] == Phase(4, Distortion())
    assert curve.steps == 7
    backbone = to_dataclass({**BACKBONE, "augmentation": {"padding": 2}})
    assert backbone.preprocessing.input_shape == (28, 28, 1)
    assert backbone.augmentation.padding == 2
    assert to_dataclass(BACKBONE).augmentation is None
    assert CURVE["phases"][1] == {"steps": 4}  # the argument is left alone


def test_a_unit_of_another_kind_names_it():
    form = {"kind": "residual", "channels": 4, "width": 8}
    curve = to_dataclass({**CURVE, "spec": form, "specs": {"low": {"width": 16}}})
    assert curve.spec == ResidualSpec(4, width=8)
    assert curve.rates[0].spec == ResidualSpec(4, width=16)
    assert form["width"] == 8
    with pytest.raises(ConfigError, match="no unit of kind 'residuum' is registered"):
        to_dataclass({**CURVE, "spec": {**form, "kind": "residuum"}})


@pytest.mark.parametrize(
    "change",
    [
        {"kind": None},
        {"kind": "family"},
        {"batch": 3},
        {"spec": {"channels": 4, "sides": 3}},
        {"spec": {}},
        {"spec": 4},
        {"phases": []},
        {"phases": [{"steps": 3, "distortion": {"colour": 1.0}}]},
        {"phases": [{"step": 3}]},
        {"phases": [3]},
        {"phases": [{"steps": 3, "quantization": "floor"}]},
        {"lambdas": {}},
        {"lambdas": {"low": "much"}},
        {"lambdas": [1.0]},
    ],
    ids=str,
)
def test_curves_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError):
        to_dataclass({**CURVE, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"epochs": 1.0},
        {"learning_rate": "fast"},
        {"learning_rate": 0.0},
        {"warmup": 1.5},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"label_smoothing": 2.0},
        {"preprocessing": {"size": [28], "channels": 1}},
        {"preprocessing": {"size": [28, 28.5], "channels": 1}},
        {"preprocessing": {"size": 28}},
        {"augmentation": {"flip": 1}},
    ],
    ids=str,
)
def test_backbones_that_make_no_sense_are_refused(change):
    ((problem, value),) = change.items()
    if isinstance(value, dict):
        problem = next(iter(value))
    with pytest.raises(ConfigError, match=problem):
        to_dataclass({**BACKBONE, **change})


def test_an_int_is_a_float():
    assert to_dataclass({**BACKBONE, "learning_rate": 1}).learning_rate == 1


@pytest.mark.parametrize("missing", ["kind", "model", "data", "preprocessing"])
def test_missing_keys_are_refused(missing):
    with pytest.raises(ConfigError):
        to_dataclass({key: value for key, value in BACKBONE.items() if key != missing})


def test_the_files_are_found_by_path_and_by_name(monkeypatch, tmp_path):
    shipped = find("fashion_mnist")
    monkeypatch.chdir(tmp_path)
    assert find("fashion_mnist.py") == shipped
    for path in ("configs/fashion_mnist.py", str(tmp_path / "fashion_mnist.py"), "./fashion_mnist"):
        with pytest.raises(ConfigError, match=path):
            find(path)  # not a shipped one that is called the same
    Path("configs").mkdir()
    Path("configs/fashion_mnist.py").write_text("")
    assert find("configs/fashion_mnist.py") == Path("configs/fashion_mnist.py")
    Path("fashion_mnist.py").write_text("")
    assert find("fashion_mnist.py") == Path("fashion_mnist.py")


def test_what_may_be_absent_can_be_named_without_quotes():
    loaded = load("cifar10_backbone", {"initial": "cifar10_resnet20"})
    assert loaded.initial == "cifar10_resnet20"
    with pytest.raises(ConfigError, match="max_samples: 'all' is no whole number"):
        load("cifar10_backbone", {"max_samples": "all"})


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_described_with_its_default(kind):
    lines = describe_keys(kind).splitlines()
    described = {line.split()[0]: line for line in lines[2:] if re.match(r"  \S", line)}
    assert set(fields.keys(KINDS[kind])) <= set(described)
    for name, key in fields.keys(KINDS[kind]).items():
        assert key.meaning, name  # the dataclass's docstring says it
        assert any(key.meaning[:20] in line for line in lines)
        if key.default is not dataclasses.MISSING:
            assert described[name] == f"  {name} = {key.default!r}"
    assert max(map(len, lines)) <= 100


def test_nested_keys_are_described_and_loaded():
    lines = describe_keys("curve").splitlines()
    for key in ("spec.channels (required)", "phases.N.distortion.labels = 0.0"):
        assert f"  {key}" in lines
    for line, following in itertools.pairwise(lines):
        assert following.strip() or not line.startswith("  "), line  # a meaning, or the next key
    assert "      C, channels of the latent." in lines
    assert not any(line.startswith("  spec.units") for line in lines)  # of Python alone
    for key in ("rates", "kind"):
        assert not any(line.startswith(f"  {key} ") for line in lines)
    # What a file leaves out altogether can be overridden too.
    keys = {"augmentation.zoom": "0.7", "augmentations_per_image": "2", "specs.r2.channels": "5"}
    loaded = load("fashion_mnist:smoke", keys)
    assert loaded.augmentation.zoom == 0.7
    assert [rate.spec and rate.spec.channels for rate in loaded.rates] == [None, 5, *3 * [None]]
    with pytest.raises(ConfigError, match=r"no rate for 'specs\.r9'; there are r1, r2"):
        load("fashion_mnist:smoke", {"specs.r9.channels": "5"})


def test_a_file_without_variants_takes_any_argument(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import ml_collections\n"
        f"def get_config(arg='0'):\n    values = {BACKBONE!r}\n"
        "    return ml_collections.ConfigDict({**values, 'seed': int(arg)})\n"
    )
    assert load(f"{path}:7").seed == 7
    assert load(str(path)).seed == 0


def test_a_program_in_an_archive_is_not_run(tmp_path):
    """`runpy` alone would run a weights file of this kind, given by mistake."""
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("__main__.py", "raise SystemExit('ran')")
    with pytest.raises(ConfigError, match="is not a Python file"):
        load(str(path))
