"""Graphs of ONNX nodes, with arrays that know their layout.

Networks here are NHWC, and onnxruntime's convolutions are NCHW. A tensor of the graph is stored in
either order, and is transposed only where an operation needs the other one: between convolutions,
never.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from jaxsplit.errors import ConfigError

#: Images in a traced program. No size of a network is a multiple of this prime, so that every size
#: that is one belongs to the batch.
BATCH = 1009

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array of a traced program: a constant, or a tensor of the graph.

    Attributes:
      shape: in the program.
      dtype: of its elements.
      sizes: those stored, in the program's order of axes: 1 where the array is broadcast.
      name: of the tensor; "" for a constant.
      array: of a constant, of these `sizes`.
      channels_first: the last axis is stored as the second one.
      patches: where this is a reshaped view of an image: the image, side and step, see
        `export_rules`.
      strided: where this is every n-th pixel of an image from the first on: the image and n, down
        and across.
    """

    shape: Shape
    dtype: np.dtype
    sizes: Shape
    name: str = ""
    array: np.ndarray | None = None
    channels_first: bool = False
    patches: tuple[Value, int, int] | None = None
    strided: tuple[Value, list[int]] | None = None

    @property
    def stored(self) -> Shape:
        """`sizes` in the order of storage."""
        return tuple(self.sizes[axis] for axis in order(len(self.sizes), self.channels_first))


