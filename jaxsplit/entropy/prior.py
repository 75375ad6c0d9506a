"""The factorized prior as a Linen module."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxsplit.entropy import factorized

__all__ = ["FactorizedPrior"]


class FactorizedPrior(nn.Module):
    """Linen module of the fully factorized prior; it maps latents to bits.

    It never quantizes: pass noisy latents in training and rounded ones for the rate of real
    symbols. `variables["params"]` are the parameters of the functions in `factorized` and of
    `build_tables`.

    Attributes:
      channels: number of latent channels C.
      filters: widths of the hidden layers of each channel's cumulative.
      init_scale: initial width of the density, in units of the quantization step.

    >>> import jax.numpy as jnp
    >>> prior = FactorizedPrior(channels=8)
    >>> variables = prior.init(jax.random.key(0), jnp.zeros((1, 4, 4, 8)))
    >>> prior.apply(variables, jnp.zeros((2, 4, 4, 8))).shape
    (2, 4, 4, 8)

    Source: Ballé et al. 2018, arXiv 1802.01436, appendix 6.1.
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

        Raises:
          ConfigError: z has another number of channels.
        """

        def initial(key: jax.Array) -> dict[str, jax.Array]:
            return factorized.init_params(key, self.channels, self.filters, self.init_scale)

        names = jax.eval_shape(lambda: initial(jax.random.key(0)))
        params = {
            name: self.param(name, lambda key, name=name: initial(key)[name]) for name in names
        }
        return factorized.bits(params, z)
