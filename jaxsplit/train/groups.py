"""Rates of several forms behind one head: units of one form are a group with one program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsplit import entropy, networks
from jaxsplit.split import Split, make_split
from jaxsplit.train.state import CurveState
from jaxsplit.train.step import (
    Phase,
    Rate,
    cast_params,
    init_state,
    make_step,
    rate_constants,
)
from jaxsplit.units.bottleneck import BottleneckSpec


@dataclasses.dataclass(frozen=True)
class Group:
    """Rates whose units have one form.

    Attributes:
      split: the cut with that form.
      rates: at least one.
      places: of the rates in the curve.
    """

    split: Split
    rates: tuple[Rate, ...]
    places: tuple[int, ...]


def make_groups(
    backbone: networks.Backbone,
    cut: str,
    spec: BottleneckSpec,
    rates: Sequence[Rate],
    axis_name: str | None = None,
) -> tuple[Group, ...]:
    """The rates by the form of their units, `spec` where a rate has none of its own.

    Raises:
      ConfigError: there is no such cut, or a unit doesn't fit there.
    """
    places: dict[BottleneckSpec, list[int]] = {}
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


def in_order(groups: Sequence[Group], per_group: Sequence[Sequence[Any]]) -> list[Any]:
    """What the groups have for each of their rates, in the order of the curve."""
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
    blocks: Any = None,
) -> CurveState:
    """The state of all rates at step 0, as of `init_state`."""
    return CurveState(
        tuple(
            init_state(group.split, group.rates, optimizer, seed, ema, blocks) for group in groups
        )
    )


def group_constants(groups: Sequence[Group], seed: int) -> tuple[dict[str, jax.Array], ...]:
    """Lambdas and noise keys, which the step takes as its constants' "groups"."""
    return tuple(rate_constants(group.rates, seed) for group in groups)


def make_curve_step(
    groups: Sequence[Group],
    phase: Phase,
    optimizer: optax.GradientTransformation,
    preprocessing: Any,
    *,
    compute_dtype: str = "float32",
    **options: Any,
) -> Callable[[CurveState, Any, Any], tuple[CurveState, dict[str, jax.Array]]]:
    """The training step of all rates, to be mapped over `parallel.AXIS`.

    Args:
      groups: the rates, with splits whose axis name is `parallel.AXIS`.
      phase, optimizer, compute_dtype, options: as of `make_step`.
      preprocessing: the backbone's, for batches of images.

    Returns:
      step(state, batch, constants) → (state, metrics). A batch is as of `make_step`, or has image
      uint8 [B, h, w, c] in place of features and teacher: then the head runs here, once for all
      rates. Where heads learn it has the images anyway, and best beside the frozen one's features.
      constants: as of `make_step`, but groups as of `group_constants`. Metrics are [R].
    """
    steps = [
        make_step(group.split, phase, optimizer, compute_dtype=compute_dtype, **options)
        for group in groups
    ]
    order = np.argsort([place for group in groups for place in group.places])
    split = groups[0].split  # head and tail are the cut's, whatever the unit

    def seen(batch: Any, backbone: Any) -> dict[str, Any]:
        pixels = preprocessing.normalise(batch["image"]).astype(compute_dtype)
        if "features" in batch:
            return {"pixels": pixels}
        frozen = cast_params(backbone, compute_dtype)
        features = jax.lax.stop_gradient(split.head(frozen, pixels))
        teacher = None
        if phase.distortion.distillation:
            teacher = jax.lax.stop_gradient(split.tail(frozen, features)).astype(jnp.float32)
        return {"features": features, "teacher": teacher, "pixels": pixels}

    def step(state: CurveState, batch: Any, constants: Any) -> tuple[CurveState, Any]:
        if "image" in batch:
            batch = {**batch, **seen(batch, constants["backbone"])}
        shared = {name: value for name, value in constants.items() if name != "groups"}
        states, metrics = [], []
        for run, one, own in zip(steps, state.groups, constants["groups"], strict=True):
            one, said = run(one, batch, {**shared, **own})
            states.append(one)
            metrics.append(said)
        joined = jax.tree.map(lambda *parts: jnp.concatenate(parts)[order], *metrics)
        return CurveState(tuple(states)), joined

    return step


def with_best_offsets(forms: Sequence[Group], state: CurveState) -> CurveState:
    """The state with every channel rounding where it costs the fewest bits under its prior.

    Latents that a ReLU holds at zero or above round around zero, where most of them lie.
    """
    groups = []
    for form, group in zip(forms, state.groups, strict=True):
        if form.split.spec.latent_activation == "relu":
            groups.append(group)
            continue
        prior = jax.tree.map(np.asarray, group.result["params"]["prior"])
        offsets = [
            entropy.rounding_offsets(jax.tree.map(lambda x, i=i: x[i], prior))
            for i in range(len(group.offsets))
        ]
        groups.append(dataclasses.replace(group, offsets=np.stack(offsets)))
    return CurveState(tuple(groups))
