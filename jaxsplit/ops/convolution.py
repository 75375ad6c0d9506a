"""Convolutions in the form that is the fastest for their kernel."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxsplit.ops.depthwise import depthwise_conv

__all__ = ["conv", "pointwise", "winograd_conv"]

# Channels from which the gradient is computed by forms of our own, and channels and pixels of a
# batch from which Winograd's form is the fastest.
_WIDE, _DEEP, _PIXELS = 64, 256, 1024

# y = Aᵀ [(G k) ⊙ (Bᵀ x)] gives two outputs of three weights from four inputs by four products.
_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))

Pads = tuple[tuple[int, int], tuple[int, int]]


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1×1 convolution as a matrix product.

    Args:
      x: float [..., c].
      kernel: float [c, features].

    Returns:
      float [..., features].

    >>> pointwise(jnp.ones((1, 2, 2, 3)), jnp.ones((3, 1))).shape
    (1, 2, 2, 1)
    """
    return x @ kernel


def _pointwise_fwd(x: jax.Array, kernel: jax.Array) -> Any:
    return x @ kernel, (x, kernel)


def _pointwise_bwd(residuals: Any, g: jax.Array) -> Any:
    x, kernel = residuals
    rows, columns = (y.reshape(-1, y.shape[-1]) for y in (x, g))
    # XLA would write the wide one anew in transposed order, which takes longer than the product.
    if columns.shape[-1] > rows.shape[-1]:
        by_kernel = _product(rows, columns)
    else:
        by_kernel = _product(columns, rows).T
    return g @ kernel.T, by_kernel


def _product(narrow: jax.Array, wide: jax.Array) -> jax.Array:
    """narrowᵀ · wide, of which the narrow one alone is transposed."""
    return jax.lax.optimization_barrier(jax.lax.optimization_barrier(narrow.T) @ wide)


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
        pads: Pads = ((padding, padding), (padding, padding))
    elif padding == "SAME":
        pads = (_same_padding(x.shape[1], k, stride), _same_padding(x.shape[2], k, stride))
    else:
        raise ValueError(f"padding is {padding!r}; expected a number or 'SAME'")
    if form is None and depthwise:
        return depthwise_conv(x, kernel.transpose(0, 1, 3, 2), stride, pads)
    if form is None and k == 1 and padding in (0, "SAME"):
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if form is None and min(kernel.shape[2:]) >= _WIDE:
        return _deep_conv(x, kernel, stride, pads)
    return _direct(x, kernel, stride, pads, x.shape[-1] if depthwise else 1)


def _direct(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    pads: Pads,
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _deep_conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolution of many channels, whose gradients XLA would compute slowly on a CPU."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_on_cpu, stride=stride, pads=pads),
        default=functools.partial(_direct, stride=stride, pads=pads),
    )


