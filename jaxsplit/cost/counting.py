"""Multiply-accumulates, parameters and memory of activations, counted in traced programs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import partial_eval

from jaxsplit.networks import Backbone, Network
from jaxsplit.split import Split
from jaxsplit.trees import Structs, Traced, Tree
from jaxsplit.units import Shape, Unit

# A nested program that is counted as a whole: its implementation also multiplies by zeros.
_TRANSPOSED = "depthwise_conv_transpose"
_ELEMENTWISE = """
abs acos add add_any and asin atan2 cbrt ceil clamp conj convert_element_type copy cos div eq erf
erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg
nextafter not optimization_barrier or pow rem round rsqrt select_n sign sin sqrt square
stop_gradient sub tan tanh xor
"""
_COPIES = "broadcast_in_dim concatenate iota pad reshape rev slice split squeeze stack transpose"
# A compiler fuses these into their reader, without a buffer, where there is one reader.
_FUSED = frozenset(f"{_ELEMENTWISE} {_COPIES}".split())
# Their outputs share the buffers of their inputs.
_ALIASES = ("optimization_barrier", "reshape", "squeeze")
# Parameters that hold the program of a call.
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
# These run their program many times, or on single elements.
_OPAQUE = ("scan", "while", "reduce", "reduce_window")

_Folding = TypeVar("_Folding", bound=Network | Unit | Split)


def count_params(function: Callable[..., Tree], variables: Traced, *args: Traced) -> int:
    """Counts the parameters that the result of `function(variables, *args)` depends on.

    Args:
      function: any function that JAX can trace.
      variables: {"params", …}; other collections, such as running moments, don't count.
      *args: arrays, or shapes as in `jax.eval_shape`.

    Returns:
      The number of parameters. A leaf counts whole if the traced program uses it.

    >>> variables = {"params": {"kernel": jnp.zeros((3, 5)), "elsewhere": jnp.zeros(7)}}
    >>> count_params(lambda v, x: x @ v["params"]["kernel"], variables, jnp.zeros((2, 3)))
    15
    """
    return sum(used_params(function, variables, *args).values())


def used_params(function: Callable[..., Tree], variables: Traced, *args: Traced) -> dict[str, int]:
    """Maps the path of each parameter that `count_params` counts to its size."""
    program = jax.make_jaxpr(function)(variables, *args).jaxpr
    _, used = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    paths_and_leaves = jax.tree_util.tree_leaves_with_path(variables)
    collections = isinstance(variables, Mapping) and "params" in variables
    return {
        jax.tree_util.keystr(path): math.prod(leaf.shape)
        for (path, leaf), is_used in zip(paths_and_leaves, used, strict=False)
        if is_used and (not collections or path[0].key == "params")
    }


def inference_form(folding: _Folding, variables: Traced) -> tuple[_Folding, Mapping[str, Structs]]:
    """Folds batch normalization, as in inference; returns what runs, and its variables' shapes."""
    found: list[Any] = []  # folding gives its own kind

    def run(variables: Any) -> Tree:
        folded, arrays = folding.fold(variables)
        found.append(folded)
        return arrays

    shapes = jax.eval_shape(run, variables)
    return found[0], shapes


def count_macs(function: Callable[..., Tree], *args: Traced) -> int:
    """Counts the multiply-accumulates of one call.

    Convolutions, matrix products and elementwise multiplications count: depthwise convolutions are
    shifted multiply-adds. Additions, comparisons and divisions don't. In a transposed convolution
    each input meets each weight once, whatever its implementation. The most expensive branch of a
    condition counts.

    Args:
      function: any function that JAX can trace.
      *args: arrays, or shapes as in `jax.eval_shape`.

    Returns:
      The count for the whole batch.

    >>> count_macs(jnp.matmul, jnp.zeros((2, 3)), jnp.zeros((3, 5)))
    30
    """
    return program_macs(jax.make_jaxpr(function)(*args).jaxpr)


