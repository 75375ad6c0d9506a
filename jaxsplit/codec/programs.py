"""The compiled programs of units and tails; rates of one architecture share them, as arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxsplit.networks import Features
from jaxsplit.split import Offsets, Split
from jaxsplit.tasks import Outputs
from jaxsplit.units import Variables


@functools.lru_cache
def symbols_program(split: Split) -> Callable[[Variables, Offsets, Features], jax.Array]:
    """Compiles encoder and quantizer, see `Split.quantize`.

    Args:
      split: with the units as they run.

    Returns:
      Jitted (unit, offsets, features [B, …]) → symbols int32 [B, *latent_shape].
    """

    @jax.jit
    def run(unit: Variables, offsets: Offsets, features: Features) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            latents = split.encode(unit, features)
        return split.quantize(latents, offsets)

    return run


@functools.lru_cache
def outputs_program(split: Split) -> Callable[[Any, Variables, Offsets, jax.Array], Outputs]:
    """Compiles dequantizer, decoder and tail.

    Args:
      split: with the units as they run.

    Returns:
      Jitted (variables, unit, offsets, symbols int32 [B, *latent_shape]) → outputs [B, …].
    """

    @jax.jit
    def run(variables: Any, unit: Variables, offsets: Offsets, symbols: jax.Array) -> Outputs:
        latents = split.dequantize(symbols, offsets)
        with jax.default_matmul_precision("highest"):
            return split.tail(variables, split.decode(unit, latents))

    return run
