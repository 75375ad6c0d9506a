"""The interface of a task and its metrics; imports no jax."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from jaxsplit.data import LABELS, Source, TargetReader
from jaxsplit.errors import ConfigError, choices, warn_once
from jaxsplit.trees import Array, Tree

if TYPE_CHECKING:
    import jax

    _Mean = TypeVar("_Mean", jax.Array, np.ndarray)

#: The metric that compares with the unsplit network, of every task.
AGREEMENT = "agreement"
#: Outputs of a network for a batch: logits [B, K] of a classifier, any pytree of arrays [B, …].
Outputs = Tree
#: Targets of a batch: labels int [B] for a classifier, one array [B, …] for any task.
Targets = Array


@dataclasses.dataclass(frozen=True)
class Metric:
    """Label, unit and direction of a task's metric.

    Attributes:
      label: for columns of tables, such as "top-1".
      unit: such as "%", for which a share from 0 to 1 is shown times 100.
      higher_is_better: the metric's direction.
      name: for axes, such as "top-1 accuracy"; the label by default.
      ratios: False where an image's statistic is its own value and the metric their mean, such as
        top-1. True where it is the numerators and denominators of K ratios, [2, K]: the metric is
        the mean of the K ratios of sums over images, such as a mean intersection over union.

    >>> metric = Metric("top-1", "%", name="top-1 accuracy")
    >>> metric.show(0.875), metric.show(metric.sign * (0.925 - 0.875)), metric.drop_unit
    ('87.50', '5.00', 'pp')
    """

    label: str
    unit: str
    higher_is_better: bool = True
    name: str = ""
    ratios: bool = False

    def value(self, mean: _Mean) -> _Mean:
        """Computes the metric of sets of images from the means of their statistics.

        Args:
          mean: [R] for R sets, or [R, 2, K] of ratios; NumPy or JAX.

        Returns:
          The values, [R]. A ratio without a denominator is left out; without any it is 0.
        """
        if not self.ratios:
            return mean
        above, below = mean[..., 0, :], mean[..., 1, :]
        seen = below > 0
        count = seen.sum(axis=-1)
        return (above * seen / (below + ~seen)).sum(axis=-1) / (count + (count == 0))

    @property
    def is_share(self) -> bool:
        """True for shares, 0 … 1, which are shown in percent."""
        return self.unit == "%"

    @property
    def scale(self) -> float:
        """The factor from a value to what is shown: 100 for a share, else 1."""
        return 100.0 if self.is_share else 1.0

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1: `sign * value` rises with the quality."""
        return 1 if self.higher_is_better else -1

    @property
    def drop_unit(self) -> str:
        """Unit of a difference of two values: percentage points for shares."""
        return "pp" if self.is_share else self.unit

    @property
    def title(self) -> str:
        """Name and unit, for an axis: "top-1 accuracy (%)"."""
        return f"{self.name or self.label} ({self.unit})" if self.unit else self.name or self.label

    def show(self, value: float | None, digits: int = 2, plus: str = "") -> str:
        """Formats a value in the metric's unit.

        Args:
          value: of the metric; None for an unknown one.
          digits: of a share, after the decimal point. In another unit there are two, or three
            significant ones below 0.1.
          plus: "+" to write the sign of positive values too.

        Returns:
          The text, "n/a" for None.

        >>> distance = Metric("RMSE", "m", higher_is_better=False)
        >>> distance.show(3.4567), distance.show(0.012345), distance.show(0)
        ('3.46', '0.0123', '0.00')
        """
        if value is None:
            return "n/a"
        if self.is_share:
            return f"{self.scale * value:{plus}z.{digits}f}"
        return f"{value:{plus}#.3g}" if 0 < abs(value) < 0.1 else f"{value:{plus}z.2f}"


#: Metrics of a classification; those of a file that names none.
CLASSIFICATION_METRICS: Mapping[str, Metric] = {
    "top1": Metric("top-1", "%", name="top-1 accuracy"),
    "top5": Metric("top-5", "%", name="top-5 accuracy"),
}


def metric_of(metrics: Mapping[str, Metric], name: str) -> Metric:
    """Returns one of a task's metrics, or "agreement" with the unsplit network.

    Agreement is the first metric with the unsplit network's predictions as targets.

    Args:
      metrics: of the task, the quality first.
      name: of the metric; a ConfigError if there is none such.

    Returns:
      Label, unit and direction.

    >>> metric_of({"rmse": Metric("RMSE", "m", higher_is_better=False)}, AGREEMENT)
    Metric(label='agreement', unit='m', higher_is_better=False, name='', ratios=False)
    """
    if name == AGREEMENT:
        return dataclasses.replace(next(iter(metrics.values())), label=AGREEMENT, name="")
    if name not in (known := (*metrics, AGREEMENT)):
        raise ConfigError(f"unknown metric {name!r}; choose {choices(name, known, ' or ')}")
    return metrics[name]


def reader_of(task: Task, source: Source) -> TargetReader:
    """Returns the reader of a task's targets; without them that of labels, which are all -1."""
    return task.target_reader if source.labelled else LABELS


def check_targets(task: Task, source: Source, needed: bool = False) -> None:
    """Checks that images have targets of a task, or none if none are needed.

    Args:
      task: of the network.
      source: the images; a DataError if their targets don't fit. Without labels there is one
        JaxsplitWarning: only the agreement with the unsplit network is measured.
      needed: targets are used, such as by a loss: a DataError without labels.
    """
    if needed or source.labelled:
        task.check_source(source)
        source.check_labelled()
    else:
        advice = "a folder for each class" if ":" in source.name else "(images, labels)"
        warn_once(
            "unlabelled",
            f"no labels in {source.name}: the agreement with the unsplit network is measured, not "
            f"{', '.join(task.metrics)}; for these, give {advice}",
        )


class Task(abc.ABC):
    """Losses, metrics and predictions of a network's outputs.

    A task is a hashable value without arrays. Its functions are pure and can be jitted. All arrays
    have a leading axis B of images.

    Attributes:
      name: of the kind of task, such as "classification".
      quality: the metric that rates are chosen and curves compared by.
      metrics: metric → how it reads, `quality` first.
      target_reader: reads the targets of a source's examples; by default their labels.

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

    @abc.abstractmethod
    def loss(self, outputs: Outputs, targets: Targets) -> jax.Array:
        """Computes the loss against targets.

        Args:
          outputs: of the network, through the unit.
          targets: of the images.

        Returns:
          float [B], in nats.
        """

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

    def values(self, means: Mapping[str, _Mean]) -> dict[str, _Mean]:
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
