"""Rounding for training: with the gradient of the identity, or noise in its place."""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def round_straight_through(x: jax.Array) -> jax.Array:
    """Rounds to the nearest integer (halves to even) with the gradient of the identity.

    Args:
      x: any shape, floating.

    Returns:
      round(x), same shape and dtype; its gradient is 1 everywhere.

    >>> jax.value_and_grad(round_straight_through)(1.6)
    (Array(2., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))

    Source: Bengio, Léonard, Courville 2013, arXiv 1308.3432 (straight-through estimator).
    """
    return jnp.round(x)


@round_straight_through.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # Explicit: `x + stop_gradient(round(x) - x)` is not always an integer in float32.
    return jnp.round(primals[0]), tangents[0]


def add_uniform_noise(x: jax.Array, key: jax.Array) -> jax.Array:
    """Adds independent noise from U[-1/2, 1/2), a differentiable proxy for rounding.

    Args:
      x: any shape, floating.
      key: a jax random key.

    Returns:
      x + u, same shape and dtype.

    >>> add_uniform_noise(jnp.zeros(1000), jax.random.key(0)).shape
    (1000,)

    Source: Ballé, Laparra, Simoncelli 2017, arXiv 1611.01704, section 3.
    """
    return x + jax.random.uniform(key, x.shape, x.dtype, -0.5, 0.5)
