"""A unit and a prior as a user of the package writes them."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxsplit import entropy, units
from jaxsplit.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A centred normal density of one scale a channel, in float64."""

    scale: np.ndarray

    @property
    def channels(self):
        return len(self.scale)

    def masses(self, edges):
        return np.diff(special.ndtr(edges / self.scale[:, None]), axis=1)

    def tails(self, low, high):
        return special.ndtr(low / self.scale) + special.ndtr(-high / self.scale)

    def quantiles(self, p):
        return self.scale * special.ndtri(p)


@units.register
@dataclasses.dataclass(frozen=True)
class Projection(units.Unit):
    """A linear map of the last axis to a few channels and back, under a Gaussian prior."""

    kind: ClassVar[str] = "test_projection"

    channels: int = 2

    def latent_shape(self, shape):
        if self.channels > shape[-1]:
            raise ConfigError(f"{self.channels} channels for features of {shape}")
        return (*shape[:-1], self.channels)

    def init(self, key, shape):
        draw = nn.initializers.orthogonal()
        kernel = draw(key, (shape[-1], self.channels))
        prior = {"log_scale": jnp.zeros(self.channels)}
        return {"params": {"down": 2 * kernel, "up": kernel.T / 2, "prior": prior}}

    def encode(self, variables, features):
        return features @ variables["params"]["down"]

    def decode(self, variables, latents, shape):
        return latents @ variables["params"]["up"]

    def bits(self, variables, latents):
        scale = jnp.exp(variables["params"]["prior"]["log_scale"])
        scale = scale.reshape((1,) * (latents.ndim - 1) + (-1,))
        high, low = (jax.scipy.special.ndtr((latents + end) / scale) for end in (0.5, -0.5))
        return -jnp.log2(jnp.maximum(high - low, 1e-9))

    def tables(self, variables, offsets):
        scale = np.exp(np.asarray(variables["params"]["prior"]["log_scale"], np.float64))
        return entropy.build_tables(Gaussian(scale), offsets)
