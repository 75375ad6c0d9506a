"""Training-mode batch normalization with an optional ReLU, in few passes over memory."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

_Output = tuple[jax.Array, tuple[jax.Array, jax.Array]]
# x, scale, bias, mean and 1/√(var + ε).
_Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    rectify: bool = False,
    axis_name: str | None = None,
) -> _Output:
    """Normalizes by the batch moments: (x - mean) / √(var + ε) · scale + bias, then ReLU.

    The closed-form gradient needs `x` alone; automatic differentiation would store five arrays of
    that size.

    Args:
      x: float [..., C].
      scale, bias: float32 [C].
      epsilon: ε.
      rectify: apply ReLU to the result.
      axis_name: device axis over which the moments are averaged.

    Returns:
      float [..., C] of x's dtype, and the moments (mean, var), float32 [C], without gradient.

    >>> y, (mean, var) = batch_norm(jnp.array([[1.0], [3.0]]), jnp.ones(1), jnp.zeros(1), 0.0)
    >>> y.ravel().tolist(), mean.item(), var.item()
    ([-1.0, 1.0], 2.0, 1.0)

    Source: Ioffe, Szegedy 2015, arXiv 1502.03167, section 3.
    """
    return _batch_norm_fwd(x, scale, bias, epsilon, rectify, axis_name)[0]


def _batch_norm_fwd(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    rectify: bool,
    axis_name: str | None,
) -> tuple[_Output, _Residuals]:
    exact = x.astype(jnp.float32)
    mean, square = _across(_averages(exact, jnp.square(exact)), axis_name)
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = _affine(exact, scale * inverse, bias - mean * scale * inverse)
    y = jnp.where(y > 0, y, 0.0) if rectify else y
    return (y.astype(x.dtype), (mean, var)), (x, scale, bias, mean, inverse)


def _batch_norm_bwd(
    epsilon: float,
    rectify: bool,
    axis_name: str | None,
    residuals: _Residuals,
    cotangents: _Output,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    del epsilon
    x, scale, bias, mean, inverse = residuals
    exact, g = x.astype(jnp.float32), cotangents[0].astype(jnp.float32)
    factor = scale * inverse
    if rectify:
        g = jnp.where(_affine(exact, factor, bias - mean * factor) > 0, g, 0.0)
    count = x.size // x.shape[-1]
    by_bias, product = _averages(g, g * exact)
    # The sum over centred x follows from sums over raw x: no further pass over memory.
    by_scale = (product - mean * by_bias) * inverse
    average, slope = _across((by_bias, by_scale), axis_name)
    shift = mean * inverse * slope - average
    dx = _affine(g, factor, factor * shift) - _affine(exact, factor * inverse * slope, None)
    return dx.astype(x.dtype), count * by_scale, count * by_bias


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


def _averages(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(x.mean(axis=range(x.ndim - 1)) for x in arrays)


def _across(averages: tuple[jax.Array, ...], axis_name: str | None) -> tuple[jax.Array, ...]:
    return averages if axis_name is None else jax.lax.pmean(averages, axis_name)


def _affine(x: jax.Array, factor: jax.Array, shift: jax.Array | None) -> jax.Array:
    shape = (1,) * (x.ndim - 1) + (-1,)
    # Without the barrier XLA recomputes the per-channel values for every element.
    factor, shift = jax.lax.optimization_barrier((factor, shift))
    y = x * factor.reshape(shape)
    return y if shift is None else y + shift.reshape(shape)
