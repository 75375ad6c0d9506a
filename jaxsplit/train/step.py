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

from jaxsplit import ops
from jaxsplit.errors import ConfigError
from jaxsplit.split import Split
from jaxsplit.train import losses, parallel
from jaxsplit.train.state import TrainState
from jaxsplit.train.trainable import NETWORK, rate_features, rate_network
from jaxsplit.units.bottleneck import BottleneckSpec

#: How the rates of a group share a step: side by side, one after the other, or each written out.
BATCHINGS = ("auto", "vmap", "map", "unroll")
COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Rate:
    """One rate of a curve.

    Attributes:
      rate_id: its name.
      lmbda: distortion per bit.
      spec: form of its unit; None: the curve's.

    >>> Rate("r1", 1e-3).lmbda
    0.001
    """

    rate_id: str
    lmbda: float
    spec: BottleneckSpec | None = None

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

    >>> Phase(1000, losses.Distortion(), "round").quantization
    'round'
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
    split: Split,
    rates: tuple[Rate, ...],
    optimizer: optax.GradientTransformation,
    seed: int,
    ema: bool = False,
    blocks: Any = None,
) -> TrainState:
    """The state of all rates: every leaf but `step` has a leading axis R.

    All rates start from the same unit, so that a rate trained alone starts where it would in
    company. With `ema` a running mean of the units is kept beside them. With each unit learn the
    `blocks` of the network, as of `learning_blocks`.
    """
    variables = jax.jit(dataclasses.replace(split, axis_name=None).init)(jax.random.key(seed))
    if blocks:
        variables = {**variables, "params": {**variables["params"], NETWORK: blocks}}
    one = TrainState.create(variables, optimizer, jnp.zeros(split.spec.channels), ema)
    stacked = jax.tree.map(lambda x: jnp.stack([x] * len(rates)), one)
    return dataclasses.replace(stacked, step=one.step)


def over_rates(function: Callable[..., Any], batching: str) -> Callable[..., Any]:
    """Applies a function of one rate to trees with a leading axis of rates.

    Args:
      function: of the trees of one rate.
      batching: "vmap" computes the rates side by side, which shares what they have in common;
        "map" one after the other, in the memory of one; "unroll" as "map", but written out, for
        XLA to order as it likes; "auto" is "unroll" on CPUs, where it was measured fastest at
        every cut that was tried, though it compiles longer, and "vmap" elsewhere.
    """
    if batching == "auto":
        batching = "unroll" if jax.default_backend() == "cpu" else "vmap"
    if batching == "vmap":
        return jax.vmap(function)
    if batching == "map":
        return lambda *trees: jax.lax.map(lambda one: function(*one), trees)

    def unrolled(*trees: Any) -> Any:
        count = len(jax.tree.leaves(trees)[0])
        done = [function(*jax.tree.map(lambda x, i=i: x[i], trees)) for i in range(count)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *done)

    return unrolled


def cast_params(variables: Any, dtype: str) -> Any:
    """`{"params", …}` with the parameters in `dtype`; batch statistics stay as they are.

    >>> cast_params({"params": {"w": jnp.zeros(2)}}, "bfloat16")["params"]["w"].dtype.name
    'bfloat16'
    """
    return {**variables, "params": jax.tree.map(lambda x: x.astype(dtype), variables["params"])}


