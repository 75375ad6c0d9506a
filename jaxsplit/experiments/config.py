"""Reads configuration files: Python with `get_config(arg)` → a ConfigDict → a frozen dataclass.

Keys, types, defaults and meanings are those of the dataclasses (see `fields`): a new field of a
dataclass needs nothing here.
"""

from __future__ import annotations

import dataclasses
import os
import runpy
from pathlib import Path
from typing import Any, cast

import ml_collections

from jaxsplit._moved import names_of, rename
from jaxsplit.errors import ConfigError, did_you_mean
from jaxsplit.io import fields
from jaxsplit.search import DesignConfig
from jaxsplit.train.backbone import BackboneConfig
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.step import Rate
from jaxsplit.units.bottleneck import BottleneckSpec
from jaxsplit.units.unit import UnitSpec, spec_from_dict

Config = BackboneConfig | CurveConfig | DesignConfig

_PACKAGE = Path(__file__).parent.parent
_LAMBDAS = "rate weight lambda of each rate, by the rate's name."
_SPECS = "fields of `spec` with another value for a rate, by the rate's name."


def _curve_file() -> type:
    """`CurveConfig` as a file has it: with lambdas and specs in place of rates."""
    lambdas = dataclasses.field(metadata={"meaning": _LAMBDAS})
    specs: Any = dataclasses.field(default_factory=dict, metadata={"meaning": _SPECS})
    given = list[tuple[str, Any, Any]]()
    for name, (annotation, default, meaning) in fields.keys(CurveConfig).items():
        if name == "rates":
            given.append(("lambdas", dict[str, float], lambdas))
            given.append(("specs", dict[str, BottleneckSpec], specs))
        else:
            field = dataclasses.field(default=default, metadata={"meaning": meaning})
            given.append((name, annotation, field))
    namespace = {"__doc__": CurveConfig.__doc__}
    return dataclasses.make_dataclass("CurveConfig", given, namespace=namespace, kw_only=True)


_CurveFile = _curve_file()
#: The key `kind` of a configuration → the dataclass of its other keys.
KINDS = {"curve": _CurveFile, "backbone": BackboneConfig, "design": DesignConfig}


def find(name: str) -> Path:
    """Finds the file of a configuration: a path, or a name without folder of one in the package."""
    shipped = [_PACKAGE / "configs"]
    if (_PACKAGE.parent / "pyproject.toml").is_file():  # a checkout, not site-packages
        shipped.append(_PACKAGE.parent / "configs")
    paths = [Path(name)]
    if not os.path.dirname(name):
        paths += [folder / f"{name.removesuffix('.py')}.py" for folder in shipped]
    for path in paths:
        if path.is_file():
            return path
    known = {p.stem for folder in shipped for p in folder.glob("*.py") if p.stem != "__init__"}
    names = f"{', '.join(sorted(known))}{did_you_mean(Path(name).stem, known)}"
    if os.path.dirname(name):
        raise ConfigError(f"no file {name}; those of the package go by name alone: {names}")
    raise ConfigError(f"no configuration {name!r}; there are {names}")


def load(name: str, overrides: dict[str, str] | None = None) -> Config:
    """Loads the configuration `NAME[:ARG]` with overrides.

    The file is Python that runs: load only files that you trust.

    Args:
      name: path or shipped name of the file, then optionally ":" and the argument of get_config.
      overrides: dotted key → value as text, e.g. {"learning_rate": "1e-3"}.

    Raises:
      ConfigError: there is no such file or key, or a value is invalid.

    >>> load("fashion_mnist:smoke", {"batch_size": "32"}).batch_size
    32
    """
    values = _read(name)
    given = _renamed(_kind(values), dict(overrides or {}))
    # Whole mappings first: other lambdas are other rates.
    for key, text in sorted(given.items(), key=lambda item: item[0].count(".")):
        fields.override(_kind(values), values, key, text)
    return to_dataclass(values)


def known_keys(name: str) -> list[str]:
    """Lists the top-level keys of the configuration `NAME[:ARG]`.

    >>> "learning_rate" in known_keys("fashion_mnist")
    True
    """
    return sorted(fields.keys(_kind(_read(name))))


def describe_keys(kind: str) -> str:
    """Describes every key of a kind of configuration: its default and its meaning.

    >>> print(*describe_keys("backbone").splitlines()[2:4], sep="\\n")
      model (required)
          name that `jaxsplit.networks.create` knows.
    """
    summary = (KINDS[kind].__doc__ or "").partition("\n")[0]
    return "\n".join((f"kind = {kind!r}: {summary}", "", *fields.describe_fields(KINDS[kind])))


def to_dataclass(values: dict[str, object]) -> Config:
    """Converts nested dicts to the dataclass of their "kind"."""
    kind = _kind(values)
    values = _renamed(kind, {key: value for key, value in values.items() if key != "kind"})
    if kind is not _CurveFile:
        return fields.build(kind, values)
    # A rate's spec has only what differs: merged before it is built, since fields are required.
    shared, specs = values.get("spec"), values.get("specs")
    if isinstance(shared, dict) and isinstance(specs, dict):
        values["specs"] = {name: {**shared, **dict(own)} for name, own in specs.items()}
    others = dict[str, UnitSpec]()
    if isinstance(shared, dict) and "kind" in shared:  # fields of a BottleneckSpec need none
        values["spec"] = spec_from_dict(shared)
        if isinstance(specs, dict):
            forms = cast("dict[str, dict[str, Any]]", values.pop("specs"))
            others = {name: spec_from_dict(form) for name, form in forms.items()}
    curve = vars(fields.build(kind, values)).copy()
    lambdas, specs = curve.pop("lambdas"), {**curve.pop("specs"), **others}
    for name in specs:
        if name not in lambdas:
            listed = did_you_mean(name, lambdas) or f"; there are {', '.join(lambdas)}"
            raise ConfigError(f"the configuration has no rate for {f'specs.{name}'!r}{listed}")
    # A rate with the shared spec has None, so that the key of the training stays the same.
    own = {name: spec for name, spec in specs.items() if spec != curve["spec"]}
    rates = tuple(Rate(name, float(lmbda), own.get(name)) for name, lmbda in lambdas.items())
    return CurveConfig(rates=rates, **curve)


def _read(name: str) -> dict[str, object]:
    """Runs get_config of `NAME[:ARG]`."""
    file, _, arg = name.partition(":")
    path = find(file)
    if path.suffix != ".py":  # `runpy` would run the program in a zip file, such as an .npz
        raise ConfigError(f"{path} is not a Python file")
    try:
        module = runpy.run_path(os.fspath(path))
        variants = list(module.get("VARIANTS", [arg]))
        given = (arg,) if arg else ()
        config = module["get_config"](*given) if not arg or arg in variants else None
    except Exception as error:  # a user's file may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{path} is not a configuration: {reason}") from error
    if arg and arg not in variants:
        listed = f"there are {', '.join(variants)}{did_you_mean(arg, variants)}"
        raise ConfigError(f"{path} has no variant {arg!r}; {listed}")
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"{path} gives a {type(config).__name__}; expected a ConfigDict")
    values = config.to_dict()
    return _renamed(_kind(values), values)


def _renamed(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    return rename(values, names_of(fields.keys(kind)), "the configuration key {}")


def _kind(values: dict[str, object]) -> type:
    kind = values.get("kind")
    if kind not in KINDS:
        known = f"{', '.join(map(repr, KINDS))}{did_you_mean(kind, KINDS)}"
        raise ConfigError(f"the configuration's kind is {kind!r}; expected one of {known}")
    return KINDS[kind]
