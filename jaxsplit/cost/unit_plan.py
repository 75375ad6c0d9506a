"""Costs of units at a cut: one, or a grid of channels and strides."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from jaxsplit.cost.counting import count_macs, inference_form, peak_bytes, program_macs
from jaxsplit.entropy import FactorizedPrior
from jaxsplit.trees import Structs
from jaxsplit.units import BottleneckSpec, ResidualSpec, Shape

CHANNELS, STRIDES = (4, 8, 16, 32, 64), (1, 2, 4, 8)
#: The unit of a grid, by channels and stride.
grid_spec = BottleneckSpec.from_stride


@dataclasses.dataclass(frozen=True)
class UnitPlan:
    """Costs of a unit at a cut, for one image.

    Attributes:
      spec: its architecture.
      latent_shape: (h, w, C) of the latent.
      encoder_macs, decoder_macs: multiply-accumulates (see `count_macs`), with batch normalization
        folded as in inference.
      encoder_params, decoder_params: parameters, with scales and biases of the normalization.
      stored_bytes: of a rate's float32 arrays, with running moments and prior, without tables.
      encoder_peak_bytes: peak of the encoder's activations (see `counting.peak_bytes`).

    >>> unit = plan_unit(BottleneckSpec(channels=8), (14, 14, 32))
    >>> unit.latent_shape, unit.latent_symbols
    ((7, 7, 8), 392)
    """

    spec: BottleneckSpec | ResidualSpec
    latent_shape: Shape
    encoder_macs: int
    decoder_macs: int
    encoder_params: int
    decoder_params: int
    stored_bytes: int
    encoder_peak_bytes: int

    @property
    def latent_symbols(self) -> int:
        """Integers coded for one image."""
        return math.prod(self.latent_shape)

    def to_dict(self) -> dict[str, object]:
        """Returns all counts, and the channels and stride of `spec`, ready for JSON."""
        counts = {key: value for key, value in vars(self).items() if key != "spec"}
        size = {"channels": self.spec.channels, "stride": self.spec.stride}
        return {**size, **counts, "latent_symbols": self.latent_symbols}


def unit_grid(shape: Shape, channels: Iterable[int], strides: Sequence[int]) -> list[UnitPlan]:
    """Plans the units of a grid that fit features of one shape (see `fits`).

    Args:
      shape: (H, W, Cin).
      channels, strides: the grid; a ConfigError if a number is invalid for a unit.

    Returns:
      The units, by channels and then by stride.

    >>> [unit.latent_shape for unit in unit_grid((7, 7, 64), channels=(4, 128), strides=(2, 8))]
    [(4, 4, 4)]
    """
    specs = [grid_spec(c, s) for c in sorted(set(channels)) for s in sorted(set(strides))]
    return [plan_unit(spec, shape) for spec in specs if fits(spec, shape)]


def joint_grid(
    shapes: Sequence[Shape], channels: Iterable[int], strides: Sequence[int]
) -> list[UnitPlan]:
    """Plans the units of a grid for all arrays that cross a cut, each with a unit of one spec.

    Args:
      shapes: (H, W, Cin) of each array.
      channels, strides: as in `unit_grid`.

    Returns:
      The specs that fit every array, by channels and then by stride, with the costs of all units.

    >>> [unit.latent_shape for unit in joint_grid([(1, 1, 9), (8, 8, 9)], (4,), (2, 8))]
    [(1, 1, 68)]
    """
    grids = [unit_grid(shape, channels, strides) for shape in shapes]
    if len(grids) == 1:
        return grids[0]
    by_spec = [{unit.spec: unit for unit in grid} for grid in grids]
    common = [spec for spec in by_spec[0] if all(spec in grid for grid in by_spec)]
    return [_together([grid[spec] for grid in by_spec], shapes) for spec in common]


def _together(units: Sequence[UnitPlan], shapes: Sequence[Shape]) -> UnitPlan:
    """Sums the costs of units that run one after the other; their latents share a frame."""
    features = [4 * math.prod(shape) for shape in shapes]
    waiting = (sum(features) - own for own in features)
    sums = ("encoder_macs", "decoder_macs", "encoder_params", "decoder_params", "stored_bytes")
    peaks = [unit.encoder_peak_bytes + rest for unit, rest in zip(units, waiting, strict=True)]
    return dataclasses.replace(
        units[0],
        latent_shape=(1, 1, sum(unit.latent_symbols for unit in units)),
        encoder_peak_bytes=max(peaks),
        **{name: sum(getattr(unit, name) for unit in units) for name in sums},
    )


def fits(spec: BottleneckSpec, shape: Shape) -> bool:
    """Returns whether a unit has a latent for features (H, W, Cin), and no more channels."""
    return len(shape) == 3 and min(spec.latent_size(*shape[:2])) >= 1 and spec.channels <= shape[2]


def plan_unit(spec: BottleneckSpec | ResidualSpec, shape: Shape) -> UnitPlan:
    """Counts the costs of a unit from its traces; nothing is run.

    Args:
      spec: its architecture.
      shape: (H, W, Cin) of the features; a ConfigError if its kernel is larger.

    Returns:
      The counts.

    >>> plan_unit(grid_spec(channels=8, stride=2), (14, 14, 32)).stored_bytes
    7392
    """
    return _unit_plan(spec, tuple(shape))


@functools.lru_cache(maxsize=1024)
def _unit_plan(spec: BottleneckSpec, shape: Shape) -> UnitPlan:
    """Traces a unit once a process: plans of other networks and of a search ask for it again."""
    latent = spec.latent_shape(shape)
    shapes = spec.variable_shapes(shape)
    arrays = jax.tree.map(_float32, shapes, is_leaf=lambda node: isinstance(node, tuple))
    plain, folded = inference_form(spec, arrays)
    decode = functools.partial(plain.decode, shape=shape)
    program = jax.make_jaxpr(plain.encode)(folded, _float32((1, *shape))).jaxpr
    sizes = {part: _numbers(tree) for part, tree in arrays["params"].items()}
    return UnitPlan(
        spec,
        latent,
        program_macs(program),
        count_macs(decode, folded, _float32((1, *latent))),
        sizes["encoder"],
        sizes["decoder"],
        4 * (_numbers(arrays) + _prior_numbers(spec.channels)),
        peak_bytes(program),
    )


@functools.lru_cache
def _prior_numbers(channels: int) -> int:
    z = _float32((1, 1, 1, channels))
    return _numbers(jax.eval_shape(FactorizedPrior(channels).init, jax.random.key(0), z))


def _float32(shape: Shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _numbers(tree: Structs) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
