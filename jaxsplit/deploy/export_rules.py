"""The operations of traced programs as nodes of ONNX.

Each rule takes the graph, the values that an operation reads, its parameters and the shape and
dtype of its result, and returns the result. Convolutions, matrix products with weights and what
lies between them stay in channels-first order.
"""

from __future__ import annotations

import dataclasses
import math
import string
from typing import Any

import numpy as np

from jaxsplit.deploy.export_elementwise import ELEMENTWISE, elementwise
from jaxsplit.deploy.export_graph import (
    Graph,
    Params,
    Result,
    Rule,
    Shape,
    Value,
    constant,
    integers,
    is_batch,
    order,
    refused,
)

_REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_sum": "ReduceSum"}


def _layout(spec: Shape) -> bool:
    """Returns whether an array of a convolution has its channels last; refuses other orders."""
    rank = len(spec)
    if spec == order(rank, channels_first=True):
        return True
    if spec == tuple(range(rank)):
        return False
    raise refused(f"conv_general_dilated of axes {spec}")


def _conv(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    x, kernel = values
    numbers = params["dimension_numbers"]
    into, onto = _layout(tuple(numbers.lhs_spec)), _layout(tuple(numbers.out_spec))
    if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) != {1}:
        raise refused("conv_general_dilated, transposed,")
    if min(min(pair) for pair in params["padding"]) < 0:
        raise refused("conv_general_dilated, cropping,")
    if kernel.array is None:
        kernel = graph.laid(graph.whole(kernel), False)
        axes = list(numbers.rhs_spec)
        shape = tuple(kernel.shape[axis] for axis in axes)
        weights = graph.add("Transpose", [kernel], shape, kernel.dtype, perm=axes)
    else:
        weights = constant(kernel.array.transpose(numbers.rhs_spec))
    return graph.add(
        "Conv",
        [graph.whole(x, into), weights],
        out.shape,
        out.dtype,
        channels_first=onto,
        strides=list(params["window_strides"]),
        pads=[end for ends in zip(*params["padding"], strict=True) for end in ends],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )


