"""Modules under the names that they had before work, with a warning that names the new one."""

import importlib
import json
import subprocess
import sys

import pytest

from jaxsplit import _moved

# Attribute of an old module, by which its content is recognised.
ATTRIBUTES = {
    "jaxsplit.bottleneck": "BottleneckSpec",
    "jaxsplit.card": "with_measured",
    "jaxsplit.checkpoint": "save_tree",
    "jaxsplit.codec.choice": "rates_for",
    "jaxsplit.codec.end": "check_fits",
    "jaxsplit.codec.programs": "head_program",
    "jaxsplit.coding": "Reader",
    "jaxsplit.coding.bitstream": "read_container",
    "jaxsplit.coding.entropy_coder": "EntropyCoder",
    "jaxsplit.config": "load",
    "jaxsplit.data.prepared": "find_prepared",
    "jaxsplit.data.steps": "num_batches",
    "jaxsplit.data.views": "Views",
    "jaxsplit.design": "DesignConfig",
    "jaxsplit.design.front": "choose",
    "jaxsplit.design.search": "search",
    "jaxsplit.entropy.empirical": "stack_tables",
    "jaxsplit.entropy.exact": "ExactDensity",
    "jaxsplit.entropy.logistic": "log_logistic_mass",
    "jaxsplit.entropy.places": "tables_by_place",
    "jaxsplit.entropy.prior": "FactorizedPrior",
    "jaxsplit.entropy.tables": "build_tables",
    "jaxsplit.evaluation.accuracy": "evaluate_images",
    "jaxsplit.evaluation.bd": "bd_rate",
    "jaxsplit.evaluation.design_report": "render",
    "jaxsplit.evaluation.html": "write_report",
    "jaxsplit.evaluation.images": "PerImage",
    "jaxsplit.evaluation.intervals": "wilson_interval",
    "jaxsplit.evaluation.origin": "Origin",
    "jaxsplit.evaluation.plan_plot": "plot_plan",
    "jaxsplit.evaluation.plan_table": "render",
    "jaxsplit.evaluation.plot": "plot_curve",
    "jaxsplit.evaluation.report": "render",
    "jaxsplit.experiment": "run_curve",
    "jaxsplit.family.rate": "FamilyRate",
    "jaxsplit.files": "read_file",
    "jaxsplit.fitting": "fit_tables",
    "jaxsplit.importers": "load",
    "jaxsplit.importers.names": "from_tensors",
    "jaxsplit.importers.pretrained": "load_backbone",
    "jaxsplit.importers.spic": "import_families",
    "jaxsplit.importers.tensor_files": "read_tensors",
    "jaxsplit.losses": "Distortion",
    "jaxsplit.models": "cuts",
    "jaxsplit.models.chain": "Chain",
    "jaxsplit.models.safe_tensors": "read_safetensors",
    "jaxsplit.notices": "shown_as_lines",
    "jaxsplit.ops.rounding": "round_straight_through",
    "jaxsplit.ops.winograd": "winograd_conv",
    "jaxsplit.plan": "make_plan",
    "jaxsplit.plan.comparison": "compare",
    "jaxsplit.plan.cost": "split_cost",
    "jaxsplit.plan.cuts": "CutPlan",
    "jaxsplit.plan.units": "plan_unit",
    "jaxsplit.pretrained": "load_pretrained",
    "jaxsplit.progress": "ProgressBar",
    "jaxsplit.train.curve_config": "CurveConfig",
    "jaxsplit.train.evaluation": "make_evaluate",
    "jaxsplit.train.examples": "FeatureCache",
    "jaxsplit.train.feature_files": "array_bytes",
    "jaxsplit.train.groups": "Group",
    "jaxsplit.train.head": "run_parts",
    "jaxsplit.train.networks": "train_networks",
    "jaxsplit.train.principal": "principal_unit",
    "jaxsplit.train.processes": "is_first",
    "jaxsplit.train.reports": "Reports",
    "jaxsplit.train.sensitivity": "loss_metric",
    "jaxsplit.train.start": "make_optimizer",
    "jaxsplit.train.state": "TrainState",
    "jaxsplit.train.stopping": "StopRequest",
    "jaxsplit.train.trainable": "TRAINABLE",
    "jaxsplit.versions": "versions",
}
# Modules below old packages, which the table doesn't name.
BELOW = {
    "jaxsplit.coding.frames": "Frame",
    "jaxsplit.coding.tables": "CodingTables",
    "jaxsplit.importers.imagenet": "class_names",
    "jaxsplit.models.backbone": "Backbone",
    "jaxsplit.models.resnet": "ResNet",
    "jaxsplit.plan.link": "Link",
}

IMPORT_ALL = """
import importlib, json, sys, warnings
import jaxsplit
found = {}
for name, attribute in json.loads(sys.argv[1]).items():
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", jaxsplit.JaxsplitWarning)
        value = getattr(importlib.import_module(name), attribute)
    texts = [str(one.message) for one in warned if name in str(one.message)]
    found[name] = texts, getattr(value, "__module__", None)
print(json.dumps(found))
"""


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout, done.stderr


def test_every_entry_of_the_table_has_its_content():
    assert ATTRIBUTES.keys() == _moved.MODULES.keys()
    asked = ATTRIBUTES | BELOW
    found = json.loads(run(IMPORT_ALL, json.dumps(asked))[0])
    for old, (texts, _) in found.items():
        (text,) = texts
        assert text.startswith(f"{old} is now called {_moved.new_names(old)[0]}")
    homes = {old: home for old, (_, home) in found.items() if home is not None}
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
