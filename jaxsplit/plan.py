"""What a cut costs, counted from the traced program."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsplit.bottleneck import fold_batch_norm
from jaxsplit.models import Backbone
from jaxsplit.split import Split


@dataclasses.dataclass(frozen=True)
class SplitCost:
    """Multiply-accumulates of the four stages, for one image."""

    head: int
    encoder: int
    decoder: int
    tail: int

    @property
    def device_share(self) -> float:
        """What the device spends, head and encoder, as a share of the uncut network."""
        return (self.head + self.encoder) / (self.head + self.tail)


def split_cost(split: Split, backbone: Backbone) -> SplitCost:
    """Counts the stages of a cut, the unit's batch normalisation folded as it is when it runs."""
    key = jax.random.key(0)
    images = jnp.zeros((1, *backbone.preprocessing.input_shape))
    features = jnp.zeros((1, *split.shape))
    latent = jnp.zeros((1, *split.latent_shape))
    folded = dataclasses.replace(split.spec, batch_norm=False)
    plain = dataclasses.replace(split, spec=folded, axis_name=None)
    unit = jax.eval_shape(lambda: fold_batch_norm(split.spec, split.init(key))[1])
    variables = backbone.variables
    return SplitCost(
        head=count_macs(split.head, variables, images),
        encoder=count_macs(plain.encode, unit, features),
        decoder=count_macs(plain.decode, unit, latent),
        tail=count_macs(split.tail, variables, features),
    )


def count_macs(function: Callable[..., Any], *args: Any) -> int:
    """Multiply-accumulates of one call: of convolutions, matrix products and multiplications.

    An elementwise multiplication counts as one, because depthwise convolutions are written as
    shifted multiply-adds; so a little of normalisation counts too. Additions, comparisons and
    divisions don't. Of the branches of a condition the dearest counts.

    Args:
      function: anything jax can trace.
      *args: arrays, or shapes as of `jax.eval_shape`.

    >>> count_macs(jnp.matmul, jnp.zeros((2, 3)), jnp.zeros((3, 5)))
    30
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            numbers = params["dimension_numbers"].rhs_spec
            total += out * math.prod(kernel) // kernel[numbers[0]]
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += out * math.prod(shape[axis] for axis in contracted)
        elif name == "mul":
            total += out
        elif name == "cond":
            # One branch runs. Of forms for several platforms the plain one counts, which is the
            # dearest: a network's multiply-adds don't depend on tricks that save some.
            total += max(_count(branch.jaxpr) for branch in params["branches"])
        else:
            repeats = params.get("length", 1) if name == "scan" else 1
            total += repeats * sum(_count(inner) for inner in _inner(params))
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
