"""The training step of the rates of one architecture, all behind one frozen head."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from jaxsplit._moved import renamed_argument
from jaxsplit.errors import ConfigError
from jaxsplit.io.fields import plain_numbers
from jaxsplit.networks import Features, Variables
from jaxsplit.split import Split
from jaxsplit.train import losses, parallel
from jaxsplit.train.network_blocks import NETWORK, rate_features, rate_network
from jaxsplit.train.state import Batch, Constants, RateConstants, TrainState
from jaxsplit.trees import Tree
from jaxsplit.units import BottleneckSpec, UnitSpec
from jaxsplit.units.quantization import Offsets
from jaxsplit.units.unit import Collection
from jaxsplit.units.unit import Variables as UnitVariables

#: How the rates of a group share a step: side by side, one after the other, or each written out.
VECTORIZATIONS = ("auto", "vmap", "map", "unroll")
COMPUTE_DTYPES = ("float32", "bfloat16")

#: Metric → means over a batch, scalars or, over the rates, [R].
StepMetrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch, Constants], tuple[TrainState, StepMetrics]]
Reconstruct = Callable[[TrainState, Batch, Constants], tuple[Features, ...]]

_Tree = TypeVar("_Tree")
_Loss = tuple[jax.Array, tuple[Collection, StepMetrics]]


@dataclasses.dataclass(frozen=True)
class Rate:
    """One rate of a curve.

    Attributes:
      rate_id: its name.
      lmbda: distortion per bit.
      spec: its unit; None: the curve's.

    >>> Rate("r1", 1e-3).lmbda
    0.001
    """

    rate_id: str
    lmbda: float
    spec: BottleneckSpec | UnitSpec | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        if not (isinstance(self.lmbda, int | float) and 0 <= self.lmbda < math.inf):
            raise ConfigError(f"lambda of rate {self.rate_id} is {self.lmbda!r}; expected one ≥ 0")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase of the training with one distortion.

    Attributes:
      steps: its length.
      distortion: a `Distortion` or a callable of your own, see `losses.DistortionLoss`.
      quantization: of the decoder's input: "noise", or "round" with straight-through gradients,
        around the offsets that are best for the prior at the beginning of the phase and stay in
        the family. The bits are always those of the noisy latent.

    >>> Phase(1000, losses.Distortion(), "round").quantization
    'round'
    """

    steps: int
    distortion: losses.Distortion | losses.DistortionLoss
    quantization: str = "noise"

    def __post_init__(self) -> None:
        plain_numbers(self)
        if self.quantization not in ("noise", "round"):
            raise ConfigError(f"quantization is {self.quantization!r}; expected noise or round")
        if not callable(self.distortion) or not isinstance(self.steps, int) or self.steps < 0:
            raise ConfigError(f"a phase has {self.steps!r} steps; expected 0 or more: {self}")


def rate_constants(rates: tuple[Rate, ...], seed: int) -> RateConstants:
    """Returns rate weights, and noise keys that depend on a rate's name, not on its position."""
    base = jax.random.key(seed)
    keys = [jax.random.fold_in(base, zlib.crc32(rate.rate_id.encode())) for rate in rates]
    lmbda = jnp.asarray([rate.lmbda for rate in rates], jnp.float32)
    return RateConstants(lmbda, jnp.stack(keys))


def init_state(
    split: Split,
    rates: tuple[Rate, ...],
    optimizer: optax.GradientTransformation,
    seed: int,
    ema: bool = False,
    blocks: Collection | None = None,
) -> TrainState:
    """Returns the state of all rates at step 0: every leaf but `step` has a leading axis R.

    All rates start from the same unit, as each does when trained alone. `ema` keeps a running mean
    of the units; `blocks` of the network are trained with each unit, see `learning_blocks`.
    """
    variables = jax.jit(dataclasses.replace(split, axis_name=None).init)(jax.random.key(seed))
    if NETWORK in variables["params"]:
        raise ConfigError(f"a unit's parameters can't be called {NETWORK!r}: rename them")
    if blocks:
        variables = {**variables, "params": {**variables["params"], NETWORK: blocks}}
    one = TrainState.create(variables, optimizer)
    offsets, mean = split.zero_offsets(), one.variables if ema else ()
    one = dataclasses.replace(one, offsets=offsets, ema=mean)
    # One program: by themselves, the arrays would compile one or two for every shape.
    stack = jax.jit(lambda one: jax.tree.map(lambda x: jnp.stack([x] * len(rates)), one))
    return dataclasses.replace(stack(one), step=one.step)


