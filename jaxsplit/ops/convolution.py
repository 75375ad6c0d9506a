"""Convolutions in the form that is the fastest for their kernel."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxsplit.ops.depthwise import depthwise_conv

__all__ = ["conv", "pointwise"]

# Pixels up to which, and channels from which, k² matrix products beat XLA's convolution on a CPU:
# 512 channels of 7×7, the last stage of a ResNet, but not 256 of 14×14.
_SMALL, _DEEP = 64, 256


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1×1 convolution as a matrix product: float [..., c] and [c, features] → [..., features].

    >>> pointwise(jnp.ones((1, 2, 2, 3)), jnp.ones((3, 1))).shape
    (1, 2, 2, 1)
    """
    return x @ kernel


def _pointwise_fwd(x: jax.Array, kernel: jax.Array) -> Any:
    return x @ kernel, (x, kernel)


def _pointwise_bwd(residuals: Any, g: jax.Array) -> Any:
    x, kernel = residuals
    wide, narrow = (g, x) if g.shape[-1] > x.shape[-1] else (x, g)
    wide, narrow = (y.reshape(-1, y.shape[-1]) for y in (wide, narrow))
    # XLA would write the wide one anew in transposed order, which takes longer than the product.
    product = jax.lax.optimization_barrier(jax.lax.optimization_barrier(narrow.T) @ wide)
    by_kernel = product if product.shape == kernel.shape else product.T
    return g @ kernel.T, by_kernel


pointwise.defvjp(_pointwise_fwd, _pointwise_bwd)


def conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    padding: int | str = 0,
    depthwise: bool = False,
    *,
    form: str | None = None,
) -> jax.Array:
    """Convolution, in whichever form is the fastest for its kernel.

    A 1×1 convolution is a matrix product and a depthwise one a sum of shifted multiply-adds; on
    CPUs both run faster so than as XLA's convolution, with the same values.

    Args:
      x: float [B, H, W, c].
      kernel: float [k, k, c, features]; of a depthwise convolution [k, k, 1, c].
      stride: of both axes.
      padding: zeros on every side, or "SAME": as many as give h = ⌈H / stride⌉, the odd one below
        and to the right.
      depthwise: each channel has its own filter.
      form: "direct" for XLA's convolution whatever the kernel; None: the fastest.

    Returns:
      float [B, h, w, features].

    Raises:
      ValueError: there is no such padding or form.

    >>> x, kernel = jnp.ones((1, 5, 5, 1)), jnp.ones((3, 3, 1, 1))
    >>> conv(x, kernel, stride=2, padding="SAME")[0, :, :, 0]
    Array([[4., 6., 4.],
           [6., 9., 6.],
           [4., 6., 4.]], dtype=float32)
    """
    if form not in (None, "direct"):
        raise ValueError(f"form is {form!r}; expected None or 'direct'")
    k = kernel.shape[0]
    if not isinstance(padding, str):
        pads = [(padding, padding)] * 2
    elif padding == "SAME":
        pads = [_same_padding(n, k, stride) for n in x.shape[1:3]]
    else:
        raise ValueError(f"padding is {padding!r}; expected a number or 'SAME'")
    if form is None and depthwise:
        return depthwise_conv(x, kernel.transpose(0, 1, 3, 2), stride, pads)
    if form is None and k == 1 and padding in (0, "SAME"):
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    small = x.shape[1] * x.shape[2] <= _SMALL and x.shape[3] >= _DEEP
    if form is None and small and k % 2 and stride == 1 and pads == [(k // 2, k // 2)] * 2:
        return _small_conv(x, kernel)
    return _direct(x, kernel, stride, pads, x.shape[-1] if depthwise else 1)


def _direct(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    pads: Sequence[tuple[int, int]],
    groups: int = 1,
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@jax.custom_vjp
def _small_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of stride 1 that keeps the size, of features with few pixels and many channels.

    On a CPU every weight's matrix product is computed for all pixels, and what comes out is
    shifted and added up: the products are as fast as 1×1 convolutions, and so is the gradient.
    """
    return _by_platform(_shifted_products, x, kernel)


def _small_conv_fwd(x: jax.Array, kernel: jax.Array) -> Any:
    return _small_conv(x, kernel), (x, kernel)


def _small_conv_bwd(residuals: Any, g: jax.Array) -> Any:
    x, kernel = residuals
    mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
    pads = [(len(kernel) // 2,) * 2] * 2
    # What a frozen kernel's gradient takes is not computed: nothing asks for it.
    (by_kernel,) = jax.linear_transpose(lambda k: _direct(x, k, 1, pads), kernel)(g)
    return _by_platform(_shifted_products, g, mirrored), by_kernel


_small_conv.defvjp(_small_conv_fwd, _small_conv_bwd)


def _by_platform(on_cpu: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    pads = [(len(kernel) // 2,) * 2] * 2
    return jax.lax.platform_dependent(
        x, kernel, cpu=on_cpu, default=lambda x, kernel: _direct(x, kernel, 1, pads)
    )


def _shifted_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    zero, middle = jnp.zeros((), x.dtype), len(kernel) // 2

    def shifted(row: int, column: int) -> jax.Array:
        moves = ((0, 0, 0), *((middle - n, n - middle, 0) for n in (row, column)), (0, 0, 0))
        return jax.lax.pad(x @ kernel[row, column], zero, moves)

    places = [(row, column) for row in range(len(kernel)) for column in range(len(kernel))]
    return functools.reduce(jnp.add, (shifted(*place) for place in places))


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis, as TensorFlow's "SAME" has them."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
