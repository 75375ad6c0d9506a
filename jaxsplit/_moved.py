"""Old names of modules, functions and classes: for one version they work, with a warning."""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import operator
from collections.abc import Callable, Container, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar, cast

from jaxsplit.errors import warn_once

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Class = TypeVar("_Class")

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
    "jaxsplit.entropy.empirical": "jaxsplit.entropy.symbol_tables",
    "jaxsplit.entropy.prior": "jaxsplit.entropy.factorized",
    "jaxsplit.entropy.places": "jaxsplit.entropy.symbol_tables",
    "jaxsplit.entropy.tables": "jaxsplit.entropy.prior_tables",
    "jaxsplit.evaluation.accuracy": "jaxsplit.evaluation.evaluate",
    "jaxsplit.evaluation.bd": "jaxsplit.evaluation.bd_rate",
    "jaxsplit.evaluation.bootstrap": "jaxsplit.evaluation.bd_rate",
    "jaxsplit.evaluation.design_report": "jaxsplit.reports.search",
    "jaxsplit.evaluation.html": "jaxsplit.reports.curve_html",
    "jaxsplit.evaluation.image_headers": "jaxsplit.evaluation.image_codecs",
    "jaxsplit.evaluation.images": "jaxsplit.evaluation.per_image",
    "jaxsplit.evaluation.origin": "jaxsplit.evaluation.curve",
    "jaxsplit.evaluation.plan_plot": "jaxsplit.reports.plan",
    "jaxsplit.evaluation.plan_table": "jaxsplit.reports.plan",
    "jaxsplit.evaluation.plot": "jaxsplit.reports.curve_plot",
    "jaxsplit.evaluation.report": "jaxsplit.reports.curve_table",
    "jaxsplit.experiment": "jaxsplit.experiments.run",
    "jaxsplit.family.rate": "jaxsplit.codec.runtime",
    "jaxsplit.fitting": "jaxsplit.family.table_fitting",
    "jaxsplit.importers": "jaxsplit.weights",
    "jaxsplit.importers.names": "jaxsplit.weights.name_maps",
    "jaxsplit.importers.pretrained": "jaxsplit.weights.load",
    "jaxsplit.importers.spic": "jaxsplit.family.spic",
    "jaxsplit.importers.tensor_files": "jaxsplit.weights.formats",
    "jaxsplit.importers.torch_tensors": "jaxsplit.weights.torch_archive",
    "jaxsplit.losses": ("jaxsplit.train.losses", "jaxsplit.tasks.classification"),
    "jaxsplit.models": "jaxsplit.networks",
    "jaxsplit.models.chain": "jaxsplit.networks.layers",
    "jaxsplit.models.inverted_residual": "jaxsplit.networks.residual",
    "jaxsplit.models.resnet": "jaxsplit.networks.residual",
    "jaxsplit.models.safe_tensors": "jaxsplit.io.untrusted",
    "jaxsplit.notices": "jaxsplit.io.log",
    "jaxsplit.plan": "jaxsplit.cost",
    "jaxsplit.plan.comparison": "jaxsplit.cost.link",
    "jaxsplit.plan.cost": "jaxsplit.cost.counting",
    "jaxsplit.plan.cuts": "jaxsplit.cost.plan",
    "jaxsplit.plan.memory": "jaxsplit.cost.counting",
    "jaxsplit.plan.units": "jaxsplit.cost.plan",
    "jaxsplit.pretrained": "jaxsplit.family.pretrained",
    "jaxsplit.progress": "jaxsplit.io.progress",
    "jaxsplit.train.curve_config": "jaxsplit.train.config",
    "jaxsplit.train.evaluation": "jaxsplit.train.rate_groups",
    "jaxsplit.train.networks": "jaxsplit.train.curve",
    "jaxsplit.train.optimizer": "jaxsplit.train.config",
    "jaxsplit.train.principal": ("jaxsplit.train.pca", "jaxsplit.train.rate_groups"),
    "jaxsplit.train.processes": "jaxsplit.train.distributed",
    "jaxsplit.train.recipe": "jaxsplit.train.curve",
    "jaxsplit.train.trainable": "jaxsplit.train.step",
    "jaxsplit.codec.choice": "jaxsplit.codec.rate_control",
    "jaxsplit.codec.end": "jaxsplit.codec.runtime",
    "jaxsplit.codec.programs": "jaxsplit.codec.sender",
    "jaxsplit.entropy.exact": "jaxsplit.entropy.prior_tables",
    "jaxsplit.entropy.logistic": "jaxsplit.entropy.factorized",
    "jaxsplit.files": "jaxsplit.io.files",
    "jaxsplit.ops.rounding": "jaxsplit.ops.surrogate_gradients",
    "jaxsplit.ops.winograd": "jaxsplit.ops.convolution",
    "jaxsplit.train.examples": "jaxsplit.train.batches",
    "jaxsplit.train.feature_files": "jaxsplit.io.array_cache",
    "jaxsplit.train.groups": "jaxsplit.train.rate_groups",
    "jaxsplit.train.head": ("jaxsplit.train.features", "jaxsplit.train.batches"),
    "jaxsplit.train.reports": "jaxsplit.train.metrics",
    "jaxsplit.train.sensitivity": "jaxsplit.train.pca",
    "jaxsplit.train.start": "jaxsplit.train.rate_groups",
    "jaxsplit.train.stopping": "jaxsplit.train.loop",
    "jaxsplit.versions": "jaxsplit.io.versions",
    "jaxsplit.coding.escapes": "jaxsplit.bitstream.probability_models",
    "jaxsplit.coding.intervals": "jaxsplit.bitstream.probability_models",
    "jaxsplit.coding.self_test": "jaxsplit.bitstream.range_coder",
    "jaxsplit.data.writer": "jaxsplit.data.tfds_records",
    "jaxsplit.design.features": "jaxsplit.train.features",
    "jaxsplit.design.journal": "jaxsplit.search.checkpoint",
    "jaxsplit.design.keeper": "jaxsplit.search.checkpoint",
    "jaxsplit.evaluation.checks": "jaxsplit.evaluation.points",
    "jaxsplit.importers.npz_archive": "jaxsplit.weights.zip_archive",
    "jaxsplit.importers.spic_unit": "jaxsplit.family.spic",
    "jaxsplit.importers.zip_entries": "jaxsplit.weights.zip_archive",
    "jaxsplit.models.floats": "jaxsplit.io.untrusted",
    "jaxsplit.models.weight_file": "jaxsplit.io.untrusted",
    "jaxsplit.describe": "jaxsplit.cli.info",
    "jaxsplit.evaluation.html_chart": "jaxsplit.reports.curve_plot",
    "jaxsplit.planning": "jaxsplit.cli.plan",
    "jaxsplit.terminal": "jaxsplit.io.progress",
}

