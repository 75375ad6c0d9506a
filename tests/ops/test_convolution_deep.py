"""Convolutions of many channels: Winograd's algorithm and custom gradients against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.ops import conv, pointwise
from jaxsplit.ops.convolution import winograd_conv

pytestmark = pytest.mark.optimized


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_near(ours, theirs):
    """Tolerance: float32 rounding of reordered sums of some thousand products."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6 * float(np.abs(theirs).max()))


def direct_conv(x, kernel, stride=1, padding=1):
    pads = padding if padding == "SAME" else [(padding, padding)] * 2
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=numbers
    )


def value_and_gradients(function, x, kernel, stride, padding):
    @jax.jit
    def run(x, kernel):
        y, pullback = jax.vjp(lambda *xs: function(*xs, stride, padding), x, kernel)
        return y, *pullback(jnp.cos(y))

    return run(x, kernel)


@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride", "padding"),
    [
        ((7, 7), (256, 320), 3, 1, 1),  # an odd size: half of the last tiles is cut off
        ((6, 9), (256, 256), 3, 1, "SAME"),
        ((8, 8), (64, 96), 3, 1, 1),
        ((8, 7), (64, 64), 3, 1, 0),
        ((14, 14), (64, 96), 3, 2, 1),
        ((9, 8), (64, 64), 5, 2, "SAME"),
        ((8, 8), (64, 64), 1, 3, 0),
        ((8, 8), (64, 64), 2, 2, 0),
    ],
)
def test_values_and_both_gradients_are_those_of_xlas_convolution(
    size, channels, kernel, stride, padding
):
    # Enough pixels for Winograd's algorithm.
    x, weights = normal(0, 24, *size, channels[0]), normal(1, kernel, kernel, *channels)
    arguments = (x, weights / (kernel * channels[0] ** 0.5), stride, padding)
    ours, theirs = (value_and_gradients(run, *arguments) for run in (conv, direct_conv))
    for a, b in zip(ours, theirs, strict=True):
        assert_near(a, b)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 8), (7, 7)])
@pytest.mark.parametrize("adjoint", [False, True])
def test_winograds_form_at_any_size(size, adjoint):
    x, kernel = normal(0, 2, *size, 4 if adjoint else 3), normal(1, 3, 3, 3, 4)

    def direct(x):
        return direct_conv(x, kernel)

    if adjoint:
        (expected,) = jax.linear_transpose(direct, jnp.zeros((2, *size, 3)))(x)
    else:
        expected = direct(x)
    assert_near(winograd_conv(x, kernel, adjoint), expected)


def test_the_frozen_kernels_gradient_is_not_computed():
    """A frozen kernel's gradient is not computed: two convolutions instead of three."""
    x, kernel = normal(0, 32, 7, 7, 256), normal(1, 3, 3, 256, 256)

    def flops(wanted):
        def gradient(x, kernel):
            return jax.grad(lambda *xs: jnp.square(conv(*xs, padding=1)).sum(), wanted)(x, kernel)

        return jax.jit(gradient).lower(x, kernel).compile().cost_analysis()["flops"]

    # Winograd's algorithm takes 16 products for four outputs instead of 36.
    direct = 2 * 32 * 49 * 9 * 256 * 256
    assert flops(0) < 2 * 0.65 * direct
    assert flops((0, 1)) > flops(0) + 0.8 * direct


def test_rates_share_one_kernel():
    x, kernel = normal(0, 3, 24, 7, 7, 256), normal(1, 3, 3, 256, 256) / 50
    together = jax.jit(jax.vmap(lambda x: conv(x, kernel, padding=1)))(x)
    for one, alone in zip(together, x, strict=True):
        assert_near(one, direct_conv(alone, kernel))


@pytest.mark.parametrize("features", [2, 5, 12])
def test_a_pointwise_convolution_is_a_matrix_product(features):
    x, kernel = normal(0, 2, 3, 4, 5), normal(1, 5, features)
    y, pullback = jax.vjp(jax.jit(pointwise), x, kernel)
    expected, pull_expected = jax.vjp(lambda x, kernel: x @ kernel, x, kernel)
    for a, b in zip((y, *pullback(y)), (expected, *pull_expected(expected)), strict=True):
        assert_near(a, b)
