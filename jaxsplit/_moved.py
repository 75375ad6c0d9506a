"""Old names of modules, functions and classes: for one version they work, with a warning.

The names are in `old_names.toml`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.abc
import operator
import pkgutil
from collections.abc import Callable, Container, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, TypeVar, cast

from jaxsplit.errors import warn_once

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Class = TypeVar("_Class")


@functools.cache
def old_names() -> dict[str, dict[str, str]]:
    """Returns the tables of `old_names.toml`, which says what each holds."""
    import tomllib  # here, since `import jaxsplit` needs neither the module nor the file

    return tomllib.loads((pkgutil.get_data(__package__, "old_names.toml") or b"").decode())


def renamed(module: str, homes: Sequence[ModuleType] = ()) -> Callable[[str], Any]:
    """Returns a module's `__getattr__`, for the old names of its functions and classes.

    Args:
      module: its name, old or new.
      homes: modules that have its other names.
    """

    def get(name: str) -> Any:
        if name.startswith("__") and not homes:  # asked for by every import
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        old, tables = f"{module}.{name}", old_names()
        if old in tables["ended"]:
            raise AttributeError(f"{old} has gone; in its place: {tables['ended'][old]}")
        if old in tables["names"]:
            home, new = tables["names"][old].split()
            warn_once(old, f"{old} is now {home}.{new}; the old name goes with the next version")
            return operator.attrgetter(new)(importlib.import_module(home))
        for one in homes:
            if hasattr(one, name):
                return getattr(one, name)
        if old in tables["modules"]:
            return importlib.import_module(old)
        moved = "".join(f" (now {new})" for new in new_names(module))
        raise AttributeError(f"module {module!r}{moved} has no attribute {name!r}")

    return get


def rename(values: dict[str, Any], names: Mapping[str, str], where: str = "") -> dict[str, Any]:
    """Renames keys in place, and values of keys such as "tables=places"; warns if there is `where`.

    >>> rename({"limit": 8, "tables": "places"}, old_names()["configuration"])
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


def renamed_method(old: str, method: _Function) -> _Function:
    """Returns a method under its old name, `Class.name`."""

    @functools.wraps(method)
    def call(*args: object, **kwargs: object) -> object:
        new = f"{old.partition('.')[0]}.{method.__name__}"
        warn_once(old, f"{old} is now {new}; the old name goes with the next version")
        return method(*args, **kwargs)

    return cast(_Function, call)


def renamed_attribute(old: str, new: str) -> Any:
    """Returns an attribute or method `new` under its old name, `Class.name`, as an attribute."""

    def get(self: object) -> Any:
        warn_once(old, f"{old} is now {new}; the old name goes with the next version")
        value = getattr(self, new)
        return value() if callable(value) else value

    return property(get)


def renamed_field(old: str, new: str) -> Callable[[_Function], _Function]:
    """Lets a dataclass take a field by its old name, and have it under that name."""

    def decorate(cls: _Function) -> _Function:
        setattr(cls, old, renamed_attribute(f"{cls.__qualname__}.{old}", new))
        return renamed_argument(old, new)(cls)

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
    """Returns the old and new keys of a configuration with the `known` keys, as `rename` takes."""
    names = old_names()["configuration"].items()
    return {old: new for old, new in names if new.partition("=")[0] in known}


def renamed_attributes(cls: type[_Class]) -> type[_Class]:
    """Lets fields of a configuration have their old names, and says what replaced attributes."""
    if dataclasses.is_dataclass(cls):
        where = f"{cls.__qualname__}({{}})"
        _called_with(cls, lambda given: rename(given, names_of(cls.__annotations__), where))

    def get(self: _Class, name: str) -> Any:
        old, ended = f"{cls.__name__}.{name}", old_names()["ended_attributes"]
        names = names_of(cls.__annotations__)
        if old in ended:
            raise AttributeError(f"{old} has gone; in its place: {ended[old]}")
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
    if old in old_names()["modules"]:
        return tuple(old_names()["modules"][old].split())
    package, _, leaf = old.rpartition(".")
    return tuple(f"{name}.{leaf}" for name in new_names(package)) if package else ()


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module by its old name.

    The module under the old name is empty and takes every attribute from the new ones, so that no
    module is executed twice.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds an old name, also below an old package; None for a module that is there."""
        if not fullname.startswith("jaxsplit."):
            return None
        found = PathFinder.find_spec(fullname, path)
        # What an old version left of a folder is found too, as a package without a file.
        if found and found.origin:
            return None
        if instead := old_names()["ended"].get(fullname):
            raise ModuleNotFoundError(f"{fullname} has gone; in its place: {instead}")
        if not new_names(fullname):
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
