"""A traced program as one flat list of operations, whatever calls it was written in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core

_NAMES = """
abs acos add add_any and asin atan2 cbrt ceil clamp conj convert_element_type copy cos div eq erf
erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg
nextafter not optimization_barrier or pow rem round rsqrt select_n sign sin sqrt square
stop_gradient sub tan tanh xor
"""
#: Operations whose every output element depends on the elements at its own place alone.
ELEMENTWISE = frozenset(_NAMES.split())
# Where the program of a call is found among its parameters.
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
# What runs its program many times, or on single elements.
_WHOLE = ("scan", "while", "reduce", "reduce_window")


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array of the program: an input, a constant or what one operation gives.

    Attributes:
      shape: its sizes.
      bytes: what it takes.
    """

    shape: tuple[int, ...]
    bytes: int


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One equation of the program, with the values that it reads and gives."""

    name: str
    params: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def value_of(aval: Any) -> Value:
    """A new value of an abstract array's shape and dtype."""
    shape = tuple(getattr(aval, "shape", ()))
    return Value(shape, math.prod(shape) * getattr(getattr(aval, "dtype", None), "itemsize", 0))


def flatten(jaxpr: Any, inputs: Sequence[Value]) -> tuple[list[Operation], list[Value]]:
    """The operations of a traced program in order, those of its calls in their place.

    Jitted calls, custom derivatives and checkpoints are looked into; of forms for several
    platforms the plain one is taken. Loops, conditions and reductions stay single
    operations.

    Args:
      jaxpr: as `jax.make_jaxpr(…)(…).jaxpr`.
      inputs: one value for each of its inputs.

    Returns:
      The operations, and the values of the program's outputs.
    """
    known: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))

    def look_up(var: Any) -> Value:
        if isinstance(var, core.Literal):
            return value_of(var.aval)
        return known.setdefault(var, value_of(var.aval))  # a constant, where it isn't known

    operations: list[Operation] = []
    for equation in jaxpr.eqns:
        read = tuple(look_up(var) for var in equation.invars)
        inner = _called(equation)
        if inner is None:
            given = tuple(value_of(var.aval) for var in equation.outvars)
            operations.append(Operation(equation.primitive.name, equation.params, read, given))
        else:
            arguments = read[1:] if equation.primitive.name == "cond" else read
            inside, results = flatten(inner, arguments)
            operations += inside
            given = tuple(results)
        known.update(zip(equation.outvars, given, strict=True))
    return operations, [look_up(var) for var in jaxpr.outvars]


def _called(equation: Any) -> Any:
    """The program that a call runs; None for what is no call."""
    params, name = equation.params, equation.primitive.name
    if name == "cond":
        platforms = params.get("branches_platforms")
        if platforms is None:
            return None
        plain = next((i for i, names in enumerate(platforms) if names is None), -1)
        return params["branches"][plain].jaxpr
    if name in _WHOLE:
        return None
    found = next((params[key] for key in _CALLED if key in params), None)
    return getattr(found, "jaxpr", found)
