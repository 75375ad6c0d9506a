"""Arguments of `train_family` as a person gives them: converted, or refused with advice."""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsplit._moved import old_names, rename
from jaxsplit.codec.rates import check_rate_id
from jaxsplit.data import AnySource, Source, as_source
from jaxsplit.errors import ConfigError, did_you_mean, warn_once
from jaxsplit.io.log import Log
from jaxsplit.networks import Backbone
from jaxsplit.networks.backbone import check_backbone
from jaxsplit.train import distributed
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.metrics import Progress
from jaxsplit.train.step import Phase
from jaxsplit.units import UnitSpec
from jaxsplit.units.unit import check_unit
from jaxsplit.weights.load import load_backbone

#: Rate weights: by name, several in the order of the rates, or one.
Lambdas = Mapping[str, float] | Iterable[float] | float
#: The unit of all rates, or of some by their names.
Units = UnitSpec | Mapping[str, UnitSpec]


def check_names(given: dict[str, Any], known: Collection[str]) -> None:
    """Renames old keyword arguments in place; refuses those that no `CurveConfig` has."""
    rename(given, old_names()["configuration"], "train_family({})")
    if "rates" in given:
        raise ConfigError("train_family has no argument 'rates'; lambdas are the rates")
    fields = {field.name for field in dataclasses.fields(CurveConfig)}
    for name in given:
        if name not in fields | {"specs"}:
            near = did_you_mean(
                name,
                sorted({*known, *fields, *old_names()["configuration"]} - {"options", "rates"}),
            )
            raise ConfigError(f"train_family has no argument {name!r}{near}")


def as_backbone(backbone: Backbone | str | Path) -> Backbone:
    """Returns a backbone, loaded if it is a name or a file."""
    if isinstance(backbone, str | Path):
        return load_backbone(backbone)
    check_backbone(backbone)
    return backbone


def named_lambdas(lambdas: Lambdas) -> dict[str, float]:
    """Returns the rate weight of each rate by its name: r1, r2, … where they have none.

    >>> named_lambdas([1e-3, 1e-4])
    {'r1': 0.001, 'r2': 0.0001}
    """
    if isinstance(lambdas, Mapping):
        named = dict(lambdas)
    else:
        if hasattr(lambdas, "__array__"):
            lambdas = np.asarray(lambdas).ravel().tolist()
        several = lambdas if isinstance(lambdas, Iterable) else [lambdas]
        named = {f"r{number}": lmbda for number, lmbda in enumerate(several, 1)}
    for name, lmbda in named.items():
        check_rate_id(name)
        if not isinstance(lmbda, numbers.Real) or isinstance(lmbda, bool):
            raise ConfigError(
                f"lambda of rate {name} is {lmbda!r}; expected a number for each rate, such as "
                "[1e-3, 1e-4] or {'r1': 1e-3}"
            )
    return {name: float(lmbda) for name, lmbda in named.items()}


def shared_and_own(
    unit: Units | None,
    specs: Mapping[str, UnitSpec] | None,
    default: UnitSpec,
    rates: Collection[str],
) -> tuple[UnitSpec, Mapping[str, UnitSpec]]:
    """Returns the unit of rates without their own, and those of rates that have one.

    `specs` is an old argument, beside which `unit` is the shared one.
    """
    own = dict(unit) if isinstance(unit, Mapping) else {}
    if specs is not None:
        text = "train_family(specs=…) is now unit={name: …}; the old name goes with the next"
        warn_once("train_family(specs)", f"{text} version")
        own |= specs
    if unknown := sorted(set(own) - set(rates)):
        raise ConfigError(
            f"unit has {', '.join(unknown)}; the rates are {', '.join(rates)}: give one unit, or "
            "some by the names of their rates"
        )
    shared = default if unit is None or isinstance(unit, Mapping) else unit
    for spec in (shared, *own.values()):
        check_unit(spec)
    return shared, own


def check_parts(
    steps: int, loss: object, optimizer: object, phases: object, progress: object, log: object
) -> None:
    """Refuses what no training could use."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise ConfigError(f"progress is {progress!r}; expected a function, or True or False")
    if not (log is None or callable(log)):
        raise ConfigError(f"log is {log!r}; expected a function that takes a text, or None")
    several = isinstance(phases, Sequence) and all(isinstance(one, Phase) for one in phases)
    if phases is not None and not several:
        raise ConfigError(f"phases is {phases!r}; expected a list of jaxsplit.Phase(steps, …)")
    if not isinstance(steps, numbers.Integral) or isinstance(steps, bool):
        raise ConfigError(f"steps is {steps!r}; expected a whole number")
    if loss is not None and not callable(loss):
        raise ConfigError(
            f"loss is {loss!r}; expected a jaxsplit.Distortion, such as Distortion(labels=1.0, "
            "distillation=0.0), or a function of a DistortionInputs"
        )
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ConfigError(
            f"optimizer is {optimizer!r}; expected one of optax, such as optax.adam(1e-3), or "
            "none and learning_rate=…"
        )


def source_of(
    data: AnySource, backbone: Backbone, options: dict[str, Any]
) -> tuple[str, Source | None]:
    """Returns the name of the images for a configuration, and their source if they are at hand.

    `options` are fields of a configuration; a source's split is added.
    """
    if isinstance(data, str):
        return data, None
    if isinstance(data, Path):
        return f"folder:{data}", None
    if not isinstance(data, Source):
        data = as_source(data, backbone.class_names)
        if options.get("evaluate_every"):
            raise ConfigError(
                "evaluate_every measures test images: name data that has them, such as folder:PATH"
            )
    options.setdefault("train_split", data.split)
    return data.name, data.take(options.get("max_samples"))


@contextlib.contextmanager
def shown_progress(
    progress: Progress | bool | None, log: Log | None, names: Collection[str]
) -> Iterator[tuple[Progress | None, Log | None]]:
    """Yields the callbacks of a training: True is a bar on stderr, False and None are silence."""
    if progress is not True:
        yield progress or None, log
        return
    from jaxsplit.io.progress import ProgressBar  # loads rich

    with ProgressBar(tuple(names), quiet=not distributed.is_first()) as bar:
        yield bar, log or bar.log
