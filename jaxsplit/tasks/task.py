"""The interface of a task and its metrics; imports no jax."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
from PIL import Image

from jaxsplit.data import LABELS, Preprocessing, Source, TargetReader
from jaxsplit.data.placement import Placement
from jaxsplit.errors import ConfigError, warn_once
from jaxsplit.tasks.metric import AGREEMENT, Metric, metric_of
from jaxsplit.trees import Array, Tree

if TYPE_CHECKING:
    import jax

    from jaxsplit.tasks.metric import Mean

#: Outputs of a network for a batch: logits [B, K] of a classifier, any pytree of arrays [B, …].
Outputs = Tree
#: Targets of a batch: labels int [B] for a classifier, one array [B, …] for any task.
Targets = Array


def reader_of(task: Task, source: Source) -> TargetReader:
    """Returns the reader of a task's targets; without them that of labels, which are all -1."""
    return task.target_reader if task.has_targets(source) else LABELS


def check_targets(task: Task, source: Source, needed: bool = False) -> None:
    """Checks that images have targets of a task, or none if none are needed.

    Args:
      task: of the network.
      source: the images; a DataError if their targets don't fit. Without labels there is one
        JaxsplitWarning: only the agreement with the unsplit network is measured.
      needed: targets are used, such as by a loss: a DataError without labels.
    """
    if needed or task.has_targets(source):
        task.check_source(source)
        source.check_labelled()
    else:
        what, layout, arrays = task.targets_are
        warn_once(
            "unlabelled",
            f"no {what} in {source.name}: the agreement with the unsplit network is measured, not "
            f"{', '.join(task.metrics)}; for these, give "
            f"{layout if ':' in source.name else arrays}",
        )


class TargetsAre(NamedTuple):
    """Words about a task's targets, for messages.

    Attributes:
      name: in the plural, such as "labels".
      layout: of a folder that has them.
      arrays: in memory.
    """

    name: str
    layout: str
    arrays: str


class Shown(NamedTuple):
    """A prediction for people.

    Attributes:
      values: name → value, ready for JSON.
      pictures: name → a picture of the image's size, such as a mask; empty where a prediction is
        no map.

    >>> len(Shown({"class": "dog"}).pictures)
    0
    """

    values: dict[str, object]
    pictures: Mapping[str, Image.Image] = MappingProxyType({})


