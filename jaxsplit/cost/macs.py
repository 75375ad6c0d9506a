"""Multiply-accumulates and parameters, counted from the traced program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from jaxsplit.networks import fold_normalization

# A nested program that is counted whole: its form also multiplies by zeros.
_TRANSPOSED = "depthwise_conv_transpose"


def count_params(function: Callable[..., Any], variables: Any, *args: Any) -> int:
    """Parameters that the result of `function(variables, *args)` depends on.

    The numbers in those leaves of variables["params"] that the traced program uses; the running
    moments of batch normalisation are none.

    Args:
      function: anything jax can trace.
      variables: {"params", …}.
      *args: arrays, or shapes as of `jax.eval_shape`.

    Returns:
      Their number; an array counts whole or not at all.

    >>> import jax.numpy as jnp
    >>> variables = {"params": {"kernel": jnp.zeros((3, 5)), "elsewhere": jnp.zeros(7)}}
    >>> count_params(lambda v, x: x @ v["params"]["kernel"], variables, jnp.zeros((2, 3)))
    15
    """
    return sum(used_params(function, variables, *args).values())


def used_params(function: Callable[..., Any], variables: Any, *args: Any) -> dict[str, int]:
    """Path → size of the parameters that `count_params` counts."""
    program = jax.make_jaxpr(function)(variables, *args).jaxpr
    used = _used(program, [True] * len(program.outvars))
    paths_and_leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {
        jax.tree_util.keystr(path): math.prod(leaf.shape)
        for (path, leaf), is_used in zip(paths_and_leaves, used, strict=False)
        if is_used and path[0].key == "params"
    }


def _used(program: Any, wanted: Sequence[bool]) -> list[bool]:
    """Which inputs of a traced program its wanted outputs depend on."""
    needed = {
        var
        for var, is_wanted in zip(program.outvars, wanted, strict=True)
        if is_wanted and not isinstance(var, core.Literal)
    }
    for equation in reversed(program.eqns):
        outputs = [var in needed for var in equation.outvars]
        if not any(outputs):
            continue
        inputs = [True] * len(equation.invars)
        if equation.primitive.name in ("jit", "pjit"):
            inputs = _used(equation.params["jaxpr"].jaxpr, outputs)
        needed |= {
            var
            for var, is_used in zip(equation.invars, inputs, strict=True)
            if is_used and not isinstance(var, core.Literal)
        }
    return [var in needed for var in program.invars]


def as_it_runs(module: Any, variables: Any) -> tuple[Any, Any]:
    """A network and the shapes of its variables with batch normalisation folded.

    Args:
      module: of any Flax network; one that doesn't know `folded` stays as it is.
      variables: its arrays, or their shapes.

    Returns:
      The module and the variables, nothing of them computed.
    """
    if getattr(module, "folded", True):
        return module, variables
    folded = jax.eval_shape(lambda x: fold_normalization(x, module.epsilon), variables)
    return module.clone(folded=True), folded


def count_macs(function: Callable[..., Any], *args: Any) -> int:
    """Multiply-accumulates of one call: of convolutions, matrix products and multiplications.

    An elementwise multiplication counts as one, because depthwise convolutions are written as
    shifted multiply-adds; so a little of normalisation counts too. Additions, comparisons and
    divisions don't. In a transposed convolution every input meets every weight once, whatever the
    form it runs in. Of the branches of a condition the dearest counts.

    Args:
      function: anything jax can trace.
      *args: arrays, or shapes as of `jax.eval_shape`.

    Returns:
      Their number, for all of a batch.

    >>> import jax.numpy as jnp
    >>> count_macs(jnp.matmul, jnp.zeros((2, 3)), jnp.zeros((3, 5)))
    30
    """
    return program_macs(jax.make_jaxpr(function)(*args).jaxpr)


def program_macs(jaxpr: Any) -> int:
    """The multiply-accumulates of a program that is traced already, as of `count_macs`."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            numbers = params["dimension_numbers"].rhs_spec
            zeros = math.prod(params["lhs_dilation"])  # a transposed one's, between its inputs
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
            # One branch runs. Of forms for several platforms the plain one counts, which is the
            # dearest: a network's count doesn't depend on tricks that save some.
            total += max(program_macs(branch.jaxpr) for branch in params["branches"])
        else:
            repeats = params.get("length", 1) if name == "scan" else 1
            total += repeats * sum(program_macs(inner) for inner in _inner(params))
    return total


def _inner(params: dict[str, Any]) -> list[Any]:
    """The programs inside an equation: of a jitted call, a custom derivative or a loop."""
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found
