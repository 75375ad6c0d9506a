"""Depthwise convolution and its transpose, each the gradient of the other."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

# Most products along a row that the weight gradient sums in one fused loop.
_RUN = 16

Pads = tuple[tuple[int, int], tuple[int, int]]
Pair = tuple[jax.Array, jax.Array]  # x and kernel, or their gradients

# True while programs are traced for other compilers than XLA.
_GROUPED = contextvars.ContextVar("grouped", default=False)


@contextlib.contextmanager
def grouped_convolutions() -> Iterator[None]:
    """Traces depthwise convolutions as grouped ones, the form that other runtimes know.

    Returns:
      A context; what is traced outside of it has the form that is fastest here.

    >>> with grouped_convolutions():
    ...     program = jax.make_jaxpr(depthwise_conv)(jnp.ones((1, 3, 3, 2)), jnp.ones((2, 2, 2, 1)))
    >>> [equation.primitive.name for equation in program.jaxpr.eqns]
    ['reshape', 'conv_general_dilated']
    """
    token = _GROUPED.set(True)
    try:
        yield
    finally:
        _GROUPED.reset(token)


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | Pads = 0, dilation: int = 1
) -> jax.Array:
    """Depthwise convolution as a sum of shifted multiply-adds.

    On CPUs it and its gradients are many times faster than a grouped convolution, with the same
    values. On other devices XLA fuses it into one pass over `x`.

    Args:
      x: float [B, H, W, C].
      kernel: float [k, k, C, m]; channel c of `x` yields the m output channels c·m … c·m + m - 1.
      stride: step between windows, in pixels.
      padding: zeros on each side, or (before, after) for the rows and for the columns.
      dilation: distance between the pixels under adjacent weights; needs a stride of 1 if above 1.

    Returns:
      float [B, h, w, C·m] with h = ⌊(H + 2·padding - (k - 1)·dilation - 1) / stride⌋ + 1.

    Raises:
      ValueError: stride and dilation are both above 1.

    >>> depthwise_conv(jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1)), stride=2).ravel().tolist()
    [4.0, 4.0, 4.0, 4.0]
    """
    k, _, channels, multiplier = kernel.shape
    if min(stride, dilation) > 1:
        raise ValueError(f"stride {stride} and dilation {dilation}; expected one of them to be 1")
    pads = ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
    if _GROUPED.get():
        return jax.lax.conv_general_dilated(
            x,
            kernel.reshape(k, k, 1, channels * multiplier),
            (stride, stride),
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
        )
    if multiplier == 1:
        return _conv(x, kernel[..., 0], stride, pads, dilation)
    # Several filters per channel: one small matrix product each, with a matrix product as gradient.
    taps = jnp.stack(_taps(_pad(x, pads), k, stride, dilation), axis=3)
    y = jnp.einsum("bhwtc,tcm->bhwcm", taps, kernel.reshape(k * k, channels, multiplier))
    return y.reshape(*y.shape[:3], channels * multiplier)


# A named jit call, so that the jaxpr counter recognizes the operation.
@functools.partial(jax.jit, static_argnames=("stride", "padding", "size"))
def depthwise_conv_transpose(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, size: tuple[int, int]
) -> jax.Array:
    """Transposed depthwise convolution, computed phase by phase.

    Each of the stride² output phases is a depthwise convolution of `x` with the taps that reach it:
    no multiplication is spent on the zeros of a dilated input.

    Args:
      x: float [B, h, w, C·m].
      kernel: float [k, k, C, m]; the m input channels c·m … c·m + m - 1 add up to output channel c.
      stride: distance between the outputs of adjacent inputs, in pixels.
      padding: rows and columns cropped at the top and left of the full output.
      size: (H, W) of the output. Rows and columns that no tap reaches are zero.

    Returns:
      float [B, H, W, C].

    >>> x, kernel = jnp.array([[1.0, 2.0]]).reshape(1, 1, 2, 1), jnp.ones((2, 2, 1, 1))
    >>> depthwise_conv_transpose(x, kernel, stride=2, padding=0, size=(1, 4)).ravel().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    if kernel.shape[-1] == 1:
        return _transpose(x, kernel[..., 0], stride, (padding, padding), size)
    return _phases(x, kernel, stride, (padding, padding), size)


def keeping_arguments(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, Pair]]:
    """Returns the forward pass of a custom gradient that needs the arguments x and kernel."""
    return lambda x, kernel, *rest: (function(x, kernel, *rest), (x, kernel))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dilation: int) -> jax.Array:
    """`depthwise_conv` with a kernel [k, k, C]."""
    return _weighted(_taps(_pad(x, pads), len(kernel), stride, dilation), kernel)


def _conv_bwd(stride: int, pads: Pads, dilation: int, residuals: Pair, g: jax.Array) -> Pair:
    x, kernel = residuals
    k = len(kernel)
    by_kernel = _correlations(_pad(x, pads), g, k, stride, dilation)
    if dilation > 1:
        reach = dilation * (k - 1)
        rows, columns = ((reach - before, reach - after) for before, after in pads)
        by_x = _weighted(_taps(_pad(g, (rows, columns)), k, 1, dilation), kernel[::-1, ::-1])
    else:
        before = (pads[0][0], pads[1][0])
        by_x = _transpose(g, kernel, stride, before, x.shape[1:3])
    return by_x, by_kernel.astype(kernel.dtype)


