"""Peak memory of a traced program's activations."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from jax.extend import core

_ELEMENTWISE = """
abs acos add add_any and asin atan2 cbrt ceil clamp conj convert_element_type copy cos div eq erf
erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg
nextafter not optimization_barrier or pow rem round rsqrt select_n sign sin sqrt square
stop_gradient sub tan tanh xor
"""
_COPIES = "broadcast_in_dim concatenate iota pad reshape rev slice split squeeze stack transpose"
# A compiler fuses these into their reader, without a buffer, where there is one reader.
_FUSED = frozenset(f"{_ELEMENTWISE} {_COPIES}".split())
# Their output shares the buffer of their input.
_ALIASES = ("optimization_barrier", "reshape", "squeeze")
# Parameters that hold the program of a call.
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
# These run their program many times, or on single elements.
_OPAQUE = ("scan", "while", "reduce", "reduce_window")


@dataclasses.dataclass(frozen=True, eq=False)
class _Value:
    """An array of the program: an input, a constant or the output of an operation."""

    bytes: int


class _Operation(NamedTuple):
    """An equation of the program, with the values that it reads and writes."""

    name: str
    inputs: Sequence[_Value]
    outputs: Sequence[_Value]


def peak_bytes(jaxpr: core.Jaxpr) -> int:
    """Peak bytes of activations while the operations of a program run in order.

    Buffers are the argument, the results, and the inputs and outputs of convolutions, matrix
    products and reductions. Elementwise operations and copies between them have no buffer of
    their own where a single operation reads them. A buffer is freed after its last reader. Weights
    and the workspace of convolutions are not counted. The argument is the program's last input.

    >>> import jax
    >>> weights, x = jax.numpy.zeros((8, 8)), jax.numpy.zeros((4, 8))
    >>> peak_bytes(jax.make_jaxpr(lambda weights, x: (x + 1) @ weights)(weights, x).jaxpr)
    256
    """
    values = [_value(var) for var in jaxpr.invars]
    given = values[-1]
    operations, returned = _flatten(jaxpr, values)
    steps, results = _active(operations, given, returned)
    buffers = _buffers(steps, results)
    sources: dict[_Value, frozenset[_Value]] = {given: frozenset((given,))}
    last: dict[_Value, int] = {}
    born: dict[int, list[_Value]] = {}
    for time, (name, inputs, outputs) in enumerate(steps):
        read = frozenset[_Value]().union(*(sources.get(value, ()) for value in inputs))
        kept = [value for value in outputs if value in buffers]
        for value in outputs:
            sources[value] = frozenset((value,)) if value in buffers else read
        if kept or name not in _FUSED:
            born[time] = kept
            last.update(dict.fromkeys(read, time))
    live, peak = {given}, given.bytes
    for time, new in sorted(born.items()):
        live.update(new)
        peak = max(peak, sum(value.bytes for value in live))
        live = {value for value in live if last.get(value, -1) > time or value in results}
    return peak


def _value(var: core.Var | core.Literal) -> _Value:
    aval = var.aval
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return _Value(math.prod(getattr(aval, "shape", ())) * itemsize)


def _flatten(jaxpr: core.Jaxpr, inputs: Sequence[_Value]) -> tuple[list[_Operation], list[_Value]]:
    """The operations of a program in order, those of its calls inlined, and its outputs.

    Inlined are jitted calls, custom derivatives and checkpoints; of implementations for several
    platforms the default one. Loops, conditions and reductions stay single operations.
    """
    known: dict[core.Var, _Value] = dict(zip(jaxpr.invars, inputs, strict=True))

    def look_up(var: core.Var | core.Literal) -> _Value:
        if isinstance(var, core.Literal):
            return _value(var)
        return known.setdefault(var, _value(var))  # a constant, where it isn't known

    operations: list[_Operation] = []
    for equation in jaxpr.eqns:
        read = [look_up(var) for var in equation.invars]
        inner = _called(equation)
        if inner is None:
            given = [_value(var) for var in equation.outvars]
            operations.append(_Operation(equation.primitive.name, read, given))
        else:
            inside, given = _flatten(inner, read[1:] if equation.primitive.name == "cond" else read)
            operations += inside
        known.update(zip(equation.outvars, given, strict=True))
    return operations, [look_up(var) for var in jaxpr.outvars]


def _called(equation: core.JaxprEqn) -> core.Jaxpr | None:
    """The program of a call; None for every other equation."""
    params, name = equation.params, equation.primitive.name
    if name == "cond":
        platforms = params.get("branches_platforms")
        if platforms is None:
            return None
        default = next((i for i, names in enumerate(platforms) if names is None), -1)
        return params["branches"][default].jaxpr
    if name in _OPAQUE:
        return None
    found = next((params[key] for key in _CALLED if key in params), None)
    return getattr(found, "jaxpr", found)


def _active(
    operations: Sequence[_Operation], given: _Value, results: Sequence[_Value]
) -> tuple[list[_Operation], set[_Value]]:
    """The operations that depend on the argument; values that share a buffer become one."""
    same: dict[_Value, _Value] = {}
    active = {given}
    steps: list[_Operation] = []
    for name, read, outputs in operations:
        inputs = [same.get(value, value) for value in read]
        if active.isdisjoint(inputs):
            continue  # arithmetic of weights alone
        if name in _ALIASES:
            same[outputs[0]] = inputs[0]
            continue
        active.update(outputs)
        steps.append(_Operation(name, [value for value in inputs if value in active], outputs))
    return steps, {same.get(value, value) for value in results}


def _buffers(steps: Sequence[_Operation], results: set[_Value]) -> set[_Value]:
    """The values that need a buffer."""
    readers = Counter[_Value]()
    kept = set(results)
    for name, inputs, outputs in steps:
        readers.update(set(inputs))
        if name not in _FUSED:
            kept.update(inputs, outputs)
    return kept | {value for value, count in readers.items() if count > 1}
