"""Costs of every cut of a network, from traces of its segments between endpoints."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsplit.cost.counting import as_it_runs, count_macs, program_macs, used_params
from jaxsplit.cost.memory import peak_bytes
from jaxsplit.cost.unit_plan import UnitPlan, unit_grid
from jaxsplit.errors import ConfigError
from jaxsplit.networks import Features, LinenNetwork, Network, as_network
from jaxsplit.units import Shape

CHANNELS, STRIDES = (4, 8, 16, 32, 64), (1, 2, 4, 8)
#: Latent size for which a unit is chosen at each cut, so that cuts are compared at equal size.
SYMBOLS = 1024


@dataclasses.dataclass(frozen=True)
class CutPlan:
    """Costs of one cut, for one image.

    Attributes:
      cut: endpoint of the network.
      feature_shape: (H, W, C) of the features at the cut, or of another rank; (n,) where several
        arrays of n numbers cross it.
      device_macs, server_macs: multiply-accumulates of head and tail without a unit (see
        `count_macs`), with batch normalisation folded if the network supports it.
      device_params, server_params: parameters that head and tail use.
      device_peak_bytes: peak bytes of the head's float32 activations (see `memory.peak_bytes`),
        without its weights of 4 · device_params bytes.
      units: the units of the grid that fit the features.

    >>> from jaxsplit import networks
    >>> network = networks.create("resnet8_small", 10)
    >>> cut = make_plan(network, (28, 28, 1), channels=(4, 8), strides=(2,))["stage2.block1"]
    >>> cut.feature_shape, cut.feature_bytes, cut.unit_of(symbols=200).latent_symbols
    ((14, 14, 32), 25088, 196)
    """

    cut: str
    feature_shape: Shape
    device_macs: int
    server_macs: int
    device_params: int
    server_params: int
    device_peak_bytes: int
    units: tuple[UnitPlan, ...] = ()

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

    def to_dict(self) -> dict[str, Any]:
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
    >>> len(plan.cuts), plan["stem"].feature_shape
    (4, (28, 28, 16))
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
        """Returns a dict for JSON: {"network", "input_shape", "macs", "params", "cuts": […]}."""
        return {
            "network": self.name,
            "input_shape": self.input_shape,
            "macs": self.macs,
            "params": self.params,
            "cuts": [cut.to_dict() for cut in self.cuts],
        }


def make_plan(
    network: Network | nn.Module,
    input_shape: Shape,
    variables: Any = None,
    *,
    name: str | None = None,
    channels: Iterable[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
) -> Plan:
    """Counts the costs of every cut of a network and of a grid of units there; nothing is run.

    Args:
      network: a `Network`, or a Linen module with `endpoints()` and `(x, start=…, stop=…)`.
      input_shape: (H, W, c) of one image.
      variables: its arrays, or their shapes as in `jax.eval_shape`; None: the shapes of a module's
        `init`.
      name: of the network; default: its class.
      channels, strides: the grid of units, for cuts that one array (H, W, C) crosses.

    Returns:
      All cuts, from the image to the outputs, each with its units.

    Raises:
      ConfigError: the image is too small for the network, a number of the grid is invalid, or
        variables are missing.

    >>> from jaxsplit import networks
    >>> len(make_plan(networks.create("resnet8_small", 10), (28, 28, 1))["stage1.block1"].units)
    12
    """
    name = name or type(network).__name__
    network, channels = as_network(network), tuple(channels)
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    try:
        if variables is None:
            if not isinstance(network, LinenNetwork):
                raise ConfigError(f"{name} has no init: give its variables")
            variables = jax.eval_shape(network.module.init, jax.random.key(0), image)
        if isinstance(network, LinenNetwork):
            found = _linen_costs(network, variables, image)
        else:
            found = _costs(network, variables, image)
    except (flax.errors.FlaxError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{name} takes no images of {input_shape}: {error}") from error
    grids = dict[Shape, tuple[UnitPlan, ...]]()
    for shape in {cut.feature_shape for cut in found.cuts}:
        grids[shape] = tuple(unit_grid(shape, channels, strides)) if len(shape) == 3 else ()
    cuts = [dataclasses.replace(cut, units=grids[cut.feature_shape]) for cut in found.cuts]
    return dataclasses.replace(found, name=name, cuts=tuple(cuts))


def _shape(features: Features) -> Shape:
    """The shape of one array, or (n,) of the numbers in several."""
    leaves = jax.tree.leaves(features)
    return leaves[0].shape if len(leaves) == 1 else (sum(math.prod(x.shape) for x in leaves),)


def _costs(network: Network, variables: Any, image: Any) -> Plan:
    """Traces head and tail of every cut."""
    shapes, cuts = network.feature_shapes(variables, image.shape[1:]), []
    runs, arrays = as_it_runs(network, variables)  # parameters are counted unfolded
    for cut in network.cuts():
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), shapes[cut])
        head, tail = (functools.partial(_half, runs, half, cut) for half in ("head", "tail"))
        device, server = (functools.partial(_half, network, half, cut) for half in ("head", "tail"))
        program = jax.make_jaxpr(head)(arrays, image).jaxpr
        cuts.append(
            CutPlan(
                cut,
                _shape(shapes[cut]),
                program_macs(program),
                count_macs(tail, arrays, batch),
                _numbers([used_params(device, variables, image)]),
                _numbers([used_params(server, variables, batch)]),
                peak_bytes(program),
            )
        )
    params = _numbers([used_params(network, variables, image)])
    return Plan("", image.shape[1:], count_macs(runs, arrays, image), params, tuple(cuts))


def _half(network: Network, half: str, cut: str, variables: Any, x: Any) -> Any:
    return getattr(network, half)(variables, x, cut)


def _linen_costs(network: LinenNetwork, variables: Any, image: Any) -> Plan:
    """Traces every part of a chain once; a cut's costs are sums over parts."""
    folded, arrays = as_it_runs(network, variables)  # parameters are counted unfolded
    shapes, macs, used, peaks = [], [], [], []
    start, given, names = None, image, network.module.endpoints()
    for stop in names:
        run = functools.partial(_part, folded.module, start, stop)
        closed, result = jax.make_jaxpr(run, return_shape=True)(arrays, given)
        part = functools.partial(_part, network.module, start, stop)
        used.append(used_params(part, variables, given))
        macs.append(program_macs(closed.jaxpr))
        peaks.append(peak_bytes(closed.jaxpr))
        shapes.append(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), result))
        start, given = stop, result
    cuts = [
        CutPlan(
            name,
            _shape(shapes[i]),
            sum(macs[: i + 1]),
            sum(macs[i + 1 :]),
            _numbers(used[: i + 1]),
            _numbers(used[i + 1 :]),
            max(peaks[: i + 1]),
        )
        for i, name in enumerate(names[:-1])
    ]
    return Plan("", image.shape[1:], sum(macs), _numbers(used), tuple(cuts))


def _part(module: Any, start: str | None, stop: str, variables: Any, x: jax.Array) -> jax.Array:
    return module.apply(variables, x, start=start, stop=stop)


def _numbers(used: Iterable[dict[str, int]]) -> int:
    """Parameters of several parts; leaves that two of them share count once."""
    return sum({path: size for leaves in used for path, size in leaves.items()}.values())
