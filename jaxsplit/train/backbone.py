"""Trains a backbone from targets of its task, for `configs/*_backbone.py`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsplit import data, networks
from jaxsplit._moved import renamed_attributes
from jaxsplit.data import Augmentation, Preprocessing, Source
from jaxsplit.data.pipeline import ImageBatch, check_batch
from jaxsplit.errors import ConfigError
from jaxsplit.io import checkpoint
from jaxsplit.io.log import Log, no_log
from jaxsplit.networks.inference import batch_size
from jaxsplit.networks.registry import find_network
from jaxsplit.tasks import Classification, Task
from jaxsplit.tasks.stored import TaskFields
from jaxsplit.tasks.task import check_targets
from jaxsplit.train import distributed, loop, parallel
from jaxsplit.train.config import check_config, digest
from jaxsplit.train.metrics import MetricsWriter, Progress, Reports
from jaxsplit.train.state import TrainState
from jaxsplit.train.step import StepMetrics
from jaxsplit.units.unit import Collection, Variables
from jaxsplit.weights.transfer import take_over


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
      initial: weights to start from, see `load_backbone`; None: random ones. Those of a network
        that this one is built on, such as ImageNet's below a DeepLab, are taken over by name.
      task: what the network predicts; None: the classes of the images.
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
    task: TaskFields | None = None

    def __post_init__(self) -> None:
        check_config(self)
        if self.warmup > 1:
            raise ConfigError(f"warmup is {self.warmup}; expected a share from 0 to 1")

    @property
    def key(self) -> str:
        """Short name of this training, for the folder of its checkpoints."""
        values = dataclasses.asdict(self)
        # Without what there was not, so that folders of earlier versions are found.
        if self.task is None:
            del values["task"]
        if self.preprocessing.fit == "crop":
            del values["preprocessing"]["fit"]
        return digest(values)

    def task_for(self, source: Source) -> Task:
        """Returns the task of the network, for its input size.

        Args:
          source: the training images; a DataError if their targets don't fit.

        Returns:
          The task.
        """
        task = Classification(source.class_names) if self.task is None else self.task.make()
        check_targets(task, source, needed=True)
        return task.fitted(self.preprocessing)


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
      Variables {"params", "batch_stats"}, and a report: the task's metrics on the test split, such
      as top-1, its size, steps.

    Raises:
      ConfigError: there are too few training images, or `initial` is another network.
      DataError: `initial` has other classes, or the images no targets of the task.
    """
    named = functools.partial(data.open_source, config.data, max_samples=config.max_samples)
    source = sources[0] if sources else named(split=config.train_split)
    source.check_labelled()
    task = config.task_for(source)
    check_batch(len(source), config.batch_size)
    steps_per_epoch = len(source) // config.batch_size
    steps = config.epochs * steps_per_epoch
    optimizer = _sgd(config, steps)
    module = _module(config.model, task)
    variables = _first_variables(config, module, source, initial)
    key = checkpoint.short_key(config.key, source.listing, initial.fingerprint if initial else "")
    checkpoints = workdir / f"checkpoints-{key}" if workdir else None
    with MetricsWriter(workdir, key=key) as writer:
        state = loop.fit(
            loop.resume(TrainState.create(variables, optimizer), checkpoints),
            _make_step(config, optimizer, module, task),
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
                    targets=task.target_reader,
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
    measured = _measured(config.preprocessing, module, stored, task, test)
    return stored, {**measured, "test_images": len(test), "steps": steps}


def _module(model: str, task: Task) -> nn.Module:
    """Returns an included network with the task's classes, or a registered one."""
    network = find_network(model, len(getattr(task, "class_names", ()))).network
    if not isinstance(network, networks.LinenNetwork):
        raise ConfigError(f"{model} is a {type(network).__name__}; only a Linen module is trained")
    return network.module


def _measured(
    preprocessing: Preprocessing,
    module: nn.Module,
    variables: Variables,
    task: Task,
    source: data.Source,
) -> dict[str, float]:
    """Returns the metrics of `Task.measure` that the network reaches, as `Task.evaluate` has them.

    Raises a DataError if the images have no targets of the task.
    """
    check_targets(task, source, needed=True)
    images, targets = data.load_arrays(source, preprocessing, task.target_reader)
    size = batch_size(preprocessing.input_shape)
    predict = functools.partial(networks.predict, module, variables, preprocessing, size=size)
    found = [
        task.evaluate(predict(images[i : i + size]), targets[i : i + size])
        for i in range(0, len(images), size)
    ]
    means = {name: np.concatenate([one[name] for one in found]).mean(0) for name in found[0]}
    shapes = jax.eval_shape(task.measure, predict(images[:1]), targets[:1])
    return {name: float(x) for name, x in task.values(means).items() if name in shapes}


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
    config: BackboneConfig,
    module: nn.Module,
    source: data.Source,
    initial: networks.Backbone | None,
) -> Variables:
    """Variables of `initial`, or random ones where it has none of this name."""
    if initial is not None and initial.name == config.model:
        initial.task.check_source(source)
        return jax.tree.map(jnp.asarray, initial.variables)
    # Such as deeplabv3_resnet18 on resnet18.
    if initial is not None and not config.model.endswith(f"_{initial.name}"):
        raise ConfigError(f"the initial weights are of {initial.name}; expected {config.model}")
    image = jnp.zeros((1, *config.preprocessing.input_shape))
    first = jax.jit(module.init)(jax.random.key(config.seed), image)
    return first if initial is None else jax.tree.map(jnp.asarray, take_over(first, initial))


def _make_step(
    config: BackboneConfig,
    optimizer: optax.GradientTransformation,
    module: nn.Module,
    task: Task,
) -> Callable[[TrainState, ImageBatch, None], tuple[TrainState, StepMetrics]]:
    """The step, to be mapped over `parallel.AXIS`: (state, batch, None) → (state, metrics)."""
    if hasattr(module, "axis_name"):
        module = module.clone(axis_name=parallel.AXIS)

    def loss(
        params: optax.Params, batch_stats: Collection, batch: ImageBatch
    ) -> tuple[jax.Array, tuple[Variables, dict[str, jax.Array]]]:
        images = config.preprocessing.normalize(batch["image"])
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updates = module.apply(variables, images, train=True, mutable=["batch_stats"])
        nats = task.smoothed_loss(outputs, batch["label"], config.label_smoothing)
        found = task.measure(outputs, batch["label"])
        return nats.mean(), (updates, {name: x.mean(axis=0) for name, x in found.items()})

    def step(
        state: TrainState, batch: ImageBatch, constants: None
    ) -> tuple[TrainState, StepMetrics]:
        del constants
        (value, (updates, found)), grads = jax.value_and_grad(loss, has_aux=True)(
            state.params, state.batch_stats, batch
        )
        grads, metrics = jax.lax.pmean((grads, {"loss": value, **found}), parallel.AXIS)
        change, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, change)
        stats = updates.get("batch_stats", state.batch_stats)
        state = TrainState(state.step + 1, params, stats, opt_state)
        return state, task.values(metrics)

    return step
