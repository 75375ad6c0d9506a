"""Convolutions in the fastest implementation for their kernel size and channel count."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.ops.depthwise import Pads, Pair, depthwise_conv, keeping_arguments, slices

# From _WIDE channels on, gradients use the implementations below. From _DEEP channels and _PIXELS
# pixels in a batch on, Winograd's algorithm is the fastest. From _PATCHED channels on and up to
# _FEW pixels, one matrix product of all windows takes half of XLA's time or less.
_WIDE, _DEEP, _PIXELS = 64, 128, 128
_PATCHED, _FEW = 256, 256

# Winograd's F(2, 3): y = Aᵀ [(G k) ⊙ (Bᵀ x)] gives two outputs from four inputs and three weights
# by four products.
_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))


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


def _pointwise_bwd(residuals: Pair, g: jax.Array) -> Pair:
    x, kernel = residuals
    rows, columns = (y.reshape(-1, y.shape[-1]) for y in (x, g))
    # XLA would materialize the transpose of the wide operand, which takes longer than the product.
    if columns.shape[-1] > rows.shape[-1]:
        by_kernel = _product(rows, columns)
    else:
        by_kernel = _product(columns, rows).T
    return g @ kernel.T, by_kernel


def _product(narrow: jax.Array, wide: jax.Array) -> jax.Array:
    """Computes narrowᵀ · wide and transposes only the narrow operand."""
    return jax.lax.optimization_barrier(jax.lax.optimization_barrier(narrow.T) @ wide)


pointwise.defvjp(keeping_arguments(pointwise), _pointwise_bwd)


def conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    padding: int | str = 0,
    depthwise: bool = False,
    dilation: int = 1,
) -> jax.Array:
    """Convolution in the fastest implementation for its kernel.

    On CPUs, 1×1 convolutions as matrix products and depthwise ones as sums of shifted multiply-adds
    are faster than XLA's, with the same values.

    Args:
      x: float [B, H, W, c].
      kernel: float [k, k, c, features]; [k, k, 1, c] for a depthwise convolution.
      stride: of both axes.
      padding: number of zeros on every side, or "SAME" for h = ⌈H / stride⌉ with an odd zero
        below and to the right.
      depthwise: each channel has its own filter.
      dilation: distance between the pixels under adjacent weights.

    Returns:
      float [B, h, w, features].

    Raises:
      ValueError: unknown padding, or stride and dilation of a depthwise one are both above 1.

    >>> x, kernel = jnp.ones((1, 5, 5, 1)), jnp.ones((3, 3, 1, 1))
    >>> conv(x, kernel, stride=2, padding="SAME")[0, 1, :, 0].tolist()
    [6.0, 9.0, 6.0]
    """
    k = len(kernel)
    reach = dilation * (k - 1) + 1  # pixels of a side that an output is computed from
    if not isinstance(padding, str):
        pads: Pads = ((padding, padding), (padding, padding))
    elif padding == "SAME":
        rows, columns = jax.lax.padtype_to_pads(
            x.shape[1:3], (reach, reach), (stride, stride), "SAME"
        )
        pads = (rows, columns)
    else:
        raise ValueError(f"padding is {padding!r}; expected a number or 'SAME'")
    if depthwise:
        return depthwise_conv(x, kernel.transpose(0, 1, 3, 2), stride, pads, dilation)
    if k == 1 and padding in (0, "SAME"):
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if min(kernel.shape[2:]) >= _WIDE and dilation == 1:
        return _deep_conv(x, kernel, stride, pads)
    return _direct(x, kernel, stride, pads, dilation)


def _direct(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dilation: int = 1
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _deep_conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolution of many channels with gradients that are faster than XLA's on a CPU."""
    direct = functools.partial(_direct, stride=stride, pads=pads)
    on_cpu: Callable[..., jax.Array] = direct
    if _suits_winograd(x, kernel, stride, pads):
        on_cpu = winograd_conv
    elif min(kernel.shape[2:]) >= _PATCHED and x.size <= _FEW * stride**2 * x.shape[-1]:
        on_cpu = functools.partial(patches_conv, stride=stride, pads=pads)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=direct)


def _deep_conv_bwd(stride: int, pads: Pads, residuals: Pair, g: jax.Array) -> Pair:
    x, kernel = residuals

    def direct(g: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: _direct(x, kernel, stride, pads), x)(g)[0]

    on_cpu = functools.partial(_back_on_cpu, stride=stride, pads=pads, size=x.shape[1:3])
    by_x = jax.lax.platform_dependent(g, kernel, cpu=on_cpu, default=direct)
    # XLA removes this as dead code where the kernel is frozen.
    (by_kernel,) = jax.linear_transpose(lambda k: _direct(x, k, stride, pads), kernel)(g)
    return by_x, by_kernel


_deep_conv.defvjp(keeping_arguments(_deep_conv), _deep_conv_bwd)


