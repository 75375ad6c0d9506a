"""Rate, distortion and their sum: per image, in bits and nats, all of it jittable."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from jaxsplit.errors import ConfigError

__all__ = ["Distortion", "cross_entropy", "distillation", "feature_error", "rate"]


def rate(bits: jax.Array) -> jax.Array:
    """Bits of each image: the sum over its latent.

    Args:
      bits: of every element, float [B, h, w, C].

    Returns:
      float [B].

    >>> rate(jnp.full((2, 3, 3, 4), 0.5)).tolist()
    [18.0, 18.0]
    """
    return bits.sum(axis=(1, 2, 3))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label], in nats.

    Args:
      logits: float [B, K].
      labels: true classes, int [B].

    Returns:
      float [B], at least 0.

    >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    >>> f"{cross_entropy(logits, jnp.array([0])).item():.4f}"
    '0.6931'
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def distillation(logits: jax.Array, teacher: jax.Array, temperature: float = 1.0) -> jax.Array:
    """T² · KL(softmax(teacher / T) ‖ softmax(logits / T)), in nats; no labels are needed.

    Args:
      logits: through the unit, float [B, K].
      teacher: of the uncut network, float [B, K].
      temperature: T; above 1 the unlikely classes count for more.

    Returns:
      float [B], zero exactly where both agree.

    >>> teacher = jnp.array([[2.0, 0.0], [2.0, 0.0]])
    >>> logits = jnp.array([[3.0, 1.0], [0.0, 2.0]])  # the same answer, and the other one
    >>> [f"{nats:.3f}" for nats in distillation(logits, teacher).tolist()]
    ['0.000', '1.523']

    Source: Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2.
    """
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def feature_error(
    reconstruction: jax.Array, features: jax.Array, scale: jax.Array | float
) -> jax.Array:
    """Mean squared error at the cut over `scale`: two of [B, H, W, C] → [B].

    Args:
      reconstruction: behind the unit.
      features: before it.
      scale: mean square of the features over the training set, which makes the error relative.

    Returns:
      float [B]: 0 where nothing was lost, 1 where the reconstruction is all zeros and the features
      are of the usual size.

    >>> features = jnp.full((1, 2, 2, 3), 4.0)
    >>> feature_error(features + 1, features, scale=16.0).tolist()
    [0.0625]
    """
    return jnp.square(reconstruction - features).mean(axis=(1, 2, 3)) / scale


@dataclasses.dataclass(frozen=True)
class Distortion:
    """How much of each distortion is in the loss: rate–distortion = distortion + lambda · bits.

    Attributes:
      labels: weight of `cross_entropy`.
      distillation: weight of `distillation`.
      features: weight of `feature_error`. Alone it needs no tail, which makes a step fast.
      temperature: of the distillation.

    Raises:
      ConfigError: a weight is negative or none is positive, or the temperature isn't.

    >>> Distortion(labels=0.5, distillation=0.5).labels
    0.5
    """

    labels: float = 0.0
    distillation: float = 1.0
    features: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        weights = (self.labels, self.distillation, self.features)
        if not all(0 <= w < math.inf for w in weights) or not any(weights):
            raise ConfigError(f"a distortion needs weights ≥ 0, one of them positive: {self}")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be positive: {self}")

    @property
    def needs_tail(self) -> bool:
        """Whether the tail must run to compute it."""
        return self.labels > 0 or self.distillation > 0

    def __call__(
        self,
        *,
        reconstruction: jax.Array,
        features: jax.Array,
        logits: jax.Array | None,
        teacher: jax.Array,
        labels: jax.Array,
        scale: jax.Array | float,
    ) -> jax.Array:
        """The weighted sum of each image.

        Args:
          reconstruction, features: at the cut, float [B, H, W, Cin], behind and before the unit.
          logits: of the tail behind the unit, float [B, K]; None where `needs_tail` is False.
          teacher: logits of the uncut network, float [B, K].
          labels: true classes, int [B].
          scale: what the features' error is divided by, as of `feature_error`.

        Returns:
          float [B], in nats where the tail's answers count.
        """
        total = jnp.zeros(features.shape[:1])
        if self.features:
            total += self.features * feature_error(reconstruction, features, scale)
        if logits is not None and self.distillation:
            total += self.distillation * distillation(logits, teacher, self.temperature)
        if logits is not None and self.labels:
            total += self.labels * cross_entropy(logits, labels)
        return total
