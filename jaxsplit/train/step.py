"""The training step of a whole curve: every rate's unit learns at once behind one head."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsplit import losses, ops
from jaxsplit.errors import ConfigError
from jaxsplit.split import Split
from jaxsplit.train import parallel
from jaxsplit.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Rate:
    """One rate of a curve: its name and its lambda (distortion per bit)."""

    rate_id: str
    lmbda: float

    def __post_init__(self) -> None:
        if not 0 <= self.lmbda < math.inf:
            raise ConfigError(f"lambda of rate {self.rate_id} is {self.lmbda}; expected one ≥ 0")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of the training with one distortion.

    Attributes:
      steps: its length.
      distortion: what is weighed against the bits.
      quantization: what the decoder sees: "noise", or "round" with straight-through gradients,
        around the offsets that are best for the prior when the phase begins; the family keeps
        them. The bits are always those of the noisy latent.
    """

    steps: int
    distortion: losses.Distortion
    quantization: str = "noise"

    def __post_init__(self) -> None:
        if self.quantization not in ("noise", "round"):
            raise ConfigError(f"quantization is {self.quantization!r}; expected noise or round")
        if self.steps < 0:
            raise ConfigError(f"a phase has {self.steps} steps; expected 0 or more")


def rate_constants(rates: tuple[Rate, ...], seed: int) -> dict[str, jax.Array]:
    """Per rate: lambda, and a noise key that depends on the rate's name and not on its place."""
    base = jax.random.key(seed)
    keys = [jax.random.fold_in(base, zlib.crc32(rate.rate_id.encode())) for rate in rates]
    return {
        "lmbda": jnp.asarray([rate.lmbda for rate in rates], jnp.float32),
        "key": jnp.stack(keys),
    }


def init_state(
    split: Split, rates: tuple[Rate, ...], optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state of all rates: every leaf but `step` has a leading axis R.

    All rates start from the same unit, so that a rate trained alone starts where it would in
    company.
    """
    variables = jax.jit(dataclasses.replace(split, axis_name=None).init)(jax.random.key(seed))
    one = TrainState.create(variables, optimizer, jnp.zeros(split.spec.channels))
    stacked = jax.tree.map(lambda x: jnp.stack([x] * len(rates)), one)
    return dataclasses.replace(stacked, step=one.step)


def make_step(
    split: Split, phase: Phase, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """The training step of all rates, to be mapped over `parallel.AXIS`.

    Args:
      split: the cut, with `axis_name=parallel.AXIS`.
      phase: distortion and quantisation.
      optimizer: applied to each rate by itself.

    Returns:
      step(state, batch, constants) → (state, metrics). batch: features [B, H, W, Cin], teacher
      [B, K], label [B], index [B]; constants: backbone (variables), lmbda [R], key [R], scale.
      Metrics are means over the batch, [R]: loss, bits, distortion, top1 (against the labels).
    """

    def loss(
        params: Any,
        batch_stats: Any,
        offsets: jax.Array,
        lmbda: jax.Array,
        key: jax.Array,
        batch: Any,
        constants: Any,
    ) -> tuple[jax.Array, Any]:
        unit = {"params": params, "batch_stats": batch_stats}
        features = batch["features"].astype(jnp.float32)
        latent, encoder = split.unit.apply(
            unit, features, True, method="encode", mutable=["batch_stats"]
        )
        # The key knows the example, not the device: n devices draw the noise of one.
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch["index"])
        noisy = jax.vmap(ops.add_uniform_noise)(latent, keys)
        bits = losses.rate(split.bits(unit, noisy))
        shift = offsets.reshape(1, 1, 1, -1)
        quantized = (
            noisy
            if phase.quantization == "noise"
            else ops.round_straight_through(latent - shift) + shift
        )
        reconstruction, decoder = split.unit.apply(
            unit, quantized, True, method="decode", mutable=["batch_stats"]
        )
        logits = None
        if phase.distortion.needs_tail:
            logits = split.tail(constants["backbone"], reconstruction)
        distortion = phase.distortion(
            reconstruction=reconstruction,
            features=features,
            logits=logits,
            teacher=batch["teacher"],
            labels=batch["label"],
            scale=constants["scale"],
        )
        value = jnp.mean(distortion + lmbda * bits)
        stats = batch_stats
        if split.spec.batch_norm:
            stats = {
                "encoder": encoder["batch_stats"]["encoder"],
                "decoder": decoder["batch_stats"]["decoder"],
            }
        metrics = {"loss": value, "bits": bits.mean(), "distortion": distortion.mean()}
        if logits is not None:
            metrics["top1"] = jnp.mean(jnp.argmax(logits, -1) == batch["label"])
        return value, (stats, metrics)

    def step(state: TrainState, batch: Any, constants: Any) -> tuple[TrainState, Any]:
        def one_rate(
            params: Any, stats: Any, offsets: jax.Array, lmbda: jax.Array, key: jax.Array
        ) -> Any:
            key = jax.random.fold_in(key, state.step)
            return jax.value_and_grad(loss, has_aux=True)(
                params, stats, offsets, lmbda, key, batch, constants
            )

        (_, (batch_stats, metrics)), grads = jax.vmap(one_rate)(
            state.params, state.batch_stats, state.offsets, constants["lmbda"], constants["key"]
        )
        grads, metrics = jax.lax.pmean((grads, metrics), parallel.AXIS)
        updates, opt_state = jax.vmap(optimizer.update)(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = dataclasses.replace(
            state, step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state
        )
        return state, metrics

    return step