def _suits_winograd(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> bool:
    if not isinstance(x.size, int):  # a symbolic batch
        return False
    # With fewer pixels the kernel transform takes longer than the products.
    many = x.size >= _PIXELS * x.shape[-1] and min(kernel.shape[2:]) >= _DEEP
    return many and stride == 1 and len(kernel) == 3 and pads == ((1, 1), (1, 1))


def _back_on_cpu(
    g: jax.Array, kernel: jax.Array, stride: int, pads: Pads, size: tuple[int, ...]
) -> jax.Array:
    """Gradient with respect to the input, as a convolution or as a sum of matrix products."""
    k = len(kernel)
    if _suits_winograd(g, kernel, stride, pads):
        return winograd_conv(g, kernel, adjoint=True)
    if stride == 1:
        (top, bottom), (left, right) = pads
        back = ((k - 1 - top, k - 1 - bottom), (k - 1 - left, k - 1 - right))
        return _direct(g, kernel[::-1, ::-1].swapaxes(2, 3), 1, back)

    def spread(i: int, j: int) -> jax.Array:
        """Scatters the products with the weights [i, j] to their input positions."""
        moves = []
        for n, outputs, index, pad in zip(size, g.shape[1:3], (i, j), pads, strict=True):
            first = index - pad[0]
            moves.append((first, n - first - stride * (outputs - 1) - 1, stride - 1))
        y = g @ kernel[i, j].T
        return jax.lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), *moves, (0, 0, 0)))

    return functools.reduce(jnp.add, (spread(i, j) for i, j in np.ndindex(k, k)))


def patches_conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolution as one matrix product of all windows with the kernel.

    Args:
      x: float [B, H, W, c].
      kernel: float [k, k, c, features].
      stride: of both axes.
      pads: zeros (before, after) of the rows and of the columns.

    Returns:
      float [B, h, w, features].

    >>> none = ((0, 0), (0, 0))
    >>> patches_conv(jnp.ones((1, 3, 3, 1)), jnp.ones((2, 2, 1, 1)), 1, none)[0, :, :, 0].tolist()
    [[4.0, 4.0], [4.0, 4.0]]
    """
    taps = slices(x, len(kernel), stride, pads)
    # Fused into the product, the windows would be computed for every block of it.
    windows = jax.lax.optimization_barrier(jnp.concatenate(taps, axis=-1))
    return windows @ kernel.reshape(-1, kernel.shape[-1])


def max_pool(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    """Largest value of each window, as maxima of slices: on CPUs faster than XLA's own.

    Args:
      x: float [B, H, W, C], not negative: windows are padded with zeros.
      size: side of the windows.
      stride: between windows, in pixels.
      padding: zeros on every side.

    Returns:
      float [B, h, w, C].

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 3, 2, 1)[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    return functools.reduce(jnp.maximum, slices(x, size, stride, ((padding, padding),) * 2))


def winograd_conv(x: jax.Array, kernel: jax.Array, adjoint: bool = False) -> jax.Array:
    """3×3 convolution of stride 1 with one zero on every side, by Winograd's F(2×2, 3×3).

    A tile of 2×2 outputs takes 16 multiplications instead of 36, in matrix products over all tiles.
    In float32 the rounding errors are about those of a direct convolution.

    Args:
      x: float [B, H, W, c].
      kernel: float [3, 3, c, features].
      adjoint: compute the gradient of the input; `x` is that of the output [B, H, W, features].

    Returns:
      float [B, H, W, features]; [B, H, W, c] for the adjoint.

    >>> winograd_conv(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, 1, :, 0].tolist()
    [6.0, 9.0, 6.0]

    Source: Lavin, Gray 2016, arXiv 1509.09308, section 4.1.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows - height + 1), (1, 2 * columns - width + 1), (0, 0)))
    # One axis at a time: in a single fused pass every element would be computed from 16 others.
    x = _stack(_INPUT, [x[:, n : n + 2 * rows - 1 : 2] for n in range(4)])
    x = _stack(_INPUT, [x[:, :, :, n : n + 2 * columns - 1 : 2] for n in range(4)])
    order = slice(None, None, -1 if adjoint else 1)
    weights = _stack(_KERNEL, [kernel[n] for n in range(3)[order]])
    weights = _stack(_KERNEL, [weights[:, n] for n in range(3)[order]])
    weights = weights.reshape(16, *kernel.shape[2:])
    # The product reads a transposed view; materializing it would cost as much as the product.
    products = x.reshape(16, -1, channels) @ (weights.mT if adjoint else weights)
    y = products.reshape(4, 4, batch, rows, columns, -1)
    # The row transform first: its axis is the last one that was transformed.
    halves = [_combine(_OUTPUT, [y[i, j] for i in range(4)]) for j in range(4)]
    across = [_combine(_OUTPUT, [half[i] for half in halves]) for i in range(2)]
    down = [jnp.stack(pair, axis=3) for pair in zip(*across, strict=True)]
    y = jnp.stack(down, axis=2)
    y = y.reshape(batch, 2 * rows, 2 * columns, -1)
    return y[:, :height, :width]


def _stack(matrix: Sequence[Sequence[float]], parts: list[jax.Array]) -> jax.Array:
    return jax.lax.optimization_barrier(jnp.stack(_combine(matrix, parts)))


def _combine(matrix: Sequence[Sequence[float]], parts: list[jax.Array]) -> list[jax.Array]:
    """Multiplies the matrix by the vector of arrays and skips zero coefficients."""

    def total(row: Sequence[float]) -> jax.Array:
        terms = [part if c == 1 else c * part for c, part in zip(row, parts, strict=True) if c]
        return functools.reduce(jnp.add, terms)

    return [total(row) for row in matrix]
