"""The peak of activations against sums by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxsplit import ops
from jaxsplit.cost.counting import peak_bytes

W = jnp.ones((3, 3, 4, 4))
ONE = 4 * 8 * 8 * 4  # bytes of [1, 8, 8, 4]


def conv(x, kernel=W):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def peak(function):
    image = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
    return peak_bytes(jax.make_jaxpr(function)(image).jaxpr)


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (conv, 2),
        (lambda x: conv(conv(conv(x))), 2),  # what was read is given up
        (lambda x: nn.relu(conv(nn.relu(conv(x)) * 2 + 1)), 2),  # in passing
        (lambda x: conv(conv(x)) + x, 3),  # a shortcut waits
        (lambda x: conv(x) + conv(conv(x)), 3),
        (lambda x: conv(conv(x)).reshape(4, 8, 8), 2),  # the same memory
        (lambda x: conv(x, jnp.ones((3, 3, 4, 16))), 5),
        (lambda x: conv(conv(x, jnp.ones((3, 3, 4, 16))), jnp.ones((3, 3, 16, 4))), 5),
        (lambda x: x, 1),
        (lambda x: conv(x, nn.relu(W @ W)), 2),  # arithmetic of weights alone
    ],
)
def test_peaks_in_arrays_of_the_image_s_size(function, arrays):
    assert peak(function) == arrays * ONE


def test_shifted_multiply_adds_write_their_padded_input_and_the_sum():
    padded = 4 * 10 * 10 * 4
    kernel = jnp.ones((3, 3, 4, 1))
    run = peak(lambda x: ops.depthwise_conv(x, kernel, padding=1))
    assert run == padded + ONE


def test_a_compiler_agrees():
    """XLA's own buffers for the same program, roughly: they change with its version."""
    wide = jnp.ones((3, 3, 4, 24)), jnp.ones((3, 3, 24, 24)), jnp.ones((3, 3, 24, 4))

    def function(kernels, x):
        y = x
        for kernel in kernels[:-1]:
            y = nn.relu(conv(y, kernel))
        return conv(y, kernels[-1])

    image = jnp.ones((1, 32, 32, 4))
    found = jax.jit(function).lower(wide, image).compile().memory_analysis()
    sizes = found.temp_size_in_bytes + found.output_size_in_bytes + image.nbytes
    jaxpr = jax.make_jaxpr(function)(wide, image).jaxpr
    assert 0.5 < peak_bytes(jaxpr) / sizes < 2
