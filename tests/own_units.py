"""A unit as a user of the package may write one: a matrix, and a normal prior."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.entropy import stack_tables, tables_from_counts
from jaxsplit.errors import ConfigError
from jaxsplit.units import Unit, register


@register
@dataclasses.dataclass(frozen=True)
class LinearUnit(Unit):
    """Features [B, …, D] → latents [B, …, C]; every channel is normal with a width of its own."""

    channels: int
    kind: ClassVar[str] = "tests.linear"

    def latent_shape(self, shape):
        if not shape or shape[-1] < self.channels:
            raise ConfigError(f"features of {shape} have fewer than {self.channels} channels")
        return (*shape[:-1], self.channels)

    def init(self, key, shape):
        kernel = jax.random.orthogonal(key, shape[-1])[:, : self.channels]
        return {
            "params": {
                "encoder": {"kernel": kernel},
                "decoder": {"kernel": kernel.T},
                "prior": {"log_width": jnp.linspace(-0.5, 1.0, self.channels)},
            }
        }

    def encode(self, variables, features):
        return features @ variables["params"]["encoder"]["kernel"]

    def decode(self, variables, latents, shape):
        return latents @ variables["params"]["decoder"]["kernel"]

    def bits(self, variables, latents):
        log_width = variables["params"]["prior"]["log_width"]
        width = jnp.exp(log_width).reshape((1,) * (latents.ndim - 1) + (-1,))
        upper, lower = ((latents + half) / width for half in (0.5, -0.5))
        # In the lower tail, where a difference of two numbers near 1 would be lost.
        sign = jnp.where(latents > 0, -1.0, 1.0)
        mass = jax.scipy.stats.norm.cdf(sign * upper) - jax.scipy.stats.norm.cdf(sign * lower)
        return -jnp.log2(jnp.maximum(jnp.abs(mass), 1e-9))

    def tables(self, variables, offsets):
        parts = []
        for width, offset in zip(
            np.exp(variables["params"]["prior"]["log_width"]), offsets, strict=True
        ):
            edges = [
                0.5 * math.erf((k - 0.5 + float(offset)) / float(width) / 2**0.5)
                for k in range(-20, 22)
            ]
            mass = {k: 1 + 1e6 * (edges[k + 21] - edges[k + 20]) for k in range(-20, 21)}
            parts.append(tables_from_counts(mass, 1, np.array([offset], np.float32)))
        return stack_tables(parts)
