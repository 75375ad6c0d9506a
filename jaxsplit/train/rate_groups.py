"""Groups of rates whose units have one architecture: their state, training and validation."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import networks
from jaxsplit._moved import renamed_argument, renamed_field
from jaxsplit.data import Preprocessing, Source
from jaxsplit.split import Split, make_split
from jaxsplit.train import loop, losses, network_blocks, parallel, variable_rate
from jaxsplit.train import step as rate_step
from jaxsplit.train.batches import FeatureCache, ImageBatches, sample_of, sampled_features
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.metrics import Metrics, Reports
from jaxsplit.train.pca import best_step, loss_metric, pca_unit
from jaxsplit.train.state import Batch, Constants, CurveState, TrainState
from jaxsplit.train.step import Phase, Rate, StepMetrics
from jaxsplit.units import UnitSpec, Variables
from jaxsplit.units.quantization import Offsets

_Tree = TypeVar("_Tree")
CurveStep = Callable[[CurveState, Batch, Constants], tuple[CurveState, StepMetrics]]
_Units = tuple[tuple[Variables, Offsets], ...]  # a unit and offsets for each group


@renamed_field("places", "indices")
@dataclasses.dataclass(frozen=True)
class Group:
    """Rates whose units have one architecture, the cut with it, and their indices in the curve."""

    split: Split
    rates: tuple[Rate, ...]
    indices: tuple[int, ...]

    @property
    def trained(self) -> tuple[Rate, ...]:
        """The rates along the leading axis of the state: one where a unit serves all."""
        return self.rates[:1] if self.split.is_variable_rate else self.rates

    def units(self, state: TrainState) -> tuple[Variables, Offsets]:
        """Returns the units of all rates and their offsets, leaves [R, …]."""
        if not self.split.is_variable_rate:
            return state.result, state.offsets
        each = variable_rate.at_rates(self.split, state.result, self.rates)
        count = len(self.rates)
        return each, jax.tree.map(lambda x: jnp.concatenate([x] * count), state.offsets)


def make_groups(
    backbone: networks.Backbone,
    cut: str,
    spec: UnitSpec,
    rates: Sequence[Rate],
    axis_name: str | None = None,
) -> tuple[Group, ...]:
    """Groups rates by their units, `spec` where a rate has none of its own; see `make_split`."""
    indices: dict[UnitSpec, list[int]] = {}
    for index, rate in enumerate(rates):
        indices.setdefault(rate.spec or spec, []).append(index)
    return tuple(
        Group(make_split(backbone, cut, unit, axis_name), tuple(rates[i] for i in found), (*found,))
        for unit, found in indices.items()
    )


def in_order(groups: Sequence[Group], per_group: Sequence[_Tree]) -> _Tree:
    """Joins one tree of arrays [R, …] a group into one of all rates, in the order of the curve."""
    order = np.argsort([index for group in groups for index in group.indices])
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[order], *per_group)


def first_state(
    config: CurveConfig, backbone: networks.Backbone, groups: Sequence[Group]
) -> CurveState:
    """Returns the state at step 0; `backbone` is the network before any folding."""
    blocks = network_blocks.learning_blocks(groups[0].split, backbone.variables, config.trainable)
    options = config.make_optimizer(), config.seed, config.ema > 0, blocks
    return CurveState(
        tuple(rate_step.init_state(one.split, one.trained, *options) for one in groups)
    )


def make_constants(
    config: CurveConfig, backbone: networks.Backbone, scale: losses.Scale
) -> Constants:
    """Returns the constants of `make_curve_step`; `scale` is the features'."""
    frozen = jax.tree.map(jnp.asarray, backbone.fold().variables)
    return Constants(
        backbone=rate_step.cast_params(frozen, config.compute_dtype),
        scale=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scale),
        rates=rate_step.rate_constants(config.rates, config.seed),
        network=None if config.trainable == "unit" else backbone.variables,
    )


