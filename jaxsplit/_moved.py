"""Old names of modules, functions and classes: for one version they work, with a warning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import operator
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from jaxsplit.errors import warn_once

# package:old=new,…, where new names lack "jaxsplit."; A+B if the content was divided.
_MODULES = """\
jaxsplit:bottleneck=units.bottleneck,card=evaluation.card,checkpoint=io.checkpoint
jaxsplit:coding=bitstream,config=experiments.config,design=search,experiment=experiments.run
jaxsplit:files=io.files,fitting=family.table_fitting,importers=weights
jaxsplit:losses=train.losses+tasks.classification,models=networks,notices=io.log,plan=cost
jaxsplit:pretrained=family.pretrained,progress=io.progress,versions=io.versions
jaxsplit.codec:choice=codec.rate_control,end=codec.runtime,programs=codec.sender
jaxsplit.coding:bitstream=bitstream.container,entropy_coder=bitstream.range_coder
jaxsplit.coding:escapes=bitstream.probability_models,intervals=bitstream.probability_models
jaxsplit.data:prepared=data.tfds_records,steps=data.pipeline,views=data.augmentation
jaxsplit.data:writer=data.tfds_records
jaxsplit.design:features=train.features,front=search.pareto,journal=search.checkpoint
jaxsplit.design:keeper=search.checkpoint,search=search.halving
jaxsplit.entropy:empirical=entropy.symbol_tables,exact=entropy.prior_tables
jaxsplit.entropy:logistic=entropy.factorized,places=entropy.symbol_tables
jaxsplit.entropy:prior=entropy.factorized,tables=entropy.prior_tables
jaxsplit.evaluation:accuracy=evaluation.evaluate,bd=evaluation.bd_rate,checks=evaluation.points
jaxsplit.evaluation:design_report=reports.search,html=reports.html,images=evaluation.per_image
jaxsplit.evaluation:origin=evaluation.curve,plan_plot=reports.plan,plan_table=reports.plan
jaxsplit.evaluation:plot=reports.plot,report=reports.table
jaxsplit.family:rate=codec.rate
jaxsplit.importers:names=weights.name_maps,npz_archive=weights.zip_archive
jaxsplit.importers:pretrained=weights.load,spic=family.spic,spic_unit=family.spic
jaxsplit.importers:tensor_files=weights.formats,zip_entries=weights.zip_archive
jaxsplit.models:chain=networks.layers,floats=io.untrusted,safe_tensors=io.untrusted
jaxsplit.models:weight_file=io.untrusted
jaxsplit.ops:rounding=ops.surrogate_gradients,winograd=ops.convolution
jaxsplit.plan:comparison=cost.link,cost=cost.counting,cuts=cost.plan,units=cost.unit_plan
jaxsplit.train:curve_config=train.config,evaluation=train.rate_groups,examples=train.batches
jaxsplit.train:feature_files=io.array_cache,groups=train.rate_groups
jaxsplit.train:head=train.features+train.batches,networks=train.recipe,principal=train.pca
jaxsplit.train:processes=train.distributed,reports=train.metrics,sensitivity=train.pca
jaxsplit.train:start=train.curve,state=train.records,stopping=train.loop
jaxsplit.train:trainable=train.fine_tuning
"""
#: Old name → new names. A module below an old package that isn't named itself has the same name
#: below the new one.
MODULES = {
    f"{package}.{old}": tuple(f"jaxsplit.{name}" for name in new.split("+"))
    for package, moves in (line.split(":") for line in _MODULES.splitlines())
    for old, new in (move.split("=") for move in moves.split(","))
}

#: Old name of a function or class → module and name of the new one, called in the same way.
NAMES: dict[str, str] = {
    "jaxsplit.bottleneck.fold_batch_norm": "jaxsplit.units.bottleneck BottleneckSpec.fold",
    "jaxsplit.codec.end.End": "jaxsplit.codec.runtime Runtime",
    "jaxsplit.codec.end.RateEnd": "jaxsplit.codec.runtime RateRuntime",
    "jaxsplit.data.sources.choose_split": "jaxsplit.data.splits choose_split",
    "jaxsplit.evaluation.bootstrap.Interval": "jaxsplit.evaluation.bootstrap BootstrapInterval",
    "jaxsplit.evaluation.compare.Comparison": "jaxsplit.evaluation.compare CurveComparison",
    "jaxsplit.evaluation.compare.Measured": "jaxsplit.evaluation.compare MeasuredCurve",
    "jaxsplit.evaluation.compare.compare": "jaxsplit.evaluation.compare compare_curves",
    "jaxsplit.family.files.read": "jaxsplit.family.files read_family",
    "jaxsplit.family.files.write": "jaxsplit.family.files write_family",
    "jaxsplit.importers.spic.Task": "jaxsplit.family.spic PublishedNetwork",
    "jaxsplit.models.layers.Form": "jaxsplit.networks.layers NormConfig",
    "jaxsplit.models.layers.fold_batch_norm": "jaxsplit.networks.layers fold_normalization",
    "jaxsplit.plan.comparison.to_dict": "jaxsplit.cost.link plan_to_dict",
    "jaxsplit.pretrained.PretrainedFamily": "jaxsplit.family RateFamily",
    "jaxsplit.train.feature_files.FeatureFiles": "jaxsplit.io.array_cache ArrayCache",
    "jaxsplit.train.feature_files.form_bytes": "jaxsplit.io.array_cache array_bytes",
}

# What to use → old names, without "jaxsplit.", that are called in another way now.
_ENDED = {
    "BottleneckSpec.variable_shapes": "bottleneck.unit_shapes",
    "jaxsplit.Receiver.predict": "codec.programs.logits_program",
    "jaxsplit.Sender.symbols": "codec.programs.symbols_program",
    "jaxsplit.codec.rate_control.rates_for": "codec.choice.best_first codec.choice.cheapest "
    "codec.choice.check_request codec.choice.retained",
    "jaxsplit.cost.memory.peak_bytes": "plan.memory.peak_bytes plan.program",
    "jaxsplit.evaluation.points.set_number": "evaluation.checks.set_number",
    "jaxsplit.evaluation.points.set_values": "evaluation.checks.set_interval",
    "jaxsplit.family.spic.import_families": "importers.spic_unit.unit_variables",
    "jaxsplit.networks.create": "models.resnet.SmallResNet models.resnet.SmallStem",
    "jaxsplit.networks.inference.head_program": "codec.programs.head_program",
    "jaxsplit.networks.layers.ConvBlock": "models.inverted_residual.ConvBlock",
    "jaxsplit.reports.plot.draw_curve": "evaluation.html_chart",
    "jaxsplit.search.checkpoint.SearchCheckpoint": "design.journal.Journal design.keeper.Keeper",
    "jaxsplit.search.halving.run_rungs": "design.search.climb",
    "jaxsplit.train.batches.FeatureCache": "train.evaluation.in_turn",
    "jaxsplit.train.batches.sample_of": "train.features.some_features",
    "jaxsplit.train.batches.sampled_features": "train.head.sampled_features",
    "jaxsplit.train.features.HeadRun": "design.features.describe train.features.describe",
    "jaxsplit.train.features.compute_at_cuts": "design.features.CutFeatures "
    "design.features.compute",
    "jaxsplit.train.features.run_parts": "train.head.run_parts",
    "jaxsplit.train.metrics.Reports": "train.reports.Reports",
    "jaxsplit.train.pca.loss_metric": "train.sensitivity.loss_metric",
    "jaxsplit.train.rate_groups.make_evaluate": "train.evaluation.evaluation_step",
    "nothing, receptive fields are computed no longer": "plan.field",
    "rich.console.Console": "terminal",
    "the command `jaxsplit info`": "describe",
    "the command `jaxsplit plan`": "planning",
}
#: Old name of a module, function or class that is called in another way now → what to use.
ENDED = {f"jaxsplit.{old}": new for new, olds in _ENDED.items() for old in olds.split()}


def renamed(module: str, homes: Sequence[ModuleType] = ()) -> Callable[[str], Any]:
    """Returns a module's `__getattr__`, for the old names of its functions and classes.

    Args:
      module: its name, old or new.
      homes: the new modules of an old one, for names that stay the same.
    """

    def get(name: str) -> Any:
        old = f"{module}.{name}"
        if old in ENDED:
            raise AttributeError(f"{old} has gone; in its place: {ENDED[old]}")
        if old in NAMES:
            home, new = NAMES[old].split()
            warn_once(old, f"{old} is now {home}.{new}; the old name goes with the next version")
            return operator.attrgetter(new)(importlib.import_module(home))
        for one in homes:
            if hasattr(one, name):
                return getattr(one, name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return get


def new_names(old: str) -> tuple[str, ...]:
    """Returns the names of the modules that an old one's content went to; () if it didn't move.

    >>> new_names("jaxsplit.plan.units"), new_names("jaxsplit.plan.link"), new_names("jaxsplit.ops")
    (('jaxsplit.cost.unit_plan',), ('jaxsplit.cost.link',), ())
    """
    package, _, leaf = old.rpartition(".")
    if old in MODULES or not package:
        return MODULES.get(old, ())
    return tuple(f"{name}.{leaf}" for name in new_names(package))


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module by its old name.

    The module under the old name is empty and takes every attribute from the new ones, so that no
    module is executed twice.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Finds the old names of `MODULES` and the modules below them."""
        del path, target
        if fullname in ENDED:
            raise ModuleNotFoundError(f"{fullname} has gone; in its place: {ENDED[fullname]}")
        if not fullname.startswith("jaxsplit.") or not new_names(fullname):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        """Connects an old module with the new ones, and warns."""
        name, new = module.__name__, new_names(module.__name__)
        module.__dict__["__getattr__"] = renamed(name, [*map(importlib.import_module, new)])
        warn_once(
            name,
            f"{name} is now called {' and '.join(new)}; the old name goes with the next version",
        )
