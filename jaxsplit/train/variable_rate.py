"""The training step of a variable-rate unit: every image of a batch at a rate of its own."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsplit.codec.rates import check_level_name
from jaxsplit.errors import ConfigError
from jaxsplit.split import Split
from jaxsplit.train import parallel
from jaxsplit.train.state import Batch, Constants, TrainState
from jaxsplit.train.step import (
    Phase,
    Rate,
    Step,
    StepMetrics,
    per_image_loss,
    rate_states,
    updated,
)
from jaxsplit.units import UnitSpec, VariableRate, Variables
from jaxsplit.units.unit import Collection


def check_units(shared: UnitSpec, rates: Sequence[Rate], trainable: str) -> None:
    """Raises a ConfigError if a variable-rate unit can't serve all rates.

    Args:
      shared: the unit of rates without their own.
      rates: of the training.
      trainable: as in `CurveConfig`.
    """
    units = {rate.spec or shared for rate in rates}
    unit = next((one for one in units if isinstance(one, VariableRate)), None)
    if unit is None:
        return
    if len(units) > 1:
        raise ConfigError("a variable-rate unit is one for all rates; some have others")
    if trainable != "unit":
        raise ConfigError(
            f"trainable is {trainable!r}, which gives each rate its own network, but a "
            "variable-rate unit is one for all rates: expected 'unit'"
        )
    positions(unit, rates)  # refuses lambdas of other units
    for rate in rates:
        check_level_name(rate.rate_id, None)


def positions(unit: VariableRate, rates: Sequence[Rate]) -> np.ndarray:
    """Returns the positions of named rates, float32 [R]; a ConfigError if one is out of range."""
    return np.array([unit.position(rate.lmbda) for rate in rates], np.float32)


def at_rates(split: Split, variables: Variables, rates: Sequence[Rate]) -> Variables:
    """Returns a unit at named rates: the leaves [1, …] of a state become [R, …]."""
    unit = split.variable_unit
    one = jax.tree.map(lambda x: x[0], variables)
    each = [unit.at(one, position) for position in positions(unit, rates).tolist()]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def make_step(
    split: Split,
    phase: Phase,
    optimizer: optax.GradientTransformation,
    rates: Sequence[Rate],
    *,
    compute_dtype: str = "float32",
    ema: float = 0.0,
    weighting: float = 0.0,
) -> Step:
    """Returns the training step of one unit for all rates, to be mapped over `parallel.AXIS`.

    Positions are uniform, one from each of B equal parts of the range, so that every batch has
    rates of the whole range. The loss is the mean over images.

    Args:
      split: the cut, with a variable-rate unit and `axis_name=parallel.AXIS`.
      phase, optimizer, compute_dtype, ema: as in `step.make_step`.
      rates: at which metrics are reported: of the images nearest to each.
      weighting: power of lambda, relative to the middle one, that divides an image's loss.

    Returns:
      As `step.make_step`; the state's trees have a leading axis of 1, metrics are [R].
    """
    unit, named = split.variable_unit, positions(split.variable_unit, rates)

    def step(
        state: TrainState, batch: Batch, constants: Constants
    ) -> tuple[TrainState, StepMetrics]:
        own = jax.tree.map(lambda x: x[0], rate_states(state, constants.rates))
        position = _drawn(own.key, len(batch.index))
        weight = unit.weight(position)
        share = (unit.weight(jnp.asarray(0.5)) / weight) ** weighting

        def loss(
            params: optax.Params,
        ) -> tuple[jax.Array, tuple[Collection, StepMetrics]]:
            rate = own._replace(params=params, lmbda=weight, position=position)
            values, stats, metrics = per_image_loss(
                split, phase, compute_dtype, rate, batch, constants
            )
            return (values * share).mean(), (stats, metrics)

        (_, (stats, measured)), grads = jax.value_and_grad(loss, has_aux=True)(own.params)
        grads = jax.lax.pmean(grads, parallel.AXIS)
        metrics = near(named, position, measured)
        grads, stats = jax.tree.map(lambda x: x[None], (grads, stats))
        return updated(state, grads, stats, optimizer, ema), split.task.values(metrics)

    return step


def _drawn(key: jax.Array, count: int) -> jax.Array:
    """Draws a position for each image of this device: one from each part of the range."""
    first = jax.lax.axis_index(parallel.AXIS) * count
    slots = first + jnp.arange(count)
    total = count * jax.lax.axis_size(parallel.AXIS)
    inside = jax.vmap(lambda slot: jax.random.uniform(jax.random.fold_in(key, slot)))(slots)
    return (slots + inside) / total


def near(named: np.ndarray, position: jax.Array, metrics: StepMetrics) -> StepMetrics:
    """Averages metrics of images [B, …] over those nearest to each rate; of all if there is none.

    Returns [R, …], over all devices.
    """
    nearest = jnp.abs(position[:, None] - named[None]).argmin(axis=1)
    chosen = jax.nn.one_hot(nearest, len(named))
    counts = jax.lax.psum(chosen.sum(axis=0), parallel.AXIS)

    def mean(x: jax.Array) -> jax.Array:
        sums = jax.lax.psum(jnp.einsum("b...,br->r...", x, chosen), parallel.AXIS)
        whole = jax.lax.pmean(x.mean(axis=0), parallel.AXIS)
        shape = (-1,) + (1,) * (x.ndim - 1)
        count = counts.reshape(shape)
        return jnp.where(count > 0, sums / jnp.maximum(count, 1), whole[None])

    return {name: mean(x) for name, x in metrics.items()}
