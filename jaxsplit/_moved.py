"""Old module names, which work for one version with a warning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from jaxsplit.errors import warn_once

#: Old name → new name, or the names of all modules that its content went to. A module below an old
#: package that isn't named itself has the same name below the new one.
MODULES: dict[str, str | tuple[str, ...]] = {
    "jaxsplit.bottleneck": "jaxsplit.units.bottleneck",
    "jaxsplit.card": "jaxsplit.evaluation.card",
    "jaxsplit.checkpoint": "jaxsplit.io.checkpoint",
    "jaxsplit.coding": "jaxsplit.bitstream",
    "jaxsplit.coding.bitstream": "jaxsplit.bitstream.container",
    "jaxsplit.coding.entropy_coder": "jaxsplit.bitstream.range_coder",
    "jaxsplit.config": "jaxsplit.experiments.config",
    "jaxsplit.data.prepared": "jaxsplit.data.tfds_records",
    "jaxsplit.data.steps": "jaxsplit.data.pipeline",
    "jaxsplit.data.views": "jaxsplit.data.augmentation",
    "jaxsplit.design": "jaxsplit.search",
    "jaxsplit.design.front": "jaxsplit.search.pareto",
    "jaxsplit.design.search": "jaxsplit.search.halving",
    "jaxsplit.entropy.empirical": (
        "jaxsplit.entropy.symbol_tables",
        "jaxsplit.entropy.joint_tables",
    ),
    "jaxsplit.entropy.places": "jaxsplit.entropy.symbol_tables",
    "jaxsplit.entropy.tables": "jaxsplit.entropy.prior_tables",
    "jaxsplit.evaluation.accuracy": "jaxsplit.evaluation.evaluate",
    "jaxsplit.evaluation.bd": "jaxsplit.evaluation.bd_rate",
    "jaxsplit.evaluation.design_report": "jaxsplit.reports.search",
    "jaxsplit.evaluation.html": "jaxsplit.reports.html",
    "jaxsplit.evaluation.images": "jaxsplit.evaluation.per_image",
    "jaxsplit.evaluation.intervals": "jaxsplit.evaluation.points",
    "jaxsplit.evaluation.origin": "jaxsplit.evaluation.curve",
    "jaxsplit.evaluation.plan_plot": "jaxsplit.reports.plan",
    "jaxsplit.evaluation.plan_table": "jaxsplit.reports.plan",
    "jaxsplit.evaluation.plot": "jaxsplit.reports.plot",
    "jaxsplit.evaluation.report": "jaxsplit.reports.table",
    "jaxsplit.experiment": "jaxsplit.experiments.run",
    "jaxsplit.family.rate": "jaxsplit.codec.rate",
    "jaxsplit.fitting": "jaxsplit.family.table_fitting",
    "jaxsplit.importers": "jaxsplit.weights",
    "jaxsplit.importers.names": "jaxsplit.weights.name_maps",
    "jaxsplit.importers.pretrained": "jaxsplit.weights.load",
    "jaxsplit.importers.spic": "jaxsplit.family.spic",
    "jaxsplit.importers.tensor_files": "jaxsplit.weights.formats",
    "jaxsplit.losses": ("jaxsplit.train.losses", "jaxsplit.tasks.classification"),
    "jaxsplit.models": "jaxsplit.networks",
    "jaxsplit.models.safe_tensors": "jaxsplit.io.safetensors",
    "jaxsplit.notices": "jaxsplit.io.log",
    "jaxsplit.plan": "jaxsplit.cost",
    "jaxsplit.plan.comparison": "jaxsplit.cost.link",
    "jaxsplit.plan.cost": "jaxsplit.cost.stages",
    "jaxsplit.plan.cuts": "jaxsplit.cost.plan",
    "jaxsplit.plan.units": "jaxsplit.cost.unit_plan",
    "jaxsplit.pretrained": "jaxsplit.family.pretrained",
    "jaxsplit.progress": "jaxsplit.io.progress",
    "jaxsplit.train.curve_config": "jaxsplit.train.config",
    "jaxsplit.train.evaluation": "jaxsplit.train.rate_groups",
    "jaxsplit.train.networks": "jaxsplit.train.recipe",
    "jaxsplit.train.principal": "jaxsplit.train.pca",
    "jaxsplit.train.processes": "jaxsplit.train.distributed",
    "jaxsplit.train.state": "jaxsplit.train.records",
    "jaxsplit.train.trainable": "jaxsplit.train.fine_tuning",
    "jaxsplit.codec.choice": "jaxsplit.codec.rate_control",
    "jaxsplit.codec.end": "jaxsplit.codec.runtime",
    "jaxsplit.codec.programs": "jaxsplit.codec.sender",
    "jaxsplit.entropy.exact": "jaxsplit.entropy.densities",
    "jaxsplit.entropy.logistic": "jaxsplit.entropy.factorized",
    "jaxsplit.files": "jaxsplit.io.files",
    "jaxsplit.ops.rounding": "jaxsplit.ops.surrogate_gradients",
    "jaxsplit.ops.winograd": "jaxsplit.ops.convolution",
    "jaxsplit.train.examples": "jaxsplit.train.batches",
    "jaxsplit.train.feature_files": "jaxsplit.io.array_cache",
    "jaxsplit.train.groups": "jaxsplit.train.rate_groups",
    "jaxsplit.train.head": "jaxsplit.train.features",
    "jaxsplit.train.reports": "jaxsplit.train.metrics",
    "jaxsplit.train.sensitivity": "jaxsplit.train.pca",
    "jaxsplit.train.start": "jaxsplit.train.curve",
    "jaxsplit.train.stopping": "jaxsplit.train.loop",
    "jaxsplit.versions": "jaxsplit.io.versions",
}


def new_names(old: str) -> tuple[str, ...]:
    """Returns the names of the modules that an old one's content went to; () if it didn't move.

    >>> new_names("jaxsplit.plan.units"), new_names("jaxsplit.plan.link"), new_names("jaxsplit.ops")
    (('jaxsplit.cost.unit_plan',), ('jaxsplit.cost.link',), ())
    """
    if old in MODULES:
        found = MODULES[old]
        return (found,) if isinstance(found, str) else found
    package, _, leaf = old.rpartition(".")
    return tuple(f"{name}.{leaf}" for name in new_names(package)) if package else ()


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
        if not fullname.startswith("jaxsplit.") or not new_names(fullname):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        """Connects an old module with the new ones, and warns."""
        names = new_names(module.__name__)
        modules = [importlib.import_module(name) for name in names]

        def forward(name: str) -> Any:
            for one in modules:
                if hasattr(one, name):
                    return getattr(one, name)
            raise AttributeError(f"module {' or '.join(names)} has no attribute {name!r}")

        module.__dict__["__getattr__"] = forward
        warn_once(
            module.__name__,
            f"{module.__name__} is now called {' and '.join(names)}; the old name goes with the "
            "next version",
        )
