"""The fully factorized density: a learned monotone cumulative for every channel.

With K = len(filters) + 1 layers, r_0 = r_K = 1 and r_k = filters[k - 1], the cumulative of a
channel is the logistic function of

    f_K ∘ … ∘ f_1(z),   f_k(x) = g_k(softplus(H_k) x + b_k),   g_k(x) = x + tanh(a_k) ⊙ tanh(x)

without g in the last layer. It increases, since softplus(H) > 0 and |tanh(a)| < 1. tanh saturates,
so both tails are exponential with the same slope. Smooth densities are fitted within 1 %; a spike
beside a long one-sided tail, as ReLU features have, costs 0.1 to 0.3 bits per symbol above its
entropy.

Source: Ballé, Minnen, Singh, Hwang, Johnston 2018, arXiv 1802.01436, appendix 6.1.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit._moved import renamed
from jaxsplit.errors import ConfigError

Params = Mapping[str, jax.Array]
_Layer = tuple[jax.Array, jax.Array, jax.Array | None]
_Array = TypeVar("_Array", jax.Array, np.ndarray)
_Pair = tuple[jax.Array, jax.Array]

# Elements of z per block. The layers' intermediates then fit a CPU's cache, which makes the
# gradient three times as fast.
_BLOCK = 8192


def init_params(
    key: jax.Array,
    channels: int,
    filters: Sequence[int] = (3, 3, 3),
    init_scale: float | np.ndarray = 10.0,
) -> dict[str, jax.Array]:
    """Initializes the parameters of a density of width `init_scale` in every channel.

    Args:
      key: a jax random key, for the biases.
      channels: number of channels C.
      filters: widths of the hidden layers; () is a logistic density.
      init_scale: initial width in units of the quantization step, a number or [C]. Start near or
        above the spread of the latents; a ConfigError if it or a size is not positive.

    Returns:
      float32 arrays, for layer k of 0 … len(filters): `matrix_k` [C, r_out, r_in] (H),
      `bias_k` [C, r_out] (b) and, except in the last layer, `factor_k` [C, r_out] (a).

    >>> init_params(jax.random.key(0), channels=4)["matrix_1"].shape
    (4, 3, 3)
    """
    scales = np.asarray(init_scale, np.float64)
    positive = bool(((scales > 0) & np.isfinite(scales)).all())
    if channels < 1 or any(r < 1 for r in filters) or not positive:
        raise ConfigError(
            f"factorized prior: got channels={channels}, filters={tuple(filters)}, "
            f"init_scale={init_scale}; expected positive numbers"
        )
    widths = (1, *filters, 1)
    layers = len(widths) - 1
    slope = scales.reshape(-1, 1, 1) ** (-1 / layers)
    params = {}
    for k, (r_in, r_out) in enumerate(itertools.pairwise(widths)):
        # The widths cancel along the chain, so its slope is 1 / init_scale.
        value = np.log(np.expm1(slope / r_out))
        params[f"matrix_{k}"] = jnp.broadcast_to(
            jnp.asarray(value, jnp.float32), (channels, r_out, r_in)
        )
        params[f"bias_{k}"] = jax.random.uniform(
            jax.random.fold_in(key, k), (channels, r_out), jnp.float32, -0.5, 0.5
        )
        if k < layers - 1:
            params[f"factor_{k}"] = jnp.zeros((channels, r_out), jnp.float32)
    return params


def cumulative_logits(params: Params, z: jax.Array) -> jax.Array:
    """Computes logits of the cumulative: P(Z <= z) = sigmoid(cumulative_logits(params, z)).

    Args:
      params: as from `init_params`.
      z: [..., C], in units of the quantization step.

    Returns:
      float32 [..., C], increasing in z.

    >>> params = init_params(jax.random.key(0), channels=2)
    >>> cumulative_logits(params, jnp.array([[-9.0, -9.0], [9.0, 9.0]])).shape
    (2, 2)
    """

    def block(layers: list[_Layer], x: jax.Array) -> jax.Array:
        for matrix, bias, factor in layers:
            x = _matmul(matrix, x) + bias
            if factor is not None:
                x = x + factor * jnp.tanh(x)
        return x[:, 0]

    return _by_blocks(block, params, z)


def bits(params: Params, z: jax.Array, width: jax.Array | float = 1.0) -> jax.Array:
    """Computes the information content of z in bits: -log2 P(z - width/2 < Z <= z + width/2).

    The rate of rounded latents in coding, and of noisy ones in training, by the log-density of
    Z + U(-width/2, width/2). Accurate far into the tails, where it grows linearly and its gradient
    points back.

    Args:
      params: as from `init_params`.
      z: [..., C], noisy or rounded, in units of the density; symbol + offset of a coder with
        offsets.
      width: of a quantization step in these units: a number, or an array that broadcasts to z. One
        density prices every step.

    Returns:
      Bits, float32 [..., C], >= 0 and finite for finite z, not summed.

    >>> params = init_params(jax.random.key(0), channels=1, init_scale=1.0)
    >>> grid = jnp.arange(-50.0, 51.0)[:, None]
    >>> round(jnp.exp2(-bits(params, grid)).sum().item(), 5)
    1.0
    """

    def block(layers: list[_Layer], x: jax.Array, width: jax.Array | float) -> jax.Array:
        # The growth of the logits over the interval is propagated beside the lower ones: the
        # difference of two large logits would lose it to rounding.
        lower = x - 0.5 * width
        growth = jnp.broadcast_to(width, x.shape if jnp.ndim(width) else (x.shape[0], 1, 1))
        for matrix, bias, factor in layers:
            lower = _matmul(matrix, lower) + bias
            growth = _matmul(matrix, growth)
            if factor is not None:
                tanh_lower = jnp.tanh(lower)
                growth = growth + factor * (jnp.tanh(lower + growth) - tanh_lower)
                lower = lower + factor * tanh_lower
        return log_logistic_mass(lower, growth)[:, 0]

    if jnp.ndim(width) == 0:
        found = _by_blocks(functools.partial(block, width=jnp.float32(width)), params, z)
    else:
        found = _by_blocks(block, params, z, jnp.broadcast_to(width, z.shape))
    return found * (-1 / math.log(2))


def centred(params: Params) -> dict[str, jax.Array]:
    """Shifts a density so that the median of every channel is 0: rounding then needs no offset.

    Args:
      params: as from `init_params`.

    Returns:
      The parameters of the shifted density.

    >>> params = centred(init_params(jax.random.key(0), channels=2))
    >>> abs(cumulative_logits(params, jnp.zeros((1, 2)))).max().item() < 1e-5
    True
    """
    last = f"bias_{sum(name.startswith('bias_') for name in params) - 1}"
    channels = params["bias_0"].shape[0]
    shift = cumulative_logits(params, jnp.zeros((1, channels)))
    return {**params, last: params[last] - shift.reshape(channels, 1)}


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    # By default accelerators multiply in bfloat16, which is too coarse for the tails.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def layers(
    params: Mapping[str, _Array], xp: ModuleType
) -> list[tuple[_Array, _Array, _Array | None]]:
    """Returns softplus(H) [C, r_out, r_in], b and tanh(a) or None [C, r_out, 1] of each layer.

    `xp` is the module of the arrays: jax.numpy or numpy.
    """
    found: list[tuple[_Array, _Array, _Array | None]] = []
    while (matrix := params.get(f"matrix_{len(found)}")) is not None:
        bias, factor = params[f"bias_{len(found)}"], params.get(f"factor_{len(found)}")
        slope = None if factor is None else xp.tanh(factor)[:, :, None]
        found.append((xp.logaddexp(matrix, 0), bias[:, :, None], slope))
    return found


def _by_blocks(
    block: Callable[..., jax.Array], params: Params, z: jax.Array, *more: jax.Array
) -> jax.Array:
    """Applies block(layers, *x [C, 1, n]) -> [C, n] to z and more [..., C], a block at a time."""
    found = layers(params, jnp)
    channels = params["bias_0"].shape[0]
    if z.ndim < 1 or z.shape[-1] != channels:
        raise ConfigError(
            f"factorized prior: got z of shape {z.shape}, expected [..., {channels}]; "
            "move the channels to the last axis"
        )
    # Channels first, so that a channel's parameters apply to one contiguous row.
    dtype = jnp.promote_types(z.dtype, jnp.float32)
    rows = [x.astype(dtype).reshape(-1, channels).T for x in (z, *more)]
    n = rows[0].shape[1]
    size = 8 * max(_BLOCK // (8 * channels), 1)
    if n <= size:
        y = block(found, *(x[:, None] for x in rows))
    else:
        blocks = -(-n // size)
        rows = [jnp.pad(x, ((0, 0), (0, blocks * size - n))) for x in rows]
        parts = [jnp.moveaxis(x.reshape(channels, blocks, size), 1, 0) for x in rows]
        # Recomputing a block in the backward pass is faster than reading it from memory.
        apply = jax.checkpoint(
            lambda parts: block(found, *(x[:, None] for x in parts)), prevent_cse=False
        )
        y = jnp.moveaxis(jax.lax.map(apply, parts), 0, 1).reshape(channels, -1)[:, :n]
    return y.T.reshape(z.shape)


# Lower bound of the growth, far below any real one (40 bits): rounding could make it 0, and its
# inverse must stay finite when an optimizer squares it.
_MIN_GROWTH = 1e-12


@jax.custom_jvp
def log_logistic_mass(lower: jax.Array, growth: jax.Array) -> jax.Array:
    """Computes log(sigmoid(lower + growth) - sigmoid(lower)), stable for all finite arguments.

    The difference is sigmoid(lower + growth) sigmoid(-lower) (1 - exp(-growth)): no cancellation.
    In the tails it is a straight line. A growth below 1e-12 counts as 1e-12, with a gradient that
    still raises it.
    """
    growth = jnp.maximum(growth, _MIN_GROWTH)
    upper = lower + growth
    ratio = -jnp.expm1(-growth) / ((1 + jnp.exp(-jnp.abs(upper))) * (1 + jnp.exp(-jnp.abs(lower))))
    return jnp.log(ratio) - jnp.maximum(jnp.maximum(lower, -upper), 0.0)


@log_logistic_mass.defjvp
def _(primals: _Pair, tangents: _Pair) -> _Pair:
    # Explicit for speed, and because the lower bound must not cut the gradient.
    lower, growth = primals
    growth = jnp.maximum(growth, _MIN_GROWTH)
    above = jax.nn.sigmoid(-(lower + growth))
    by_lower = above - jax.nn.sigmoid(lower)
    by_growth = above + 1 / jnp.expm1(growth)
    return log_logistic_mass(lower, growth), by_lower * tangents[0] + by_growth * tangents[1]


class FactorizedPrior(nn.Module):
    """Linen module of the fully factorized prior; it maps latents to bits.

    It never quantizes: pass noisy latents in training and rounded ones for the rate of real
    symbols. `variables["params"]` are the parameters of the functions of this package.

    Attributes:
      channels: number of latent channels C.
      filters, init_scale: see `init_params`.

    >>> prior = FactorizedPrior(channels=8)
    >>> variables = prior.init(jax.random.key(0), jnp.zeros((1, 4, 4, 8)))
    >>> prior.apply(variables, jnp.zeros((2, 4, 4, 8))).shape
    (2, 4, 4, 8)
    """

    channels: int
    filters: Sequence[int] = (3, 3, 3)
    init_scale: float = 10.0

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Computes the information content of every latent.

        Args:
          z: [..., C], in units of the quantization step.

        Returns:
          Bits, float32 [..., C].
        """

        def initial(key: jax.Array) -> dict[str, jax.Array]:
            return init_params(key, self.channels, self.filters, self.init_scale)

        params = {
            name: self.param(name, lambda key, name=name: initial(key)[name])
            for name in jax.eval_shape(initial, jax.random.key(0))
        }
        return bits(params, z)


__getattr__ = renamed(__name__)