@dataclasses.dataclass
class Node:
    """A node of the graph; its attributes are those of ONNX."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


def order(rank: int, channels_first: bool) -> Shape:
    """Returns the program's axes in the order of storage.

    >>> order(4, channels_first=True)
    (0, 3, 1, 2)
    """
    return (0, rank - 1, *range(1, rank - 1)) if channels_first else tuple(range(rank))


def is_batch(size: int) -> bool:
    """Returns whether a size of a traced program contains the number of images."""
    return size > 0 and size % BATCH == 0


def constant(array: ArrayLike, shape: Shape | None = None) -> Value:
    """Returns a constant, broadcast to a shape."""
    array = np.asarray(array)
    return Value(array.shape if shape is None else shape, array.dtype, array.shape, array=array)


def integers(values: Iterable[int]) -> Value:
    """Returns a list of integers, as ONNX takes axes and sizes."""
    return constant(np.array(list(values), np.int64))


class Graph:
    """Nodes in the order in which they run, and their constants.

    Args:
      names: numbers for the names of tensors, shared with the graphs inside this one.
    """

    def __init__(self, names: Counter[str] | None = None) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.names = Counter[str]() if names is None else names
        self._known: dict[tuple[object, ...], str] = {}

    def new_name(self, op: str) -> str:
        """Returns a name that no tensor has."""
        self.names[op] += 1
        return f"{op}_{self.names[op]}"

    def add(
        self,
        op: str,
        inputs: Sequence[Value | str],
        shape: Shape,
        dtype: DTypeLike,
        *,
        channels_first: bool = False,
        sizes: Shape | None = None,
        **attributes: object,
    ) -> Value:
        """Appends a node with one output, whose shape is given in the program's order."""
        name = self.new_name(op.lower())
        names = [one if isinstance(one, str) else self.tensor(one) for one in inputs]
        self.nodes.append(Node(op, names, [name], dict(attributes)))
        first = channels_first and len(shape) > 2
        sizes = shape if sizes is None else sizes
        return Value(tuple(shape), np.dtype(dtype), tuple(sizes), name, channels_first=first)

    def tensor(self, value: Value) -> str:
        """Returns the name of a value's tensor; equal constants are stored once."""
        return value.name if value.array is None else self.store(value.array)

    def store(self, array: np.ndarray) -> str:
        """Stores a constant and returns its name."""
        array = np.ascontiguousarray(array)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._known:
            self._known[key] = self.new_name("constant")
            self.constants[self._known[key]] = array
        return self._known[key]

    def laid(self, value: Value, channels_first: bool) -> Value:
        """Returns a value in an order of storage; arrays below three axes have one alone."""
        rank = len(value.sizes)
        if rank < 3 or value.channels_first == channels_first:
            return value
        axes = order(rank, channels_first)
        if not channels_first:
            axes = tuple(np.argsort(order(rank, True)).tolist())
        if value.array is not None:
            array = value.array.transpose(axes)
            return dataclasses.replace(value, array=array, channels_first=channels_first)
        return self.add(
            "Transpose",
            [value],
            value.shape,
            value.dtype,
            channels_first=channels_first,
            sizes=value.sizes,
            perm=list(axes),
        )

    def whole(self, value: Value, channels_first: bool = False) -> Value:
        """Returns a value in an order of storage, and not broadcast."""
        value = self.laid(value, channels_first)
        if value.sizes == value.shape:
            return value
        if any(map(is_batch, value.shape)) and not any(map(is_batch, value.sizes)):
            raise ConfigError("a constant for each image of a batch cannot be exported")
        # A size of 1 leaves that of the tensor.
        sizes = [1 if is_batch(size) else size for size in value.shape]
        target = [sizes[axis] for axis in order(len(sizes), value.channels_first)]
        inputs = [value, integers(target)]
        first = value.channels_first
        return self.add("Expand", inputs, value.shape, value.dtype, channels_first=first)

    def fold_scales(self, kept: Iterable[str]) -> None:
        """Folds what scales and shifts the channels of convolutions into their weights.

        Args:
          kept: names of tensors that leave the graph.
        """
        readers = Counter(name for node in self.nodes for name in node.inputs)
        readers.update(kept)
        made = {node.outputs[0]: node for node in self.nodes if node.op == "Conv"}
        left = []
        for node in self.nodes:
            conv, other = self._scaled(node, made)
            if conv is None or readers[conv.outputs[0]] > 1:
                left.append(node)
                continue
            self._fold(conv, node, other)
            conv.outputs = node.outputs
            made[conv.outputs[0]] = conv
        self.nodes = left

    def _scaled(self, node: Node, convs: Mapping[str, Node]) -> tuple[Node | None, np.ndarray]:
        """Returns the convolution that a node scales or shifts, and by how much [channels]."""
        nothing = None, np.empty(0)
        if node.op not in ("Add", "Sub", "Mul", "Div"):
            return nothing
        first, second = node.inputs
        if node.op in ("Add", "Mul") and second in convs:
            first, second = second, first
        if first not in convs or second not in self.constants:
            return nothing
        conv, array = convs[first], self.constants[second]
        channels = len(self.constants[conv.inputs[1]]) if conv.inputs[1] in self.constants else 0
        if not channels or array.size not in (1, channels):
            return nothing
        if array.size > 1 and (array.ndim != 4 or array.shape[1] != channels):
            return nothing
        return conv, np.broadcast_to(array.reshape(-1), (channels,))

    def _fold(self, conv: Node, node: Node, other: np.ndarray) -> None:
        kernel = self.constants[conv.inputs[1]]
        bias: np.ndarray = np.zeros(len(kernel), np.float32)
        if len(conv.inputs) > 2:
            bias = self.constants[conv.inputs[2]]
        if node.op in ("Add", "Sub"):
            bias = bias + (other if node.op == "Add" else -other)
        else:
            scale = other if node.op == "Mul" else 1 / other
            kernel, bias = kernel * scale.reshape(-1, 1, 1, 1), bias * scale
        conv.inputs[1:] = [self.store(kernel), self.store(bias)]

    def remove_unused(self, kept: Iterable[str]) -> None:
        """Removes nodes and constants that nothing reads; `kept` leave the graph."""
        needed, left = set(kept), []
        for node in reversed(self.nodes):
            if needed.isdisjoint(node.outputs):
                continue
            needed.update(node.inputs)
            needed.update(node.attributes.get("_reads", ()))
            left.append(node)
        self.nodes = left[::-1]
        self.constants = {name: x for name, x in self.constants.items() if name in needed}


class Params(Protocol):
    """Parameters of one of jax's primitives by name."""

    def __getitem__(self, name: str, /) -> Any: ...  # of any kind


class Result(Protocol):
    """Shape and dtype of what an operation gives."""

    @property
    def shape(self) -> Shape:
        """In the traced program."""

    @property
    def dtype(self) -> np.dtype:
        """Of its elements."""


#: Appends an operation to a graph.
Rule = Callable[[Graph, list[Value], Params, Result], Value]


def refused(what: str) -> ConfigError:
    """Makes the error for an operation that has no rule."""
    return ConfigError(
        f"the network's operation {what} cannot be exported to ONNX yet; export it with "
        "format='stablehlo'",
        shell=f"the network's operation {what} cannot be exported to ONNX yet; give --format "
        "stablehlo",
    )
