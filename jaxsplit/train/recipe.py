"""Trains a family from plain arguments, for notebooks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optax

from jaxsplit.errors import ConfigError
from jaxsplit.family import RateFamily
from jaxsplit.family.table_fitting import fit_tables
from jaxsplit.io.log import Log
from jaxsplit.networks import Backbone, fingerprint
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.curve import train_curve, train_rates
from jaxsplit.train.fine_tuning import NETWORK, with_blocks
from jaxsplit.train.losses import Distortion, DistortionLoss
from jaxsplit.train.metrics import Progress
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units import BottleneckSpec, UnitSpec

_FEATURES = Distortion(distillation=0.0, features=10.0)


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
        Phase(first, _FEATURES),
        Phase(second, distortion),
        Phase(steps - first - second, distortion, "round"),
    )


def train_family(
    backbone: Backbone,
    cut: str,
    lambdas: Mapping[str, float],
    *,
    data: str = "embedded",
    channels: int = 12,
    stride: int = 2,
    spec: UnitSpec | None = None,
    specs: Mapping[str, UnitSpec] | None = None,
    loss: DistortionLoss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 1200,
    phases: Sequence[Phase] | None = None,
    workdir: str | Path | None = None,
    progress: Progress | None = None,
    tell: Log | None = None,
    **options: Any,
) -> RateFamily:
    """Trains all rates of one cut in one run.

    Args:
      backbone: the frozen network, such as from `load_backbone`.
      cut: one of its endpoints.
      lambdas: rate weight of each rate, by its name; smaller means more bits.
      data: the images, as `--data` takes them.
      channels, stride: of every unit, with 3×3 kernels up to stride 2 and stride×stride ones above.
      spec: the unit, in place of channels and stride: a `BottleneckSpec`, a `jaxsplit.units.Unit`
        of your own, or `jaxsplit.units.per_tensor` where several arrays cross the cut.
      specs: units of rates that differ from it, by their names.
      loss: the distortion of the last two phases, a `Distortion` or a callable of your own (see
        `losses.DistortionLoss`); default: distillation from the unsplit network.
      optimizer: of each rate's parameters, in place of Adam with clipping and a schedule.
      steps: length, see `default_phases`.
      phases: the phases of the training, in place of steps and loss.
      workdir: folder for checkpoints, metrics and cached features; the same call resumes from
        there. None keeps everything in memory.
      progress: called with step, steps and metrics, such as a `jaxsplit.io.progress.ProgressBar`.
      tell: log callback.
      **options: other fields of `CurveConfig`: batch_size, learning_rate, ema, seed, limit, …

    Returns:
      The family, ready for `Sender`, `Receiver` and `save`.

    Raises:
      ConfigError: an argument doesn't fit.
      DataError: the images are of other classes than the backbone's.

    >>> import jaxsplit
    >>> backbone = jaxsplit.load_backbone("fashion_mnist_resnet8")
    >>> family = train_family(
    ...     backbone, "stage3.block1", {"r1": 1e-3, "r2": 1e-4}, channels=4,
    ...     phases=[Phase(4, Distortion(distillation=0, features=1))], limit=64, batch_size=16,
    ... )
    >>> [(rate.rate_id, rate.spec.channels) for rate in family.rates]
    [('r1', 4), ('r2', 4)]
    """
    if unknown := sorted(set(specs or {}) - set(lambdas)):
        raise ConfigError(f"specs has {', '.join(unknown)}; the rates are {', '.join(lambdas)}")
    if spec is None:
        spec = BottleneckSpec.from_stride(channels, stride)
    rates = tuple(Rate(name, lmbda, (specs or {}).get(name)) for name, lmbda in lambdas.items())
    try:
        config = CurveConfig(
            # A backbone from a file has no name; its fingerprint keys the checkpoints.
            backbone=backbone.weights or backbone.fingerprint,
            cut=cut,
            spec=spec,
            rates=rates,
            phases=default_phases(steps, loss) if phases is None else tuple(phases),
            data=data,
            optimizer=optimizer,
            **options,
        )
    except TypeError as error:
        raise ConfigError(f"train_family: {error}") from error
    folder = None if workdir is None else Path(workdir)
    return train_curve(config, backbone, folder, progress, tell)


def train_networks(
    config: CurveConfig,
    backbone: Backbone,
    workdir: Path | None = None,
    progress: Progress | None = None,
    tell: Log | None = None,
) -> tuple[tuple[RateFamily, Backbone], ...]:
    """Trains as `train_curve` does, for any `config.trainable`.

    Loss, examples, noise, phases and schedule are the same. Feature errors and distillation refer
    to the frozen network. For arguments and errors see `train_curve`; the backbone should not be
    folded.

    Returns:
      For every rate a family of it alone, and its network.
    """
    family, source = train_rates(config, backbone, workdir, progress, tell)
    pairs = []
    for rate in family.rates:
        params = dict(rate.variables["params"])
        blocks = params.pop(NETWORK, {})
        variables = with_blocks(backbone.variables, blocks) if blocks else backbone.variables
        own = dataclasses.replace(
            backbone,
            variables=variables,
            fingerprint=fingerprint(variables) if blocks else backbone.fingerprint,
            weights=None if blocks else backbone.weights,
        )
        rate = dataclasses.replace(rate, variables={**rate.variables, "params": params})
        alone = dataclasses.replace(
            family, rates=(rate,), backbone_fingerprint=own.fingerprint, weights=own.weights
        )
        if config.tables != "prior":
            alone = fit_tables(alone, own, source, tables=config.tables)
        pairs.append((alone, own))
    return tuple(pairs)
