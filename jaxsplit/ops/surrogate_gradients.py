"""Rounding, its noise proxy for training, and lower bounds that gradients can leave."""

import jax
import jax.numpy as jnp

_Pair = tuple[jax.Array, jax.Array]


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


@jax.custom_vjp
def lower_bound(x: jax.Array, bound: jax.Array | float) -> jax.Array:
    """max(x, bound) with a gradient that still lets descent raise x from below the bound.

    The cotangent g reaches x where x >= bound or g < 0 (descent raises x); the bound gets none.

    Args:
      x: any shape, floating.
      bound: a number, or an array of x's rank that broadcasts against x without growing it.

    Returns:
      max(x, bound), same shape and dtype as x.

    >>> jax.grad(lambda x: -lower_bound(x, 1.0))(0.5).item()  # minimising it raises x
    -1.0

    Source: Ballé 2018, arXiv 1802.00847 (GDN's reparametrised bounds).
    """
    return jnp.maximum(x, jnp.asarray(bound, jnp.result_type(x)))


def _lower_bound_fwd(x: jax.Array, bound: jax.Array | float) -> tuple[jax.Array, _Pair]:
    bound = jnp.asarray(bound)
    return lower_bound(x, bound), (x >= bound.astype(jnp.result_type(x)), jnp.zeros_like(bound))


def _lower_bound_bwd(residuals: _Pair, g: jax.Array) -> _Pair:
    passes, no_gradient = residuals
    return jnp.where(passes | (g < 0), g, jnp.zeros_like(g)), no_gradient


lower_bound.defvjp(_lower_bound_fwd, _lower_bound_bwd)
