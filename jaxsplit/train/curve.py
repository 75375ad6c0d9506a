"""Trains all rates of a curve in one run behind one frozen head."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsplit import data, networks
from jaxsplit.errors import ConfigError
from jaxsplit.family import FamilyRate, RateFamily
from jaxsplit.family.table_fitting import fit_tables
from jaxsplit.io import checkpoint
from jaxsplit.io.identity import identity
from jaxsplit.io.log import Log, no_log
from jaxsplit.io.versions import versions
from jaxsplit.networks import LinenNetwork
from jaxsplit.networks.inference import batch_size
from jaxsplit.tasks import Classification
from jaxsplit.train import batches, features, loop, parallel
from jaxsplit.train.batches import WithImages
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.fine_tuning import NETWORK, learning_blocks
from jaxsplit.train.losses import Distortion, Scale
from jaxsplit.train.metrics import Metrics, MetricsWriter, Progress, Reports
from jaxsplit.train.optimizer import make_optimizer as make_adam
from jaxsplit.train.pca import with_principal_units
from jaxsplit.train.rate_groups import (
    Group,
    group_constants,
    in_order,
    init_groups,
    make_curve_step,
    make_evaluate,
    make_groups,
    with_best_offsets,
)
from jaxsplit.train.records import CurveConstants, CurveState
from jaxsplit.train.step import Phase, cast_params

#: `features.compute` for one cut: source, views=… → its features, or its images.
Compute = Callable[..., features.FeatureCache | features.ImageBatches]
Examples = features.FeatureCache | features.ImageBatches | WithImages


def train_curve(
    config: CurveConfig,
    backbone: networks.Backbone,
    workdir: Path | None = None,
    progress: Progress | None = None,
    tell: Log | None = None,
) -> RateFamily:
    """Trains all rates behind one frozen head, and builds their tables.

    Args:
      config: the training.
      backbone: the frozen network; part of no checkpoint.
      workdir: folder for checkpoints, metrics and cached features; a checkpoint of the same
        config, weights and images is resumed. None keeps everything in memory.
      progress: called with the metrics of all rates.
      tell: log callback.

    Returns:
      The family, with tables according to `config.tables`; not yet measured.

    Raises:
      ConfigError: there are fewer training examples than a batch takes, the devices can't share
        a batch equally, or the network is trained too, for which see `train_networks`.
      DataError: the images are of other classes than the backbone's.

    >>> from jaxsplit.units.bottleneck import BottleneckSpec
    >>> from jaxsplit.weights.load import load_backbone
    >>> from jaxsplit.train.losses import Distortion
    >>> from jaxsplit.train.step import Phase, Rate
    >>> family = train_curve(
    ...     CurveConfig(
    ...         backbone="fashion_mnist_resnet8",
    ...         cut="stage3.block1",
    ...         spec=BottleneckSpec(channels=4),
    ...         rates=(Rate("r1", 1e-3),),
    ...         phases=(Phase(4, Distortion(distillation=0, features=1)),),
    ...         limit=64,
    ...         batch_size=16,
    ...     ),
    ...     load_backbone("fashion_mnist_resnet8"),
    ... )
    >>> family.cut, family["r1"].tables.channels
    ('stage3.block1', 4)
    """
    if config.trainable != "unit":
        raise ConfigError(
            f"trainable is {config.trainable!r}, but a family has one frozen network: expected "
            "'unit', or call jaxsplit.train.recipe.train_networks"
        )
    family, source = train_rates(config, backbone, workdir, progress, tell)
    if config.tables == "prior":
        return family
    return fit_tables(family, backbone.fold(), source, tables=config.tables)


def train_rates(
    config: CurveConfig,
    backbone: networks.Backbone,
    workdir: Path | None = None,
    progress: Progress | None = None,
    tell: Log | None = None,
) -> tuple[RateFamily, data.Source]:
    """Trains as `train_curve` does, for any `config.trainable`, without fitting tables.

    Returns:
      The family with tables of the priors, and the training images. Where blocks of the network
      are trained, variables of rates hold them too.
    """
    log = tell or no_log
    frozen = backbone.fold()
    groups = make_groups(frozen, config.cut, config.spec, config.rates, parallel.AXIS)
    source = data.open_source(config.data, split=config.train_split, limit=config.limit)
    backbone.task.check_source(source)
    count = len(source) * len(config.shown)
    if count < config.batch_size:  # before hours of features
        raise ConfigError(
            f"{count} training examples don't fill one batch of {config.batch_size}: "
            "raise the limit or make the batches smaller"
        )
    parallel.devices_for(config.batch_size)  # refuses a batch that they can't share
    keep: Compute = functools.partial(
        features.compute,
        frozen,
        config.cut,
        dtype=config.feature_dtype,
        directory=workdir / "features" if workdir else None,
        cache=config.cache,
        max_bytes=int(min(config.cache_gib * 2**30, 2**62)),
        tell=log,
    )
    if config.start == "principal":
        groups[0].split.units.one  # noqa: B018 — refuses several arrays before hours of features
    examples: Examples = keep(source, views=config.shown)
    # The config holds only names of network and images, whose content may change.
    own = [
        json.dumps(identity(value), sort_keys=True)
        for value, kind in ((frozen.network, LinenNetwork), (frozen.task, Classification))
        if type(value) is not kind
    ]
    key = checkpoint.key(config.key, backbone.fingerprint, source.listing, *own)
    directory = workdir / f"checkpoints-{key}" if workdir else None
    state = loop.resume(first_state(config, backbone, groups), directory)
    if int(state.step):
        log(f"{int(state.step)} of {config.steps} steps are done")
    first = config.phases[0].distortion
    if config.start == "principal" and isinstance(first, Distortion) and not int(state.step):
        log("computing principal components")
        # Some of the examples, equally many of each view.
        if isinstance(examples, features.FeatureCache):
            sample = batches.sample_of(examples, len(config.shown))
        else:
            sample = batches.sampled_features(frozen, config.cut, source, config.shown)
        origin = {"backbone": frozen, "distortion": first, "scale": examples.scale}
        state = with_principal_units(groups, state, sample, **origin, seed=config.seed)
    if config.trainable == "all" and isinstance(examples, features.FeatureCache):
        shown = backbone.preprocessing, config.shown, examples.scale
        examples = WithImages(examples, features.ImageBatches(source, *shown))
    evaluate = None
    if config.evaluate_every:
        test = data.open_source(config.data, split=config.test_split, limit=config.evaluate_limit)
        evaluate = _evaluation(config, frozen, groups, keep(test))
    names = [rate.rate_id for rate in config.rates]
    with MetricsWriter(workdir, names, key) as writer:
        reports = Reports(total=config.steps, names=names, progress=progress, writer=writer)
        state = _fit(
            config,
            backbone,
            groups,
            state,
            examples,
            evaluate,
            reports=reports,
            directory=directory,
        )
    return freeze(config, backbone, groups, state), source


def make_optimizer(config: CurveConfig) -> optax.GradientTransformation:
    """Returns the optimizer of the units, and of the network's blocks where they are trained."""
    if config.optimizer is not None:
        return config.optimizer
    rates = {"prior": config.prior_rate}
    if config.trainable != "unit":
        rates[NETWORK] = config.network_rate
    return make_adam(config.learning_rates(), max_norm=config.max_norm, **rates)


