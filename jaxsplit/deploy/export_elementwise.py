"""Elementwise operations of traced programs as nodes of ONNX, on arrays in one order of storage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxsplit.deploy.export_graph import Graph, Params, Result, Rule, Value, constant, refused

_UNARY = {
    "abs": "Abs",
    "ceil": "Ceil",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logistic": "Sigmoid",
    "neg": "Neg",
    "not": "Not",
    "round": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
_BINARY = {
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "div": "Div",
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "or": "Or",
    "pow": "Pow",
    "sub": "Sub",
}
_SAME = ("copy", "copy_p", "optimization_barrier", "stop_gradient")
_NEAREST_EVEN = 1  # jax.lax.RoundingMethod.TO_NEAREST_EVEN


def elementwise(graph: Graph, op: str, values: Sequence[Value], out: Result) -> Value:
    """Appends an operation on arrays of one shape, or scalars."""
    first = any(value.channels_first for value in values)
    laid = [graph.laid(value, first) for value in values]
    ranked = [value.sizes for value in values if value.sizes]
    sizes = np.broadcast_shapes(*ranked) if ranked else ()
    return graph.add(op, laid, out.shape, out.dtype, channels_first=first, sizes=sizes)


def _unary(op: str) -> Rule:
    return lambda graph, values, params, out: elementwise(graph, op, values, out)


def _round(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    if int(params["rounding_method"]) != _NEAREST_EVEN:
        raise refused("round, away from zero,")
    return elementwise(graph, "Round", values, out)


def _minmax(op: str) -> Rule:
    """Max and Min by a constant, which onnxruntime fuses into a convolution as Relu and Clip."""

    def rule(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
        limits = [value for value in values if value.array is not None and value.array.size == 1]
        others = [value for value in values if not any(value is one for one in limits)]
        if len(limits) != 1 or out.dtype != np.float32:
            return elementwise(graph, op, values, out)
        (x,), limit = others, np.float32(limits[0].array)
        if op == "Max" and limit == 0:
            return elementwise(graph, "Relu", [x], out)
        scalar = constant(limit.reshape(()))
        bounds: list[Value | str] = [x, scalar] if op == "Max" else [x, "", scalar]
        if op == "Min" and (relu := graph.nodes[-1]).op == "Relu" and relu.outputs[0] == x.name:
            bounds = [relu.inputs[0], constant(np.zeros((), np.float32)), scalar]
        first = x.channels_first
        shape = out.shape, out.dtype
        return graph.add("Clip", bounds, *shape, channels_first=first, sizes=x.sizes)

    return rule


def _clamp(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    low, x, high = values
    if any(one.array is None or one.array.size > 1 for one in (low, high)):
        return elementwise(graph, "Min", [elementwise(graph, "Max", [x, low], out), high], out)
    bounds = [constant(np.asarray(one.array, x.dtype).reshape(())) for one in (low, high)]
    first = x.channels_first
    shape = out.shape, out.dtype
    return graph.add("Clip", [x, *bounds], *shape, channels_first=first, sizes=x.sizes)


def _cast(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    (x,) = values
    return graph.add(
        "Cast",
        [x],
        out.shape,
        out.dtype,
        channels_first=x.channels_first,
        sizes=x.sizes,
        to=np.dtype(out.dtype),
    )


def _is_finite(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    wrong = [elementwise(graph, op, values, out) for op in ("IsNaN", "IsInf")]
    return elementwise(graph, "Not", [elementwise(graph, "Or", wrong, out)], out)


def _select(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    which, *cases = values
    if len(cases) != 2 or which.dtype != bool:
        raise refused("select_n of integers")
    return elementwise(graph, "Where", [which, cases[1], cases[0]], out)


def _rsqrt(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    return elementwise(graph, "Reciprocal", [elementwise(graph, "Sqrt", values, out)], out)


def _square(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    return elementwise(graph, "Mul", [values[0], values[0]], out)


def _integer_pow(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    power = constant(np.asarray(params["y"], out.dtype))
    return elementwise(graph, "Pow", [values[0], power], out)


def _not_equal(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    return elementwise(graph, "Not", [elementwise(graph, "Equal", values, out)], out)


def _same(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    return values[0]


#: Rules by the names of jax's primitives.
ELEMENTWISE: dict[str, Rule] = {
    **{name: _unary(op) for name, op in (_UNARY | _BINARY).items()},
    **dict.fromkeys(_SAME, _same),
    "clamp": _clamp,
    "convert_element_type": _cast,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "max": _minmax("Max"),
    "min": _minmax("Min"),
    "ne": _not_equal,
    "round": _round,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "square": _square,
}
