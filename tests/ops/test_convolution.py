"""Convolutions against XLA's: their kinds, Winograd's algorithm and custom gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.ops import conv, max_pool, pointwise
from jaxsplit.ops.convolution import winograd_conv

pytestmark = pytest.mark.optimized


# Sums of at most 9·9·2 products of order 1, in another order: float32 keeps 1e-5 with a margin.
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_near(ours, theirs):
    """Tolerance: float32 rounding of reordered sums of some thousand products."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6 * float(np.abs(theirs).max()))


def direct_conv(x, kernel, stride=1, padding=1, depthwise=False):
    pads = padding if padding == "SAME" else [(padding, padding)] * 2
    numbers, groups = ("NHWC", "HWIO", "NHWC"), x.shape[-1] if depthwise else 1
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=numbers, feature_group_count=groups
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


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (2, 2)])
def test_few_pixels_of_many_channels(kernel, stride):
    """One image late in a network: a matrix product of windows on CPUs."""
    x, weights = normal(0, 1, 7, 6, 256), normal(1, kernel, kernel, 256, 260)
    arguments = (x, weights / (kernel * 16), stride, kernel // 2)
    ours, theirs = (value_and_gradients(run, *arguments) for run in (conv, direct_conv))
    for a, b in zip(ours, theirs, strict=True):
        assert_near(a, b)
    assert "conv" not in jax.jit(lambda *xs: conv(*xs, stride, 1)).lower(x, weights).as_text()


@pytest.mark.parametrize(("size", "stride", "padding"), [(7, 2, 1), (8, 2, 1), (6, 3, 0)])
def test_the_largest_of_each_window_and_its_gradient(size, stride, padding):
    x = np.abs(normal(0, 2, size, size + 1, 3))

    def of_xla(x):
        edges = ((padding, padding),) * 2
        return nn.max_pool(x, (3, 3), strides=(stride, stride), padding=edges)

    runs = (lambda x: max_pool(x, 3, stride, padding), of_xla)
    (ours, back), (theirs, pullback) = (jax.vjp(run, x) for run in runs)
    np.testing.assert_array_equal(ours, theirs)
    weights = normal(1, *ours.shape)
    np.testing.assert_allclose(back(weights)[0], pullback(weights)[0], rtol=1e-6)


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


@pytest.mark.parametrize("padding", [0, 1, 2, "SAME"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("k", "depthwise"), [(1, False), (1, True), (3, True), (5, True), (3, False)]
)
@pytest.mark.parametrize("size", [(7, 8), (6, 5)])
def test_every_kind_of_a_convolution_gives_the_values_of_xlas(size, k, depthwise, stride, padding):
    x = normal(0, 2, *size, 6)
    kernel = normal(1, k, k, *((1, 6) if depthwise else (6, 4)))
    fast = conv(x, kernel, stride, padding, depthwise)
    direct = direct_conv(x, kernel, stride, padding, depthwise)
    assert fast.shape == direct.shape
    close(fast, direct)


def test_unknown_paddings_are_refused():
    x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 1, 2, 2))
    with pytest.raises(ValueError, match="VALID"):
        conv(x, kernel, padding="VALID")
    assert conv(x, kernel, padding=np.int64(0), stride=3).shape == (1, 2, 2, 2)


def test_the_algorithm_is_chosen_by_its_kernel():
    """The programs of 1×1 and depthwise convolutions contain no XLA convolution."""
    x = jnp.zeros((1, 4, 4, 6))
    for shape, depthwise, expected in (
        ((1, 1, 6, 4), False, 0),
        ((3, 3, 1, 6), True, 0),
        ((3, 3, 6, 4), False, 1),
    ):
        run = functools.partial(conv, padding=shape[0] // 2, depthwise=depthwise)
        program = str(jax.make_jaxpr(run)(x, jnp.zeros(shape)))
        assert program.count("conv_general_dilated[") == expected


def test_a_padding_that_differs_between_rows_and_columns_has_a_gradient():
    x, kernel = normal(0, 2, 9, 8, 5), normal(1, 3, 3, 1, 5)
    ours, theirs = (
        jax.vjp(lambda x, k, run=run: run(x, k, 2, "SAME", True), x, kernel)
        for run in (conv, direct_conv)
    )
    close(ours[0], theirs[0])
    for gradient, expected in zip(ours[1](ours[0]), theirs[1](ours[0]), strict=True):
        close(gradient, expected)


@pytest.mark.parametrize(("padding", "dilation"), [(4, 2), ("SAME", 3), (0, 2)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_dilated_convolutions_and_their_gradients_are_xlas(padding, dilation, depthwise):
    """Against a kernel with zeros between its weights; 64 channels have gradients of their own."""
    x, k = normal(0, 2, 13, 11, 64), 5 if depthwise else 3
    # Small weights: the cosine of large sums would depend on their rounding.
    kernel = 0.05 * normal(1, k, k, 1 if depthwise else 64, 64)
    spread = jnp.zeros((dilation * (k - 1) + 1,) * 2 + kernel.shape[2:])

    def ours(x, kernel, *_):
        return conv(x, kernel, 1, padding, depthwise, dilation)

    def theirs(x, kernel, *_):
        wide = spread.at[::dilation, ::dilation].set(kernel)
        return direct_conv(x, wide, 1, padding, depthwise)

    found = value_and_gradients(ours, x, kernel, 1, padding)
    expected = value_and_gradients(theirs, x, kernel, 1, padding)
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other)
    if depthwise:
        with pytest.raises(ValueError, match="dilation"):
            conv(x, kernel, 2, padding, depthwise, dilation)
