"""Trains all rates of a curve in one run behind one frozen head."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optax

from jaxsplit._moved import renamed_argument
from jaxsplit.data import LABELS, AnySource, Source, open_source
from jaxsplit.data.pipeline import check_batch
from jaxsplit.data.targets import reader_identity
from jaxsplit.errors import ConfigError
from jaxsplit.family import RateFamily
from jaxsplit.family.table_fitting import fit_tables
from jaxsplit.io import checkpoint
from jaxsplit.io.identity import identity
from jaxsplit.io.log import Log, no_log
from jaxsplit.networks import Backbone, LinenNetwork, fingerprint
from jaxsplit.networks.inference import batch_size
from jaxsplit.tasks import Classification
from jaxsplit.tasks.task import check_targets
from jaxsplit.train import arguments, features, loop, parallel, rate_groups
from jaxsplit.train.batches import FeatureCache, ImageBatches
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.freeze import freeze
from jaxsplit.train.loop import SAVE_EVERY
from jaxsplit.train.losses import Distortion, DistortionLoss
from jaxsplit.train.metrics import Metrics, MetricsWriter, Progress, Reports
from jaxsplit.train.network_blocks import NETWORK, with_blocks
from jaxsplit.train.rate_groups import Group, make_groups
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units import BottleneckSpec


def default_phases(steps: int, distortion: DistortionLoss | None = None) -> tuple[Phase, ...]:
    """Returns phases: feature error for a tenth of the steps, then noise, then rounding.

    Args:
      steps: of all phases together.
      distortion: of the last two; default: distillation from the unsplit network.

    >>> [(phase.steps, phase.quantization) for phase in default_phases(1000)]
    [(100, 'noise'), (450, 'noise'), (450, 'round')]
    """
    distortion = distortion or Distortion()
    first = steps // 10
    second = (steps - first) // 2
    return (
        Phase(first, Distortion(distillation=0.0, features=10.0)),
        Phase(second, distortion),
        Phase(steps - first - second, distortion, "round"),
    )


@renamed_argument("spec", "unit")
@renamed_argument("tell", "log")
def train_family(
    backbone: Backbone | str | Path,
    cut: str,
    lambdas: arguments.Lambdas,
    *,
    data: AnySource = "embedded",
    unit: arguments.Units | None = None,
    channels: int = 12,
    stride: int = 2,
    loss: DistortionLoss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 1200,
    phases: Sequence[Phase] | None = None,
    workdir: str | Path | None = None,
    progress: Progress | bool = True,
    log: Log | None = None,
    **options: Any,
) -> RateFamily:
    """Trains all rates of one cut in one run.

    Args:
      backbone: the frozen network, such as from `load_backbone`; or a name for that.
      cut: one of its endpoints.
      lambdas: rate weight of each rate, smaller for more bits: by name, or a list for r1, r2, ….
      data: the images: a name as `--data` takes it, a `Source`, or arrays (images, labels), see
        `jaxsplit.data.from_arrays`; images alone where no loss uses labels.
      unit: a `BottleneckSpec`, a `jaxsplit.Unit` of your own, or `jaxsplit.per_tensor` where
        several arrays cross the cut; or units of some rates by their names.
      channels, stride: of units that aren't given, with 3×3 kernels up to stride 2 and
        stride×stride ones above.
      loss: the distortion of the last two phases, a `Distortion` or a callable of your own (see
        `losses.DistortionLoss`); default: distillation from the unsplit network.
      optimizer: of each rate's parameters, in place of Adam with clipping and a schedule.
      steps: length, see `default_phases`.
      phases: the phases of the training, in place of steps and loss.
      workdir: folder for checkpoints, metrics and cached features; the same call resumes from
        there. None keeps everything in memory.
      progress: True: shown on stderr. False: silence. Or a callable of step, steps and metrics.
      log: log callback; default: shown with the progress.
      **options: other fields of `CurveConfig`: batch_size, learning_rate, ema, seed, max_samples, …

    Returns:
      The family, ready for `codec` and `save`.

    Raises:
      ConfigError: an argument doesn't fit.
      DataError: the images are of other classes than the backbone's, or arrays are no images.

    >>> import jaxsplit
    >>> backbone = jaxsplit.load_backbone("fashion_mnist_resnet8")
    >>> family = train_family(
    ...     backbone, "stage3.block1", [1e-3, 1e-4], channels=4,
    ...     phases=[Phase(4, Distortion(distillation=0, features=1))],
    ...     max_samples=64, batch_size=16, progress=False,
    ... )
    >>> [(rate.rate_id, rate.spec.channels) for rate in family.rates]
    [('r1', 4), ('r2', 4)]
    """
    arguments.check_names(options, inspect.signature(train_family).parameters)
    arguments.check_parts(steps, loss, optimizer, phases, progress=progress, log=log)
    backbone, weights = arguments.as_backbone(backbone), arguments.named_lambdas(lambdas)
    default, specs = BottleneckSpec.from_stride(channels, stride), options.pop("specs", None)
    spec, own = arguments.shared_and_own(unit, specs, default, weights)
    name, source = arguments.source_of(data, backbone, options)
    config = CurveConfig(
        # A backbone from a file has no name; its fingerprint keys the checkpoints.
        backbone=backbone.weights or backbone.fingerprint,
        cut=cut,
        spec=spec,
        rates=tuple(Rate(rate, lmbda, own.get(rate)) for rate, lmbda in weights.items()),
        phases=default_phases(int(steps), loss) if phases is None else tuple(phases),
        data=name,
        optimizer=optimizer,
        **options,
    )
    folder = None if workdir is None else Path(workdir)
    with arguments.shown_progress(progress, log, weights) as callbacks:
        return train_curve(config, backbone, folder, *callbacks, source=source)


@renamed_argument("tell", "log")
def train_curve(
    config: CurveConfig,
    backbone: Backbone,
    workdir: Path | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
    *,
    source: Source | None = None,
    save_every: int = SAVE_EVERY,
) -> RateFamily:
    """Trains all rates behind one frozen head, and builds their tables.

    Args:
      config: the training.
      backbone: the frozen network; part of no checkpoint.
      workdir: folder for checkpoints, metrics and cached features; a checkpoint of the same
        config, weights and images is resumed. None keeps everything in memory.
      progress: called with the metrics of all rates.
      log: log callback.
      source: training images that are at hand, in place of those that the config names.
      save_every: steps between checkpoints.

    Returns:
      The family, with tables according to `config.tables`; not yet measured.

    Raises:
      ConfigError: there are fewer training examples than a batch takes, the devices can't share
        a batch equally, or the network is trained too, for which see `train_networks`.
      DataError: the images are of other classes than the backbone's.

    >>> import jaxsplit
    >>> backbone = jaxsplit.load_backbone("fashion_mnist_resnet8")
    >>> phase = Phase(4, Distortion(distillation=0, features=1))
    >>> config = CurveConfig(
    ...     "fashion_mnist_resnet8", "stage3.block1", BottleneckSpec(channels=4),
    ...     rates=(Rate("r1", 1e-3),), phases=(phase,), max_samples=64, batch_size=16,
    ... )
    >>> family = train_curve(config, backbone)
    >>> family.cut, family["r1"].tables.channels
    ('stage3.block1', 4)
    """
    if config.trainable != "unit":
        raise ConfigError(
            f"trainable is {config.trainable!r}, but a family has one frozen network: expected "
            "'unit', or call jaxsplit.train.curve.train_networks"
        )
    family, source = train_rates(
        config, backbone, workdir, progress, log, source=source, save_every=save_every
    )
    if config.tables == "prior":
        return family
    return fit_tables(family, backbone.fold(), source, tables=config.tables)


@renamed_argument("tell", "log")
def train_networks(
    config: CurveConfig,
    backbone: Backbone,
    workdir: Path | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
) -> tuple[tuple[RateFamily, Backbone], ...]:
    """Trains as `train_curve` does, for any `config.trainable`.

    Feature errors and distillation refer to the frozen network. For arguments and errors see
    `train_curve`; the backbone should not be folded.

    Returns:
      For every rate a family of it alone, and its network.
    """
    family, source = train_rates(config, backbone, workdir, progress, log)
    pairs = []
    for rate in family.rates:
        params, own = dict(rate.variables["params"]), backbone
        if blocks := params.pop(NETWORK, {}):
            variables = with_blocks(backbone.variables, blocks)
            own = dataclasses.replace(
                backbone, variables=variables, fingerprint=fingerprint(variables), weights=None
            )
        rate = dataclasses.replace(rate, variables={**rate.variables, "params": params})
        alone = dataclasses.replace(
            family,
            rates=(rate,),
            backbone_fingerprint=own.fingerprint,
            weights=own.weights,
            bound=own,
        )
        if config.tables != "prior":
            alone = fit_tables(alone, own, source, tables=config.tables)
        pairs.append((alone, own))
    return tuple(pairs)


@renamed_argument("tell", "log")
def train_rates(
    config: CurveConfig,
    backbone: Backbone,
    workdir: Path | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
    *,
    source: Source | None = None,
    save_every: int = SAVE_EVERY,
) -> tuple[RateFamily, Source]:
    """Trains as `train_curve` does, for any `config.trainable`, without fitting tables.

    Returns:
      The family with tables of the priors, and the training images. Where blocks of the network
      are trained, variables of rates hold them too.
    """
    log = log or no_log
    frozen = backbone.fold()
    groups = make_groups(frozen, config.cut, config.unit, config.rates, parallel.AXIS)
    if source is None:
        source = open_source(config.data, split=config.train_split, max_samples=config.max_samples)
    # Own distortions may use the targets.
    needed = any(getattr(phase.distortion, "labels", True) for phase in config.phases)
    check_targets(backbone.task, source, needed)
    # What can't be trained is refused before hours of features.
    check_batch(len(source) * len(config.shown), config.batch_size)
    parallel.devices_for(config.batch_size)
    if config.initialization == "pca":
        groups[0].split.single  # noqa: B018 — refuses several arrays
    key = training_key(config.key, frozen, source.listing)
    names = [rate.rate_id for rate in config.rates]
    with MetricsWriter(workdir, names, key) as writer:  # refuses a busy folder at once
        cached = functools.partial(
            features.compute,
            frozen,
            config.cut,
            dtype=config.feature_dtype,
            directory=workdir / "features" if workdir else None,
            cache=config.cache,
            max_bytes=config.cache_gib * 2**30,
            log=log,
        )
        examples = cached(source, views=config.shown)
        directory = workdir / f"checkpoints-{key}" if workdir else None
        state = loop.resume(rate_groups.first_state(config, backbone, groups), directory)
        if int(state.step):
            log(f"{int(state.step)} of {config.steps} steps are done")
        elif config.initialization == "pca":
            log("computing principal components")
            state = rate_groups.pca_state(config, frozen, groups, state, examples, source)
        if config.trainable == "all" and isinstance(examples, FeatureCache):
            images = ImageBatches(backbone, source, config.shown, examples.scale)
            examples = dataclasses.replace(examples, images=images)
        measure = _validation(config, frozen, groups, cached) if config.evaluate_every else None
        total = config.steps
        reports = Reports(total=total, names=names, progress=progress, writer=writer, log=log)
        state = rate_groups.fit_phases(
            config, backbone, groups, state, examples, measure, reports, directory, save_every
        )
    return freeze(config, backbone, groups, state), source


def _validation(
    config: CurveConfig,
    frozen: Backbone,
    groups: Sequence[Group],
    cached: Callable[[Source], FeatureCache | ImageBatches],
) -> Callable[..., Metrics]:
    """Returns the function that evaluates a state on the test images, which `cached` reads."""
    test = open_source(config.data, split=config.test_split, max_samples=config.max_eval_samples)
    size = batch_size(frozen.preprocessing.input_shape)
    in_turn = functools.partial(cached(test).in_turn, size)
    return rate_groups.make_evaluate(groups, frozen, in_turn, config.rate_vectorization)


def training_key(config: str, backbone: Backbone, *images: str) -> str:
    """Returns a short name of a training: its config, and the content that this only names."""
    own = [
        json.dumps(identity(value), sort_keys=True)
        for value, kind in ((backbone.network, LinenNetwork), (backbone.task, Classification))
        if type(value) is not kind
    ]
    if (reader := backbone.task.target_reader) is not LABELS:
        own.append(json.dumps(reader_identity(reader), sort_keys=True))
    return checkpoint.short_key(config, backbone.fingerprint, *images, *own)