def with_pca_units(
    config: CurveConfig,
    frozen: networks.Backbone,
    groups: Sequence[Group],
    state: CurveState,
    features: np.ndarray,
    scale: float,
) -> CurveState:
    """Returns the state at step 0 with units from `pca_unit`, each with its lambda's step.

    For features and scale see `loss_metric`.
    """
    distortion = config.phases[0].distortion
    assert isinstance(distortion, losses.Distortion)  # the config refuses others
    states, key = [], jax.random.key(config.seed)
    for group, old in zip(groups, state.groups, strict=True):
        split, lambdas = group.split, [rate.lmbda for rate in group.rates]
        if split.is_variable_rate:
            unit = split.variable_unit
            split, lambdas = split.with_unit(unit.unit), [math.sqrt(math.prod(unit.lambdas))]
        apart = max(1, len(features) // (config.fisher_samples or len(features)))
        metric = loss_metric(split, frozen, features[::apart], distortion, scale, key)
        weight = float(np.trace(metric)) / len(metric)
        steps = [best_step(lmbda, weight, scale) for lmbda in lambdas]
        each = [pca_unit(split, features, step, key, metric) for step in steps]
        units = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        new = dataclasses.replace(
            old,
            params={**old.params, **units["params"]},  # keeps blocks of the network
            batch_stats=units.get("batch_stats", {}),
        )
        states.append(dataclasses.replace(new, ema=new.variables) if old.ema else new)
    return CurveState(tuple(states))


def pca_state(
    config: CurveConfig,
    frozen: networks.Backbone,
    groups: Sequence[Group],
    state: CurveState,
    examples: FeatureCache | ImageBatches,
    source: Source,
) -> CurveState:
    """Returns the state at step 0 with units from a sample of the training features."""
    if isinstance(examples, FeatureCache):
        sample = sample_of(examples.features, len(config.shown))
    else:
        sample = sampled_features(frozen, config.cut, source, config.shown)
    one = cast("tuple[np.ndarray, float]", (sample, examples.scale))  # others are refused
    return with_pca_units(config, frozen, groups, state, *one)


def make_curve_step(
    config: CurveConfig, groups: Sequence[Group], phase: Phase, preprocessing: Preprocessing
) -> CurveStep:
    """Returns the training step of all rates, to be mapped over `parallel.AXIS`.

    It takes (state, batch, constants), with the constants of all rates in their order. The batch
    has features and teacher, or images: then the head runs here, once for all rates, behind the
    backbone's `preprocessing`. Where heads are trained it needs images, and is faster with the
    frozen head's features too.
    """
    dtype = config.compute_dtype

    def make(group: Group) -> rate_step.Step:
        one = group.split, phase, config.make_optimizer()
        if group.split.is_variable_rate:
            share = config.lambda_weighting
            return variable_rate.make_step(
                *one, group.rates, compute_dtype=dtype, ema=config.ema, weighting=share
            )
        how = config.rate_vectorization
        return rate_step.make_step(
            *one, rate_vectorization=how, compute_dtype=dtype, ema=config.ema
        )

    steps = [make(group) for group in groups]
    split = groups[0].split  # head and tail are the same in all groups

    def with_head(batch: Batch, backbone: networks.Variables) -> Batch:
        pixels = preprocessing.normalize(batch.images).astype(dtype)
        if batch.features is not None:
            return dataclasses.replace(batch, pixels=pixels)
        frozen = rate_step.cast_params(backbone, dtype)
        features = split.head(frozen, pixels)
        teacher = None
        if getattr(phase.distortion, "needs_teacher", True):
            teacher = rate_step.cast_floats(split.tail(frozen, features), jnp.float32)
        return dataclasses.replace(batch, features=features, teacher=teacher, pixels=pixels)

    def step(
        state: CurveState, batch: Batch, constants: Constants
    ) -> tuple[CurveState, StepMetrics]:
        if batch.images is not None:
            batch = with_head(batch, constants.backbone)
        states, metrics = [], []
        for run, group, one in zip(steps, groups, state.groups, strict=True):
            indices = np.asarray(group.indices[: len(group.trained)])
            rates = jax.tree.map(lambda x, indices=indices: x[indices], constants.rates)
            one, measured = run(one, batch, dataclasses.replace(constants, rates=rates))
            states.append(one)
            metrics.append(measured)
        return CurveState(tuple(states)), in_order(groups, metrics)

    return step


def with_best_offsets(groups: Sequence[Group], state: CurveState) -> CurveState:
    """Returns a state on the host with the offsets that cost the fewest bits under the priors."""
    states = []
    for group, old in zip(groups, state.groups, strict=True):
        if group.split.is_variable_rate:
            states.append(old)  # it rounds around its medians
            continue
        best = rate_step.over_rates(group.split.best_offsets, "unroll")
        offsets = jax.device_get(best(jax.tree.map(np.asarray, old.result)))
        states.append(dataclasses.replace(old, offsets=offsets))
    return CurveState(tuple(states))


@renamed_argument("batching", "rate_vectorization")
def make_evaluate(
    groups: Sequence[Group],
    backbone: networks.Backbone,
    batches: Callable[[], Iterable[Batch]],
    rate_vectorization: str = "vmap",
) -> Callable[..., Metrics]:
    """Returns a function that measures rounded latents, mapped over this process's devices.

    evaluate(state, best_offsets=False) → means over all images {"bits": [R], metric: [R]}, of the
    units' running means where there are some, with the state's offsets or those of
    `with_best_offsets`. The bits are the prior's. `batches` yields every image once, with targets
    where there are some, and features or images.
    """

    def measure(variables: tuple[networks.Variables, _Units], batch: Batch) -> StepMetrics:
        network, units = variables
        if batch.images is not None:
            pixels = backbone.preprocessing.normalize(batch.images)
            features = groups[0].split.head(network, pixels)
        else:
            assert batch.features is not None
            features = rate_step.cast_floats(batch.features, jnp.float32)
        task = groups[0].split.task
        unsplit = groups[0].split.tail(network, features) if batch.targets is None else None
        measured = []
        for group, own in zip(groups, units, strict=True):
            split = group.split

            def one_rate(unit: Variables, offsets: Offsets, split: Split = split) -> StepMetrics:
                seen, bits = split.reconstruct(unit, features, offsets)
                measured = task.measure_with(split.tail(network, seen), batch.targets, unsplit)
                return {"bits": losses.rate(bits), **measured}

            measured.append(rate_step.over_rates(one_rate, rate_vectorization)(*own))
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), in_order(groups, measured))

    sums = parallel.make_sums(measure)

    def evaluate(state: CurveState, best_offsets: bool = False) -> Metrics:
        state = with_best_offsets(groups, state) if best_offsets else state
        pairs = zip(groups, state.groups, strict=True)
        units = tuple(group.units(own) for group, own in pairs)
        totals = sums((backbone.variables, units), batches())
        count = totals.pop("examples")
        return groups[0].split.task.values({name: x / count for name, x in totals.items()})

    return evaluate


