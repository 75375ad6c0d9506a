"""Groups of rates: rates whose units have one architecture share a program.

Their state, training step and validation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsplit import networks
from jaxsplit.data import Preprocessing
from jaxsplit.networks import Variables
from jaxsplit.split import Split, make_split
from jaxsplit.train import losses, parallel
from jaxsplit.train.metrics import Metrics
from jaxsplit.train.records import Batch, CurveConstants, CurveState, RateConstants
from jaxsplit.train.step import (
    Phase,
    Rate,
    StepMetrics,
    cast_params,
    init_state,
    make_step,
    over_rates,
    rate_constants,
)
from jaxsplit.units import UnitSpec
from jaxsplit.units.quantization import Offsets

_T = TypeVar("_T")
#: The training step of a whole curve.
CurveStep = Callable[[CurveState, Batch, CurveConstants], tuple[CurveState, StepMetrics]]
# The network's variables, and a unit and offsets for each group.
_Evaluated = tuple[Variables, tuple[tuple[Variables, Offsets], ...]]


@dataclasses.dataclass(frozen=True)
class Group:
    """Rates whose units have one architecture.

    Attributes:
      split: the cut with that unit.
      rates: at least one.
      places: indices of the rates in the curve.
    """

    split: Split
    rates: tuple[Rate, ...]
    places: tuple[int, ...]


def make_groups(
    backbone: networks.Backbone,
    cut: str,
    spec: UnitSpec,
    rates: Sequence[Rate],
    axis_name: str | None = None,
) -> tuple[Group, ...]:
    """Groups rates by their units, `spec` where a rate has none of its own; see `make_split`."""
    places: dict[UnitSpec, list[int]] = {}
    for place, rate in enumerate(rates):
        places.setdefault(rate.spec or spec, []).append(place)
    return tuple(
        Group(
            make_split(backbone, cut, form, axis_name),
            tuple(rates[place] for place in found),
            tuple(found),
        )
        for form, found in places.items()
    )


def in_order(groups: Sequence[Group], per_group: Sequence[Iterable[_T]]) -> list[_T]:
    """Returns one value a rate, in the order of the curve, from the groups' values."""
    found = {
        place: value
        for group, values in zip(groups, per_group, strict=True)
        for place, value in zip(group.places, values, strict=True)
    }
    return [found[place] for place in sorted(found)]


def init_groups(
    groups: Sequence[Group],
    optimizer: optax.GradientTransformation,
    seed: int,
    ema: bool = False,
    blocks: Variables | None = None,
) -> CurveState:
    """Returns the state of all rates at step 0, see `init_state`."""
    return CurveState(
        tuple(
            init_state(group.split, group.rates, optimizer, seed, ema, blocks) for group in groups
        )
    )


def group_constants(groups: Sequence[Group], seed: int) -> tuple[RateConstants, ...]:
    """Returns rate weights and noise keys of every group, for `CurveConstants.groups`."""
    return tuple(rate_constants(group.rates, seed) for group in groups)


def make_curve_step(
    groups: Sequence[Group],
    phase: Phase,
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    *,
    compute_dtype: str = "float32",
    **options: Any,
) -> CurveStep:
    """Returns the training step of all rates, to be mapped over `parallel.AXIS`.

    It takes (state, batch, constants), see `make_step`. The batch has features and teacher, or
    images: then the head runs here, once for all rates, behind the backbone's `preprocessing`.
    Where heads are trained it needs images, and is faster with the frozen head's features too.
    """
    options["compute_dtype"] = compute_dtype
    steps = [make_step(group.split, phase, optimizer, **options) for group in groups]
    order = np.argsort([place for group in groups for place in group.places])
    split = groups[0].split  # head and tail are the same in all groups

    def with_head(batch: Batch, backbone: Variables) -> Batch:
        pixels = preprocessing.normalise(batch.images).astype(compute_dtype)
        if batch.features is not None:
            return dataclasses.replace(batch, pixels=pixels)
        frozen = cast_params(backbone, compute_dtype)
        features = jax.lax.stop_gradient(split.head(frozen, pixels))
        teacher = None
        if losses.needs_teacher(phase.distortion):
            outputs = jax.lax.stop_gradient(split.tail(frozen, features))
            teacher = jax.tree.map(lambda x: x.astype(jnp.float32), outputs)
        return dataclasses.replace(batch, features=features, teacher=teacher, pixels=pixels)

    def step(
        state: CurveState, batch: Batch, constants: CurveConstants
    ) -> tuple[CurveState, StepMetrics]:
        if batch.images is not None:
            batch = with_head(batch, constants.backbone)
        states, metrics = [], []
        for run, one, rates in zip(steps, state.groups, constants.groups, strict=True):
            one, measured = run(one, batch, constants.of(rates))
            states.append(one)
            metrics.append(measured)
        joined = jax.tree.map(lambda *parts: jnp.concatenate(parts)[order], *metrics)
        return CurveState(tuple(states)), joined

    return step


def with_best_offsets(groups: Sequence[Group], state: CurveState) -> CurveState:
    """Returns a state on the host with the offsets that cost the fewest bits under the priors."""
    states = []
    for group, old in zip(groups, state.groups, strict=True):
        units = jax.tree.map(np.asarray, old.result)
        offsets = [
            group.split.units.best_offsets(jax.tree.map(lambda x, i=i: x[i], units))
            for i in range(len(group.rates))
        ]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *offsets)
        states.append(dataclasses.replace(old, offsets=stacked))
    return CurveState(tuple(states))


def make_evaluate(
    groups: Sequence[Group],
    backbone: networks.Backbone,
    batches: Callable[[], Iterable[Batch]],
    batching: str = "vmap",
) -> Callable[[CurveState], Metrics]:
    """Returns a function that measures rounded latents, mapped over this process's devices.

    evaluate(state) → means over all images {"bits": [R], metric: [R]}, of the units' running means
    where there are some, with the state's offsets. The bits are the prior's. `batches` is called
    for each evaluation and yields every image once, with targets, and features or images.
    """

    def measure(variables: _Evaluated, batch: Batch) -> StepMetrics:
        network, units = variables
        if batch.images is not None:
            pixels = backbone.preprocessing.normalise(batch.images)
            features = groups[0].split.head(network, pixels)
        else:
            features = jax.tree.map(lambda x: x.astype(jnp.float32), batch.features)
        measured = []
        for group, own in zip(groups, units, strict=True):
            split = group.split

            def one_rate(unit: Variables, offsets: Offsets, split: Split = split) -> StepMetrics:
                latents = split.round(split.encode(unit, features), offsets)
                outputs = split.tail(network, split.decode(unit, latents))
                bits = losses.rate(split.bits(unit, latents))
                return {"bits": bits, **split.task.measure(outputs, batch.targets)}

            measured.append(over_rates(one_rate, batching)(*own))
        return {
            name: jnp.stack(in_order(groups, [one[name] for one in measured]), axis=1)
            for name in measured[0]
        }

    sums = parallel.make_sums(measure)

    def evaluate(state: CurveState) -> Metrics:
        units = tuple((group.result, group.offsets) for group in state.groups)
        totals = sums((backbone.variables, units), batches())
        count = totals.pop("examples")
        return groups[0].split.task.values({name: x / count for name, x in totals.items()})

    return evaluate
