"""Quantization of latents: the one place where they are rounded.

Latents are in quantization steps. A channel rounds around its offset: s = round(z - offset) is
coded, and the decoder gets s + offset. All functions take an array [B, …, C] or a tree of them,
with offsets [C] in a tree alike.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxsplit import ops
from jaxsplit.trees import Tree

#: An array, or a tree of the arrays that cross the cut.
Latents = Tree
#: The offsets [C] of each array, in the same tree.
Offsets = Tree

#: The symbol of a latent that is not a finite number: beyond the limit of all others.
NOT_FINITE = -(2**31)
_SYMBOL_LIMIT = 2.0**31 - 128  # the largest float32 that int32 holds


def add_noise(latents: Latents, keys: jax.Array) -> Latents:
    """Adds uniform noise of one step in place of rounding; `keys` [B] has one for each image."""
    noisy = []
    for n, x in enumerate(jax.tree.leaves(latents)):
        own = keys if not n else jax.vmap(lambda key, n=n: jax.random.fold_in(key, n))(keys)
        noisy.append(jax.vmap(ops.add_uniform_noise)(x, own))
    return jax.tree.unflatten(jax.tree.structure(latents), noisy)


def round_latents(latents: Latents, offsets: Offsets, *, straight_through: bool = False) -> Latents:
    """Rounds latents to whole numbers of steps from the offsets.

    With `straight_through`, gradients pass through the rounding.
    """
    rounded = ops.round_straight_through if straight_through else jnp.round
    return jax.tree.map(
        lambda z, offset: rounded(z - _along(offset, z)) + _along(offset, z), latents, offsets
    )


def to_symbols(latents: Latents, offsets: Offsets) -> Latents:
    """Rounds latents to symbols, int32; `NOT_FINITE` for what is no finite number."""

    def symbols(z: jax.Array, offset: jax.Array) -> jax.Array:
        rounded = jnp.round(z - _along(offset, z))
        bounded = jnp.clip(rounded, -_SYMBOL_LIMIT, _SYMBOL_LIMIT).astype(jnp.int32)
        return jnp.where(jnp.isfinite(rounded), bounded, NOT_FINITE)

    return jax.tree.map(symbols, latents, offsets)


def from_symbols(symbols: Latents, offsets: Offsets) -> Latents:
    """Reconstructs rounded latents, float32, as the decoder gets them."""
    return jax.tree.map(lambda x, o: x.astype(jnp.float32) + _along(o, x), symbols, offsets)


def _along(offset: jax.Array, latent: jax.Array) -> jax.Array:
    """Reshapes offsets [C] for a latent [B, …, C]."""
    return offset.reshape((1,) * (latent.ndim - 1) + (-1,))