def program_macs(jaxpr: Any) -> int:
    """Counts the multiply-accumulates of a traced program, as `count_macs` does."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            numbers = params["dimension_numbers"].rhs_spec
            zeros = math.prod(params["lhs_dilation"])  # between the inputs of a transposed one
            total += out * math.prod(kernel) // (kernel[numbers[0]] * zeros)
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += out * math.prod(shape[axis] for axis in contracted)
        elif name == "mul":
            total += out
        elif params.get("name") == _TRANSPOSED:
            x, kernel = (var.aval.shape for var in equation.invars)
            total += math.prod(x) * math.prod(kernel[-4:-2])
        elif name == "cond":
            # One branch runs. Of implementations for several platforms the plain one has the most
            # products: a network's count is independent of algorithms that save some.
            total += max(program_macs(branch.jaxpr) for branch in params["branches"])
        else:
            repeats = params.get("length", 1) if name == "scan" else 1
            total += repeats * sum(program_macs(inner) for inner in _inner(params))
    return total


def _inner(params: Mapping[str, object]) -> list[Any]:
    """The programs inside an equation: a jitted call, a custom derivative or a loop."""
    values = (x if isinstance(x, tuple | list) else (x,) for x in params.values())
    programs = (getattr(x, "jaxpr", x) for x in itertools.chain.from_iterable(values))
    return [program for program in programs if hasattr(program, "eqns")]


@dataclasses.dataclass(frozen=True, eq=False)
class _Value:
    """An array of the program: an input, a constant or the output of an operation."""

    bytes: int


# Name of an equation of the program, and the values that it reads and writes.
_Operation = tuple[str, list[_Value], list[_Value]]


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
    steps, returned = _flatten(jaxpr, values, {given})
    heavy = [(*inputs, *outputs) for name, inputs, outputs in steps if name not in _FUSED]
    readers = Counter(itertools.chain.from_iterable({*inputs} for _, inputs, _ in steps))
    shared = (value for value, count in readers.items() if count > 1)
    buffers = {*returned, *shared, *itertools.chain.from_iterable(heavy)}
    sources: dict[_Value, frozenset[_Value]] = {given: frozenset((given,))}
    # Of each buffer, the first and the last operation that it has to exist for.
    first, last = {given: -1}, {given: -1}
    for time, (name, inputs, outputs) in enumerate(steps):
        read = frozenset[_Value]().union(*(sources.get(value, ()) for value in inputs))
        kept = [value for value in outputs if value in buffers]
        for value in outputs:
            sources[value] = frozenset((value,)) if value in buffers else read
        first.update(dict.fromkeys(kept, time))
        if kept or name not in _FUSED:
            last.update(dict.fromkeys((*kept, *read), time))
    last.update(dict.fromkeys(returned, len(steps)))
    return max(
        sum(value.bytes for value, start in first.items() if start <= time <= last[value])
        for time in range(-1, len(steps))
    )


def _value(var: core.Var | core.Literal) -> _Value:
    aval = var.aval
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return _Value(math.prod(getattr(aval, "shape", ())) * itemsize)


def _flatten(
    jaxpr: core.Jaxpr, inputs: Sequence[_Value], active: set[_Value]
) -> tuple[list[_Operation], list[_Value]]:
    """The operations of a program that depend on `active` values, in order, and its outputs.

    Calls are inlined: jitted ones, custom derivatives and checkpoints; of implementations for
    several platforms the default one. Loops, conditions and reductions stay single operations.
    What the operations write becomes active too; outputs that share a buffer are its one value.
    """
    known: dict[core.Var, _Value] = dict(zip(jaxpr.invars, inputs, strict=True))

    def look_up(var: core.Var | core.Literal) -> _Value:
        if isinstance(var, core.Literal):
            return _value(var)
        return known.setdefault(var, _value(var))  # a constant, where it isn't known

    operations: list[_Operation] = []
    for equation in jaxpr.eqns:
        read = [look_up(var) for var in equation.invars]
        inner, name = _called(equation), equation.primitive.name
        if inner is not None:
            inside, given = _flatten(inner, read[1:] if name == "cond" else read, active)
            operations += inside
        elif name in _ALIASES:
            given = read[: len(equation.outvars)]
        else:
            given = [_value(var) for var in equation.outvars]
            if not active.isdisjoint(read):  # else it is arithmetic of weights alone
                active.update(given)
                operations.append((name, [x for x in read if x in active], given))
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


@dataclasses.dataclass(frozen=True)
class SplitCost:
    """Multiply-accumulates of the four stages for one image, and their parameters.

    Attributes:
      head, encoder, decoder, tail: multiply-accumulates (see `count_macs`), with batch
        normalization folded, as in inference.
      head_params, encoder_params, decoder_params, tail_params: parameters (see `count_params`) of
        the network as stored and of the folded unit, without coding tables.

    >>> cost = SplitCost(100_000, 20_000, 20_000, 9_900_000, 200, 300, 300, 70_000)
    >>> cost.device_macs, cost.device_params, cost.device_share
    (120000, 500, 0.012)
    """

    head: int
    encoder: int
    decoder: int
    tail: int
    head_params: int
    encoder_params: int
    decoder_params: int
    tail_params: int

    @property
    def device_macs(self) -> int:
        """Multiply-accumulates of head and encoder."""
        return self.head + self.encoder

    @property
    def server_macs(self) -> int:
        """Multiply-accumulates of decoder and tail."""
        return self.decoder + self.tail

    @property
    def device_params(self) -> int:
        """Parameters of head and encoder."""
        return self.head_params + self.encoder_params

    @property
    def server_params(self) -> int:
        """Parameters of decoder and tail."""
        return self.decoder_params + self.tail_params

    @property
    def device_share(self) -> float:
        """Multiply-accumulates of the device, as a share of the unsplit network's."""
        return self.device_macs / (self.head + self.tail)