@renamed_argument("batching", "rate_vectorization")
def over_rates(function: Callable[..., _Tree], rate_vectorization: str) -> Callable[..., _Tree]:
    """Vectorizes a function of one rate over trees with a leading axis of rates.

    With "vmap", computes the rates side by side and shares common work; with "map", one after the
    other, in the memory of one; "unroll" is as "map", but without a loop, in an order that XLA
    chooses; "auto" is "unroll" on CPUs, where it was measured fastest at every cut that was tried,
    though it compiles longer, and "vmap" elsewhere.
    """
    if rate_vectorization == "auto":
        rate_vectorization = "unroll" if jax.default_backend() == "cpu" else "vmap"
    if rate_vectorization == "vmap":
        return jax.vmap(function)
    if rate_vectorization == "map":
        return lambda *trees: jax.lax.map(lambda one: function(*one), trees)

    def unrolled(*trees: Tree) -> _Tree:
        count = len(jax.tree.leaves(trees)[0])
        done = [function(*jax.tree.map(lambda x, i=i: x[i], trees)) for i in range(count)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *done)

    return unrolled


def cast_floats(tree: _Tree, dtype: DTypeLike) -> _Tree:
    """Casts floating-point arrays to `dtype`."""

    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def cast_params(variables: _Tree, dtype: str) -> _Tree:
    """Casts parameters to `dtype`: the collection "params", where there are collections.

    >>> cast_params({"params": {"w": jnp.zeros(2)}}, "bfloat16")["params"]["w"].dtype.name
    'bfloat16'
    """
    if isinstance(variables, Mapping) and "params" in variables:
        return cast("_Tree", {**variables, "params": cast_floats(variables["params"], dtype)})
    return cast_floats(variables, dtype)


class RateState(NamedTuple):
    """State and constants of one rate, or of several with a leading axis.

    Of a variable-rate unit, positions [B] and lambdas [B] are those of the images.
    """

    params: optax.Params
    batch_stats: Collection
    offsets: Offsets
    lmbda: jax.Array
    key: jax.Array  # of the noise of this step
    position: jax.Array | None = None


