"""The interface of a task: losses, metrics and predictions of a network's outputs."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxsplit.data import Source
from jaxsplit.tasks.metric import Metric, metric_of

if TYPE_CHECKING:
    import jax

    from jaxsplit.tasks.metric import Mean

#: Outputs of a network for a batch: logits [B, K] of a classifier, any pytree of arrays [B, …].
Outputs = Any
#: Targets of a batch: labels int [B] for a classifier, any pytree of arrays [B, …].
Targets = Any


class Task(abc.ABC):
    """Losses, metrics and predictions of a network's outputs.

    A task is a hashable value without arrays. Its functions are pure and can be jitted. All arrays
    have a leading axis B of images.

    Attributes:
      name: of the kind of task, such as "classification".
      quality: the metric that rates are chosen and curves compared by.
      metrics: metric → how it reads, `quality` first.

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
          outputs: of the network, through the unit.
          teacher: of the unsplit network.
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
        known = self.metrics
        return {name: known[name].value(x) if name in known else x for name, x in means.items()}

    @abc.abstractmethod
    def predict(self, outputs: Outputs) -> jax.Array:
        """Computes predictions, arrays like targets.

        Args:
          outputs: of the network.

        Returns:
          Integers: class indices [B], or a mask [B, H, W].
        """

    def agreement(self, outputs: Outputs, predicted: Targets) -> np.ndarray:
        """Computes the agreement with the unsplit network: `quality`, its predictions as targets.

        Args:
          outputs: of the network, through the unit.
          predicted: by the unsplit network, from `predict`.

        Returns:
          Statistics of each image, as those of `quality`.
        """
        return np.asarray(self.measure(outputs, predicted)[self.quality])

    def metric(self, name: str) -> Metric:
        """Returns the label, unit and direction of a metric, or of "agreement".

        Args:
          name: of the metric.

        Returns:
          Label, unit and direction.

        Raises:
          ConfigError: the task has no such metric.
        """
        return metric_of(self.metrics, name)

    def sampled_log_likelihood(
        self, outputs: Outputs, key: jax.Array, temperature: float = 1.0
    ) -> jax.Array:
        """Computes the log-likelihood of a target drawn from the network's distribution.

        Its gradient gives the Fisher information. Only start="principal" needs it.

        Args:
          outputs: of the network.
          key: of the drawn targets.
          temperature: divides the logits.

        Returns:
          float [B], in nats, without a gradient through the draw.

        Raises:
          NotImplementedError: the task does not define it.
        """
        raise NotImplementedError(f"{self.name} defines no sampled_log_likelihood")

    def check_source(self, source: Source) -> None:  # noqa: B027 — any targets fit by default
        """Checks that images have targets of this task.

        Args:
          source: the images.

        Raises:
          DataError: the targets don't fit the task, such as labels of other classes.
        """

    def describe(self, outputs: Outputs) -> list[dict[str, object]]:
        """Formats predictions for people.

        Args:
          outputs: of the network, for B images.

        Returns:
          For each image what is predicted, name → value, ready for JSON.
        """
        return [{"prediction": one.tolist()} for one in np.asarray(self.predict(outputs))]
