"""Costs of every cut of a network, from traces of its segments between endpoints."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp

from jaxsplit.cost.counting import as_it_runs, program_macs, used_params
from jaxsplit.cost.memory import peak_bytes
from jaxsplit.cost.unit_plan import Shape, UnitPlan, unit_grid
from jaxsplit.errors import ConfigError

CHANNELS, STRIDES = (4, 8, 16, 32, 64), (1, 2, 4, 8)
#: Latent size for which a unit is chosen at each cut, so that cuts are compared at equal size.
SYMBOLS = 1024


@dataclasses.dataclass(frozen=True)
class CutPlan:
    """Costs of one cut, for one image.

    Attributes:
      cut: endpoint of the network.
      feature_shape: (H, W, C) of the features at the cut.
      device_macs, server_macs: multiply-accumulates of head and tail without a unit (see
        `count_macs`), with batch normalisation folded if the network supports it.
      device_params, server_params: parameters that head and tail use.
      device_peak_bytes: peak bytes of the head's float32 activations (see `memory.peak_bytes`),
        without its weights of 4 · device_params bytes.
      units: the units of the grid that fit the features.

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
    device_peak_bytes: int
    units: tuple[UnitPlan, ...]

    @property
    def feature_bytes(self) -> int:
        """Bytes of the features in float32."""
        return 4 * math.prod(self.feature_shape)

    @property
    def device_macs_share(self) -> float:
        """The head's share of the unsplit network's multiply-accumulates."""
        return self.device_macs / max(self.device_macs + self.server_macs, 1)

    @property
    def device_params_share(self) -> float:
        """The head's share of the parameters of both sides."""
        return self.device_params / max(self.device_params + self.server_params, 1)

    def unit_of(self, symbols: int = SYMBOLS) -> UnitPlan | None:
        """Selects the unit whose latent size is nearest to a target; ties: the cheapest encoder.

        Args:
          symbols: latent integers of one image.

        Returns:
          One of `units`; None if there is none.
        """

        def distance(unit: UnitPlan) -> tuple[float, int]:
            return abs(math.log(unit.latent_symbols / symbols)), unit.encoder_macs

        return min(self.units, key=distance, default=None)

    def to_dict(self) -> dict[str, object]:
        """Returns counts, shares of both sides and units, ready for JSON."""
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
    """Costs of all cuts of a network.

    Attributes:
      name: of the network.
      input_shape: (H, W, c) of one image.
      macs, params: of the unsplit network.
      cuts: from the image to the classifier.

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

    def to_dict(self) -> dict[str, object]:
        """Returns a dict for JSON: {"network", "input_shape", "macs", "params", "cuts": […]}."""
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
    variables: object = None,
    *,
    name: str | None = None,
    channels: Iterable[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
) -> Plan:
    """Counts the costs of every cut of a network and of a grid of units there; nothing is run.

    Args:
      module: Linen module with `endpoints()` and `(x, start=…, stop=…)`, as `networks.Chain`.
      input_shape: (H, W, c) of one image.
      variables: its arrays, or their shapes as in `jax.eval_shape`; None: the shapes of `init`.
      name: of the network; default: the class of `module`.
      channels, strides: the grid of units.

    Returns:
      All cuts, from the image to the classifier, each with its units.

    Raises:
      ConfigError: the image is too small for the network, or a number of the grid is invalid.

    >>> from jaxsplit import networks
    >>> plan = make_plan(networks.create("resnet8_small", 10), (28, 28, 1))
    >>> plan["stage1.block1"].feature_shape, len(plan["stage1.block1"].units)
    ((28, 28, 16), 12)
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
        cuts.append(
            CutPlan(
                cut=segment.name,
                feature_shape=segment.shape,
                device_macs=sum(macs[: i + 1]),
                server_macs=total - sum(macs[: i + 1]),
                device_params=_numbers(used[: i + 1]),
                server_params=_numbers(used[i + 1 :]),
                device_peak_bytes=peak,
                units=grids[segment.shape],
            )
        )
    return Plan(name, input_shape, total, _numbers(used), tuple(cuts))


@dataclasses.dataclass(frozen=True)
class _Segment:
    """The network between two endpoints; params maps the path of each used leaf to its size."""

    name: str
    shape: Shape
    macs: int
    params: dict[str, int]
    peak_bytes: int


def _segments(module: Any, variables: object, image: jax.ShapeDtypeStruct) -> Iterator[_Segment]:
    folded, arrays = as_it_runs(module, variables)  # parameters are counted unfolded
    start, given = None, image
    *cuts, last = module.endpoints()
    for stop in (*cuts, last):
        run = functools.partial(_run, folded, start, stop)
        closed, result = jax.make_jaxpr(run, return_shape=True)(arrays, given)
        if len(result.shape) != 4 and stop != last:
            raise ConfigError(f"{stop} gives {result.shape}; expected features [1, H, W, C]")
        yield _Segment(
            stop,
            result.shape[1:],
            program_macs(closed.jaxpr),
            used_params(functools.partial(_run, module, start, stop), variables, given),
            peak_bytes(closed.jaxpr),
        )
        start, given = stop, result


def _run(module: Any, start: str | None, stop: str, variables: object, x: jax.Array) -> jax.Array:
    return module.apply(variables, x, start=start, stop=stop)


def _numbers(used: Iterable[dict[str, int]]) -> int:
    """Parameters of several segments; leaves that two of them share count once."""
    return sum({path: size for leaves in used for path, size in leaves.items()}.values())