def make_step(
    split: Split,
    phase: Phase,
    optimizer: optax.GradientTransformation,
    *,
    batching: str = "vmap",
    compute_dtype: str = "float32",
    ema: float = 0.0,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """The training step of rates of one form, to be mapped over `parallel.AXIS`.

    Args:
      split: the cut, with `axis_name=parallel.AXIS`.
      phase: distortion and quantisation.
      optimizer: applied to each rate by itself.
      batching: how the rates share the step, as of `over_rates`.
      compute_dtype: of the unit's and the tail's arithmetic; parameters, the prior, rounding and
        the loss are float32 whatever it is.
      ema: how much of its running mean a unit keeps with every step, less at the beginning; 0
        where the state has none.

    Returns:
      step(state, batch, constants) → (state, metrics). batch: features [B, H, W, Cin], teacher
      [B, K], label [B], index [B], and pixels [B, h, w, c] where heads learn; constants: backbone
      (variables), lmbda [R], key [R], scale, and network as of `rate_network` where it learns.
      Metrics are means over the batch, [R]: loss, bits, distortion, top1 (against the labels).

      Where a batch has slopes, for every rate the gradient [B, H, W, Cin] of each image's
      distortion behind the tail by what `make_reconstruct` gives, the step runs no tail: it takes
      the distortion for linear, which has the same gradient. The metrics then lack its value.
    """
    loss = _make_loss(split, phase, compute_dtype)

    def step(state: TrainState, batch: Any, constants: Any) -> tuple[TrainState, Any]:
        def one_rate(
            params: Any, stats: Any, offsets: jax.Array, lmbda: jax.Array, key: Any, slopes: Any
        ) -> Any:
            key = jax.random.fold_in(key, state.step)
            return jax.value_and_grad(loss, has_aux=True)(
                params, stats, offsets, lmbda, key, slopes, batch, constants
            )

        slopes = jnp.stack(batch["slopes"]) if "slopes" in batch else None
        rates = (state.params, state.batch_stats, state.offsets)
        (_, (batch_stats, metrics)), grads = over_rates(one_rate, batching)(
            *rates, constants["lmbda"], constants["key"], slopes
        )
        grads, metrics = jax.lax.pmean((grads, metrics), parallel.AXIS)
        updates, opt_state = jax.vmap(optimizer.update)(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = dataclasses.replace(
            state, step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state
        )
        if ema:
            # The first steps are far from what the unit becomes: its mean forgets them sooner.
            keep = jnp.minimum(ema, state.step / (state.step + 10))
            mean = optax.incremental_update(state.variables, state.ema, 1 - keep)
            state = dataclasses.replace(state, ema=mean)
        return state, metrics

    return step


def make_reconstruct(
    split: Split, phase: Phase, *, batching: str = "vmap", compute_dtype: str = "float32"
) -> Callable[[TrainState, Any, Any], tuple[jax.Array, ...]]:
    """What the tail would be given in a step of `make_step`, whose arguments these are.

    Returns:
      reconstruct(state, batch, constants) → for every rate float32 [B, H, W, Cin], with the noise
      or the rounding that a step from this state with this batch has.
    """
    forward = _make_forward(split, phase, compute_dtype)

    def reconstruct(state: TrainState, batch: Any, constants: Any) -> tuple[jax.Array, ...]:
        def one_rate(params: Any, stats: Any, offsets: jax.Array, key: jax.Array) -> jax.Array:
            key = jax.random.fold_in(key, state.step)
            seen, *_ = forward(params, stats, offsets, key, batch, constants)
            return seen.astype(jnp.float32)

        rates = (state.params, state.batch_stats, state.offsets, constants["key"])
        return tuple(over_rates(one_rate, batching)(*rates))

    return reconstruct


def _make_forward(split: Split, phase: Phase, dtype: str) -> Callable[..., Any]:
    """(params, batch_stats, offsets, key, batch, constants) of one rate.

    Returns the reconstruction, bits [B], new statistics, and the network, both as `dtype`.
    """

    def forward(
        params: Any,
        batch_stats: Any,
        offsets: jax.Array,
        key: jax.Array,
        batch: Any,
        constants: Any,
    ) -> tuple[jax.Array, jax.Array, Any, Any]:
        exact = {"params": params, "batch_stats": batch_stats}
        unit = cast_params(exact, dtype)
        network = cast_params(rate_network(split, params, constants), dtype)
        seen = rate_features(split, params, network, batch).astype(dtype)
        latent, encoder = split.unit.apply(
            unit, seen, True, method="encode", mutable=["batch_stats"]
        )
        latent = latent.astype(jnp.float32)
        # The key knows the example, not the device: n devices draw the noise of one.
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch["index"])
        noisy = jax.vmap(ops.add_uniform_noise)(latent, keys)
        bits = losses.rate(split.bits(exact, noisy))
        shift = offsets.reshape(1, 1, 1, -1)
        quantized = (
            noisy
            if phase.quantization == "noise"
            else ops.round_straight_through(latent - shift) + shift
        )
        reconstruction, decoder = split.unit.apply(
            unit, quantized.astype(dtype), True, method="decode", mutable=["batch_stats"]
        )
        stats = batch_stats
        if split.spec.batch_norm:
            stats = {
                "encoder": encoder["batch_stats"]["encoder"],
                "decoder": decoder["batch_stats"]["decoder"],
            }
        return reconstruction, bits, stats, network

    return forward


def _make_loss(split: Split, phase: Phase, dtype: str) -> Callable[..., tuple[jax.Array, Any]]:
    """(params, …, key, slopes, batch, constants) of one rate → its loss, (statistics, metrics)."""
    forward = _make_forward(split, phase, dtype)

    def loss(
        params: Any,
        batch_stats: Any,
        offsets: jax.Array,
        lmbda: jax.Array,
        key: jax.Array,
        slopes: jax.Array | None,
        batch: Any,
        constants: Any,
    ) -> tuple[jax.Array, Any]:
        seen, bits, stats, network = forward(params, batch_stats, offsets, key, batch, constants)
        reconstruction = seen.astype(jnp.float32)
        logits = None
        if phase.distortion.needs_tail and slopes is None:
            logits = split.tail(network, seen).astype(jnp.float32)
        distortion = phase.distortion(
            reconstruction=reconstruction,
            features=batch["features"].astype(jnp.float32),
            logits=logits,
            teacher=batch["teacher"],
            labels=batch["label"],
            scale=constants["scale"],
        )
        if slopes is not None:
            moved = reconstruction - jax.lax.stop_gradient(reconstruction)  # zero, but learns
            distortion += (slopes * moved).sum(axis=(1, 2, 3))
        value = jnp.mean(distortion + lmbda * bits)
        metrics = {"loss": value, "bits": bits.mean(), "distortion": distortion.mean()}
        if logits is not None:
            metrics["top1"] = jnp.mean(jnp.argmax(logits, -1) == batch["label"])
        return value, (stats, metrics)

    return loss
