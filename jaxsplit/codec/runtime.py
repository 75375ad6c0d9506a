"""What sender and receiver share."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import bitstream, networks
from jaxsplit.codec.rate import FamilyRate, Rates
from jaxsplit.errors import FamilyError
from jaxsplit.split import Split, make_split
from jaxsplit.units.bottleneck import fold_batch_norm, unit_shapes


@dataclasses.dataclass(frozen=True, eq=False)
class RateEnd:
    """One rate, ready to run: a folded unit on the device, its offsets, its coder."""

    index: int
    split: Split
    unit: Any
    offsets: jax.Array
    coder: bitstream.EntropyCoder


def check_fits(split: Split, rate: FamilyRate) -> None:
    """Refuses a rate whose unit or tables are not of the form that it says, at this cut.

    Raises:
      FamilyError: the family is damaged, or belongs to another network.
    """
    tables, latent = rate.tables, split.latent_shape
    found = (tables.channels,) if tables.places is None else tuple(map(int, tables.places.shape))
    if found not in (latent, latent[-1:]):
        raise FamilyError(
            f"rate {rate.rate_id} has tables of {found}, but its latent at {split.cut} is {latent}:"
            " the family is damaged or belongs to another network"
        )
    params = {part: tree for part, tree in rate.variables["params"].items() if part != "prior"}
    variables = {name: tree for name, tree in rate.variables.items() if tree} | {"params": params}
    shapes = jax.tree.map(np.shape, variables)
    if shapes != unit_shapes(rate.spec, split.shape[-1]):
        raise FamilyError(
            f"the unit of rate {rate.rate_id} has other parameters than {rate.spec} has at "
            f"{split.cut}: the family is damaged or belongs to another network"
        )


class End:
    """What sender and receiver share: a family bound to a backbone, with one frame header."""

    def __init__(self, family: Rates, backbone: networks.Backbone, batch_size: int = 1) -> None:
        self.family = family.bind(backbone)
        self.backbone = backbone
        self.batch_size = batch_size
        self._variables = jax.device_put(backbone.variables)
        self._rates: dict[str, RateEnd] = {}
        for index, rate in enumerate(self.family.rates):
            check_fits(make_split(backbone, family.cut, rate.spec), rate)
            spec, unit = fold_batch_norm(rate.spec, rate.variables)
            self._rates[rate.rate_id] = RateEnd(
                index,
                make_split(backbone, family.cut, spec),
                jax.device_put(unit),
                jnp.asarray(rate.tables.offsets),
                rate.coder,
            )

    @property
    def header(self) -> bitstream.Header:
        """What a container of this family starts with."""
        rates = tuple(
            bitstream.RateInfo(
                rate.rate_id, rate.tables.fingerprint, self._rates[rate.rate_id].split.latent_shape
            )
            for rate in self.family.rates
        )
        return bitstream.Header(
            self.family.fingerprint, rates, self.backbone.preprocessing.input_shape
        )

    def _rate(self, rate_id: str) -> RateEnd:
        self.family[rate_id]  # an unknown rate is a FamilyError
        return self._rates[rate_id]
