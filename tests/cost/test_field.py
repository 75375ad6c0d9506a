"""The receptive field against what the pixels of an image really change."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit import ops
from jaxsplit.cost.field import EVERYTHING, IMAGE, trace_field
from jaxsplit.cost.jaxpr import flatten, value_of

SIZE = 24


def conv(x, size, stride=1, padding=0, dilation=1, between=1):
    return jax.lax.conv_general_dilated(
        x,
        jnp.ones((size, size, x.shape[-1], 2)),
        (stride, stride),
        ((padding, padding),) * 2,
        lhs_dilation=(between, between),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def field_of(function, size=SIZE):
    image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    jaxpr = jax.make_jaxpr(function)(image).jaxpr
    (given,) = values = [value_of(var.aval) for var in jaxpr.invars]
    operations, (result,) = flatten(jaxpr, values)
    return trace_field(operations, given, IMAGE, result)


def seen(function, row):
    """First and last image row that output row `row` depends on, by its gradient."""
    image = jnp.ones((1, SIZE, SIZE, 1))
    gradient = jax.grad(lambda x: function(x)[:, row].sum())(image)
    rows = np.flatnonzero(np.abs(gradient).sum((0, 2, 3)))
    return rows[0], rows[-1]


def product_and_sum(a, b):
    """No reduction that XLA has a name for."""
    return a * b + a


depthwise = functools.partial(ops.depthwise_conv, kernel=jnp.ones((3, 3, 1, 2)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: conv(conv(x, 3, 2, 1), 5, 1, 2),
        lambda x: conv(conv(x, 3, dilation=2), 2, 3),
        lambda x: nn.avg_pool(conv(x, 3, padding=1), (3, 3), (2, 2)),
        lambda x: depthwise(x, stride=2, padding=1),  # slices and additions
        lambda x: conv(x, 3, padding=1) + x[..., :1] @ jnp.ones((1, 2)),  # a shortcut
        lambda x: jnp.concatenate([conv(x, 5, padding=2), x], axis=-1),
        lambda x: jnp.pad(x, ((0, 0), (2, 3), (1, 1), (0, 0)))[:, 1::2, ::2],
        lambda x: sum(jnp.split(conv(x, 3, padding=1)[..., ::-1], 2, axis=3)),
        lambda x: jnp.split(conv(x, 3), [4], axis=1)[1],
        lambda x: nn.relu(x.transpose(3, 1, 2, 0)[0].reshape(1, SIZE, SIZE, 1)),
        jax.checkpoint(lambda x: conv(jax.jit(conv, static_argnums=1)(x, 3), 2, 2)),
    ],
)
def test_a_field_is_what_a_gradient_sees(function):
    rows, columns = field_of(function)
    assert rows.pixels == columns.pixels
    row = function(jnp.zeros((1, SIZE, SIZE, 1))).shape[1] // 2
    first, last = rows.step * row + rows.low, rows.step * row + rows.high
    assert (first, last) == seen(function, row)
    assert 0 < first <= last < SIZE - 1  # no border hides an error


def test_a_reduction_by_any_function_is_one_operation():
    """Its function is of single numbers; what it gives has the shape that is left."""
    image = jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32)
    reduced = jax.make_jaxpr(lambda x: jax.lax.reduce(x, 1.0, product_and_sum, (1,)))(image).jaxpr
    (operation,), (result,) = flatten(reduced, [value_of(reduced.invars[0].aval)])
    assert operation.name == "reduce"
    assert result.shape == (1, 8, 2)
    assert EVERYTHING in field_of(lambda x: jax.lax.reduce(x, 1.0, product_and_sum, (1,)))


def test_a_window_reduced_by_any_function_is_seen_whole():
    def function(reduction, x):
        window = (1, 3, 3, 1), (1, 2, 2, 1)
        return jax.lax.reduce_window(conv(x, 3), 0.0, reduction, *window, "VALID")

    any_function, addition = (
        field_of(functools.partial(function, one)) for one in (product_and_sum, jax.lax.add)
    )
    assert any_function == addition
    assert any_function[0].pixels == 5


def test_between_the_inputs_of_a_transposed_convolution_the_field_is_a_bound():
    def function(x):
        return conv(conv(x, 3, 2, 1), 3, padding=1, between=2)

    rows, _ = field_of(function)
    for row in (8, 9, 10, 11):
        first, last = seen(function, row)
        assert rows.step * row + rows.low <= first <= last <= rows.step * row + rows.high
    assert rows.pixels < 9


@pytest.mark.parametrize(
    "function",
    [
        lambda x: conv(x, 3).mean(axis=(1, 2)),
        lambda x: x + x.mean(axis=(1, 2), keepdims=True),
        lambda x: jnp.cumsum(x, axis=1),
        lambda x: x[:, ::-1, ::-1],
        lambda x: x.reshape(1, -1, 1, 1),
        lambda x: jax.lax.scan(lambda c, _: (c * 2, None), x, length=2)[0],
    ],
)
def test_what_is_not_followed_sees_everything(function):
    assert EVERYTHING in field_of(function)
