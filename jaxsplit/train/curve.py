"""Training a whole rate–accuracy curve in one pass: what `configs/*.py` describe."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsplit import data, entropy, models
from jaxsplit.bottleneck import BottleneckSpec
from jaxsplit.errors import ConfigError
from jaxsplit.family import FamilyRate, RateFamily
from jaxsplit.split import make_split
from jaxsplit.train import features, loop, parallel
from jaxsplit.train.metrics import MetricsWriter
from jaxsplit.train.state import TrainState
from jaxsplit.train.step import Phase, Rate, init_state, make_step, rate_constants


@dataclasses.dataclass(frozen=True)
class CurveConfig:
    """A training of all rates of one cut.

    Attributes:
      backbone: as of `load_backbone`: a name, or a file that knows its network.
      cut: endpoint of the backbone.
      spec: form of every rate's unit.
      rates: names and lambdas.
      phases: one after the other, over one learning-rate schedule.
      data, train_split, test_split, limit: the images; labels only serve metrics unless a
        phase's distortion has a weight for them.
      flip: also train on mirrored images.
      batch_size, seed: examples of a step (each seen by every rate), and every random choice.
      learning_rate: peak of Adam's, after `warmup` steps; a cosine decay follows.
      prior_rate: factor on the prior's learning rate, which bears more than the convolutions'.
      max_norm: bound on the norm of each rate's gradient.
      feature_dtype: of the cached features.
    """

    backbone: str
    cut: str
    spec: BottleneckSpec
    rates: tuple[Rate, ...]
    phases: tuple[Phase, ...]
    data: str = "embedded"
    train_split: str = "train"
    test_split: str = "test"
    limit: int | None = None
    flip: bool = False
    batch_size: int = 64
    seed: int = 0
    learning_rate: float = 5e-3
    warmup: int = 20
    prior_rate: float = 3.0
    max_norm: float = 1.0
    feature_dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.rates or not self.phases:
            raise ConfigError("a curve needs at least one rate and one phase")
        if self.batch_size < 1 or not 0 <= self.seed < 2**32:
            raise ConfigError(
                f"batch_size is {self.batch_size} and seed {self.seed}; "
                "expected at least 1, and 0 … 2**32 - 1"
            )
        if not (0 < self.learning_rate < math.inf and 0 <= self.prior_rate < math.inf):
            raise ConfigError(
                f"learning_rate is {self.learning_rate} and prior_rate {self.prior_rate}; "
                "expected more than 0, and at least 0"
            )
        if self.warmup < 0 or not self.max_norm > 0:
            raise ConfigError(
                f"warmup is {self.warmup} and max_norm {self.max_norm}; "
                "expected at least 0, and more than 0"
            )
        if self.feature_dtype not in ("float32", "float16"):
            raise ConfigError(
                f"feature_dtype is {self.feature_dtype!r}; expected float32 or float16"
            )

    @property
    def steps(self) -> int:
        """Length of the whole training."""
        return sum(phase.steps for phase in self.phases)

    @property
    def key(self) -> str:
        """Short name of exactly this training, for the folder of its checkpoints."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_optimizer(config: CurveConfig) -> optax.GradientTransformation:
    """Adam with clipping, warm-up and cosine decay; the prior learns `prior_rate` times as fast."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        min(config.warmup, max(1, config.steps // 2)),
        max(config.steps, 2),
        0.01 * config.learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.max_norm),
        optax.adam(schedule),
        optax.masked(
            optax.scale(config.prior_rate), lambda tree: {name: name == "prior" for name in tree}
        ),
    )


def train_curve(
    config: CurveConfig,
    backbone: models.Backbone,
    workdir: Path | None = None,
    progress: loop.Progress | None = None,
) -> RateFamily:
    """Trains every rate at once, behind one frozen head, and freezes their tables.

    Args:
      config: the training.
      backbone: frozen; it is an argument of every step and part of no state.
      workdir: folder for checkpoints and cached features, resumed from where it holds some of
        the same config; None keeps everything in memory.
      progress: told of the metrics of all rates as the training goes.

    Raises:
      DataError: the images are of other classes than the backbone's.
    """
    split = make_split(backbone, config.cut, config.spec, parallel.AXIS)
    source = data.open_source(config.data, split=config.train_split, limit=config.limit)
    backbone.check_classes(source)
    cache = features.compute(
        split,
        backbone,
        source,
        flip=config.flip,
        dtype=config.feature_dtype,
        directory=workdir / "features" if workdir else None,
    )
    optimizer = make_optimizer(config)
    state = init_state(split, config.rates, optimizer, config.seed)
    constants = {
        "backbone": jax.tree.map(jnp.asarray, backbone.variables),
        "scale": jnp.asarray(cache.scale, jnp.float32),
        **rate_constants(config.rates, config.seed),
    }

    def batches(start: int) -> Iterator[Any]:
        return cache.batches(
            config.batch_size,
            config.seed,
            start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    directory = workdir / f"checkpoints-{config.key}" if workdir else None
    state = loop.resume(state, directory)
    names = [rate.rate_id for rate in config.rates]
    end = 0
    with MetricsWriter(workdir, names) as writer:
        for phase in config.phases:
            if phase.quantization == "round" and int(state.step) == end:
                state = dataclasses.replace(state, offsets=best_offsets(state))
            end += phase.steps
            state = loop.fit(
                state,
                make_step(split, phase, optimizer),
                batches,
                end,
                batch_size=config.batch_size,
                constants=constants,
                total_steps=config.steps,
                names=names,
                progress=progress,
                writer=writer,
                directory=directory,
            )
    if config.phases[-1].quantization == "noise":
        state = dataclasses.replace(state, offsets=best_offsets(state))
    return freeze(config, backbone, state)


def best_offsets(state: TrainState) -> np.ndarray:
    """Where each rate's channels should round for the fewest bits under its prior, [R, C]."""
    prior = jax.tree.map(np.asarray, state.params["prior"])
    count = len(state.offsets)
    return np.stack(
        [entropy.rounding_offsets(jax.tree.map(lambda x, i=i: x[i], prior)) for i in range(count)]
    )


def freeze(config: CurveConfig, backbone: models.Backbone, state: TrainState) -> RateFamily:
    """The family of a trained state: one tree and one set of integer tables per rate."""
    rates = []
    for i, rate in enumerate(config.rates):
        variables = jax.tree.map(lambda x, i=i: np.asarray(x[i]), state.variables)
        tables = entropy.build_tables(variables["params"]["prior"], np.asarray(state.offsets[i]))
        rates.append(FamilyRate(rate.rate_id, rate.lmbda, config.spec, variables, tables))
    return RateFamily(
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        weights=backbone.weights,
        preprocessing=backbone.preprocessing,
        cut=config.cut,
        rates=tuple(rates),
    )
