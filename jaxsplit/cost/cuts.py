"""What every cut of a network costs: its segments, traced one after the other."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp

from jaxsplit.cost.field import IMAGE, Field, trace_field
from jaxsplit.cost.jaxpr import flatten, value_of
from jaxsplit.cost.macs import as_it_runs, program_macs, used_params
from jaxsplit.cost.memory import peak_bytes
from jaxsplit.cost.units import Shape, UnitPlan, unit_grid
from jaxsplit.errors import ConfigError

CHANNELS, STRIDES = (4, 8, 16, 32, 64), (1, 2, 4, 8)
#: Numbers of a latent that a cut's unit is chosen for, so that cuts are compared at a like size.
SYMBOLS = 1024


@dataclasses.dataclass(frozen=True)
class CutPlan:
    """A place where the network can be cut, for one image.

    Attributes:
      cut: endpoint of the network.
      feature_shape: (H, W, C) of the features there.
      device_macs, server_macs: multiply-accumulates of head and tail, without a unit, as of
        `count_macs`; batch normalisation is folded where the network knows how.
      device_params, server_params: learned numbers that head and tail use.
      receptive_field: rows and columns of the image that one feature can depend on, theoretical:
        those outside of the image count. The image's own where there is no bound.
      device_peak_bytes: most bytes of float32 activations at one time, as of `memory.peak_bytes`;
        the weights, 4 · device_params, come on top.
      units: those of the grid that fit.

    >>> from jaxsplit import networks
    >>> network = networks.create("resnet8_small", 10)
    >>> cut = make_plan(network, (28, 28, 1), channels=(4, 8), strides=(2,))["stage2.block1"]
    >>> cut.feature_shape, cut.feature_bytes, f"{100 * cut.device_macs_share:.0f} %"
    ((14, 14, 32), 25088, '70 %')
    >>> [unit.latent_symbols for unit in cut.units], cut.unit_of(symbols=200).spec.channels
    ([196, 392], 4)
    """

    cut: str
    feature_shape: Shape
    device_macs: int
    server_macs: int
    device_params: int
    server_params: int
    receptive_field: tuple[int, int]
    device_peak_bytes: int
    units: tuple[UnitPlan, ...]

    @property
    def feature_bytes(self) -> int:
        """Bytes of the features as they are, float32."""
        return 4 * math.prod(self.feature_shape)

    @property
    def device_macs_share(self) -> float:
        """The head's part of the uncut network's multiply-accumulates."""
        return self.device_macs / max(self.device_macs + self.server_macs, 1)

    @property
    def device_params_share(self) -> float:
        """The head's part of both sides' parameters."""
        return self.device_params / max(self.device_params + self.server_params, 1)

    def unit_of(self, symbols: int = SYMBOLS) -> UnitPlan | None:
        """The unit whose latent is nearest to a size; of equals the one of the cheapest encoder.

        Args:
          symbols: integers that are coded for one image.

        Returns:
          One of `units`; None where there is none.
        """

        def distance(unit: UnitPlan) -> tuple[float, int]:
            return abs(math.log(unit.latent_symbols / symbols)), unit.encoder_macs

        return min(self.units, key=distance, default=None)

    def to_dict(self) -> dict[str, Any]:
        """All figures, shares of both sides and the units, ready for JSON."""
        return {
            **vars(self),
            "feature_bytes": self.feature_bytes,
            "device_macs_share": self.device_macs_share,
            "server_macs_share": 1 - self.device_macs_share,
            "device_params_share": self.device_params_share,
            "server_params_share": 1 - self.device_params_share,
            "units": [unit.to_dict() for unit in self.units],
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """All cuts of a network, from the image to the classifier.

    Attributes:
      name: of the network.
      input_shape: (H, W, c) of one image.
      macs, params: of the uncut network.
      cuts: the places.

    >>> from jaxsplit import networks
    >>> plan = make_plan(networks.create("resnet8_small", 10), (28, 28, 1), channels=(), strides=())
    >>> [cut.cut for cut in plan.cuts], plan["stem"].feature_shape
    (['stem', 'stage1.block1', 'stage2.block1', 'stage3.block1'], (28, 28, 16))
    """

    name: str
    input_shape: Shape
    macs: int
    params: int
    cuts: tuple[CutPlan, ...]

    def __getitem__(self, name: str) -> CutPlan:
        for cut in self.cuts:
            if cut.cut == name:
                return cut
        known = ", ".join(cut.cut for cut in self.cuts)
        raise ConfigError(f"{self.name} has no cut {name!r}; it has {known}")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: {"network", "input_shape", "macs", "params", "cuts": […]}."""
        return {
            "network": self.name,
            "input_shape": self.input_shape,
            "macs": self.macs,
            "params": self.params,
            "cuts": [cut.to_dict() for cut in self.cuts],
        }