#: Old name of a function or class → module and name of the new one, called in the same way.
NAMES: dict[str, str] = {
    "jaxsplit.bottleneck.fold_batch_norm": "jaxsplit.units.bottleneck BottleneckSpec.fold",
    "jaxsplit.codec.end.End": "jaxsplit.codec.runtime Runtime",
    "jaxsplit.codec.end.RateEnd": "jaxsplit.codec.runtime RateRuntime",
    "jaxsplit.data.sources.choose_split": "jaxsplit.data.splits choose_split",
    "jaxsplit.entropy.exact.ExactDensity": "jaxsplit.entropy.prior_tables Density",
    "jaxsplit.evaluation.bootstrap.Interval": "jaxsplit.evaluation.bd_rate BootstrapInterval",
    "jaxsplit.evaluation.compare.Comparison": "jaxsplit.evaluation.compare CurveComparison",
    "jaxsplit.evaluation.compare.Measured": "jaxsplit.evaluation.compare MeasuredCurve",
    "jaxsplit.evaluation.compare.compare": "jaxsplit.evaluation.compare compare_curves",
    "jaxsplit.family.files.read": "jaxsplit.family.files read_family",
    "jaxsplit.family.files.write": "jaxsplit.family.files write_family",
    "jaxsplit.importers.spic.Task": "jaxsplit.family.spic PublishedNetwork",
    "jaxsplit.models.layers.Form": "jaxsplit.networks.layers NormConfig",
    "jaxsplit.models.layers.fold_batch_norm": "jaxsplit.networks.layers fold_normalization",
    "jaxsplit.networks.fold_batch_norm": "jaxsplit.networks.layers fold_normalization",
    "jaxsplit.notices.Tell": "jaxsplit.io.log Log",
    "jaxsplit.notices.tell_nobody": "jaxsplit.io.log no_log",
    "jaxsplit.plan.comparison.to_dict": "jaxsplit.cost.link plan_to_dict",
    "jaxsplit.pretrained.PretrainedFamily": "jaxsplit.family RateFamily",
    "jaxsplit.train.feature_files.FeatureFiles": "jaxsplit.io.array_cache ArrayCache",
    "jaxsplit.train.feature_files.form_bytes": "jaxsplit.io.array_cache array_bytes",
    "jaxsplit.train.optimizer.make_optimizer": "jaxsplit.train.config clipped_adam",
    "jaxsplit.train.start.make_optimizer": "jaxsplit.train.config CurveConfig.make_optimizer",
}

