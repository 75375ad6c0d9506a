"""Modules under the names that they had before work, with a warning that names the new one."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxsplit
from jaxsplit import _moved, data, errors
from jaxsplit.bitstream import CodingTables, Reader
from jaxsplit.cost import link, make_plan
from jaxsplit.entropy import tables_from_counts
from jaxsplit.errors import JaxsplitWarning
from jaxsplit.evaluation import evaluate, image_codecs
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.per_image import PerImage
from jaxsplit.evaluation.points import CodecPoint, RatePoint
from jaxsplit.networks import Backbone
from jaxsplit.units import BottleneckSpec

TABLES = _moved.old_names()
# Functions and classes of the version before, without those of the command line.
OLD_NAMES = {
    module: names.split()
    for module, names in json.loads((Path(__file__).parent / "old_names.json").read_text()).items()
}
# Names of every old module that were not renamed, by which the module's content is recognized.
KEPT = {
    module: [name for name in names if f"{module}.{name}" not in TABLES["names"]]
    for module, names in OLD_NAMES.items()
    if module in TABLES["modules"]
}
# A package without names of its own; other modules have imported its module by then.
KEPT = dict(sorted({**KEPT, "jaxsplit.importers": ["load"]}.items()))
# Old modules none of whose names is left as it was.
EMPTY = {
    *("jaxsplit.design.journal", "jaxsplit.design.keeper", "jaxsplit.evaluation.html_chart"),
    *("jaxsplit.importers.spic_unit", "jaxsplit.planning", "jaxsplit.terminal"),
}
# Modules below old packages, which the table doesn't name.
BELOW = {
    "jaxsplit.coding.frames": ["Frame"],
    "jaxsplit.coding.tables": ["CodingTables"],
    "jaxsplit.importers.imagenet": ["class_names"],
    "jaxsplit.models.backbone": ["Backbone"],
    "jaxsplit.models.resnet": ["ResNet"],
    "jaxsplit.plan.link": ["Link"],
}

IMPORT_ALL = """
import importlib, json, sys, warnings
import jaxsplit
found = {}
for name, attributes in json.loads(sys.argv[1]).items():
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", jaxsplit.JaxsplitWarning)
        module = importlib.import_module(name)
        value = next((getattr(module, one) for one in attributes if hasattr(module, one)), None)
    texts = [str(one.message) for one in warned if f"{name} is" in str(one.message)]
    found[name] = texts, value is not None, getattr(value, "__module__", None)
print(json.dumps(found))
"""


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout, done.stderr


def test_every_entry_of_the_table_has_its_content():
    assert KEPT.keys() == TABLES["modules"].keys()
    found = json.loads(run(IMPORT_ALL, json.dumps(KEPT | BELOW))[0])
    for old, (texts, _, _) in found.items():
        (text,) = texts
        assert text.startswith(f"{old} is now called {_moved.new_names(old)[0]}")
    renamed = {old.rpartition(".")[0] for old in TABLES["names"]}
    assert {old for old, (_, has_content, _) in found.items() if not has_content} - renamed == EMPTY
    homes = {old: home for old, (_, _, home) in found.items() if home is not None}
    assert len(homes) > 40
    assert not {home for home in homes.values() if _moved.new_names(home)}


def test_a_loss_that_went_to_its_task_is_found():
    names = _moved.new_names("jaxsplit.losses")
    for attribute in ("rate", "feature_error", "cross_entropy", "distillation"):
        assert any(hasattr(importlib.import_module(name), attribute) for name in names)


@pytest.mark.parametrize(
    "statement",
    [
        "import jaxsplit.coding; jaxsplit.coding.Reader",
        "import jaxsplit; jaxsplit.coding.Reader",
        "from jaxsplit import coding; coding.Reader",
        "from jaxsplit.coding import Reader",
        "from jaxsplit.coding.frames import Frame",
    ],
)
def test_the_warning_is_of_the_line_that_imports(tmp_path, statement):
    program = tmp_path / "program.py"
    program.write_text(f"# A comment.\n{statement}\n")
    done = subprocess.run([sys.executable, program], check=True, capture_output=True, text=True)
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"{program}:2: JaxsplitWarning: jaxsplit.coding is now called")


def test_an_old_module_is_the_new_one_and_not_a_copy():
    program = """
