"""The memory that a traced program needs for its activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jaxsplit.cost.jaxpr import ELEMENTWISE, Operation, Value

_COPIES = "broadcast_in_dim concatenate iota pad reshape rev slice split squeeze stack transpose"
# What a compiler computes in passing, without writing it down, when one operation reads it.
_FUSED = ELEMENTWISE | frozenset(_COPIES.split())
# The same numbers in the same memory.
_SAME = ("optimization_barrier", "reshape", "squeeze")

_Step = tuple[str, Sequence[Value], Sequence[Value]]


def peak_bytes(operations: Sequence[Operation], given: Value, result: Value) -> int:
    """Most bytes of activations that lie in memory at one time while the operations run in order.

    Written are the argument, the result, and what convolutions, matrix products and reductions
    read and give; elementwise operations and copies between them are computed in passing where
    one operation alone reads them. A value lies there until its last reader has run. Weights, and
    what a convolution takes for its own arithmetic, are not in it.

    Args:
      operations: of the program, as of `program.flatten`.
      given: its argument.
      result: its output.
    """
    steps, result = _active(operations, given, result)
    written = _written(steps, result)
    sources: dict[Value, frozenset[Value]] = {given: frozenset((given,))}
    last: dict[Value, int] = {}
    born: dict[int, list[Value]] = {}
    for time, (name, inputs, outputs) in enumerate(steps):
        read = frozenset[Value]().union(*(sources.get(value, ()) for value in inputs))
        kept = [value for value in outputs if value in written]
        for value in outputs:
            sources[value] = frozenset((value,)) if value in written else read
        if kept or name not in _FUSED:
            born[time] = kept
            last.update(dict.fromkeys(read, time))
    live, peak = {given}, given.bytes
    for time, values in sorted(born.items()):
        live.update(values)
        peak = max(peak, sum(value.bytes for value in live))
        live = {value for value in live if last.get(value, -1) > time or value is result}
    return peak


def _active(
    operations: Sequence[Operation], given: Value, result: Value
) -> tuple[list[_Step], Value]:
    """The operations that depend on the argument; other names of one memory are one value."""
    same: dict[Value, Value] = {}
    active = {given}
    steps: list[_Step] = []
    for operation in operations:
        inputs = [same.get(value, value) for value in operation.inputs]
        if active.isdisjoint(inputs):
            continue  # of weights alone
        if operation.name in _SAME:
            same[operation.outputs[0]] = inputs[0]
            continue
        active.update(operation.outputs)
        inputs = [value for value in inputs if value in active]
        steps.append((operation.name, inputs, operation.outputs))
    return steps, same.get(result, result)


def _written(steps: Sequence[_Step], result: Value) -> set[Value]:
    """The activations that must lie in memory."""
    readers = Counter[Value]()
    kept = {result}
    for name, inputs, outputs in steps:
        readers.update(set(inputs))
        if name not in _FUSED:
            kept.update(inputs, outputs)
    return kept | {value for value, count in readers.items() if count > 1}