#: Old name of a function of a module that stays → what to use. A name that a module lost when it
#: moved needs no entry: the error names the new module.
ENDED: dict[str, str] = {
    "jaxsplit.entropy.log_likelihood": "jaxsplit.entropy.bits",
    "jaxsplit.entropy.factorized.log_likelihood": "jaxsplit.entropy.bits",
    "jaxsplit.entropy.median": "jaxsplit.entropy.prior_tables.Density.quantiles",
    "jaxsplit.entropy.factorized.median": "jaxsplit.entropy.prior_tables.Density.quantiles",
    "jaxsplit.entropy.quantile": "jaxsplit.entropy.prior_tables.Density.quantiles",
    "jaxsplit.entropy.factorized.quantile": "jaxsplit.entropy.prior_tables.Density.quantiles",
    "jaxsplit.evaluation.bd.quality_at": "scipy.interpolate.PchipInterpolator over ln rates",
    "jaxsplit.ops.lower_bound": "jax.numpy.maximum, or a custom gradient of your own",
    "jaxsplit.train.features.describe": "jaxsplit.train.features.HeadRun",
    "jaxsplit.train.features.some_features": "jaxsplit.train.batches.sample_of",
}

#: Old → new name of an argument and configuration key, or of a value of one. A training's key, the
#: name of its folder, has the old ones.
CONFIG_NAMES = {
    "limit": "max_samples",
    "evaluate_limit": "max_eval_samples",
    "views": "augmentations_per_image",
    "batching": "rate_vectorization",
    "decay_to": "final_lr_fraction",
    "prior_rate": "prior_lr_multiplier",
    "network_rate": "network_lr_multiplier",
    "tables=places": "tables=positions",
    "initialization=principal": "initialization=pca",
    "start": "initialization",
}
#: Attribute of a class that ended → what to use.
ENDED_ATTRIBUTES = {
    "Reader.position": "jaxsplit.bitstream.frame_sizes",
    "Reader.check_bytes": "jaxsplit.bitstream.frame_sizes",
    "CurveConfig.learning_rates": "jaxsplit.train.config.make_schedule",
}


