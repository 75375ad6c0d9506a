"""Small differentiable operations shared by the unit and the entropy model."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

__all__ = [
    "add_uniform_noise",
    "conv",
    "depthwise_conv",
    "depthwise_conv_transpose",
    "lower_bound",
    "round_straight_through",
]


@jax.custom_jvp
def round_straight_through(x: jax.Array) -> jax.Array:
    """Rounds to the nearest integer (halves to even) with the gradient of the identity.

    Args:
        x: any shape, floating.

    Returns:
        round(x), same shape and dtype; d/dx is taken to be 1 everywhere.

    Example:
        >>> x = jnp.array([0.4, 1.6])
        >>> round_straight_through(x).tolist()
        [0.0, 2.0]
        >>> jax.grad(lambda x: round_straight_through(x).sum())(x).tolist()
        [1.0, 1.0]

    Source: Bengio, Léonard, Courville 2013, arXiv 1308.3432 (straight-through estimator).
    """
    return jnp.round(x)


@round_straight_through.defjvp
def _(primals, tangents):
    # A rule and not `x + stop_gradient(round(x) - x)`: that sum isn't always an integer in float32.
    return jnp.round(primals[0]), tangents[0]


def add_uniform_noise(x: jax.Array, key: jax.Array) -> jax.Array:
    """Adds independent noise from U[-1/2, 1/2), the training stand-in for rounding.

    Args:
        x: any shape, floating.
        key: a jax random key.

    Returns:
        x + u, same shape and dtype.

    Example:
        >>> z = add_uniform_noise(jnp.zeros(1000), jax.random.key(0))
        >>> bool((jnp.abs(z) <= 0.5).all())
        True

    Source: Ballé, Laparra, Simoncelli 2017, arXiv 1611.01704, section 3.
    """
    return x + jax.random.uniform(key, x.shape, x.dtype, -0.5, 0.5)


@jax.custom_vjp
def lower_bound(x: jax.Array, bound: jax.Array | float) -> jax.Array:
    """max(x, bound), whose gradient still lets descent lift x from below the bound.

    With cotangent g the gradient with respect to x is g where x >= bound or g < 0 (a descent step
    would raise x), else 0. The bound itself gets no gradient.

    Args:
        x: any shape, floating.
        bound: a number, or an array of x's rank that broadcasts against x without growing it.

    Returns:
        max(x, bound), same shape and dtype as x.

    Example:
        >>> jax.grad(lambda x: -lower_bound(x, 1.0))(0.5).item()  # minimising it raises x
        -1.0
        >>> jax.grad(lambda x: lower_bound(x, 1.0))(0.5).item()  # minimising it would lower x
        0.0

    Source: Ballé 2018, arXiv 1802.00847 (GDN's reparametrised bounds).
    """
    return jnp.maximum(x, jnp.asarray(bound, jnp.result_type(x)))


def _lower_bound_fwd(x, bound):
    bound = jnp.asarray(bound)
    return lower_bound(x, bound), (x >= bound.astype(jnp.result_type(x)), jnp.zeros_like(bound))


def _lower_bound_bwd(residuals, g):
    passes, no_gradient = residuals
    return jnp.where(passes | (g < 0), g, jnp.zeros_like(g)), no_gradient


lower_bound.defvjp(_lower_bound_fwd, _lower_bound_bwd)


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
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] if depthwise else 1,
    )


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis, as TensorFlow's "SAME" has them."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def depthwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    padding: int | Sequence[tuple[int, int]] = 0,
) -> jax.Array:
    """Depthwise convolution as a sum of shifted multiply-adds.

    On CPUs this form and its gradients run many times faster than a grouped convolution, with
    the same values; elsewhere XLA fuses it into one pass over `x`.

    Args:
      x: float [B, H, W, C].
      kernel: float [k, k, C, m]; channel c of `x` yields the m output channels c·m … c·m + m - 1.
      stride: step between taken windows, in pixels.
      padding: zeros added on each side, or (before, after) of the rows and of the columns.

    Returns:
      float [B, h, w, C·m] with h = ⌊(H + 2·padding - k) / stride⌋ + 1.

    >>> depthwise_conv(jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1)), stride=2)[0, :, :, 0]
    Array([[4., 4.],
           [4., 4.]], dtype=float32)
    """
    k, _, channels, multiplier = kernel.shape
    batch, height, width, _ = x.shape
    pads = [(padding, padding)] * 2 if isinstance(padding, int) else padding
    h, w = ((n + sum(pad) - k) // stride + 1 for n, pad in zip((height, width), pads, strict=True))
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    taps = [
        x[:, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride]
        for i in range(k)
        for j in range(k)
    ]
    if multiplier == 1:
        weights = kernel.reshape(k * k, 1, 1, 1, channels)
        return functools.reduce(jnp.add, map(jnp.multiply, taps, weights))
    # Several filters a channel: a small matrix product for each, whose gradient is one too.
    weights = kernel.reshape(k * k, channels, multiplier)
    y = jnp.einsum("bhwtc,tcm->bhwcm", jnp.stack(taps, axis=3), weights)
    return y.reshape(batch, h, w, channels * multiplier)


def depthwise_conv_transpose(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, size: tuple[int, int]
) -> jax.Array:
    """Transposed depthwise convolution, computed phase by phase.

    Each of the stride² output phases is an ordinary depthwise convolution of `x` with the taps
    that reach it, so no multiplication is spent on the zeros of a dilated input.

    Args:
      x: float [B, h, w, C·m].
      kernel: float [k, k, C, m]; the m input channels c·m … c·m + m - 1 add up to output channel c.
      stride: pixels between the outputs of neighbouring inputs.
      padding: rows and columns cut off at the top and left of the full output.
      size: (H, W) of the output. Rows and columns that no tap reaches are zero.

    Returns:
      float [B, H, W, C].
    """
    k, _, channels, multiplier = kernel.shape
    batch, h, w, _ = x.shape
    reach = -(-k // stride)  # inputs that touch one output, along one axis
    rows, columns = (-(-(n + padding) // stride) for n in size)
    x = jnp.pad(
        x, ((0, 0), (reach - 1, max(0, rows - h)), (reach - 1, max(0, columns - w)), (0, 0))
    )
    # One input at a time as [rows, columns, C]: the channels stay contiguous.
    inputs = x.reshape(*x.shape[:3], channels, multiplier).transpose(4, 0, 1, 2, 3)
    spare = reach * stride - k
    taps = jnp.pad(kernel, ((0, spare), (0, spare), (0, 0), (0, 0)))
    taps = taps.reshape(reach, stride, reach, stride, channels, multiplier)
    # All phases of one tap at once: long runs of memory, which the gradient's sums need most.
    phases = [
        inputs[n, :, reach - 1 - i :, reach - 1 - j :][:, :rows, :columns, None, None]
        * taps[None, None, None, i, :, j, :, :, n]
        for i in range(reach)
        for j in range(reach)
        for n in range(multiplier)
    ]
    full = functools.reduce(jnp.add, phases)
    full = full.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, rows * stride, columns * stride, channels
    )
    return full[:, padding : padding + size[0], padding : padding + size[1]]
