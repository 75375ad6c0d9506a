"""Identities of a user's own values, so that a workdir of one is not resumed with another."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from types import CodeType, FunctionType, ModuleType

import numpy as np

_DEEPEST = 20  # closures within closures


def identity(value: object, depth: int = 0) -> object:
    """Returns a description of a value that differs for different values, ready for JSON.

    A function is its code, defaults and what it closes over; a dataclass its class and fields; any
    other object its class and attributes. So two losses of one name with other margins differ, as
    do two optimizers with other rates. Below a `depth` of 20, only names of classes count. An
    object without attributes, as in a C extension, is its class and repr; global variables
    that a function reads don't count.

    >>> import optax
    >>> identity(optax.adam(1e-3)) == identity(optax.adam(1e-2))
    False
    """
    again = functools.partial(identity, depth=depth + 1)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth > _DEEPEST:
        return _name(type(value))
    if isinstance(value, functools.partial):
        return ["partial", *map(again, (value.func, value.args, value.keywords))]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        known = (value.__defaults__, value.__kwdefaults__, cells)
        return [_name(value), _code(value.__code__), *map(again, known)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return [_name(type(value)), again(fields)]
    if isinstance(value, dict):
        return {str(key): again(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [again(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted((again(one) for one in value), key=str)
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return [str(array.dtype), list(array.shape), digest]
    if hasattr(value, "__qualname__") or isinstance(value, ModuleType):  # a class, a method, …
        bound = getattr(value, "__self__", None)
        inner = getattr(value, "__wrapped__", None)  # of jax.jit
        wrapped = [] if inner is None or isinstance(value, type) else [again(inner)]
        return [_name(value), again(None if isinstance(bound, ModuleType) else bound), *wrapped]
    attributes = _attributes(value)
    if attributes is None:
        text = repr(value)
        return [_name(type(value)), None if " at 0x" in text else text]
    # Objects may refer to each other in circles, unlike closures.
    return [_name(type(value)), identity(attributes, depth + 5) if attributes else None]


def _attributes(value: object) -> dict[str, object] | None:
    """Returns the attributes of an object by name; None for one that can have none."""
    slots = [getattr(one, "__slots__", ()) for one in type(value).__mro__]
    names = itertools.chain.from_iterable([one] if isinstance(one, str) else one for one in slots)
    found = {name: getattr(value, name) for name in names if hasattr(value, name)}
    if not found and not hasattr(value, "__dict__"):
        return None
    return found | {str(name): one for name, one in getattr(value, "__dict__", {}).items()}


def _name(value: object) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"


def _filled(cell: object) -> bool:
    try:
        return hasattr(cell, "cell_contents")
    except ValueError:  # a name that is bound later
        return False


def _code(code: CodeType) -> str:
    """Returns a digest of code that ignores its file and line numbers."""
    inner = [_code(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    text = repr((code.co_code, code.co_names, inner))
    return hashlib.sha256(text.encode()).hexdigest()
