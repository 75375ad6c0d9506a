"""Costs of every cut of a network, from traces of its parts."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import flax
import flax.linen as nn
import jax

from jaxsplit.cost.counting import inference_form, peak_bytes, program_macs, used_params
from jaxsplit.cost.unit_plan import CHANNELS, STRIDES, UnitPlan, joint_grid
from jaxsplit.errors import ConfigError, choices
from jaxsplit.io.log import Log, no_log, shown
from jaxsplit.io.text_table import text_table
from jaxsplit.networks import Backbone, Features, LinenNetwork, Network, as_network
from jaxsplit.networks.network import abstract_image, variable_shapes
from jaxsplit.trees import Structs, Traced
from jaxsplit.units import Shape

#: Latent size for which a unit is chosen at each cut, so that cuts are compared at equal size.
SYMBOLS = 1024
_SOON = 1.0  # seconds of work that need no progress


@dataclasses.dataclass(frozen=True)
class CutPlan:
    """Costs of one cut, for one image.

    Attributes:
      cut: endpoint of the network.
      feature_shape: (H, W, C) of the features at the cut, or of another rank; (n,) where several
        arrays of n numbers cross it.
      device_macs, server_macs: multiply-accumulates of head and tail (see `count_macs`), with batch
        normalization folded if the network supports it.
      device_params, server_params: parameters that head and tail use.
      device_peak_bytes: peak of the head's float32 activations (see `counting.peak_bytes`), without
        its weights.
      units: the units of the grid that fit the features, one for each array.

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
    units: tuple[UnitPlan, ...] = dataclasses.field(default=(), repr=False)

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
        """Selects the unit whose latent size is nearest to a target.

        Args:
          symbols: latent integers of one image.

        Returns:
          One of `units`, of equal ones that with the cheapest encoder; None if there is none.
        """
        by_cost = sorted(self.units, key=lambda unit: unit.encoder_macs)
        return min(by_cost, key=lambda u: abs(math.log(u.latent_symbols / symbols)), default=None)

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


@dataclasses.dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        size, count = "×".join(map(str, self.input_shape)), f"{len(self.cuts)} cuts"
        head = f"Plan({self.name!r}, {size} images, {self.macs:,} MACs, {count})"
        rows = [
            (
                cut.cut,
                "×".join(map(str, cut.feature_shape)),
                f"{100 * cut.device_macs_share:.0f} %",
                f"{100 * cut.device_params_share:.0f} %",
            )
            for cut in self.cuts
        ]
        return f"{head}\n{text_table([('cut', 'features', 'device MACs', 'device params'), *rows])}"

    def __getitem__(self, name: str) -> CutPlan:
        for cut in self.cuts:
            if cut.cut == name:
                return cut
        known = choices(name, [cut.cut for cut in self.cuts])
        raise ConfigError(f"{self.name} has no cut {name!r}; it has {known}")

    def to_dict(self) -> dict[str, object]:
        """Returns a dict for JSON: {"network", "input_shape", "macs", "params", "cuts": […]}."""
        values = {key: value for key, value in vars(self).items() if key != "name"}
        return {"network": self.name, **values, "cuts": [cut.to_dict() for cut in self.cuts]}


