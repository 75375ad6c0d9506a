"""3×3 convolution with fewer multiplications: Winograd's F(2×2, 3×3)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

__all__ = ["winograd_conv"]

# y = Aᵀ [(G k) ⊙ (Bᵀ x)] gives two outputs of three weights from four inputs by four products.
_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))


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
