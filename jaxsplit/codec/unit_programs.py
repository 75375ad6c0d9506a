"""The compiled programs of units, which rates of one architecture share."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from jaxsplit import networks
from jaxsplit.networks import Features
from jaxsplit.split import Split
from jaxsplit.tasks import Outputs
from jaxsplit.units import Variables
from jaxsplit.units.quantization import Latents, Offsets
from jaxsplit.units.variable_rate import ANALYSIS, RATE


@functools.lru_cache
def symbols_program(split: Split) -> Callable[[Variables, Offsets, Features], jax.Array]:
    """Compiles (unit, offsets, features [B, …]) → symbols [B, *latent_shape]."""

    @jax.jit
    def run(unit: Variables, offsets: Offsets, features: Features) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            latents = split.encode(unit, features)
        return split.quantize(latents, offsets)

    return run


@functools.lru_cache
def latents_program(split: Split) -> Callable[[Variables, Features], Latents]:
    """Compiles (unit, features [B, …]) → latents of all levels, [B, …]."""

    @jax.jit
    def run(unit: Variables, features: Features) -> Latents:
        with jax.default_matmul_precision("highest"):
            return split.with_unit(split.variable_unit.unit).encode(unit, features)

    return run


@functools.lru_cache
def levels_program(split: Split) -> Callable[[jax.Array, Offsets, Latents], jax.Array]:
    """Compiles (gains [B, C], offsets, latents of all levels) → symbols [B, *latent_shape]."""

    @jax.jit
    def run(gains: jax.Array, offsets: Offsets, latents: Latents) -> jax.Array:
        rate = {RATE: {ANALYSIS: gains}}
        scaled = jax.tree.map(lambda z: split.variable_unit.scale(rate, z), latents)
        return split.quantize(scaled, offsets)

    return run


@functools.lru_cache
def outputs_program(split: Split) -> jax.stages.Wrapped:
    """Compiles (network's variables, unit, offsets, symbols [B, …]) → outputs [B, …]."""

    @jax.jit
    def run(
        variables: networks.Variables, unit: Variables, offsets: Offsets, symbols: jax.Array
    ) -> Outputs:
        latents = split.dequantize(symbols, offsets)
        with jax.default_matmul_precision("highest"):
            return split.tail(variables, split.decode(unit, latents))

    return run


@functools.lru_cache
def features_program(split: Split) -> jax.stages.Wrapped:
    """Compiles (unit, offsets, symbols [B, …]) → features [B, …], as the tail gets them."""

    @jax.jit
    def run(unit: Variables, offsets: Offsets, symbols: jax.Array) -> Features:
        latents = split.dequantize(symbols, offsets)
        with jax.default_matmul_precision("highest"):
            return split.decode(unit, latents)

    return run


@functools.lru_cache
def tail_program(network: networks.Network, cut: str) -> jax.stages.Wrapped:
    """Compiles (network's variables, features [B, …]) → outputs [B, …]."""

    @jax.jit
    def run(variables: networks.Variables, features: Features) -> Outputs:
        with jax.default_matmul_precision("highest"):
            return network.tail(variables, features, cut)

    return run