def split_cost(split: Split, backbone: Backbone) -> SplitCost:
    """Counts the four stages of a split; nothing is run.

    Args:
      split: any cut and unit.
      backbone: the split network; its preprocessing gives the image size.

    Returns:
      The counts for one image.

    >>> from jaxsplit import BottleneckSpec, load_backbone, make_split
    >>> backbone = load_backbone("fashion_mnist_resnet8")
    >>> split_cost(make_split(backbone, "stem", BottleneckSpec(8)), backbone).head
    112896
    """
    shapes = jax.eval_shape(lambda variables: variables, backbone.variables)
    leaves, structure = jax.tree.flatten(shapes)
    image = backbone.preprocessing.input_shape
    return _split_cost(split, backbone.network, image, structure, tuple(leaves))


@functools.lru_cache(maxsize=64)
def _split_cost(
    split: Split,
    stored: Network,
    input_shape: Shape,
    structure: jax.tree_util.PyTreeDef,
    leaves: tuple[jax.ShapeDtypeStruct, ...],
) -> SplitCost:
    """Traces the stages once a process: rates of one architecture have the same costs."""
    images = jnp.zeros((1, *input_shape))
    variables = jax.tree.unflatten(structure, leaves)
    folded, unit = inference_form(split, jax.eval_shape(split.init, jax.random.key(0)))
    features = folded.features(batch=1)
    latents = jax.eval_shape(folded.encode, unit, features)
    seen = jax.eval_shape(folded.decode, unit, latents)  # larger if a unit doesn't crop
    runs, arrays = inference_form(stored, variables)
    return SplitCost(
        head=count_macs(lambda v, x: runs.head(v, x, split.cut), arrays, images),
        encoder=count_macs(folded.encode, unit, features),
        decoder=count_macs(folded.decode, unit, latents),
        tail=count_macs(lambda v, x: runs.tail(v, x, split.cut), arrays, seen),
        head_params=count_params(lambda v, x: stored.head(v, x, split.cut), variables, images),
        encoder_params=count_params(folded.encode, unit, features),
        decoder_params=count_params(folded.decode, unit, latents),
        tail_params=count_params(lambda v, x: stored.tail(v, x, split.cut), variables, seen),
    )
