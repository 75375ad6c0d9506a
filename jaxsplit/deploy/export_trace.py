"""Traces JAX functions and appends their operations to a graph of ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.extend import core

from jaxsplit import ops
from jaxsplit.deploy.export_graph import BATCH, Graph, Shape, Value, constant, is_batch, refused
from jaxsplit.deploy.export_rules import RULES
from jaxsplit.errors import ConfigError

# Parameters that hold the program of a call, and operations that run theirs otherwise.
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_OPAQUE = ("scan", "while", "reduce", "reduce_window")


def append(graph: Graph, function: Callable[..., Any], *values: Value) -> list[Value]:
    """Traces a function of arrays and appends its operations to a graph.

    Args:
      graph: to append to.
      function: of arrays [B, …], to a tree of arrays [B, …]; what it closes over is constant.
      values: its arguments, whose first axis is `BATCH`.

    Returns:
      The leaves of the result. A ConfigError if an operation has no rule.
    """
    if any(is_batch(size) for value in values for size in value.shape[1:]):
        raise ConfigError(f"arrays with a size that is a multiple of {BATCH} cannot be exported")
    shapes = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values]
    with ops.grouped_convolutions(), jax.default_matmul_precision("highest"):
        traced = jax.make_jaxpr(function)(*shapes)
    return _run(graph, traced.jaxpr, traced.consts, list(values))


def batched(shape: Shape) -> Shape:
    """Returns the shape of a traced batch of arrays of this shape."""
    return (BATCH, *shape)


def _run(
    graph: Graph, jaxpr: Any, constants: Sequence[Any], values: Sequence[Value]
) -> list[Value]:
    known: dict[core.Var, Value] = dict(zip(jaxpr.invars, values, strict=True))
    known |= {
        var: constant(np.asarray(array))
        for var, array in zip(jaxpr.constvars, constants, strict=True)
    }

    def read(var: core.Var | core.Literal) -> Value:
        if isinstance(var, core.Literal):
            return constant(np.asarray(var.val, cast("Any", var.aval).dtype))
        return known[var]

    for equation in jaxpr.eqns:
        results = _equation(graph, equation, [read(var) for var in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _equation(graph: Graph, equation: core.JaxprEqn, values: list[Value]) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    if name == "platform_index":  # of `jax.lax.platform_dependent`, whose default is taken
        return [constant(np.int32(0))]
    inner = _called(equation)
    if inner is not None:
        given = values[1:] if name == "cond" else values
        return _run(graph, inner.jaxpr, inner.consts, given)
    avals: list[Any] = [var.aval for var in equation.outvars]
    whole = all(value.array is not None and value.sizes == value.shape for value in values)
    if whole and not any(map(is_batch, sum((aval.shape for aval in avals), ()))):
        with jax.ensure_compile_time_eval():
            found = equation.primitive.bind(*[value.array for value in values], **params)
        found = found if equation.primitive.multiple_results else [found]
        return [constant(np.asarray(array)) for array in found]
    if name not in RULES or len(avals) != 1:
        raise refused(name)
    return [RULES[name](graph, values, params, avals[0])]


def _called(equation: core.JaxprEqn) -> Any:
    """Returns the program of a call; of those for several platforms the default one."""
    params, name = equation.params, equation.primitive.name
    if name == "cond":
        platforms = params.get("branches_platforms")
        if platforms is None:
            raise refused("cond")
        default = next((i for i, names in enumerate(platforms) if names is None), -1)
        return params["branches"][default]
    if name in _OPAQUE:
        return None
    found = next((params[key] for key in _CALLED if key in params), None)
    if found is not None and not hasattr(found, "consts"):
        return core.ClosedJaxpr(found, ())
    return found