def make_plan(
    network: Backbone | Network | nn.Module,
    input_shape: Shape | None = None,
    variables: Traced | None = None,
    *,
    name: str | None = None,
    channels: Iterable[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    progress: bool | None = True,
    log: Log | None = None,
) -> Plan:
    """Counts the costs of every cut of a network and of a grid of units there; nothing is run.

    Args:
      network: a `Backbone`, which has the rest, a `Network`, or a Linen module with endpoints.
      input_shape, name: (H, W, c) of one image; of the network, by default its class.
      variables: its arrays, or their shapes; None: those of a module's `init`.
      channels, strides: the grid of units, for cuts that arrays (H, W, C) cross.
      progress: True: shown on stderr, where it takes seconds. False or None: silence.
      log: log callback, in place of that.

    Returns:
      All cuts, from the image to the outputs, each with its units.

    Raises:
      ConfigError: the image is too small, the grid is invalid, or variables are missing.

    >>> from jaxsplit import load_backbone
    >>> len(make_plan(load_backbone("fashion_mnist_resnet8"))["stage1.block1"].units)
    12
    """
    if isinstance(network, Backbone):
        shape, variables = network.preprocessing.input_shape, network.variables
        input_shape, name, network = input_shape or shape, name or network.name, network.network
    name, input_shape = name or type(network).__name__, tuple(input_shape or ())
    network, channels, image = as_network(network), tuple(channels), abstract_image(input_shape)
    try:
        if variables is None:
            if not isinstance(network, LinenNetwork):
                raise ConfigError(f"{name} has no init: give its variables")
            variables = variable_shapes(network.module, input_shape)
        with shown(progress, log, after=_SOON) as say:
            whole, halves = _parts(network, variables, image, say)
    except (flax.errors.FlaxError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{name} takes no images of {input_shape}: {error}") from error
    shapes = {cut: _shapes(head[-1].output) for cut, (head, _) in halves.items()}
    grids = {some: tuple(joint_grid(some, channels, strides)) for some in {*shapes.values()}}
    cuts = [
        CutPlan(
            cut,
            _shape(shapes[cut]),
            sum(part.macs for part in head),
            sum(part.macs for part in tail),
            _params(head),
            _params(tail),
            max(part.peak_bytes for part in head),
            grids[shapes[cut]],
        )
        for cut, (head, tail) in halves.items()
    ]
    return Plan(name, input_shape, sum(x.macs for x in whole), _params(whole), tuple(cuts))


class _Part(NamedTuple):
    """Costs of a part of a network: those of its folded program, its parameters unfolded."""

    macs: int
    peak_bytes: int
    params: dict[str, int]  # path → size
    output: Structs


def _parts(
    network: Network, variables: Traced, image: jax.ShapeDtypeStruct, log: Log = no_log
) -> tuple[list[_Part], dict[str, tuple[list[_Part], list[_Part]]]]:
    """Traces the parts of the unsplit network, and for every cut those of its head and tail.

    Heads and tails of a Linen module consist of its parts between endpoints, each traced once.
    """
    folded, arrays = inference_form(network, variables)

    def trace(run: Callable[..., Features], x: Structs) -> _Part:
        make_program = jax.make_jaxpr(functools.partial(run, folded), return_shape=True)
        program, output = make_program(arrays, x)
        params = used_params(functools.partial(run, network), variables, x)
        return _Part(program_macs(program.jaxpr), peak_bytes(program.jaxpr), params, output)

    if isinstance(network, LinenNetwork):
        parts: list[_Part] = []
        names = network.module.endpoints()
        for start, stop in itertools.pairwise((None, *names)):
            log("counting the costs of the cuts", len(parts), len(names), "parts")
            ends, x = {"start": start, "stop": stop}, parts[-1].output if parts else image
            parts.append(trace(lambda network, *x, ends=ends: network.module.apply(*x, **ends), x))
        return parts, {name: (parts[: i + 1], parts[i + 1 :]) for i, name in enumerate(names[:-1])}
    halves: dict[str, tuple[list[_Part], list[_Part]]] = {}
    for cut in (cuts := network.cuts()):
        log("counting the costs of the cuts", len(halves), len(cuts), "cuts")
        head = trace(lambda network, *given, cut=cut: network.head(*given, cut), image)
        tail = trace(lambda network, *given, cut=cut: network.tail(*given, cut), head.output)
        halves[cut] = ([head], [tail])
    return [trace(lambda network, *given: network(*given), image)], halves


def _shapes(features: Structs) -> tuple[Shape, ...]:
    """The shapes of one image's arrays."""
    return tuple(x.shape[1:] for x in jax.tree.leaves(features))


def _shape(shapes: Sequence[Shape]) -> Shape:
    """The shape of one image's array, or (n,) of the numbers in several."""
    return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)


def _params(parts: Sequence[_Part]) -> int:
    """Parameters of several parts; leaves that two of them share count once."""
    return sum({path: size for part in parts for path, size in part.params.items()}.values())
