"""Configurations: a Python file with `get_config(arg)` → a small frozen dataclass.

This is the edge: behind it nothing sees a ConfigDict.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import os
import re
import types
import typing
from pathlib import Path
from typing import Any

import ml_collections

from jaxsplit.data import Augmentation, Preprocessing
from jaxsplit.errors import ConfigError, did_you_mean
from jaxsplit.search import DesignConfig
from jaxsplit.train.backbone import BackboneConfig
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units.bottleneck import BottleneckSpec

Config = BackboneConfig | CurveConfig | DesignConfig

_PACKAGE = Path(__file__).parent.parent
_MAPPINGS = (ml_collections.ConfigDict, dict)  # inside a tuple a dict stays one


def find(name: str) -> Path:
    """The file of a configuration: a path, or the name of one that comes with the package.

    What has a folder in it is a path and nothing else.

    Raises:
      ConfigError: there is none.
    """
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
        raise ConfigError(f"no file {name}; the package's own go by name alone: {names}")
    raise ConfigError(f"no configuration {name!r}; there are {names}")


def load(
    name: str, overrides: dict[str, str] | None = None
) -> BackboneConfig | CurveConfig | DesignConfig:
    """Reads `NAME[:ARG]`, applies overrides, and turns the result into its dataclass.

    Args:
      name: path or shipped name of the file, then optionally ":" and the argument of get_config.
      overrides: dotted key → value as text, e.g. {"learning_rate": "1e-3"}.

    Raises:
      ConfigError: no such file, key or value.

    >>> load("fashion_mnist:smoke", {"batch_size": "32"}).batch_size
    32
    """
    config = _read(name)
    if overrides:
        # Whole mappings first: other lambdas are other rates, whose defaults are filled in then.
        known = config.to_dict()
        whole = [key for key in overrides if isinstance(known.get(key), dict)]
        for key in whole:
            _override(config, key, overrides[key])
        _fill_defaults(config)
        for key in [key for key in overrides if key not in whole]:
            _override(config, key, overrides[key])
    return to_dataclass(config.to_dict())


def known_keys(name: str) -> list[str]:
    """What a configuration may be overridden in; what is in a key of its own is left out.

    Raises:
      ConfigError: there is no such configuration.

    >>> "learning_rate" in known_keys("fashion_mnist")
    True
    """
    config = _read(name)
    _fill_defaults(config)
    return sorted(config)


def _read(name: str) -> ml_collections.ConfigDict:
    """What get_config of `NAME[:ARG]` gives."""
    file, _, arg = name.partition(":")
    path = find(file)
    spec = importlib.util.spec_from_file_location(f"jaxsplit_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(arg) if arg else module.get_config()
    except Exception as error:  # whatever a file of the user's may raise
        if isinstance(error, KeyError) and error.args == (arg,):
            variants = _variants(module)
            listed = f"; there are {', '.join(variants)}" if variants else ""
            near = did_you_mean(arg, variants)
            raise ConfigError(f"{path} has no variant {arg!r}{listed}{near}") from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{path} is not a configuration: {reason}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"{path} gives a {type(config).__name__}; expected a ConfigDict")
    return config


def _variants(module: types.ModuleType) -> list[str]:
    """The arguments that a configuration's docstring speaks of."""
    _, _, said = (module.__doc__ or "").partition("The argument is ")
    return re.findall(r"`(\w+)`", said)


def to_dataclass(values: dict[str, Any]) -> Config:
    """Nested dicts → `BackboneConfig`, `CurveConfig` or `DesignConfig`, by their "kind".

    Raises:
      ConfigError: a key is unknown or missing, or a value doesn't fit.
    """
    values = dict(values)
    kind = values.pop("kind", None)
    if values.get("augmentation") is not None:
        values["augmentation"] = _build(Augmentation, values["augmentation"])
    if kind == "backbone":
        values["preprocessing"] = _build(Preprocessing, values.get("preprocessing", {}))
        return _build(BackboneConfig, values)
    if kind == "curve":
        return _curve(values)
    if kind == "design":
        return _build(DesignConfig, values)
    raise ConfigError(
        f"the configuration's kind is {kind!r}; expected 'backbone', 'curve' or 'design'"
    )


def _curve(values: dict[str, Any]) -> CurveConfig:
    form = values.get("spec", {})
    values["spec"] = _build(BottleneckSpec, form)
    try:
        lambdas = {name: float(value) for name, value in dict(values.pop("lambdas", {})).items()}
        specs = {name: dict(own) for name, own in dict(values.pop("specs", {})).items()}
        phases = [dict(phase) for phase in values.get("phases", ())]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lambdas, specs or phases don't fit: {error}") from error
    if strange := sorted(set(specs) - set(lambdas)):
        raise ConfigError(f"specs has {', '.join(strange)}; the rates are {', '.join(lambdas)}")
    rates = []
    for name, lmbda in lambdas.items():
        # An override finds None where the file said nothing: as of `spec`.
        own = {key: value for key, value in specs.get(name, {}).items() if value is not None}
        spec = _build(BottleneckSpec, {**form, **own})
        rates.append(Rate(name, lmbda, None if spec == values["spec"] else spec))
    for phase in phases:
        phase["distortion"] = _build(Distortion, phase.get("distortion", {}))
    values["rates"] = tuple(rates)
    values["phases"] = tuple(_build(Phase, phase) for phase in phases)
    return _build(CurveConfig, values)


