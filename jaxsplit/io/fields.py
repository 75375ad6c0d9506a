"""Records as nested keys: checked and built from dicts, overridden by text, and described.

A record is a dataclass, or a TypedDict of a JSON file. What a configuration or a file contains is
checked here against the annotations of its record.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxsplit.errors import ConfigError, did_you_mean

_SCALARS = (bool, int, float, str, types.NoneType)
# Type → its name in messages, and an example.
_NAMES: dict[object, tuple[str, str]] = {
    bool: ("truth value", "False"),
    int: ("whole number", "32"),
    float: ("number", "0.01"),
}


class Key(NamedTuple):
    """A key of a dataclass: its annotation, default (MISSING if required) and documentation."""

    type: object
    default: object
    meaning: str


def plain_numbers(record: Any) -> None:
    """Makes Python's numbers of those of NumPy and JAX in the fields of a frozen dataclass.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Part:
    ...     rate: float
    >>> part = Part(np.float32(0.5))
    >>> plain_numbers(part)
    >>> part
    Part(rate=0.5)
    """
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if hasattr(value, "item") and np.ndim(value) == 0:
            object.__setattr__(record, field.name, value.item())


def keys(cls: type) -> dict[str, Key]:
    """Lists the keys of a dataclass by name.

    The meaning is the field's metadata "meaning", or its entry in the docstring's "Attributes".
    Annotations that name a class of a function's scope can't be read: those fields take any value.
    """
    meanings, found = _attributes(cls), dict[str, Key]()
    try:
        hints = typing.get_type_hints(cls)
    except NameError:
        hints = {}
    for field in dataclasses.fields(cls):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        meaning = field.metadata.get("meaning", meanings.get(field.name, ""))
        found[field.name] = Key(hints.get(field.name, object), default, meaning)
    return found


def build(annotation: object, value: object, key: str = "", what: str = "the configuration") -> Any:
    """Converts dicts, sequences and scalars to a type; raises a ConfigError.

    An int is a float, but a bool is no number. A missing key has the dataclass's default; if it is
    a dataclass without one, that of all defaults. Keys that a TypedDict doesn't name are dropped.

    Args:
      annotation: a record, scalar, tuple, list, dict[str, …] or union of these; other types are not
        checked.
      value, key: to convert, and its dotted path for messages.
      what: contains the value, for messages.

    >>> build(tuple[float, ...] | None, [1, 2.5])
    (1, 2.5)
    """
    members = _members(annotation)
    annotation = next((one for one in members if _fits(value, one)), None)
    if annotation is None:
        raise ConfigError(f"{key or what} is {value!r}; expected a {_name(members[0])[0]}")
    parts = typing.get_args(annotation)
    if _is_record(annotation) and isinstance(value, dict):
        return _build_record(typing.cast(type, annotation), value, key, what)
    container = typing.get_origin(annotation) or annotation
    if container in (tuple, list) and isinstance(value, tuple | list):
        parts = parts[:1] * len(value) if container is list or Ellipsis in parts else parts
        # A type without parts takes any values.
        parts = parts or (object,) * len(value)
        if len(parts) != len(value):
            raise ConfigError(f"{key} is {value!r}; expected {len(parts)} values")
        pairs = enumerate(zip(parts, value, strict=True))
        built = (build(part, one, f"{key}.{i}", what) for i, (part, one) in pairs)
        return list(built) if container is list else tuple(built)
    if isinstance(value, dict) and parts:
        return {name: build(parts[1], one, f"{key}.{name}", what) for name, one in value.items()}
    return value


def _build_record(cls: type, values: dict[str, object], key: str, what: str) -> Any:
    known, values = _known(cls), dict(values)
    paths = {name: f"{key}.{name}".strip(".") for name in {**known, **values}}
    if typing.is_typeddict(cls):
        values = {name: value for name, value in values.items() if name in known}
    for name in values:
        if name not in known:
            near = did_you_mean(name, known)
            raise ConfigError(f"{what} has no key {paths[name]!r}{near}")
    for name in known:
        if name not in values and known[name].default is dataclasses.MISSING:
            if not any(map(dataclasses.is_dataclass, _members(known[name].type))):
                raise ConfigError(f"{what} lacks {paths[name]!r}")
            values[name] = {}
    return cls(
        **{name: build(known[name].type, x, paths[name], what) for name, x in values.items()}
    )


def _known(cls: type) -> dict[str, Key]:
    """The keys of a record."""
    if dataclasses.is_dataclass(cls):
        return keys(cls)
    found = {}
    for name, annotation in typing.get_type_hints(cls, include_extras=True).items():
        optional = typing.get_origin(annotation) is typing.NotRequired
        annotation = typing.get_args(annotation)[0] if optional else annotation
        found[name] = Key(annotation, None if optional else dataclasses.MISSING, "")
    return found


def _is_record(annotation: object) -> bool:
    return dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation)


def override(annotation: object, values: dict[str, object], key: str, text: str) -> None:
    """Sets the value of a dotted key, such as "phases.0.steps", in the nested dicts of a dataclass.

    The text is a literal of Python, but strings are without quotes.
    """
    *parents, leaf = key.split(".")
    node: object = values
    for name in parents:
        annotation = _members(_entry(annotation, node, name, key))[0]
        if isinstance(node, dict):
            # What a file leaves at its default can be overridden too.
            if node.get(name) is None and _fits({}, annotation):
                node[name] = {}
            node = node.get(name)
        elif isinstance(node, tuple | list):
            node = node[int(name)]
    annotation = _entry(annotation, node, leaf, key)
    if not isinstance(node, dict):
        raise ConfigError(f"{key} is no key of its own: give the whole of {'.'.join(parents)}")
    node[leaf] = _parse(annotation, key, text)


def _entry(annotation: object, node: object, name: str, key: str) -> object:
    """The type of an entry of a value."""
    entries: dict[str, object] = {}
    parts = typing.get_args(annotation)
    if isinstance(node, dict) and dataclasses.is_dataclass(annotation):
        entries = {
            known: entry.type for known, entry in keys(typing.cast(type, annotation)).items()
        }
    elif isinstance(node, dict):
        # A dataclass of defaults may begin here, a number may not.
        names = [*node, name] if dataclasses.is_dataclass(parts[1]) else [*node]
        entries = dict.fromkeys(names, parts[1])
    elif isinstance(node, tuple | list):
        entries = {str(i): parts[0] for i in range(len(node))}
    if name not in entries:
        near = did_you_mean(name, entries)
        listed = f"; there are {', '.join(sorted(entries))}" if entries and not near else ""
        raise ConfigError(f"the configuration has no key {key!r}{near or listed}")
    return entries[name]


def _parse(annotation: object, key: str, text: str) -> object:
    """Reads a value from text, as the first type of a union that it fits."""
    members = sorted(_members(annotation), key=lambda one: one is str)  # str takes any text
    for member in members:
        try:
            # A float may also be "inf", which is no literal.
            value = member(text) if member in (str, float) else ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError):
            continue
        if _fits(value, member):
            return value
    name, example = _name(members[0], text)
    raise ConfigError(f"{key}: {text!r} is no {name}: write one such as {example}")


def _members(annotation: object) -> tuple[object, ...]:
    """The types of a union, None last; a type alone is one."""
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    members = typing.get_args(annotation) if is_union else (annotation,)
    return tuple(sorted(members, key=lambda one: one is types.NoneType))


def _fits(value: object, annotation: object) -> bool:
    """Returns whether a value can be of a type, not a union, without looking inside it."""
    origin = typing.get_origin(annotation) or annotation
    if _is_record(annotation) or origin is dict:
        return isinstance(value, dict)
    if origin in (tuple, list):
        return isinstance(value, tuple | list)
    if annotation in _SCALARS:
        return type(value) is annotation or (annotation is float and type(value) is int)
    return annotation is Any or not isinstance(annotation, type) or isinstance(value, annotation)


def _name(annotation: object, text: str = "") -> tuple[str, str]:
    """The name of a type in messages, and an example."""
    if typing.get_origin(annotation) is tuple:
        return "tuple", f"({text!r},)"
    return _NAMES.get(
        annotation, ("mapping", "{'r1': 1e-3}") if _fits({}, annotation) else ("text", "''")
    )


def _attributes(cls: type) -> dict[str, str]:
    """The entries of the section "Attributes" in a class's and its bases' docstrings, by name."""
    entries, found = r"^  (\w+(?:, \w+)*): (.*\n(?:    .*\n)*)", dict[str, str]()
    for one in reversed(cls.__mro__):
        doc = inspect.cleandoc(one.__doc__ or "")
        section = re.search(r"^Attributes:\n((?:(?: .*)?\n)+)", f"{doc}\n", re.M)
        for names, text in re.findall(entries, section[1], re.M) if section else ():
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def describe_fields(cls: type, prefix: str = "", seen: set[type] | None = None) -> Iterator[str]:
    """Yields lines with every key of a dataclass, its default and its meaning; nested ones too.

    Keys begin with `prefix`. Keys of dataclasses in `seen` are not repeated.
    """
    entries, seen = list(keys(cls).items()), set() if seen is None else seen
    for i, (name, key) in enumerate(entries):
        default = f" = {key.default!r}"
        if key.default is dataclasses.MISSING:
            default = "" if dataclasses.is_dataclass(key.type) else " (required)"
        yield f"  {prefix}{name}{default}"
        if i + 1 == len(entries) or entries[i + 1][1].meaning != key.meaning:  # once for all
            yield textwrap.fill(key.meaning, 94, initial_indent=" " * 6, subsequent_indent=" " * 6)
        for path, inner in _nested(key.type, f"{prefix}{name}."):
            if inner in seen:
                yield f"  {path}KEY: the keys of {inner.__name__}, as above"
            else:
                seen.add(inner)
                yield from describe_fields(inner, path, seen)


def _nested(annotation: object, path: str) -> Iterator[tuple[str, type]]:
    """The dataclasses in a type, with the paths of their keys; of a union those of its first."""
    annotation = _members(annotation)[0]
    if dataclasses.is_dataclass(annotation):
        yield path, typing.cast(type, annotation)
    step = "N." if typing.get_origin(annotation) is tuple else "NAME."
    for part in typing.get_args(annotation):
        yield from _nested(part, path + step)