def _dot(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    """A product with weights along the channels is a 1×1 convolution; others are sums by axes."""
    x, y = (value for value in values)
    (left, right), (left_batch, right_batch) = params["dimension_numbers"]
    weights = y.array is not None and len(y.shape) == 2 and not left_batch
    if weights and x.channels_first and len(x.shape) == 4 and tuple(left) == (3,):
        assert y.array is not None
        kernel = y.array if tuple(right) == (1,) else y.array.T
        image, strides = x.strided or (x, [1, 1])
        inputs = [graph.whole(image, True), constant(kernel[:, :, None, None])]
        kind = out.shape, out.dtype
        return graph.add("Conv", inputs, *kind, channels_first=True, strides=strides)
    if weights and tuple(left) == (len(x.shape) - 1,):
        assert y.array is not None
        inputs = [graph.whole(x), constant(y.array.T if tuple(right) == (1,) else y.array)]
        return graph.add("MatMul", inputs, out.shape, out.dtype)
    letters = iter(string.ascii_lowercase)
    lhs = [next(letters) for _ in x.shape]
    rhs = [next(letters) for _ in y.shape]
    for i, j in zip((*left, *left_batch), (*right, *right_batch), strict=True):
        rhs[j] = lhs[i]
    kept = [lhs[i] for i in left_batch]
    kept += [lhs[i] for i in range(len(lhs)) if i not in (*left, *left_batch)]
    kept += [rhs[j] for j in range(len(rhs)) if j not in (*right, *right_batch)]
    equation = f"{''.join(lhs)},{''.join(rhs)}->{''.join(kept)}"
    inputs = [graph.whole(x), graph.whole(y)]
    return graph.add("Einsum", inputs, out.shape, out.dtype, equation=equation)


def _reduce(op: str) -> Rule:
    def rule(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
        x, axes = values[0], tuple(params["axes"])
        spatial = tuple(range(1, len(x.shape) - 1))
        first = x.channels_first and axes == spatial
        x = graph.whole(x, first)
        stored = [axis + 1 for axis in axes] if first else list(axes)
        if op == "ReduceSum":  # the only one whose axes are an input in this opset
            inputs = [x, integers(stored)]
            return graph.add(op, inputs, out.shape, out.dtype, keepdims=0)
        return graph.add(op, [x], out.shape, out.dtype, axes=stored, keepdims=0)

    return rule


def _pool(op: str) -> Rule:
    def rule(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
        window, strides = params["window_dimensions"], params["window_strides"]
        pads = params["padding"]
        dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
        ends = [*pads[:1], *pads[-1:]]
        if dilated or (window[0], window[-1]) != (1, 1) or any(map(any, ends)) or len(window) < 3:
            raise refused(f"reduce_window of {tuple(window)}")
        attributes: dict[str, Any] = {
            "kernel_shape": list(window[1:-1]),
            "strides": list(strides[1:-1]),
            "pads": [end for ends in zip(*pads[1:-1], strict=True) for end in ends],
        }
        if op == "AveragePool":
            attributes["count_include_pad"] = 1
        x = graph.whole(values[0], True)
        y = graph.add(op, [x], out.shape, out.dtype, channels_first=True, **attributes)
        if op == "MaxPool":
            return y
        return elementwise(graph, "Mul", [y, constant(np.float32(math.prod(window)))], out)

    return rule


def _pad(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    x, fill = values
    config = params["padding_config"]
    if any(inner for _, _, inner in config) or fill.array is None:
        raise refused("pad between elements")
    if not any(low or high for low, high, _ in config):
        return x
    x = graph.whole(x, x.channels_first)
    axes = order(len(config), x.channels_first)
    ends = [config[axis][end] for end in (0, 1) for axis in axes]
    inputs = [x, integers(ends), constant(np.asarray(fill.array, x.dtype).reshape(()))]
    return graph.add("Pad", inputs, out.shape, out.dtype, channels_first=x.channels_first)


def _slice(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    x = values[0]
    starts, ends = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(starts)
    x = graph.whole(x, x.channels_first)
    place = np.argsort(order(len(starts), x.channels_first)).tolist()
    cut = [
        axis
        for axis, size in enumerate(x.shape)
        if (starts[axis], ends[axis], steps[axis]) != (0, size, 1)
    ]
    if not cut:
        return x
    if any(is_batch(x.shape[axis]) for axis in cut):
        raise refused("slice of the batch")
    lists = [[row[axis] for axis in cut] for row in (starts, ends, steps)]
    lists.insert(2, [place[axis] for axis in cut])
    inputs = [x, *map(integers, lists)]
    y = graph.add("Slice", inputs, out.shape, out.dtype, channels_first=x.channels_first)
    if {*cut} <= {1, 2} and not any(starts) and tuple(ends) == x.shape and len(x.shape) == 4:
        return dataclasses.replace(y, strided=(x, list(steps[1:3])))
    return y


def _reshape(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    x, shape = values[0], tuple(out.shape)
    if x.patches is not None and len(x.shape) == 6 and len(shape) == 4:
        image, size, step = x.patches
        if step == 2:  # the patches of an image, moved into its channels
            inputs = [graph.whole(image, True)]
            kind = shape, out.dtype
            return graph.add("SpaceToDepth", inputs, *kind, channels_first=True, blocksize=size)
    target = [-1 if is_batch(size) else size for size in shape]
    if target.count(-1) > 1:
        raise refused("reshape of the batch into several axes")
    y = graph.add("Reshape", [graph.whole(x), integers(target)], shape, out.dtype)
    if len(x.shape) == 4 and len(shape) == 6 and shape[2] == shape[4] and shape[5] == x.shape[3]:
        _, h, size, w, *_ = shape
        if (h * size, w * size) == x.shape[1:3]:
            return dataclasses.replace(y, patches=(x, size, 1))
    return y


def _transpose(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    x, permutation = values[0], tuple(params["permutation"])
    place = np.argsort(order(len(x.shape), x.channels_first)).tolist()
    axes = [place[axis] for axis in permutation]
    sizes = tuple(x.sizes[axis] for axis in permutation)
    if axes == list(range(len(axes))):
        return Value(out.shape, x.dtype, sizes, x.name, x.array)
    y = graph.add("Transpose", [x], out.shape, out.dtype, sizes=sizes, perm=axes)
    if x.patches is not None and permutation == (0, 1, 3, 2, 4, 5):
        y = dataclasses.replace(y, patches=(*x.patches[:2], 2))
    return y


def _broadcast(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    """Adds axes of size 1 alone: operations on arrays broadcast them."""
    x, where = values[0], tuple(params["broadcast_dimensions"])
    sizes = [1] * len(out.shape)
    for axis, size in zip(where, x.sizes, strict=True):
        sizes[axis] = size
    if x.array is not None:
        return constant(x.array.reshape(sizes), tuple(out.shape))
    if where == tuple(range(len(out.shape))):
        return dataclasses.replace(x, shape=tuple(out.shape))
    target = [-1 if is_batch(size) else size for size in sizes]
    inputs = [graph.laid(x, False), integers(target)]
    return graph.add("Reshape", inputs, out.shape, out.dtype, sizes=tuple(sizes))


def _concatenate(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    first = any(value.channels_first for value in values)
    axis = order(len(out.shape), first).index(params["dimension"])
    parts = [graph.whole(value, first) for value in values]
    return graph.add("Concat", parts, out.shape, out.dtype, channels_first=first, axis=axis)


def _stack(graph: Graph, values: list[Value], params: Params, out: Result) -> Value:
    axis = params["axis"]
    shape = [-1 if is_batch(size) else size for size in out.shape]
    shape[axis] = 1
    target, parts = integers(shape), []
    for value in values:
        one = tuple(1 if i == axis else size for i, size in enumerate(out.shape))
        parts.append(graph.add("Reshape", [graph.whole(value), target], one, out.dtype))
    return graph.add("Concat", parts, out.shape, out.dtype, axis=axis)


#: Rules by the names of jax's primitives.
RULES: dict[str, Rule] = {
    **ELEMENTWISE,
    **{name: _reduce(op) for name, op in _REDUCTIONS.items()},
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshape),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "pad": _pad,
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool"),
    "slice": _slice,
    "stack": _stack,
    "transpose": _transpose,
}