def first_state(
    config: CurveConfig, backbone: networks.Backbone, groups: Sequence[Group]
) -> CurveState:
    """Returns the state at step 0; `backbone` is the network before any folding."""
    blocks = learning_blocks(groups[0].split, backbone.variables, config.trainable)
    return init_groups(groups, make_optimizer(config), config.seed, config.ema > 0, blocks)


def make_constants(
    config: CurveConfig, backbone: networks.Backbone, groups: Sequence[Group], scale: Scale
) -> CurveConstants:
    """Returns the constants of `make_curve_step`; `scale` is the features'."""
    frozen = jax.tree.map(jnp.asarray, backbone.fold().variables)
    return CurveConstants(
        backbone=cast_params(frozen, config.compute_dtype),
        scale=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scale),
        groups=group_constants(groups, config.seed),
        network=None if config.trainable == "unit" else backbone.variables,
    )


def _evaluation(
    config: CurveConfig,
    backbone: networks.Backbone,
    groups: Sequence[Group],
    examples: features.FeatureCache | features.ImageBatches,
) -> Callable[[Phase, CurveState], Metrics]:
    """(phase, state) → validation metrics and bits of every rate."""
    size = batch_size(backbone.preprocessing.input_shape)
    in_turn = functools.partial(examples.in_turn, size)
    measure = make_evaluate(groups, backbone, in_turn, config.batching)

    def evaluate(phase: Phase, state: CurveState) -> Metrics:
        noisy = phase.quantization == "noise"
        return measure(with_best_offsets(groups, state) if noisy else state)

    return evaluate


def _fit(
    config: CurveConfig,
    backbone: networks.Backbone,
    groups: Sequence[Group],
    state: CurveState,
    examples: Examples,
    evaluate: Callable[[Phase, CurveState], Metrics] | None,
    **options: Any,
) -> CurveState:
    """Runs all phases; `options` are those of `loop.fit`."""
    adam = make_optimizer(config)
    constants = make_constants(config, backbone, groups, examples.scale)
    place = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    ids = [[rate.rate_id for rate in group.rates] for group in groups]
    end = 0
    for phase in config.phases:
        if phase.quantization == "round" and int(state.step) == end:
            state = with_best_offsets(groups, state)
        end += phase.steps
        step = make_curve_step(
            groups,
            phase,
            adam,
            backbone.preprocessing,
            batching=config.batching,
            compute_dtype=config.compute_dtype,
            ema=config.ema,
        )
        state = loop.fit(
            state,
            step,
            lambda start: examples.batches(config.batch_size, config.seed, start, **place),
            end,
            batch_size=config.batch_size,
            constants=constants,
            groups=ids,
            evaluate=evaluate and functools.partial(evaluate, phase),
            evaluate_every=config.evaluate_every,
            **options,
        )
    return with_best_offsets(groups, state) if config.phases[-1].quantization == "noise" else state


def freeze(
    config: CurveConfig, backbone: networks.Backbone, groups: Sequence[Group], state: CurveState
) -> RateFamily:
    """Returns the family of a trained state, with tables of the priors."""
    frozen = []
    for group, trained in zip(groups, state.groups, strict=True):
        rates = []
        for i, rate in enumerate(group.rates):
            variables = jax.tree.map(lambda x, i=i: np.asarray(x[i]), trained.result)
            offsets = jax.tree.map(lambda x, i=i: np.asarray(x[i]), trained.offsets)
            tables = group.split.units.tables(variables, offsets)
            spec = rate.spec or config.spec
            rates.append(FamilyRate(rate.rate_id, rate.lmbda, spec, variables, tables))
        frozen.append(rates)
    return RateFamily(
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        weights=backbone.weights,
        preprocessing=backbone.preprocessing,
        cut=config.cut,
        rates=tuple(in_order(groups, frozen)),
        card={
            "data": data.portable_name(config.data),
            "split": config.train_split,
            "seed": config.seed,
            "versions": versions(),
        },
    )