_conv.defvjp(keeping_arguments(_conv), _conv_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _transpose(
    x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int], size: tuple[int, int]
) -> jax.Array:
    """`depthwise_conv_transpose` with a kernel [k, k, C]."""
    return _phases(x, kernel[..., None], stride, padding, size)


def _transpose_bwd(
    stride: int, padding: tuple[int, int], size: tuple[int, int], residuals: Pair, g: jax.Array
) -> Pair:
    x, kernel = residuals
    k = len(kernel)
    # One window per pixel of `x`, whatever was cropped below and to the right.
    sides = zip(g.shape[1:3], x.shape[1:3], padding, strict=True)
    rows, columns = ((before, (m - 1) * stride + k - n - before) for n, m, before in sides)
    g = _pad(g, (rows, columns))
    by_kernel = _correlations(g, x, k, stride)
    return _weighted(_taps(g, k, stride), kernel), by_kernel.astype(kernel.dtype)


_transpose.defvjp(keeping_arguments(_transpose), _transpose_bwd)


def slices(x: jax.Array, k: int, stride: int, pads: Pads) -> list[jax.Array]:
    """Returns what each place of a k×k window sees of a padded x [B, H, W, C]: [B, h, w, C]."""
    return _taps(_pad(x, pads), k, stride)


def _pad(x: jax.Array, pads: Pads) -> jax.Array:
    """Pads rows and columns with zeros; negative pads crop."""
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)))


def _taps(x: jax.Array, k: int, stride: int, dilation: int = 1) -> list[jax.Array]:
    """Slices of a padded x [B, H, W, C] that each of the k² weights multiplies: [B, h, w, C]."""
    # One past the last row and column that weight [0, 0] multiplies.
    h, w = ((n - 1 - dilation * (k - 1)) // stride * stride + 1 for n in x.shape[1:3])
    batch, _, _, channels = x.shape
    steps = (1, stride, stride, 1)
    return [
        jax.lax.slice(x, (0, i, j, 0), (batch, i + h, j + w, channels), steps)
        for i, j in ((dilation * i, dilation * j) for i, j in np.ndindex(k, k))
    ]


def _weighted(taps: list[jax.Array], kernel: jax.Array) -> jax.Array:
    # Without the barrier XLA recomputes a derived kernel for every pixel.
    weights = jax.lax.optimization_barrier(kernel).reshape(len(taps), 1, 1, 1, -1)
    # Of jax.lax, which traces in half the time of jax.numpy: a network has hundreds of taps.
    products = (
        jax.lax.mul(tap, jax.lax.broadcast_in_dim(weights[i], tap.shape, range(tap.ndim)))
        for i, tap in enumerate(taps)
    )
    return functools.reduce(jax.lax.add, products)


def _correlations(x: jax.Array, g: jax.Array, k: int, stride: int, dilation: int = 1) -> jax.Array:
    """Weight gradient: Σ over b, h, w of every tap of a padded x, times g [B, h, w, C]."""
    _, h, w, channels = g.shape
    # Sums products along a row before writing anything. Summing whole taps copies each of them
    # out of `x` first, which takes several times as long on CPUs.
    run = max(n for n in range(1, _RUN + 1) if w % n == 0)
    rows, columns = stride * (h - 1) + 1, stride * (w - run) + 1

    def products(i: int, j: int, n: int) -> jax.Array:
        """Those of weight [i, j] in every `run`-th column from the n-th."""
        i, j = dilation * i, dilation * j + stride * n
        tap = x[:, i : i + rows : stride, j : j + columns : stride * run]
        return tap * g[:, :, n::run]

    sums = [
        functools.reduce(jnp.add, (products(i, j, n) for n in range(run)))
        for i, j in np.ndindex(k, k)
    ]
    return jnp.stack(sums).sum(axis=(1, 2, 3), dtype=jnp.float32).reshape(k, k, channels)


def _phases(
    x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int], size: tuple[int, int]
) -> jax.Array:
    k, _, channels, multiplier = kernel.shape
    batch, h, w, _ = x.shape
    reach = -(-k // stride)  # inputs that touch one output, along one axis
    rows, columns = (-(-(n + before) // stride) for n, before in zip(size, padding, strict=True))
    x = _pad(x, ((reach - 1, max(0, rows - h)), (reach - 1, max(0, columns - w))))
    # One multiplier at a time as [rows, columns, C]: the channels stay contiguous.
    inputs = x.reshape(*x.shape[:3], channels, multiplier).transpose(4, 0, 1, 2, 3)
    spare = (0, reach * stride - k)
    taps = jax.lax.optimization_barrier(jnp.pad(kernel, (spare, spare, (0, 0), (0, 0))))
    taps = taps.reshape(reach, stride, reach, stride, channels, multiplier)
    # All phases of one tap at once give long contiguous runs of memory.
    phases = [
        inputs[n, :, reach - 1 - i :, reach - 1 - j :][:, :rows, :columns, None, None]
        * taps[None, None, None, i, :, j, :, :, n]
        for i, j, n in np.ndindex(reach, reach, multiplier)
    ]
    full = functools.reduce(jnp.add, phases).transpose(0, 1, 3, 2, 4, 5)
    full = full.reshape(batch, rows * stride, columns * stride, channels)
    top, left = padding
    return full[:, top : top + size[0], left : left + size[1]]