def _build(cls: Any, values: dict[str, Any]) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"a {cls.__name__} is made of keys and values; got {values!r}")
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"{cls.__name__} has no {', '.join(unknown)}; it has {sorted(known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    forms = typing.get_type_hints(cls)
    for key, value in values.items():
        form = forms[key]
        if not _fits(value, form):
            expected = form.__name__ if isinstance(form, type) else form
            raise ConfigError(f"{cls.__name__}: {key} is {value!r}; expected {expected}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}: {error}") from error


def _fits(value: Any, form: Any) -> bool:
    """Whether a value is of an annotation's type; an int is a float, but a bool is no number.

    >>> _fits(3, float), _fits(True, int), _fits(None, int | None), _fits((1, 2.5), tuple[int, int])
    (True, False, True, False)
    """
    parts = typing.get_args(form)
    if isinstance(form, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if typing.get_origin(form) is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if isinstance(value, bool):
        return form is bool
    return isinstance(value, int | float if form is float else form)


def _fill_defaults(config: ml_collections.ConfigDict) -> None:
    """Adds the keys that the file left at their defaults, so that overrides can reach them."""
    config.unlock()
    parts: list[tuple[Any, Any]] = []
    if config.get("kind") == "backbone":
        parts = [
            (config, BackboneConfig),
            (config.get("preprocessing"), Preprocessing),
            (config.get("augmentation"), Augmentation),
        ]
    elif config.get("kind") == "design":
        parts = [(config, DesignConfig)]
    elif config.get("kind") == "curve":
        parts = [
            (config, CurveConfig),
            (config.get("spec"), BottleneckSpec),
            (config.get("augmentation"), Augmentation),
        ]
        _fill_specs(config)
        phases = config.get("phases")
        for phase in phases if isinstance(phases, list | tuple) else ():
            if isinstance(phase, _MAPPINGS):
                if "distortion" not in phase:
                    phase["distortion"] = {}
                parts += [(phase, Phase), (phase["distortion"], Distortion)]
    for node, form in parts:
        for field in dataclasses.fields(form) if isinstance(node, _MAPPINGS) else ():
            if field.name not in node and field.default is not dataclasses.MISSING:
                node[field.name] = field.default


def _fill_specs(config: ml_collections.ConfigDict) -> None:
    """Gives every rate a form of its own to override, None in all that it shares with `spec`."""
    if "specs" not in config:
        config.specs = {}
    lambdas = config.get("lambdas")
    if not (isinstance(lambdas, _MAPPINGS) and isinstance(config.specs, _MAPPINGS)):
        return
    for name in lambdas:
        if name not in config.specs:
            config.specs[name] = {}
        own = config.specs[name]
        for field in dataclasses.fields(BottleneckSpec) if isinstance(own, _MAPPINGS) else ():
            if field.name not in own:
                own[field.name] = None


def _no_key(key: str, name: str, node: Any) -> ConfigError:
    known = sorted(map(str, node)) if isinstance(node, _MAPPINGS) else []
    near = did_you_mean(name, known)
    listed = f"; there are {', '.join(known)}" if known and not near else ""
    return ConfigError(f"the configuration has no key {key!r}{near or listed}")


def _misfit(key: str, text: str, present: Any) -> ConfigError:
    kinds = {bool: "truth value", int: "whole number", float: "number"}
    kind = kinds.get(type(present), type(present).__name__)
    if isinstance(present, ml_collections.ConfigDict):
        kind, present = "mapping", present.to_dict()
    if isinstance(present, list | tuple):  # what was meant may be its only entry
        present = (text,)
    return ConfigError(f"{key}: {text!r} is no {kind}: write one such as {present}")


def _override(config: ml_collections.ConfigDict, key: str, text: str) -> None:
    *parents, leaf = key.split(".")
    node: Any = config
    for name in parents:
        if isinstance(node, list | tuple) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, _MAPPINGS) and name in node:
            node = node[name]
        else:
            raise _no_key(key, name, node)
    if not isinstance(node, _MAPPINGS) or leaf not in node:
        raise _no_key(key, leaf, node)
    present = node[leaf]
    try:
        # A float may also be "inf", which is no literal.
        direct = isinstance(present, str | float)
        value = type(present)(text) if direct else ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        if present is not None:
            raise _misfit(key, text, present) from error
        value = text  # what may be absent can be a name; whether it fits is looked at later
    if isinstance(present, ml_collections.ConfigDict) and isinstance(value, dict):
        value = ml_collections.ConfigDict(value)
    if present is not None and type(value) is not type(present):
        raise _misfit(key, text, present)
    node[leaf] = value
