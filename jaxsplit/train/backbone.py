"""Trains a small backbone from labels, for `configs/*_backbone.py`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsplit import data, networks
from jaxsplit._moved import renamed_attributes
from jaxsplit.data import Augmentation, Preprocessing
from jaxsplit.data.pipeline import ImageBatch, check_batch
from jaxsplit.errors import ConfigError
from jaxsplit.io import checkpoint
from jaxsplit.io.log import Log, no_log
from jaxsplit.train import distributed, loop, parallel
from jaxsplit.train.config import check_config, digest
from jaxsplit.train.metrics import MetricsWriter, Progress, Reports
from jaxsplit.train.state import TrainState
from jaxsplit.train.step import StepMetrics
from jaxsplit.units.unit import Collection, Variables


@renamed_attributes
@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """A training of a backbone; defaults suit small residual networks on small images.

    Attributes:
      model: name that `jaxsplit.networks.create` knows.
      data: source of the training and test images, as `--data` takes it.
      preprocessing: geometry and normalization; saved with the weights.
      augmentation: of the training images.
      epochs, batch_size, seed: of the training.
      learning_rate, warmup: peak, after a linear warm-up over this share of all steps; then a
        cosine decay to zero.
      momentum, weight_decay: of SGD with Nesterov's momentum; only kernels decay.
      label_smoothing: share of the target spread over all classes.
      train_split, test_split: of the source. Test images are used once, after the training.
      max_samples: images of each split; None: all.
      initial: weights to start from, see `load_backbone`; None: random ones.
    """

    model: str
    data: str
    preprocessing: Preprocessing
    augmentation: Augmentation | None = None
    epochs: int = 16
    batch_size: int = 128
    seed: int = 0
    learning_rate: float = 0.1
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    train_split: str = "train"
    test_split: str = "test"
    max_samples: int | None = None
    initial: str | None = None

    def __post_init__(self) -> None:
        check_config(self)
        if self.warmup > 1:
            raise ConfigError(f"warmup is {self.warmup}; expected a share from 0 to 1")

    @property
    def key(self) -> str:
        """Short name of this training, for the folder of its checkpoints."""
        return digest(dataclasses.asdict(self))


def train_backbone(
    config: BackboneConfig,
    workdir: Path | None,
    progress: Progress | None = None,
    initial: networks.Backbone | None = None,
    log: Log | None = None,
    *,
    sources: tuple[data.Source, data.Source] | None = None,
) -> tuple[Variables, dict[str, float]]:
    """Trains a backbone, or resumes its checkpoint in `workdir`, and tests it once.

    `initial` is the backbone that `config.initial` names; `progress` gets loss and accuracy,
    `log` the current work. `sources` are training and test images in place of those that the
    configuration names.

    Returns:
      Variables {"params", "batch_stats"}, and a report: top-1 on the test split, its size, steps.

    Raises:
      ConfigError: there are too few training images, or `initial` is another network.
      DataError: `initial` has other classes, or the images no labels.
    """
    named = functools.partial(data.open_source, config.data, max_samples=config.max_samples)
    source = sources[0] if sources else named(split=config.train_split)
    source.check_labelled()
    check_batch(len(source), config.batch_size)
    steps_per_epoch = len(source) // config.batch_size
    steps = config.epochs * steps_per_epoch
    optimizer = _sgd(config, steps)
    variables = _first_variables(config, source, initial)
    key = checkpoint.short_key(config.key, source.listing, initial.fingerprint if initial else "")
    checkpoints = workdir / f"checkpoints-{key}" if workdir else None
    num_classes = len(source.class_names)
    with MetricsWriter(workdir, key=key) as writer:
        state = loop.fit(
            loop.resume(TrainState.create(variables, optimizer), checkpoints),
            _make_step(config, optimizer, num_classes),
            lambda start: map(
                distributed.share,
                data.batches(
                    source,
                    config.preprocessing,
                    config.batch_size,
                    seed=config.seed,
                    epochs=None,
                    augment=config.augmentation,
                    drop_remainder=True,
                    start_step=start,
                ),
            ),
            steps,
            batch_size=config.batch_size,
            constants=None,
            reports=Reports(progress=progress, writer=writer, log=log or no_log),
            directory=checkpoints,
            save_every=steps_per_epoch,
        )
    test = sources[1] if sources else named(split=config.test_split)
    # Weights are stored in half precision, and measured as stored.
    stored = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), state.variables)
    images, labels = data.load_arrays(test, config.preprocessing)
    logits = networks.predict(
        networks.create(config.model, num_classes), stored, config.preprocessing, images
    )
    top1 = float(np.mean(np.asarray(logits).argmax(-1) == labels))
    return stored, {"top1": top1, "test_images": len(labels), "steps": steps}


def _sgd(config: BackboneConfig, steps: int) -> optax.GradientTransformation:
    """SGD with Nesterov's momentum and a cosine schedule; arrays of one dimension do not decay."""
    warmup = max(1, round(config.warmup * steps))
    end = max(steps, warmup + 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, end)
    decayed = functools.partial(jax.tree.map, lambda p: p.ndim > 1)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.sgd(schedule, momentum=config.momentum, nesterov=True),
    )


def _first_variables(
    config: BackboneConfig, source: data.Source, initial: networks.Backbone | None
) -> Variables:
    """Variables of `initial`, or random ones."""
    if initial is None:
        module = networks.create(config.model, len(source.class_names))
        image = jnp.zeros((1, *config.preprocessing.input_shape))
        return jax.jit(module.init)(jax.random.key(config.seed), image)
    if initial.name != config.model:
        raise ConfigError(f"the initial weights are of {initial.name}; expected {config.model}")
    initial.task.check_source(source)
    return jax.tree.map(jnp.asarray, initial.variables)


def _make_step(
    config: BackboneConfig, optimizer: optax.GradientTransformation, num_classes: int
) -> Callable[[TrainState, ImageBatch, None], tuple[TrainState, StepMetrics]]:
    """The step, to be mapped over `parallel.AXIS`: (state, batch, None) → (state, metrics)."""
    module = networks.create(config.model, num_classes, parallel.AXIS)

    def loss(
        params: optax.Params, batch_stats: Collection, batch: ImageBatch
    ) -> tuple[jax.Array, tuple[Variables, jax.Array]]:
        images = config.preprocessing.normalize(batch["image"])
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = module.apply(variables, images, train=True, mutable=["batch_stats"])
        targets = jax.nn.one_hot(batch["label"], num_classes)
        targets = optax.smooth_labels(targets, config.label_smoothing)
        correct = jnp.mean(jnp.argmax(logits, -1) == batch["label"])
        return optax.softmax_cross_entropy(logits, targets).mean(), (updates, correct)

    def step(
        state: TrainState, batch: ImageBatch, constants: None
    ) -> tuple[TrainState, StepMetrics]:
        del constants
        (value, (updates, correct)), grads = jax.value_and_grad(loss, has_aux=True)(
            state.params, state.batch_stats, batch
        )
        grads, metrics = jax.lax.pmean((grads, {"loss": value, "top1": correct}), parallel.AXIS)
        change, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, change)
        state = TrainState(state.step + 1, params, updates["batch_stats"], opt_state)
        return state, metrics

    return step