def make_plan(
    module: Any,
    input_shape: Shape,
    variables: Any = None,
    *,
    name: str | None = None,
    channels: Iterable[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
) -> Plan:
    """Counts every cut of a network and the units of a grid there; nothing is run.

    Args:
      module: Linen module with `endpoints()` and `(x, start=…, stop=…)`, as of `networks.Chain`.
      input_shape: (H, W, c) of one image.
      variables: its arrays, or their shapes as of `jax.eval_shape`; None: as `init` would make.
      name: what to call it; default: its class.
      channels, strides: of the grid.

    Returns:
      All cuts, from the image to the classifier, each with its units.

    Raises:
      ConfigError: the image is too small for the network, or the grid has an impossible number.

    >>> from jaxsplit import networks
    >>> plan = make_plan(networks.create("resnet8_small", 10), (28, 28, 1))
    >>> plan["stage1.block1"].feature_shape, plan["stage1.block1"].receptive_field
    ((28, 28, 16), (7, 7))
    """
    channels, name = tuple(channels), name or type(module).__name__
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    try:
        if variables is None:
            variables = jax.eval_shape(module.init, jax.random.key(0), image)
        segments = list(_segments(module, variables, image))
    except (flax.errors.FlaxError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{name} takes no images of {input_shape}: {error}") from error
    macs, used = [one.macs for one in segments], [one.params for one in segments]
    total, grids = sum(macs), dict[Shape, tuple[UnitPlan, ...]]()
    cuts, peak = [], 0
    for i, segment in enumerate(segments[:-1]):
        peak = max(peak, segment.peak_bytes)
        if segment.shape not in grids:
            grids[segment.shape] = tuple(unit_grid(segment.shape, channels, strides))
        rows, columns = (reach.pixels for reach in segment.field)
        cuts.append(
            CutPlan(
                cut=segment.name,
                feature_shape=segment.shape,
                device_macs=sum(macs[: i + 1]),
                server_macs=total - sum(macs[: i + 1]),
                device_params=_numbers(used[: i + 1]),
                server_params=_numbers(used[i + 1 :]),
                receptive_field=(rows or input_shape[0], columns or input_shape[1]),
                device_peak_bytes=peak,
                units=grids[segment.shape],
            )
        )
    return Plan(name, input_shape, total, _numbers(used), tuple(cuts))


@dataclasses.dataclass(frozen=True)
class _Segment:
    """The network between two endpoints; params: path → size of the leaves that it uses."""

    name: str
    shape: Shape
    macs: int
    params: dict[str, int]
    field: Field
    peak_bytes: int


def _segments(module: Any, variables: Any, image: Any) -> Iterator[_Segment]:
    folded, arrays = as_it_runs(module, variables)  # parameters count as they are learned
    start, given, field = None, image, IMAGE
    *cuts, last = module.endpoints()
    for stop in (*cuts, last):
        run = functools.partial(_run, folded, start, stop)
        closed, result = jax.make_jaxpr(run, return_shape=True)(arrays, given)
        values = [value_of(var.aval) for var in closed.jaxpr.invars]
        operations, (output,) = flatten(closed.jaxpr, values)
        seen = trace_field(operations, values[-1], field, output)
        if seen is None or (len(result.shape) != 4 and stop != last):
            raise ConfigError(f"{stop} gives {result.shape}; expected features [1, H, W, C]")
        yield _Segment(
            stop,
            result.shape[1:],
            program_macs(closed.jaxpr),
            used_params(functools.partial(_run, module, start, stop), variables, given),
            seen,
            peak_bytes(operations, values[-1], output),
        )
        start, given, field = stop, result, seen


def _run(module: Any, start: str | None, stop: str, variables: Any, x: jax.Array) -> jax.Array:
    return module.apply(variables, x, start=start, stop=stop)


def _numbers(used: Iterable[dict[str, int]]) -> int:
    """Numbers in the leaves of several segments; what two of them share counts once."""
    return sum({path: size for leaves in used for path, size in leaves.items()}.values())
