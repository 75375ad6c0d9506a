"""The compiled programs of both ends; rates of one form share them, as arguments."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxsplit.split import Split

#: What a latent that is no finite number becomes: beyond the limit, so that no number does.
NOT_FINITE = -(2**31)
_SYMBOL_LIMIT = 2.0**31 - 128  # the largest float32 that int32 holds


# Apart from the unit, so that units of any form share the large program.
@functools.lru_cache
def head_program(module: Any, cut: str, preprocessing: Any) -> Any:
    """(variables, images uint8 [B, h, w, c]) → features float32 [B, H, W, Cin]."""

    @jax.jit
    def run(variables: Any, images: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return module.apply(variables, preprocessing.normalise(images), stop=cut)

    return run


@functools.lru_cache
def symbols_program(split: Split) -> Any:
    """(unit, offsets [C], features) → symbols int32 [B, h', w', C], `NOT_FINITE` for no number."""

    @jax.jit
    def run(unit: Any, offsets: jax.Array, features: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            latent = split.encode(unit, features)
        symbols = jnp.round(latent - offsets.reshape(1, 1, 1, -1))
        bounded = jnp.clip(symbols, -_SYMBOL_LIMIT, _SYMBOL_LIMIT).astype(jnp.int32)
        return jnp.where(jnp.isfinite(symbols), bounded, NOT_FINITE)

    return run


@functools.lru_cache
def logits_program(split: Split) -> Any:
    """(variables, unit, offsets [C], symbols int32 [B, h', w', C]) → logits float32 [B, K]."""

    @jax.jit
    def run(variables: Any, unit: Any, offsets: jax.Array, symbols: jax.Array) -> jax.Array:
        latent = symbols.astype(jnp.float32) + offsets.reshape(1, 1, 1, -1)
        with jax.default_matmul_precision("highest"):
            return split.tail(variables, split.decode(unit, latent))

    return run