def fit_phases(
    config: CurveConfig,
    backbone: networks.Backbone,
    groups: Sequence[Group],
    state: CurveState,
    examples: FeatureCache | ImageBatches,
    measure: Callable[..., Metrics] | None,
    reports: Reports,
    directory: Path | None,
    save_every: int = loop.SAVE_EVERY,
) -> CurveState:
    """Runs all phases, see `loop.fit`; `measure` comes from `make_evaluate`."""
    process = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    fit = functools.partial(
        loop.fit,
        batches=lambda start: examples.batches(config.batch_size, config.seed, start, **process),
        batch_size=config.batch_size,
        constants=make_constants(config, backbone, examples.scale),
        reports=reports,
        groups=[[rate.rate_id for rate in group.trained] for group in groups],
        evaluate_every=config.evaluate_every,
        directory=directory,
        save_every=save_every,
    )
    end = 0
    for phase in config.phases:
        noisy = phase.quantization == "noise"
        if not noisy and int(state.step) == end:
            state = with_best_offsets(groups, state)  # they stay, and go into the family
        end += phase.steps
        state = fit(
            state,
            make_curve_step(config, groups, phase, backbone.preprocessing),
            steps=end,
            evaluate=measure and functools.partial(measure, best_offsets=noisy),
        )
    return with_best_offsets(groups, state) if noisy else state
