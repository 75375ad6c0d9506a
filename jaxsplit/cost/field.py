"""The receptive field of features: which pixels of the image each of them can depend on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from jaxsplit.cost.jaxpr import ELEMENTWISE, Operation, Value

_WINDOWS = ("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum")


@dataclasses.dataclass(frozen=True)
class Reach:
    """What the elements of a value see of one side of the image.

    The element with index i along `axis` depends on pixels from step·i + low to step·i + high at
    most. Pixels outside of the image count: it is the field of an image as large as one likes.

    Attributes:
      axis: of the value; None: all its elements see the same.
      step: pixels between the fields of neighbours.
      low, high: first and last pixel that element 0 sees.
    """

    axis: int | None
    step: Fraction = Fraction(1)
    low: Fraction | float = Fraction(0)
    high: Fraction | float = Fraction(0)

    @property
    def pixels(self) -> int | None:
        """Its size; None where it has no bound: the whole image is seen."""
        size = self.high - self.low + 1
        return None if math.isinf(size) else math.ceil(size)

    def strided(self, start: Any, stride: Any, reach: Any, axis: int) -> Reach:
        """What an element sees that reads elements stride·i + start to stride·i + start + reach."""
        low, high = self.low + self.step * start, self.high + self.step * (start + reach)
        return Reach(axis, self.step * stride, low, high)


#: What an element sees that may depend on every pixel: of the unknown, more is never seen.
EVERYTHING = Reach(None, Fraction(0), -math.inf, math.inf)

Field = tuple[Reach, Reach]
#: Of an image [1, H, W, c] itself.
IMAGE: Field = (Reach(1), Reach(2))


def trace_field(
    operations: Sequence[Operation], given: Value, field: Field, result: Value
) -> Field | None:
    """Follows the field of a program's argument to its result.

    Args:
      operations: of the program, as of `program.flatten`.
      given: the argument.
      field: what its elements see of the image's rows and columns.
      result: an output.

    Returns:
      What the result's elements see; None where the argument doesn't reach it. An operation that
      isn't known here gives `EVERYTHING`.
    """
    fields = {given: field}
    for operation in operations:
        seen = [(i, fields[value]) for i, value in enumerate(operation.inputs) if value in fields]
        if not seen:
            continue
        for output in operation.outputs:
            fields[output] = _joined([_after(operation, i, one, output) for i, one in seen])
    return fields.get(result)


def _joined(fields: Sequence[Field]) -> Field:
    rows, columns = ([field[side] for field in fields] for side in (0, 1))
    return _union(rows), _union(columns)


def _union(reaches: Sequence[Reach]) -> Reach:
    first = reaches[0]
    if any((one.axis, one.step) != (first.axis, first.step) for one in reaches):
        return EVERYTHING
    low, high = min(one.low for one in reaches), max(one.high for one in reaches)
    return dataclasses.replace(first, low=low, high=high)


def _after(operation: Operation, place: int, field: Field, output: Value) -> Field:
    rows, columns = (_follow(operation, place, reach, output) for reach in field)
    return rows, columns


def _follow(operation: Operation, place: int, reach: Reach, output: Value) -> Reach:
    """What an operation's result sees through its input number `place`."""
    name, params, axis = operation.name, operation.params, reach.axis
    shape = operation.inputs[place].shape
    if axis is None:
        return reach  # whatever is done to elements that see the same
    if name in ELEMENTWISE:
        return reach if shape == output.shape else EVERYTHING
    if name == "conv_general_dilated":
        return _convolved(operation, place, reach)
    if name in _WINDOWS:
        window, dilation = params["window_dimensions"][axis], params["window_dilation"][axis]
        base = Fraction(1, params["base_dilation"][axis])
        start, taps = -params["padding"][axis][0], (window - 1) * dilation
        return reach.strided(start * base, params["window_strides"][axis] * base, taps * base, axis)
    if name == "slice":
        stride = 1 if params["strides"] is None else params["strides"][axis]
        return reach.strided(params["start_indices"][axis], stride, 0, axis)
    if name == "pad":
        if place:  # the number that fills up
            return EVERYTHING
        before, _, between = (int(number) for number in params["padding_config"][axis])
        return reach.strided(Fraction(-before, between + 1), Fraction(1, between + 1), 0, axis)
    if name == "concatenate":
        if params["dimension"] != axis:
            return reach
        before = sum(value.shape[axis] for value in operation.inputs[:place])
        return reach.strided(-before, 1, 0, axis)
    if name == "split" and params["axis"] == axis:
        before = sum(params["sizes"][: operation.outputs.index(output)])
        return reach.strided(before, 1, 0, axis)
    if name == "rev" and axis in params["dimensions"]:
        return EVERYTHING
    moved = _moved(operation, place, axis, output)
    return EVERYTHING if moved is None else dataclasses.replace(reach, axis=moved)


def _convolved(operation: Operation, place: int, reach: Reach) -> Reach:
    params = operation.params
    numbers = params["dimension_numbers"]
    if place or reach.axis not in numbers.lhs_spec[2:]:
        return EVERYTHING
    side = numbers.lhs_spec[2:].index(reach.axis)
    kernel = operation.inputs[1].shape[numbers.rhs_spec[2 + side]]
    between = Fraction(1, params["lhs_dilation"][side])
    return reach.strided(
        -params["padding"][side][0] * between,
        params["window_strides"][side] * between,
        (kernel - 1) * params["rhs_dilation"][side] * between,
        numbers.out_spec[2 + side],
    )


def _moved(operation: Operation, place: int, axis: int, output: Value) -> int | None:
    """Where an axis goes that an operation only moves; None where it isn't kept."""
    name, params = operation.name, operation.params
    shape = operation.inputs[place].shape
    if name in ("rev", "split"):
        return axis
    if name == "stack":
        return axis + (params["axis"] <= axis)
    if name == "transpose":
        return params["permutation"].index(axis)
    if name == "broadcast_in_dim":
        moved = params["broadcast_dimensions"][axis]
        return moved if output.shape[moved] == shape[axis] else None
    if name == "reshape":
        before, size = math.prod(shape[:axis]), shape[axis]
        places = range(len(output.shape))
        kept = [i for i in places if output.shape[i] == size]
        return next((i for i in kept if math.prod(output.shape[:i]) == before), None)
    if name == "squeeze" or (name.startswith("reduce_") and "axes" in params):
        gone = params["dimensions" if name == "squeeze" else "axes"]
        return None if axis in gone else axis - sum(other < axis for other in gone)
    if name == "dot_general":
        (left, right), (batch_left, batch_right) = params["dimension_numbers"]
        contracted, batch = (right, batch_right) if place else (left, batch_left)
        if axis in contracted:
            return None
        if axis in batch:
            return list(batch).index(axis)
        kept = [i for i in range(len(shape)) if i not in contracted and i not in batch]
        others = len(operation.inputs[0].shape) - len(left) - len(batch) if place else 0
        return len(batch) + others + kept.index(axis)
    return None