import warnings
warnings.simplefilter("ignore")
from jaxsplit.coding.frames import Frame as old
from jaxsplit.bitstream.frames import Frame as new
assert old is new
"""
    run(program)


@pytest.mark.parametrize("name", ["jaxsplit.coding.nothing", "jaxsplit.nothing"])
def test_what_never_was_is_not_found(name):
    program = f"import warnings; warnings.simplefilter('ignore'); import {name}"
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(program)
    assert "ModuleNotFoundError" in error.value.stderr


def test_the_table_is_read_once_an_old_name_is_asked_for():
    program = """
import jaxsplit, jaxsplit.bitstream, jaxsplit.cli, jaxsplit.data.sources
from jaxsplit import _moved
assert not _moved.old_names.cache_info().currsize
import jaxsplit.notices
assert _moved.old_names.cache_info().currsize
"""
    run(program)


def test_a_folder_that_an_old_version_left_is_not_imported(tmp_path):
    (tmp_path / "coding" / "__pycache__").mkdir(parents=True)
    program = """
import sys, jaxsplit
jaxsplit.__path__.append(sys.argv[1])
from jaxsplit.coding import Reader
"""
    assert "jaxsplit.coding is now called jaxsplit.bitstream" in run(program, str(tmp_path))[1]


ASK_ALL = """
import importlib, json, sys, warnings
import jaxsplit
from jaxsplit.entropy import tables_from_counts
from jaxsplit.errors import JaxsplitWarning
lost, silent = {}, []
for module, names in json.loads(sys.argv[1]).items():
    for name in names:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", JaxsplitWarning)
            try:
                getattr(importlib.import_module(module), name)
            except (AttributeError, ModuleNotFoundError) as error:
                lost[f"{module}.{name}"] = str(error)
                continue
        if f"{module}.{name}" in json.loads(sys.argv[2]) and not warned:
            silent.append(f"{module}.{name}")
