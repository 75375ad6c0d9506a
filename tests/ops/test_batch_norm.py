"""Training-mode batch normalization: values, moments and the closed-form gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.ops import batch_norm

pytestmark = pytest.mark.optimized

EPSILON = 1e-5


def plain(x, scale, bias, rectify):
    """The plain formula, differentiated by jax."""
    axes = tuple(range(x.ndim - 1))
    centred = x - x.mean(axes, keepdims=True)
    y = centred / jnp.sqrt(jnp.square(centred).mean(axes, keepdims=True) + EPSILON)
    y = y * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)
    return jax.nn.relu(y) if rectify else y


def inputs():
    rng = np.random.default_rng(0)
    x = 2 * rng.normal(size=(8, 3, 3, 4)) + [0, 1, -2, 5]
    return tuple(jnp.asarray(v, jnp.float32) for v in (x, [1, 2, -1, 0.5], [0, 0.1, 0.2, -0.3]))


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, 1e-4, 1e-5 * float(np.abs(theirs).max()))


def weighted(function, weights, *arguments):
    return jnp.sum(weights * function(*arguments))


@pytest.mark.parametrize("rectify", [False, True])
def test_values_and_gradients_are_those_of_the_formula(rectify):
    arguments = inputs()
    weights = np.random.default_rng(1).normal(size=arguments[0].shape).astype(np.float32)

    def ours(*xs):
        return batch_norm(*xs, EPSILON, rectify)[0]

    def theirs(*xs):
        return plain(*xs, rectify)

    assert_close(ours(*arguments), theirs(*arguments))
    gradients = (
        jax.jit(jax.grad(functools.partial(weighted, f, weights), (0, 1, 2)))(*arguments)
        for f in (ours, theirs)
    )
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b)


def test_the_moments_are_the_batchs():
    x, scale, bias = inputs()
    _, (mean, var) = batch_norm(x, scale, bias, EPSILON)
    assert_close(mean, x.mean((0, 1, 2)))
    assert_close(var, x.var((0, 1, 2)))


def test_several_devices_normalize_and_differentiate_as_one():
    x, scale, bias = inputs()
    weights = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

    def gradient(x, weights, axis_name=None):
        def loss(x, scale, bias):
            return jnp.sum(weights * batch_norm(x, scale, bias, EPSILON, True, axis_name)[0])

        return jax.grad(loss, (0, 1, 2))(x, scale, bias)

    split = [v.reshape(4, 2, *v.shape[1:]) for v in (x, weights)]
    parts = jax.vmap(functools.partial(gradient, axis_name="devices"), axis_name="devices")(*split)
    alone = gradient(x, weights)
    assert_close(parts[0].reshape(x.shape), alone[0])
    for part, whole in zip(parts[1:], alone[1:], strict=True):
        assert_close(part.sum(0), whole)


def test_half_precision_normalizes_in_float32():
    x, scale, bias = inputs()
    y, moments = batch_norm(x.astype(jnp.bfloat16), scale, bias, EPSILON)
    assert y.dtype == jnp.bfloat16
    assert {moment.dtype for moment in moments} == {jnp.dtype("float32")}
    np.testing.assert_allclose(y.astype(np.float32), plain(x, scale, bias, False), atol=0.03)
