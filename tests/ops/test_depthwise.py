"""Depthwise convolutions against XLA's grouped ones: values, gradients, adjointness, edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.ops import depthwise_conv, depthwise_conv_transpose

pytestmark = pytest.mark.optimized

NUMBERS = ("NHWC", "HWIO", "NHWC")

# Sums of at most 9·9·2 products of order 1, in another order: float32 keeps 1e-5 with a margin.
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def grouped_conv(x, kernel, stride, padding):
    k, _, channels, multiplier = kernel.shape
    return jax.lax.conv_general_dilated(
        x,
        kernel.reshape(k, k, 1, channels * multiplier),
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=NUMBERS,
        feature_group_count=channels,
        precision="highest",
    )


def dilated_conv(x, kernel, stride, padding, size):
    """Transposed convolution as a convolution of inputs dilated by `stride`."""
    k, _, channels, _ = kernel.shape
    before = k - 1 - padding
    after = [
        n - ((m - 1) * stride + 1) - before + k - 1 for n, m in zip(size, x.shape[1:3], strict=True)
    ]
    return jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1].transpose(0, 1, 3, 2),
        (1, 1),
        [(before, end) for end in after],
        lhs_dilation=(stride, stride),
        dimension_numbers=NUMBERS,
        feature_group_count=channels,
        precision="highest",
    )


def values_and_gradients(function):
    """Value and pullback to input and kernel, in one program."""

    @jax.jit
    def run(x, kernel, cotangent):
        value, pullback = jax.vjp(function, x, kernel)
        return value, *pullback(cotangent)

    return run


@pytest.mark.parametrize(
    ("size", "channels", "multiplier", "k", "stride", "padding"),
    [
        ((7, 7), 3, 1, 3, 2, 1),
        ((6, 9), 2, 3, 3, 1, 1),
        ((5, 8), 2, 2, 4, 4, 0),
        ((7, 5), 3, 1, 5, 3, 2),
        ((5, 6), 1, 2, 1, 2, 0),  # a stride beyond the kernel skips pixels
        ((3, 4), 2, 1, 5, 1, 3),  # a kernel beyond the image, and windows of zeros alone
        ((4, 7), 2, 1, 2, 3, 1),
    ],
)
def test_depthwise_conv_is_the_grouped_convolution(size, channels, multiplier, k, stride, padding):
    x, kernel = normal(0, 2, *size, channels), normal(1, k, k, channels, multiplier)
    ours = functools.partial(depthwise_conv, stride=stride, padding=padding)
    theirs = functools.partial(grouped_conv, stride=stride, padding=padding)
    shape = jax.eval_shape(theirs, x, kernel).shape
    assert jax.eval_shape(ours, x, kernel).shape == shape
    cotangent = normal(2, *shape)
    got = values_and_gradients(ours)(x, kernel, cotangent)
    expected = values_and_gradients(theirs)(x, kernel, cotangent)
    jax.tree.map(close, got, expected)


@pytest.mark.parametrize(
    ("inputs", "channels", "multiplier", "k", "stride", "padding", "size"),
    [
        ((4, 4), 3, 1, 3, 2, 1, (7, 7)),  # the published units, in small
        ((2, 2), 2, 1, 3, 4, 0, (7, 7)),
        ((8, 8), 1, 1, 9, 8, 0, (65, 65)),
        ((3, 4), 2, 2, 4, 4, 0, (12, 16)),
        ((3, 4), 2, 3, 5, 2, 2, (5, 7)),
        ((4, 3), 2, 1, 5, 3, 1, (6, 5)),  # smaller than the taps reach: cut
        ((2, 3), 2, 1, 3, 2, 0, (9, 12)),  # larger than the taps reach: zeros
        ((3, 2), 1, 2, 2, 3, 0, (8, 5)),  # gaps between the taps: zeros
        ((5, 5), 2, 1, 1, 1, 0, (5, 5)),
    ],
)
def test_transposed_conv_is_the_dilated_convolution(
    inputs, channels, multiplier, k, stride, padding, size
):
    x = normal(3, 2, *inputs, channels * multiplier)
    kernel = normal(4, k, k, channels, multiplier)
    form = {"stride": stride, "padding": padding, "size": size}
    ours = functools.partial(depthwise_conv_transpose, **form)
    theirs = functools.partial(dilated_conv, **form)
    cotangent = normal(5, 2, *size, channels)
    got = values_and_gradients(ours)(x, kernel, cotangent)
    expected = values_and_gradients(theirs)(x, kernel, cotangent)
    jax.tree.map(close, got, expected)


@pytest.mark.parametrize(
    ("size", "multiplier", "k", "stride", "padding"),
    [((7, 9), 1, 3, 2, 1), ((14, 13), 2, 3, 4, 1), ((6, 5), 3, 4, 3, 0), ((5, 5), 1, 2, 3, 0)],
)
def test_transposed_conv_is_the_adjoint(size, multiplier, k, stride, padding):
    """⟨conv(x), y⟩ = ⟨x, transposed(y)⟩ for one kernel: also where the stride drops a border."""
    x, kernel = normal(6, 1, *size, 3), normal(7, k, k, 3, multiplier)
    down = functools.partial(depthwise_conv, stride=stride, padding=padding)
    up = functools.partial(depthwise_conv_transpose, stride=stride, padding=padding, size=size)
    forward = jax.jit(down)(x, kernel)
    y = normal(8, *forward.shape)
    back = jax.jit(up)(y, kernel)
    left = np.sum(np.asarray(forward, np.float64) * y)
    right = np.sum(np.asarray(back, np.float64) * x)
    assert left == pytest.approx(right, rel=1e-5, abs=1e-4)


def test_another_output_size_only_cuts_or_adds_zeros():
    x, kernel = normal(9, 1, 3, 4, 2), normal(10, 3, 3, 2, 1)
    full = (3 - 1) * 2 + 3, (4 - 1) * 2 + 3
    whole = depthwise_conv_transpose(x, kernel, 2, 0, full)
    assert (np.abs(whole[:, -1]) > 0).all()  # the last row is reached
    small = depthwise_conv_transpose(x, kernel, 2, 0, (5, 3))
    np.testing.assert_array_equal(small, whole[:, :5, :3])
    large = depthwise_conv_transpose(x, kernel, 2, 0, (full[0] + 4, full[1] + 3))
    np.testing.assert_array_equal(large[:, : full[0], : full[1]], whole)
    assert not large[:, full[0] :].any()
    assert not large[:, :, full[1] :].any()
    shifted = depthwise_conv_transpose(x, kernel, 2, 1, (4, 4))
    np.testing.assert_array_equal(shifted, whole[:, 1:5, 1:5])


def test_jit_changes_nothing():
    x, kernel = normal(11, 2, 5, 6, 2), normal(12, 3, 3, 2, 2)
    down = functools.partial(depthwise_conv, stride=2, padding=1)
    y = down(x, kernel)
    close(jax.jit(down)(x, kernel), y)
    up = functools.partial(depthwise_conv_transpose, stride=2, padding=1, size=(5, 6))
    close(jax.jit(up)(y, kernel), up(y, kernel))


def test_the_dtype_is_kept():
    x, kernel = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((2, 2, 2, 1), jnp.bfloat16)
    down = depthwise_conv(x, kernel, 2)
    assert down.dtype == jnp.bfloat16
    assert depthwise_conv_transpose(down, kernel, 2, 0, (4, 4)).dtype == jnp.bfloat16
