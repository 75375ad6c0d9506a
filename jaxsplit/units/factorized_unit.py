"""Units whose entropy model is a factorized prior."""

from __future__ import annotations

from typing import cast

import jax
import numpy as np

from jaxsplit import entropy
from jaxsplit.bitstream import CodingTables
from jaxsplit.units.unit import Unit, Variables

#: Collection of the factors of a decoder at one rate.
DECODER_SCALES = "decoder_scales"


class FactorizedUnit(Unit):
    """A unit with a factorized prior, "prior" among its "params" (see `entropy.factorized`).

    Encoder and decoder are left to derived classes, which `VariableRate` can wrap.

    Attributes:
      channels: of the latent.

    >>> from jaxsplit.units import BottleneckSpec
    >>> unit = BottleneckSpec(channels=4)
    >>> isinstance(unit, FactorizedUnit), unit.has_prior(unit.init(jax.random.key(0), (8, 8, 3)))
    (True, True)
    """

    channels: int

    @property
    def decoder_scales(self) -> int:
        """Number of factors in the decoder that `VariableRate` learns for each rate; none here.

        `decode` finds them in the collection `DECODER_SCALES`, [n] or [B, n], if there is one.
        """
        return 0

    def bits(self, variables: Variables, latents: jax.Array) -> jax.Array:
        """Returns the prior's bits of every element; see `Unit.bits`."""
        return entropy.bits(prior_of(variables), latents)

    def tables(self, variables: Variables, offsets: np.ndarray) -> CodingTables:
        """Freezes the prior; see `Unit.tables`."""
        return entropy.build_tables(prior_of(variables), offsets)

    def has_prior(self, variables: Variables) -> bool:
        """Returns whether the variables hold a prior; the published units have none."""
        return "prior" in variables["params"]


def prior_of(variables: Variables) -> entropy.Params:
    """Returns the parameters of a unit's prior."""
    return cast("entropy.Params", variables["params"]["prior"])
