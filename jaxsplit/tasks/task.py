"""The interface of a task: losses, metrics and predictions of a network's outputs."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from jaxsplit.data import Source

#: Outputs of a network for a batch: logits [B, K] of a classifier, any pytree of arrays [B, …].
Outputs = Any
#: Targets of a batch: labels int [B] for a classifier, any pytree of arrays [B, …].
Targets = Any


@dataclasses.dataclass(frozen=True)
class Metric:
    """Label and unit of a task's metric.

    Attributes:
      label: for tables and axes, such as "top-1".
      unit: such as "%", for which a share from 0 to 1 is shown times 100.
      higher_is_better: the metric's direction.

    >>> Metric("top-1", "%").higher_is_better
    True
    """

    label: str
    unit: str
    higher_is_better: bool = True


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
        """Computes the metrics of each image.

        Args:
          outputs: of the network.
          targets: of the images, or predictions to compare with.

        Returns:
          Metric → [B]; the mean over images is the metric's value.
        """

    @abc.abstractmethod
    def predict(self, outputs: Outputs) -> jax.Array:
        """Computes predictions, arrays like targets.

        Args:
          outputs: of the network.

        Returns:
          Integers: class indices [B], or a mask [B, H, W].
        """

    def agreement(self, outputs: Outputs, teacher: Outputs) -> jax.Array:
        """Computes the agreement of predictions with those of the unsplit network.

        Args:
          outputs: of the network, through the unit.
          teacher: of the unsplit network.

        Returns:
          [B], 1 for equal predictions.
        """
        return self.measure(outputs, self.predict(teacher))[self.quality]

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
          DataError: they don't, such as labels of other classes.
        """

    def describe(self, prediction: np.ndarray) -> str:
        """Formats a prediction for people, such as a class name.

        Args:
          prediction: of one image, from `predict`, without the leading axis.

        Returns:
          The text.
        """
        return str(prediction)