def rate_states(state: TrainState, rates: RateConstants) -> RateState:
    """Returns state and constants of the rates of a step, with the keys of its noise."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(rates.key, state.step)
    return RateState(state.params, state.batch_stats, state.offsets, rates.lmbda, keys)


@renamed_argument("batching", "rate_vectorization")
def make_step(
    split: Split,
    phase: Phase,
    optimizer: optax.GradientTransformation,
    *,
    rate_vectorization: str = "vmap",
    compute_dtype: str = "float32",
    ema: float = 0.0,
) -> Step:
    """Returns the training step of rates of one architecture, to be mapped over `parallel.AXIS`.

    Args:
      split: the cut, with `axis_name=parallel.AXIS`.
      phase: distortion and quantization.
      optimizer: applied to each rate by itself.
      rate_vectorization: see `over_rates`.
      compute_dtype: of the unit's and the tail's arithmetic; all else stays float32.
      ema: decay of the running mean, smaller in the first steps; 0 where the state has none.

    Returns:
      step(state, batch, constants) → (state, metrics). The batch has features and teacher, and
      pixels where heads are trained; `constants.rates` are of these rates. Metrics are means over
      the batch, [R]: loss, bits, distortion, and, behind a tail, those of `Task.measure_with`.
    """

    def step(
        state: TrainState, batch: Batch, constants: Constants
    ) -> tuple[TrainState, StepMetrics]:
        def one_rate(rate: RateState) -> tuple[_Loss, optax.Updates]:
            def loss(params: optax.Params) -> _Loss:
                own = rate._replace(params=params)
                return _rate_distortion_loss(split, phase, compute_dtype, own, batch, constants)

            return jax.value_and_grad(loss, has_aux=True)(rate.params)

        rates = rate_states(state, constants.rates)
        (_, (batch_stats, metrics)), grads = over_rates(one_rate, rate_vectorization)(rates)
        grads, metrics = jax.lax.pmean((grads, metrics), parallel.AXIS)
        return updated(state, grads, batch_stats, optimizer, ema), split.task.values(metrics)

    return step


def updated(
    state: TrainState,
    grads: optax.Updates,
    batch_stats: Collection,
    optimizer: optax.GradientTransformation,
    ema: float,
) -> TrainState:
    """Returns the state after a step of the optimizer; all leaves have a leading axis of rates."""
    updates, opt_state = jax.vmap(optimizer.update)(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = dataclasses.replace(
        state, step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state
    )
    if not ema:
        return state
    # A smaller decay at first: early parameters are far from the final ones.
    keep = jnp.minimum(ema, state.step / (state.step + 10))
    mean = optax.incremental_update(state.variables, state.ema, 1 - keep)
    return dataclasses.replace(state, ema=mean)


def make_reconstruct(split: Split, phase: Phase) -> Reconstruct:
    """Returns (state, batch, constants) → each rate's input of the tail in `make_step`'s step."""

    def reconstruct(state: TrainState, batch: Batch, constants: Constants) -> tuple[Features, ...]:
        def one_rate(rate: RateState) -> Features:
            network = rate_network(split, rate.params, constants)
            return _run_unit(split, phase, "float32", rate, batch, network)[0]

        seen = jax.vmap(one_rate)(rate_states(state, constants.rates))
        count = len(constants.rates.key)
        return tuple(jax.tree.map(lambda x, i=i: x[i], seen) for i in range(count))

    return reconstruct


def _run_unit(
    split: Split,
    phase: Phase,
    dtype: str,
    rate: RateState,
    batch: Batch,
    network: Variables,
) -> tuple[Features, jax.Array, Collection]:
    """Computes the tail's input, bits [B] and new batch statistics of one rate."""
    exact: UnitVariables = {"params": rate.params, "batch_stats": rate.batch_stats}
    if rate.position is not None:
        exact = split.variable_unit.at(exact, rate.position)
    unit = cast_params(exact, dtype)
    features = cast_floats(rate_features(split, rate.params, network, batch), dtype)
    latents, stats = split.encode_train(unit, features, split.axis_name)
    latents = cast_floats(latents, jnp.float32)
    # Keys depend on the example, not on the device: n devices draw the noise of one.
    keys = jax.vmap(lambda i: jax.random.fold_in(rate.key, i))(batch.index)
    noisy = split.add_noise(latents, keys)
    bits = losses.rate(split.bits(exact, noisy))
    is_rounded = phase.quantization == "round"
    quantized = split.round(latents, rate.offsets, straight_through=True) if is_rounded else noisy
    unit = {**unit, "batch_stats": stats}
    seen, stats = split.decode_train(unit, cast_floats(quantized, dtype), split.axis_name)
    return seen, bits, stats


def _rate_distortion_loss(
    split: Split, phase: Phase, dtype: str, rate: RateState, batch: Batch, constants: Constants
) -> _Loss:
    """Computes one rate's distortion + lambda · bits, and its new (batch statistics, metrics)."""
    values, stats, metrics = per_image_loss(split, phase, dtype, rate, batch, constants)
    return values.mean(), (stats, {name: jnp.mean(x, axis=0) for name, x in metrics.items()})


def per_image_loss(
    split: Split,
    phase: Phase,
    dtype: str,
    rate: RateState,
    batch: Batch,
    constants: Constants,
) -> tuple[jax.Array, Collection, StepMetrics]:
    """Computes distortion + lambda · bits of each image.

    Returns losses [B], new batch statistics, and metrics [B, …].
    """
    network = cast_params(rate_network(split, rate.params, constants), dtype)
    seen, bits, stats = _run_unit(split, phase, dtype, rate, batch, network)
    outputs = None
    if getattr(phase.distortion, "needs_tail", True):
        outputs = cast_floats(split.tail(network, seen), jnp.float32)
    distortion = phase.distortion(
        losses.DistortionInputs(
            reconstruction=cast_floats(seen, jnp.float32),
            features=cast_floats(cast("Features", batch.features), jnp.float32),
            outputs=outputs,
            teacher=batch.teacher,
            targets=batch.targets,
            scale=constants.scale,
            task=split.task,
        )
    )
    values = distortion + rate.lmbda * bits
    metrics = {"loss": values, "bits": bits, "distortion": distortion}
    if outputs is not None:
        metrics |= split.task.measure_with(outputs, batch.targets, batch.teacher)
    return values, stats, metrics
