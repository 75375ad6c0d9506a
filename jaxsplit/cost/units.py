"""What units of a grid cost for features of one shape."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxsplit.cost.jaxpr import flatten, value_of
from jaxsplit.cost.macs import count_macs, program_macs
from jaxsplit.cost.memory import peak_bytes
from jaxsplit.entropy import FactorizedPrior
from jaxsplit.errors import ConfigError
from jaxsplit.units.bottleneck import Bottleneck, BottleneckSpec, fold_batch_norm, unit_shapes

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class UnitPlan:
    """A unit that could stand at a cut.

    Attributes:
      spec: its form.
      latent_shape: (h, w, C) of one image's latent.
      encoder_macs, decoder_macs: multiply-accumulates for one image, as of `count_macs`, its batch
        normalisation folded as it is when it runs.
      encoder_params, decoder_params: learned numbers, the normalisation's scales and biases too.
      stored_bytes: of the float32 arrays that a family stores for a rate beside its coding tables:
        these parameters, the running moments and the prior.
      encoder_peak_bytes: of activations, as of `memory.peak_bytes`.

    >>> unit = plan_unit(BottleneckSpec(channels=8), (14, 14, 32))
    >>> unit.latent_shape, unit.latent_symbols, unit.encoder_macs < unit.decoder_macs
    ((7, 7, 8), 392, True)
    """

    spec: BottleneckSpec
    latent_shape: Shape
    encoder_macs: int
    decoder_macs: int
    encoder_params: int
    decoder_params: int
    stored_bytes: int
    encoder_peak_bytes: int

    @property
    def latent_symbols(self) -> int:
        """Integers that are coded for one image."""
        return math.prod(self.latent_shape)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: all figures, and of the form what a grid varies."""
        values = {"channels": self.spec.channels, "stride": self.spec.stride}
        values |= {key: value for key, value in vars(self).items() if key != "spec"}
        return {**values, "latent_symbols": self.latent_symbols}


def grid_spec(channels: int, stride: int) -> BottleneckSpec:
    """The form of a grid's unit: 3×3 kernels up to stride 2 and stride×stride ones above.

    Args:
      channels: of the latent.
      stride: of the depthwise convolutions, in pixels.

    Returns:
      The form; all else is as `BottleneckSpec` has it.

    Raises:
      ConfigError: a number is none that a unit can have.

    >>> grid_spec(64, 2).latent_size(7, 7), grid_spec(64, 4).latent_size(8, 8)
    ((4, 4), (2, 2))
    """
    kernel, padding = (3, 1) if stride <= 2 else (stride, 0)
    return BottleneckSpec(channels, stride, kernel, padding)


def unit_grid(shape: Shape, channels: Iterable[int], strides: Sequence[int]) -> list[UnitPlan]:
    """The units of a grid that fit features of a shape: with a latent, and no wider than they.

    Args:
      shape: (H, W, Cin).
      channels, strides: the grid.

    Returns:
      The units, by channels and then by stride; none where nothing fits.

    Raises:
      ConfigError: a number is none that a unit can have.

    >>> units = unit_grid((7, 7, 64), channels=(4, 16, 128), strides=(2, 8))
    >>> [unit.latent_shape for unit in units]
    [(4, 4, 4), (4, 4, 16)]
    """
    specs = [grid_spec(c, s) for c in sorted(set(channels)) for s in sorted(set(strides))]
    fitting = [spec for spec in specs if fits(spec, shape)]
    return [plan_unit(spec, shape) for spec in fitting]


def fits(spec: BottleneckSpec, shape: Shape) -> bool:
    """Whether a unit makes sense for features of a shape (H, W, Cin)."""
    return min(spec.latent_size(*shape[:2])) >= 1 and spec.channels <= shape[2]


def plan_unit(spec: BottleneckSpec, shape: Shape) -> UnitPlan:
    """Traces a unit and counts what it costs; nothing is run.

    Args:
      spec: its form.
      shape: (H, W, Cin) of the features.

    Returns:
      The counts.

    Raises:
      ConfigError: the features are smaller than its kernel.

    >>> plan_unit(grid_spec(channels=8, stride=2), (14, 14, 32)).stored_bytes
    7392
    """
    latent = (*spec.latent_size(*shape[:2]), spec.channels)
    if min(latent) < 1:
        raise ConfigError(f"features of {shape} are too small for {spec}")
    arrays = _abstract(unit_shapes(spec, shape[2]))
    folded = jax.eval_shape(lambda variables: fold_batch_norm(spec, variables)[1], arrays)
    plain = Bottleneck(dataclasses.replace(spec, batch_norm=False), shape)

    def encode(variables: Any, features: jax.Array) -> Any:
        return plain.apply(variables, features, method="encode")

    def decode(variables: Any, z: jax.Array) -> Any:
        return plain.apply(variables, z, method="decode")

    features = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    program = jax.make_jaxpr(encode)(folded, features).jaxpr
    received = jax.ShapeDtypeStruct((1, *latent), jnp.float32)
    values = [value_of(var.aval) for var in program.invars]
    operations, (result,) = flatten(program, values)
    sizes = {part: _numbers(tree) for part, tree in arrays["params"].items()}
    return UnitPlan(
        spec,
        latent,
        program_macs(program),
        count_macs(decode, folded, received),
        sizes["encoder"],
        sizes["decoder"],
        4 * (_numbers(arrays) + _prior_numbers(spec.channels)),
        peak_bytes(operations, values[-1], result),
    )


@functools.lru_cache
def _prior_numbers(channels: int) -> int:
    z = jax.ShapeDtypeStruct((1, 1, 1, channels), jnp.float32)
    return _numbers(jax.eval_shape(FactorizedPrior(channels).init, jax.random.key(0), z))


def _abstract(shapes: Any) -> Any:
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def _numbers(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