class Task(abc.ABC):
    """Losses, metrics and predictions of a network's outputs.

    A task is a hashable value without arrays. Its functions are pure and can be jitted. All arrays
    have a leading axis B of images.

    Attributes:
      name: of the kind of task, such as "classification".
      quality: the metric that rates are chosen and curves compared by.
      metrics: metric → how it reads, `quality` first.
      target_reader: reads the targets of a source's examples; by default their labels.
      targets_are: words about them.
      has_maps: predictions are maps of the image, such as masks: frames carry the image's size, so
        that a map is shown at this size.

    >>> import jax.numpy as jnp
    >>> from jaxsplit.tasks import Classification
    >>> task = Classification(("cat", "dog"))
    >>> logits, labels = jnp.array([[2.0, 0.0]]), jnp.array([1])
    >>> task.quality, round(task.loss(logits, labels).item(), 3)
    ('top1', 2.127)
    """

    name: ClassVar[str]
    quality: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    target_reader: TargetReader = LABELS
    targets_are: ClassVar[TargetsAre] = TargetsAre(
        "labels", "a folder for each class", "(images, labels)"
    )
    has_maps: ClassVar[bool] = False

    def fitted(self, preprocessing: Preprocessing) -> Self:
        """Returns the task of a network with this preprocessing; by default as it is.

        Args:
          preprocessing: of the network, whose size that of predicted maps may follow.

        Returns:
          The task; every backbone holds such a one.
        """
        return self

    @abc.abstractmethod
    def loss(self, outputs: Outputs, targets: Targets) -> jax.Array:
        """Computes the loss against targets.

        Args:
          outputs: of the network, through the unit.
          targets: of the images.

        Returns:
          float [B], in nats.
        """

    def smoothed_loss(
        self, outputs: Outputs, targets: Targets, label_smoothing: float
    ) -> jax.Array:
        """Computes the loss of the training of a network, with label smoothing.

        Args:
          outputs, targets: as in `loss`.
          label_smoothing: share of a target that is spread over all classes; a ConfigError where
            the task has none.

        Returns:
          float [B], in nats; by default `loss`, without smoothing.
        """
        if label_smoothing:
            raise ConfigError(f"label_smoothing is {label_smoothing}; {self.name} has none: give 0")
        return self.loss(outputs, targets)

    @abc.abstractmethod
    def distillation(
        self, outputs: Outputs, teacher: Outputs, temperature: float = 1.0
    ) -> jax.Array:
        """Computes the distance to the unsplit network's outputs, without targets.

        Args:
          outputs, teacher: of the network, through the unit; of the unsplit network.
          temperature: larger ones give unlikely outputs more weight.

        Returns:
          float [B], in nats, 0 for equal outputs.
        """

    @abc.abstractmethod
    def measure(self, outputs: Outputs, targets: Targets) -> dict[str, jax.Array]:
        """Computes the metrics of training and validation, in a compiled program.

        A metric of a set of images is `Metric.value` of the mean of their statistics.

        Args:
          outputs: of the network.
          targets: of the images, or predictions to compare with.

        Returns:
          Metric → statistics of each image: [B], or [B, 2, K] for a metric with `Metric.ratios`.
          `quality` is among the metrics.
        """

    def evaluate(self, outputs: Outputs, targets: Targets) -> dict[str, np.ndarray]:
        """Computes all metrics, with NumPy, for an evaluation; by default those of `measure`.

        Args:
          outputs, targets: as in `measure`, of an evaluated batch.

        Returns:
          Metric → statistics of each image, as in `measure`.
        """
        return {name: np.asarray(x) for name, x in self.measure(outputs, targets).items()}

    def values(self, means: Mapping[str, Mean]) -> dict[str, Mean]:
        """Computes metrics from means over images, see `Metric.value`.

        Args:
          means: metric → mean of its statistics, for each of R sets; other entries stay.

        Returns:
          The same entries, [R] for a metric.
        """
        known = (*self.metrics, AGREEMENT)
        return {
            name: self.metric(name).value(x) if name in known else x for name, x in means.items()
        }

    @abc.abstractmethod
    def predict(self, outputs: Outputs) -> jax.Array:
        """Computes predictions, arrays like targets.

        Args:
          outputs: of the network.

        Returns:
          Integers: class indices [B], or a mask [B, H, W].
        """

    def agreement(self, outputs: Outputs, predicted: Targets) -> np.ndarray:
        """Computes `quality` with the unsplit network's predictions as targets.

        Args:
          outputs: of the network, through the unit.
          predicted: by the unsplit network, from `predict`.

        Returns:
          Statistics of each image, as those of `quality`.
        """
        return np.asarray(self.measure(outputs, predicted)[self.quality])

    def measure_with(
        self, outputs: Outputs, targets: Targets | None, teacher: Outputs | None
    ) -> dict[str, jax.Array]:
        """Computes what can be measured of a batch in training.

        Args:
          outputs: of the network, through the unit.
          targets: of the images, or None.
          teacher: outputs of the unsplit network, or None; unused with targets.

        Returns:
          `measure` with targets; without them `agreement` alone, and nothing without a teacher.
        """
        if targets is not None:
            return self.measure(outputs, targets)
        if teacher is None:
            return {}
        return {AGREEMENT: self.measure(outputs, self.predict(teacher))[self.quality]}

    def metric(self, name: str) -> Metric:
        """Returns one of the metrics, or "agreement", see `metric_of`.

        Args:
          name: of the metric; a ConfigError if there is none such.

        Returns:
          Label, unit and direction.
        """
        return metric_of(self.metrics, name)

    def sampled_log_likelihood(
        self, outputs: Outputs, key: jax.Array, temperature: float = 1.0
    ) -> jax.Array:
        """Computes the log-likelihood of a target drawn from the network's distribution.

        Its gradient gives the Fisher information. Only initialization="pca" needs it.

        Args:
          outputs: of the network.
          key: of the drawn targets.
          temperature: divides the logits.

        Returns:
          float [B], in nats, without a gradient through the draw.
        """
        raise NotImplementedError(f"{self.name} defines no sampled_log_likelihood")

    def has_targets(self, source: Source) -> bool:
        """Returns whether images have targets of this task, which may be no ones that fit.

        Args:
          source: the images.

        Returns:
          By default whether they have labels.
        """
        return source.labelled

    def check_source(self, source: Source) -> None:  # noqa: B027 — any targets fit by default
        """Checks that images have targets of this task.

        Args:
          source: the images; a DataError if their targets don't fit, such as other classes.
        """

    def describe(self, outputs: Outputs, top: int = 1) -> list[dict[str, object]]:
        """Formats predictions for people.

        Args:
          outputs: of the network, for B images.
          top: above 1, an entry "top" lists so many predictions of an image, if a task has them.

        Returns:
          For each image what is predicted, name → value, JSON.
        """
        return [{"prediction": one.tolist()} for one in np.asarray(self.predict(outputs))]

    def draw(self, predicted: Targets) -> list[Image.Image]:
        """Draws predictions, for reports.

        Args:
          predicted: as `predict` returns them, for B images.

        Returns:
          An image for each, of the size of the prediction; none by default.
        """
        return []

    @property
    def legend(self) -> Mapping[str, tuple[int, ...]]:
        """Name → (red, green, blue) of what `draw` draws; empty by default."""
        return {}

    def show(self, outputs: Outputs, placements: Sequence[Placement]) -> list[Shown]:
        """Formats predictions for people, in the geometry of the images; by default `describe`.

        Args:
          outputs: of the network, for B images.
          placements: of the images in the network's input, B of them.

        Returns:
          For each image the values of `describe`, and pictures of the image's size.
        """
        return [Shown(values) for values in self.describe(outputs)]