def _deep_conv_fwd(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> Any:
    return _deep_conv(x, kernel, stride, pads), (x, kernel)


def _deep_conv_bwd(stride: int, pads: Pads, residuals: Any, g: jax.Array) -> Any:
    x, kernel = residuals

    def direct(g: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: _direct(x, kernel, stride, pads), x)(g)[0]

    by_x = jax.lax.platform_dependent(
        g,
        kernel,
        cpu=functools.partial(_back_on_cpu, stride=stride, pads=pads, size=x.shape[1:3]),
        default=direct,
    )
    # Of a frozen kernel nobody asks for it, and it isn't computed.
    (by_kernel,) = jax.linear_transpose(lambda k: _direct(x, k, stride, pads), kernel)(g)
    return by_x, by_kernel


_deep_conv.defvjp(_deep_conv_fwd, _deep_conv_bwd)


def _on_cpu(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    if _suits_winograd(x, kernel, stride, pads):
        return winograd_conv(x, kernel)
    return _direct(x, kernel, stride, pads)


def _suits_winograd(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> bool:
    # With fewer pixels the kernel's transformation would take longer than the products.
    many = x.size >= _PIXELS * x.shape[-1] and min(kernel.shape[2:]) >= _DEEP
    return many and stride == 1 and len(kernel) == 3 and pads == ((1, 1), (1, 1))


def _back_on_cpu(
    g: jax.Array, kernel: jax.Array, stride: int, pads: Pads, size: tuple[int, int]
) -> jax.Array:
    """Gradient of the input, as a convolution or as matrix products that are added up."""
    k = len(kernel)
    if _suits_winograd(g, kernel, stride, pads):
        return winograd_conv(g, kernel, adjoint=True)
    if stride == 1:
        mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
        (top, bottom), (left, right) = pads
        back = ((k - 1 - top, k - 1 - bottom), (k - 1 - left, k - 1 - right))
        return _direct(g, mirrored, 1, back)

    def spread(i: int, j: int) -> jax.Array:
        """Where the weights [i, j] had taken their inputs from, the products; zeros elsewhere."""
        moves = []
        for n, outputs, place, pad in zip(size, g.shape[1:3], (i, j), pads, strict=True):
            first = place - pad[0]
            moves.append((first, n - first - stride * (outputs - 1) - 1, stride - 1))
        y = g @ kernel[i, j].T
        return jax.lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), *moves, (0, 0, 0)))

    return functools.reduce(jnp.add, (spread(i, j) for i in range(k) for j in range(k)))


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis, as TensorFlow's "SAME" has them."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def winograd_conv(x: jax.Array, kernel: jax.Array, adjoint: bool = False) -> jax.Array:
    """3×3 convolution of stride 1 that keeps the size, zeros around.

    Tiles of 2×2 outputs are computed by sixteen products, not 36: sixteen matrix products over all
    tiles. In float32 its rounding errors are about those of the direct form.

    Args:
      x: float [B, H, W, c].
      kernel: float [3, 3, c, features].
      adjoint: the gradient of the input instead: `x` is that of the output [B, H, W, features].

    Returns:
      float [B, H, W, features]; of the adjoint [B, H, W, c].

    >>> winograd_conv(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0]
    Array([[4., 6., 4.],
           [6., 9., 6.],
           [4., 6., 4.]], dtype=float32)

    Source: Lavin, Gray 2016, arXiv 1509.09308, section 4.1.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows - height + 1), (1, 2 * columns - width + 1), (0, 0)))
    # One axis at a time, each written once: in one go every element would be computed from 16.
    x = _stack(_INPUT, [x[:, n : n + 2 * rows - 1 : 2] for n in range(4)])
    x = _stack(_INPUT, [x[:, :, :, n : n + 2 * columns - 1 : 2] for n in range(4)])
    order = slice(None, None, -1 if adjoint else 1)
    weights = _stack(_KERNEL, [kernel[n] for n in range(3)[order]])
    weights = _stack(_KERNEL, [weights[:, n] for n in range(3)[order]])
    weights = weights.reshape(16, *kernel.shape[2:])
    # The product takes it transposed; written so, it would cost as much as the product.
    products = x.reshape(16, -1, channels) @ (weights.mT if adjoint else weights)
    y = products.reshape(4, 4, batch, rows, columns, -1)
    # Places along a row come before those along a column, as the last transformed axis.
    halves = [_combine(_OUTPUT, [y[i, j] for i in range(4)]) for j in range(4)]
    across = [_combine(_OUTPUT, [half[i] for half in halves]) for i in range(2)]
    down = [jnp.stack(pair, axis=3) for pair in zip(*across, strict=True)]
    y = jnp.stack(down, axis=2)
    y = y.reshape(batch, 2 * rows, 2 * columns, -1)
    return y[:, :height, :width]


def _stack(matrix: Sequence[Sequence[float]], parts: list[jax.Array]) -> jax.Array:
    return jax.lax.optimization_barrier(jnp.stack(_combine(matrix, parts)))


def _combine(matrix: Sequence[Sequence[float]], parts: list[jax.Array]) -> list[jax.Array]:
    """The matrix times the vector of arrays, without the terms that are zero."""
    return [
        functools.reduce(
            jnp.add,
            (part if c == 1 else c * part for c, part in zip(row, parts, strict=True) if c),
        )
        for row in matrix
    ]