print(json.dumps([lost, silent]))
"""


def test_every_public_name_of_the_version_before_is_found_or_says_where_it_was():
    found = run(ASK_ALL, json.dumps(OLD_NAMES), json.dumps(list(TABLES["names"])))[0]
    lost, silent = json.loads(found)
    assert not silent  # a function's new name is told
    for old, message in lost.items():
        module = old.rpartition(".")[0]
        if ended := {old, module} & TABLES["ended"].keys():
            assert message.endswith(f"in its place: {TABLES['ended'][ended.pop()]}")
        else:
            homes = _moved.new_names(module)
            assert homes
            assert all(home in message for home in homes)
    assert TABLES["ended"].keys() <= lost.keys() | {old.rpartition(".")[0] for old in lost}


def test_what_is_told_to_be_used_exists():
    for told in (
        *TABLES["ended"].values(),
        *TABLES["ended_attributes"].values(),
        *(new.replace(" ", ".") for new in TABLES["names"].values()),
    ):
        if told.startswith("jaxsplit."):
            value, parts = jaxsplit, told.split(".")[1:]
            for part in parts:
                value = getattr(value, part, None) or importlib.import_module(
                    f"{value.__name__}.{part}"
                )


def test_an_argument_has_its_old_name_too(tiny_family, tiny_backbone):
    few, said = data.open_source("embedded", split="test", max_samples=4), []
    with pytest.warns(JaxsplitWarning, match=r"evaluate\(tell=…\) is now log=…"):
        evaluate.evaluate(tiny_family, tiny_backbone, few, tell=lambda text, *_: said.append(text))
    assert said[0] == "reading 4 images"
    assert "log" in inspect.signature(evaluate.evaluate).parameters


@pytest.fixture
def warns(monkeypatch):
    """A context that expects one warning of each kind, whatever was warned of before."""
    monkeypatch.setattr(errors, "_WARNED", set())
    return lambda *names: pytest.warns(JaxsplitWarning, match=rf"({'|'.join(names)})=…\) is now")


def test_a_sweep_has_its_old_arguments_too(warns):
    images = np.zeros((2, 8, 8, 1), np.uint8)
    labels, options = np.zeros(2, int), {"predict": lambda x: np.ones((len(x), 1))}
    with warns("labels", "uncut"):
        old = image_codecs.sweep(images, labels=labels, uncut=labels, qualities=(50,), **options)
    assert old == image_codecs.sweep(images, labels, labels, qualities=(50,), **options)
    with warns("labels", "uncut", "targets"):
        old = image_codecs.sweep_to(
            images, labels=labels, uncut=labels, codec="jpeg", targets=[0.5], **options
        )
    new = {"targets": labels, "unsplit": labels, "codec": "jpeg", "goals": [0.5]}
    assert old == image_codecs.sweep_to(images, **new, **options)
    with warns("target"):
        found = image_codecs.smallest_reaching(old, target=0.5)
    assert found == image_codecs.smallest_reaching(old, 0.5)


def test_points_and_curves_have_their_old_arguments_too(warns):
    given = {"rate_id": "r0", "lmbda": 0.01, "bytes_per_image": 52.0, "n_images": 200}
    given |= {"estimated_bits_per_image": 400.0, "bits_per_pixel": 0.5}
    old = {"top1": 0.9, "top1_interval": (0.8, 0.95), "top5": None, "agreement": 0.7}
    with warns("RatePoint.top1"):
        point = RatePoint(**given, **old)
    assert point == RatePoint(**given, metrics={"top1": (0.9, (0.8, 0.95)), "agreement": 0.7})
    codec = {"quality": 9, "bytes_per_image": 9.0, "header_bytes_per_image": 3.0}
    with warns("CodecPoint.top1"):
        found = CodecPoint("jpeg", **codec, top1=0.5, agreement=0.5)
    assert found == CodecPoint("jpeg", **codec, metrics={"top1": 0.5, "agreement": 0.5})
    with warns("Curve.uncompressed_top1"):
        curve = Curve(uncompressed_top1=0.9, n_images=200, points=(point,))
    assert curve == Curve({"top1": 0.9}, 200, (point,))
    with pytest.raises(TypeError, match="'top2'"):
        RatePoint(**given, top2=0.5)


def test_a_backbone_has_its_old_arguments_too(warns, tiny_backbone):
    values = {name: getattr(tiny_backbone, name) for name in ("module", "class_names", "variables")}
    others = {"preprocessing": tiny_backbone.preprocessing, "fingerprint": "", "card": {}}
    with warns("Backbone.module", "Backbone.class_names"):
        backbone = Backbone("own", **values, **others)
    assert backbone.network == tiny_backbone.network
    assert backbone.task == tiny_backbone.task


def test_an_option_of_a_link_has_its_old_argument_too(warns, tiny_backbone):
    shape = tiny_backbone.preprocessing.input_shape
    plan = make_plan(tiny_backbone.network, shape, channels=(4,), strides=(2,))
    args = link.Link(1.0, 10.0, 1.0), plan.cuts[0], plan.cuts[0].units[0], 50.0
    with warns("option.top1"):
        found = link.option(*args, top1=0.5)
    assert found == link.option(*args, quality=0.5)


def test_fields_have_their_old_names_too(warns):
    numbers = {"bytes": [[5, 6]], "predicted": [[1, 2]], "labels": [1, 2]}
    with warns("PerImage.uncut"):
        found = PerImage(("r1",), **numbers, uncut=[1, 1])
    with pytest.warns(JaxsplitWarning, match=r"PerImage\.uncut is now unsplit"):
        assert found.uncut.tolist() == [1, 1]
    tables = CodingTables.from_arrays(tables_from_counts({0: 1, 2: 1}, 1).to_arrays())
    places = np.zeros((2, 3, 1), np.uint8)
    arrays = {**tables.to_arrays(), "places": places}
    with warns("CodingTables.places"):
        old = CodingTables(**arrays)
    assert old == CodingTables.from_arrays(arrays) != tables
    with pytest.warns(JaxsplitWarning, match=r"CodingTables\.places is now table_indices"):
        assert old.places is old.table_indices
    assert old.to_arrays().keys() == arrays.keys()


def test_a_method_that_was_an_attribute_has_its_old_name(warns):
    spec = BottleneckSpec(channels=4)
    with pytest.warns(JaxsplitWarning, match=r"Unit\.form is now to_dict"):
        assert spec.form == spec.to_dict()
    with pytest.warns(JaxsplitWarning, match="decoder_form is now decoder_window"):
        assert spec.decoder_form == spec.decoder_window


@pytest.mark.parametrize("name", ["position", "check_bytes"])
def test_an_attribute_that_ended_says_what_to_use(name):
    with pytest.raises(AttributeError, match=r"in its place: jaxsplit\.bitstream\.frame_sizes"):
        getattr(Reader.__new__(Reader), name)
