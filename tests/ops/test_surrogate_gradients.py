"""Rounding, noise and bounds: values and the gradient rules that training relies on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.ops import add_uniform_noise, lower_bound, round_straight_through

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


@pytest.mark.parametrize(
    ("x", "cotangent", "expected"),
    [
        (2.0, 3.0, 3.0),
        (2.0, -3.0, -3.0),
        (1.0, 3.0, 3.0),  # at the bound everything passes
        (0.5, -3.0, -3.0),  # descent would raise x: allowed
        (0.5, 3.0, 0.0),  # descent would lower x further: blocked
    ],
)
def test_lower_bound_gradient_rule(x, cotangent, expected):
    assert lower_bound(jnp.float32(x), 1.0) == max(x, 1.0)
    _, pullback = jax.vjp(lower_bound, jnp.float32(x), 1.0)
    to_x, to_bound = pullback(jnp.float32(cotangent))
    assert to_x == expected
    assert to_bound == 0.0


def test_lower_bound_broadcasts_its_bound_and_survives_jit_and_vmap():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(5, 3)), jnp.float32)
    bound = jnp.array([[-0.5, 0.0, 0.5]])
    expected = np.maximum(np.asarray(x), np.asarray(bound))
    np.testing.assert_array_equal(lower_bound(x, bound), expected)
    np.testing.assert_array_equal(jax.jit(lower_bound)(x, bound), expected)
    np.testing.assert_array_equal(jax.vmap(lower_bound, (0, None))(x, bound[0]), expected)
    gradient = jax.grad(lambda x: lower_bound(x, bound).sum())(x)
    np.testing.assert_array_equal(gradient, np.asarray(x) >= np.asarray(bound))


def test_descent_through_the_bound_recovers_from_below():
    x = jnp.float32(-1.0)
    for _ in range(100):
        x = x - 0.1 * jax.grad(lambda x: (lower_bound(x, 0.0) - 2.0) ** 2)(x)
    assert abs(x - 2.0) < 1e-3
