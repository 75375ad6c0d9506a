"""The interface of a task: losses, metrics and predictions of a network's outputs."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from jaxsplit.data import Source

#: What a network gives for a batch: logits [B, K] of a classifier, any pytree of arrays [B, …].
Outputs = Any
#: What a source says about a batch: labels int [B] for a classifier, any pytree of arrays [B, …].
Targets = Any


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a figure of a task reads.

    Attributes:
      label: for tables and axes, such as "top-1".
      unit: such as "%"; a share from 0 to 1 is shown times 100 then.
      higher_is_better: its direction.

    >>> Metric("top-1", "%").higher_is_better
    True
    """

    label: str
    unit: str
    higher_is_better: bool = True


class Task(abc.ABC):
    """Everything that knows what a network's outputs mean.

    A task is a value: hashable, equal to another of the same content, without arrays. Its functions
    are pure and can be jitted. All arrays have a leading axis B of images.

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
          targets: the truth.

        Returns:
          float [B], in nats.
        """

    @abc.abstractmethod
    def distillation(
        self, outputs: Outputs, teacher: Outputs, temperature: float = 1.0
    ) -> jax.Array:
        """Computes the distance to the unsplit network's outputs; needs no targets.

        Args:
          outputs: of the network, through the unit.
          teacher: of the unsplit network.
          temperature: above 1, unlikely outputs count for more.

        Returns:
          float [B], in nats, 0 where both are equal.
        """

    @abc.abstractmethod
    def measure(self, outputs: Outputs, targets: Targets) -> dict[str, jax.Array]:
        """Measures each image.

        Args:
          outputs: of the network.
          targets: the truth, or predictions to agree with.

        Returns:
          Metric → [B], whose mean over images is the metric's value.
        """

    @abc.abstractmethod
    def predict(self, outputs: Outputs) -> jax.Array:
        """Returns the predictions, in the form of targets.

        Args:
          outputs: of the network.

        Returns:
          Integers: class indices [B], or a mask [B, H, W].
        """

    def agreement(self, outputs: Outputs, teacher: Outputs) -> jax.Array:
        """Measures how far predictions equal those of the unsplit network.

        Args:
          outputs: of the network, through the unit.
          teacher: of the unsplit network.

        Returns:
          [B], 1 where they are the same.
        """
        return self.measure(outputs, self.predict(teacher))[self.quality]

    def sampled_log_likelihood(
        self, outputs: Outputs, key: jax.Array, temperature: float = 1.0
    ) -> jax.Array:
        """Draws a target from the network's own distribution; returns its log-likelihood.

        Its gradient gives the Fisher information. Only start="principal" needs it.

        Args:
          outputs: of the network.
          key: of the draw.
          temperature: divides the logits.

        Returns:
          float [B], in nats; the draw itself has no gradient.

        Raises:
          NotImplementedError: the task does not define it.
        """
        raise NotImplementedError(f"{self.name} defines no sampled_log_likelihood")

    def check_source(self, source: Source) -> None:  # noqa: B027 — any targets fit by default
        """Refuses images whose targets are of another kind.

        Args:
          source: the images.

        Raises:
          DataError: such as other classes than the network's.
        """

    def describe(self, prediction: np.ndarray) -> str:
        """Returns a prediction as a person reads it.

        Args:
          prediction: of one image, as `predict` gives it without the leading axis.

        Returns:
          Such as a class name.
        """
        return str(prediction)