def renamed(module: str, homes: Sequence[ModuleType] = ()) -> Callable[[str], Any]:
    """Returns a module's `__getattr__`, for the old names of its functions and classes.

    Args:
      module: its name, old or new.
      homes: modules that have its other names.
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
        if old in MODULES:
            return importlib.import_module(old)
        moved = "".join(f" (now {new})" for new in new_names(module))
        raise AttributeError(f"module {module!r}{moved} has no attribute {name!r}")

    return get


def rename(values: dict[str, Any], names: Mapping[str, str], where: str = "") -> dict[str, Any]:
    """Renames keys in place, and values of keys such as "tables=places"; warns if there is `where`.

    >>> rename({"limit": 8, "tables": "places"}, CONFIG_NAMES)
    {'max_samples': 8, 'tables': 'positions'}
    """
    for old, new in names.items():
        (name, _, was), (key, _, value) = old.partition("="), new.partition("=")
        if name not in values or was not in ("", values[name]):
            continue
        if where:
            text, now = where.format(f"{name}={was or '…'}"), f"{key}={value or '…'}"
            warn_once(text, f"{text} is now {now}; the old name goes with the next version")
        given = values.pop(name)
        values[key] = value or given
    return values


def _called_with(
    function: _Function, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> _Function:
    """Lets a function or class be called with keyword arguments that are changed first."""
    called: Callable[..., Any] = function
    if isinstance(function, type):
        called = function.__init__  # type: ignore[misc]

    @functools.wraps(called)
    def call(*args: object, **kwargs: object) -> object:
        return called(*args, **change(kwargs))

    if not isinstance(function, type):
        return cast(_Function, call)
    setattr(function, "__init__", call)  # noqa: B010 — where mypy would refuse it
    return function


def renamed_argument(old: str, new: str, unless: str = "") -> Callable[[_Function], _Function]:
    """Lets a function or class take a keyword argument, or a value of one, by its old name too.

    `unless` is an argument beside which `old` is the new name of another one.
    """

    def decorate(function: _Function) -> _Function:
        where = f"{function.__qualname__}({{}})"
        return _called_with(
            function, lambda given: given if unless in given else rename(given, {old: new}, where)
        )

    return decorate


def gathered_metrics(new: str, prefix: str = "") -> Callable[[_Function], _Function]:
    """Lets a class take each metric as arguments, such as `top1` and `top1_interval`."""

    def decorate(cls: _Function) -> _Function:
        def change(given: dict[str, Any]) -> dict[str, Any]:
            for metric in ("top1", "top5", "agreement"):
                if (name := prefix + metric) in given:
                    text = f"{cls.__qualname__}({name}=…) is now {new}={{'{metric}': …}}"
                    warn_once(f"{cls}", f"{text}; the old name goes with the next version")
                    value = given.pop(name), given.pop(f"{name}_interval", None)
                    own = {} if value[0] is None else {metric: value}
                    given[new] = {**given.get(new, {}), **own}
            return given

        return _called_with(cls, change)

    return decorate


def names_of(known: Container[str]) -> dict[str, str]:
    """Returns the `CONFIG_NAMES` of a configuration with the `known` keys."""
    return {old: new for old, new in CONFIG_NAMES.items() if new.partition("=")[0] in known}


def renamed_attributes(cls: type[_Class]) -> type[_Class]:
    """Lets fields of a configuration have their old names, and says what replaced attributes."""
    names = names_of(cls.__annotations__)
    for old, new in names.items():
        cls = renamed_argument(old, new)(cls)

    def get(self: _Class, name: str) -> Any:
        old = f"{cls.__name__}.{name}"
        if old in ENDED_ATTRIBUTES:
            raise AttributeError(f"{old} has gone; in its place: {ENDED_ATTRIBUTES[old]}")
        if name not in names:
            raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
        warn_once(old, f"{old} is now {names[name]}; the old name goes with the next version")
        return getattr(self, names[name])

    setattr(cls, "__getattr__", get)  # noqa: B010 — where mypy would find every attribute
    return cls


def new_names(old: str) -> tuple[str, ...]:
    """Returns the names of the modules that an old one's content went to; () if it didn't move.

    >>> new_names("jaxsplit.plan.units"), new_names("jaxsplit.plan.link"), new_names("jaxsplit.ops")
    (('jaxsplit.cost.plan',), ('jaxsplit.cost.link',), ())
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

    def find_spec(self, fullname: str, *_: object, **__: object) -> ModuleSpec | None:
        """Finds the old names of `MODULES` and the modules below them."""
        if not fullname.startswith("jaxsplit.") or not new_names(fullname):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        """Connects an old module with the new ones, and warns."""
        names = new_names(module.__name__)
        homes = [importlib.import_module(name) for name in names]
        module.__dict__["__getattr__"] = renamed(module.__name__, homes)
        warn_once(
            module.__name__,
            f"{module.__name__} is now called {' and '.join(names)}; the old name goes with the "
            "next version",
        )
