"""The rate–distortion loss: bits of an image, and the parts of its distortion."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxsplit.errors import ConfigError
from jaxsplit.io.fields import plain_numbers
from jaxsplit.networks import Features
from jaxsplit.split import Latents
from jaxsplit.tasks import Outputs, Targets, Task
from jaxsplit.trees import Array, TreeOf

#: Mean square of the features over the training set: a number for each array that crosses.
Scale = TreeOf[Array | float]

__all__ = ["Distortion", "DistortionInputs", "DistortionLoss", "feature_error", "rate"]


def rate(bits: Latents) -> jax.Array:
    """Sums the bits of each image.

    Args:
      bits: of every element, float [B, …], or a tree of such arrays.

    Returns:
      float [B].

    >>> rate(jnp.full((2, 3, 3, 4), 0.5)).tolist()
    [18.0, 18.0]
    """
    sums = [x.sum(axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(bits)]
    return functools.reduce(jnp.add, sums)


def feature_error(reconstruction: Features, features: Features, scale: Scale) -> jax.Array:
    """Computes the mean squared error at the cut, relative to `scale`.

    Args:
      reconstruction: behind the unit, float [B, …], or a tree of such arrays.
      features: before it.
      scale: mean square of the features over the training set: a number for each array.

    Returns:
      float [B], the mean over arrays: 0 without loss, about 1 for a reconstruction of zeros.

    >>> features = jnp.full((1, 2, 2, 3), 4.0)
    >>> feature_error(features + 1, features, scale=16.0).tolist()
    [0.0625]
    """

    def relative(y: jax.Array, x: jax.Array, mean_square: jax.Array) -> jax.Array:
        return jnp.square(y - x).mean(axis=tuple(range(1, x.ndim))) / mean_square

    errors = jax.tree.leaves(jax.tree.map(relative, reconstruction, features, scale))
    return functools.reduce(jnp.add, errors) / len(errors)


class DistortionInputs(NamedTuple):
    """Inputs of a distortion, for a batch of B images.

    Attributes:
      reconstruction, features, scale: as in `feature_error`.
      outputs: of the tail behind the unit; None where the distortion needs no tail.
      teacher: outputs of the unsplit network; None where the distortion needs none.
      targets: of the images, such as labels int [B]; None where they have none.
      task: of the network.

    >>> from jaxsplit.tasks import Classification
    >>> task = Classification(("cat", "dog"))
    >>> x, logits = jnp.ones((1, 2, 2, 3)), jnp.array([[2.0, 0.0]])
    >>> seen = DistortionInputs(x + 1, x, logits, logits, jnp.array([0]), 1.0, task)
    >>> Distortion(distillation=0.0, features=1.0)(seen).tolist()
    [1.0]
    """

    reconstruction: Features
    features: Features
    outputs: Outputs | None
    teacher: Outputs | None
    targets: Targets | None
    scale: Scale
    task: Task


#: A `Distortion`, or a hashable callable of your own, from a batch to the distortion of each image,
#: float [B]. Set `needs_tail = False` on one that does not use `outputs`, and `needs_teacher =
#: False` on one that does not use `teacher`: they are then not computed.
DistortionLoss = Callable[[DistortionInputs], jax.Array]


class LinearDistortion:
    """Linear function of the reconstruction: its gradient is `seen.teacher`, its value 0.

    A step then runs no tail: the gradient of the distortion behind it comes from another program.
    """

    needs_tail = False

    def __call__(self, seen: DistortionInputs) -> jax.Array:
        """Returns zeros, float [B]."""
        x = seen.reconstruction
        moved = jax.tree.map(jnp.subtract, x, jax.lax.stop_gradient(x))
        return rate(jax.tree.map(jnp.multiply, seen.teacher, moved))


@dataclasses.dataclass(frozen=True)
class Distortion:
    """The weight of each distortion in the loss: distortion + lambda · bits.

    Attributes:
      labels: weight of the task's loss against targets, such as cross-entropy.
      distillation: weight of the task's distillation from the unsplit network.
      features: weight of `feature_error`. Alone it needs no tail, and steps are fast.
      temperature: of the distillation.

    Raises:
      ConfigError: a weight is negative, none is positive, or the temperature is not positive.

    >>> Distortion(labels=0.5, distillation=0.5).labels
    0.5
    """

    labels: float = 0.0
    distillation: float = 1.0
    features: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        plain_numbers(self)
        weights = (self.labels, self.distillation, self.features)
        if not all(isinstance(w, numbers.Real) for w in (*weights, self.temperature)):
            raise ConfigError(
                f"the weights and the temperature of a distortion are numbers: {self}"
            )
        if not all(0 <= w < math.inf for w in weights) or not any(weights):
            raise ConfigError(f"a distortion needs weights ≥ 0, one of them positive: {self}")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be positive: {self}")

    @property
    def needs_tail(self) -> bool:
        """True where the tail must run."""
        return self.labels > 0 or self.distillation > 0

    @property
    def needs_teacher(self) -> bool:
        """True where the unsplit network's outputs are needed."""
        return self.distillation > 0

    def __call__(self, seen: DistortionInputs) -> jax.Array:
        """Computes the weighted sum of each image.

        Args:
          seen: with outputs where `needs_tail`.

        Returns:
          float [B]; the parts that depend on outputs are in nats.
        """
        total = jnp.zeros(jax.tree.leaves(seen.features)[0].shape[:1])
        outputs, teacher = cast("tuple[Outputs, Outputs]", (seen.outputs, seen.teacher))
        if self.features:
            error = feature_error(seen.reconstruction, seen.features, seen.scale)
            total += self.features * error
        if self.distillation:
            lost = seen.task.distillation(outputs, teacher, self.temperature)
            total += self.distillation * lost
        if self.labels:
            assert seen.targets is not None
            total += self.labels * seen.task.loss(outputs, seen.targets)
        return total
