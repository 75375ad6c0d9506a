"""Rounding and noise: values and the gradient rules that training relies on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.ops import add_uniform_noise, round_straight_through

pytestmark = pytest.mark.optimized


def test_straight_through_gives_exact_integers_and_the_identity_gradient():
    x = jnp.asarray(np.random.default_rng(0).normal(0, 1e4, 4096), jnp.float32)
    np.testing.assert_array_equal(round_straight_through(x), np.rint(np.asarray(x)))
    weights = jnp.linspace(-1.0, 2.0, x.size)
    gradient = jax.grad(lambda x: (weights * round_straight_through(x)).sum())(x)
    np.testing.assert_array_equal(gradient, weights)
    np.testing.assert_array_equal(jax.jit(round_straight_through)(x), round_straight_through(x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_noise_is_uniform_zero_mean_and_repeatable(dtype):
    x = jnp.zeros((200, 100), dtype)
    key = jax.random.key(1)
    noise = add_uniform_noise(x, key)
    assert noise.dtype == dtype
    assert noise.shape == x.shape
    np.testing.assert_array_equal(noise, add_uniform_noise(x, key))
    values = np.asarray(noise, np.float64)
    assert np.abs(values).max() <= 0.5
    assert abs(values.mean()) < 0.01
    assert abs(values.var() - 1 / 12) < 0.002
    assert not np.array_equal(noise, add_uniform_noise(x, jax.random.key(2)))
    gradient = jax.grad(lambda x: add_uniform_noise(x, key).astype(jnp.float32).sum())(x)
    np.testing.assert_array_equal(gradient, np.ones_like(x))
