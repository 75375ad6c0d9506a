"""What a cut costs, counted from the traced program."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxsplit.bottleneck import fold_batch_norm
from jaxsplit.models import Backbone
from jaxsplit.split import Split


@dataclasses.dataclass(frozen=True)
class SplitCost:
    """Multiply-accumulates of the four stages for one image, and their parameters.

    Attributes:
      head, encoder, decoder, tail: multiply-accumulates, as of `count_macs`.
      head_params, encoder_params, decoder_params, tail_params: parameters, as of `count_params`;
        the unit's with its batch normalisation folded. The coding tables are none.
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
        """What the device spends, head and encoder, as a share of the uncut network."""
        return self.device_macs / (self.head + self.tail)


def split_cost(split: Split, backbone: Backbone) -> SplitCost:
    """Counts the stages of a cut, the unit's batch normalisation folded as it is when it runs.

    Args:
      split: of any cut and unit.
      backbone: what was cut; its preprocessing says how large an image is.

    >>> from jaxsplit.bottleneck import BottleneckSpec
    >>> from jaxsplit.importers.pretrained import load_backbone
    >>> from jaxsplit.split import make_split
    >>> backbone = load_backbone("fashion_mnist_resnet8")
    >>> cost = split_cost(make_split(backbone, "stem", BottleneckSpec(8)), backbone)
    >>> cost.head, f"{100 * cost.device_share:.1f} %"
    (125456, '1.9 %')
    """
    key = jax.random.key(0)
    images = jnp.zeros((1, *backbone.preprocessing.input_shape))
    features = jnp.zeros((1, *split.shape))
    latent = jnp.zeros((1, *split.latent_shape))
    folded = dataclasses.replace(split.spec, batch_norm=False)
    plain = dataclasses.replace(split, spec=folded, axis_name=None)
    unit = jax.eval_shape(lambda: fold_batch_norm(split.spec, split.init(key))[1])
    variables = backbone.variables
    stages: dict[str, tuple[Any, ...]] = {
        "head": (split.head, variables, images),
        "encoder": (plain.encode, unit, features),
        "decoder": (plain.decode, unit, latent),
        "tail": (split.tail, variables, features),
    }
    macs = {name: count_macs(*stage) for name, stage in stages.items()}
    params = {f"{name}_params": count_params(*stage) for name, stage in stages.items()}
    return SplitCost(**macs, **params)


def count_params(function: Callable[..., Any], variables: Any, *args: Any) -> int:
    """Parameters that the result of `function(variables, *args)` depends on.

    The numbers in those leaves of variables["params"] that the traced program uses; the running
    moments of batch normalisation are none.

    Args:
      function: anything jax can trace.
      variables: {"params", …}.
      *args: arrays, or shapes as of `jax.eval_shape`.

    >>> variables = {"params": {"kernel": jnp.zeros((3, 5)), "elsewhere": jnp.zeros(7)}}
    >>> count_params(lambda v, x: x @ v["params"]["kernel"], variables, jnp.zeros((2, 3)))
    15
    """
    program = jax.make_jaxpr(function)(variables, *args).jaxpr
    used = _used(program, [True] * len(program.outvars))
    paths_and_leaves = jax.tree_util.tree_leaves_with_path(variables)
    return sum(
        math.prod(leaf.shape)
        for (path, leaf), is_used in zip(paths_and_leaves, used, strict=False)
        if is_used and path[0].key == "params"
    )


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
