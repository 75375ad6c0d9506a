"""The mass of an interval under the logistic function, in log-space."""

import jax
import jax.numpy as jnp

__all__ = ["log_logistic_mass"]

# A floor for the growth, far below any real one (40 bits): rounding alone could bring it to 0, and
# its inverse must stay finite when an optimizer squares it.
_MIN_GROWTH = 1e-12


@jax.custom_jvp
def log_logistic_mass(lower: jax.Array, growth: jax.Array) -> jax.Array:
    """log(sigmoid(lower + growth) - sigmoid(lower)), safe for all finite arguments.

    With u = lower + growth, the difference is sigmoid(u) sigmoid(-lower) (1 - exp(-growth)):
    nothing cancels, and in the tails both value and gradient are those of a straight line.

    Args:
      lower: logits at the interval's lower end, any shape.
      growth: how much the logits grow to the upper end, > 0, a shape that broadcasts with lower's.
        Values below 1e-12 count as 1e-12, and their gradient still lifts them.

    Returns:
      Natural logarithm, <= 0.

    >>> log_logistic_mass(jnp.array([-1e4, 0.0, 1e4]), jnp.ones(3)).astype(int).tolist()
    [-9999, -1, -10000]
    """
    growth = jnp.maximum(growth, _MIN_GROWTH)
    upper = lower + growth
    ratio = -jnp.expm1(-growth) / ((1 + jnp.exp(-jnp.abs(upper))) * (1 + jnp.exp(-jnp.abs(lower))))
    return jnp.log(ratio) - jnp.maximum(jnp.maximum(lower, -upper), 0.0)


@log_logistic_mass.defjvp
def _(primals, tangents):
    # By hand for speed, and because the floor must not cut the gradient that lifts the growth.
    lower, growth = primals
    growth = jnp.maximum(growth, _MIN_GROWTH)
    above = jax.nn.sigmoid(-(lower + growth))
    by_lower = above - jax.nn.sigmoid(lower)
    by_growth = above + 1 / jnp.expm1(growth)
    return log_logistic_mass(lower, growth), by_lower * tangents[0] + by_growth * tangents[1]
