"""A family bound to a backbone, ready to run."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import bitstream, networks
from jaxsplit.codec.rate import FamilyRate, Rates
from jaxsplit.errors import FamilyError
from jaxsplit.split import Split, make_split
from jaxsplit.units import Variables
from jaxsplit.units.quantization import Offsets


@dataclasses.dataclass(frozen=True, eq=False)
class RateRuntime:
    """One rate, ready to run: a folded unit on the accelerator, its offsets and its coder."""

    index: int
    split: Split
    unit: Variables
    offsets: Offsets
    coder: bitstream.EntropyCoder


def check_fits(split: Split, rate: FamilyRate) -> None:
    """Checks that a rate's unit and tables fit its spec at this cut.

    Args:
      split: the cut with the rate's spec.
      rate: of a family.

    Raises:
      FamilyError: the family is damaged, or belongs to another network.
    """
    tables, latent = rate.tables, split.latent_shape
    found = (tables.channels,) if tables.places is None else tuple(map(int, tables.places.shape))
    expected = split.units.variable_shapes()
    stored = jax.tree.map(np.shape, rate.variables)
    problem = ""
    if found not in (latent, latent[-1:]):
        problem = f"has tables of {found}, but its latent at {split.cut} is {latent}"
    elif expected is not None and _by_path(stored) != _by_path(expected):
        problem = f"has a unit without the parameters of {rate.spec} at {split.cut}"
    if problem:
        raise FamilyError(
            f"rate {rate.rate_id} {problem}: the family is damaged or belongs to another network"
        )


def _by_path(shapes: Variables) -> dict[tuple[object, ...], object]:
    """Returns the shapes of encoders and decoders, all but the priors', by their paths."""
    leaves = jax.tree.leaves_with_path(shapes, is_leaf=lambda x: isinstance(x, tuple))
    return {path: shape for path, shape in leaves if jax.tree_util.DictKey("prior") not in path}


class Runtime:
    """A family bound to a backbone, ready to run: the common part of sender and receiver.

    Args:
      family: the rates.
      backbone: what the family was trained on.
      batch_size: images per run; the last batch of a call is padded to it.

    Raises:
      FamilyError: the family is damaged or belongs to another backbone.
    """

    def __init__(self, family: Rates, backbone: networks.Backbone, batch_size: int = 1) -> None:
        self.family = family.bind(backbone)
        self.backbone = backbone
        self.batch_size = batch_size
        self._variables = jax.device_put(backbone.variables)
        self._rates: dict[str, RateRuntime] = {}
        for index, rate in enumerate(self.family.rates):
            split = make_split(backbone, family.cut, rate.spec)
            check_fits(split, rate)
            folded, unit = split.fold(rate.variables)
            self._rates[rate.rate_id] = RateRuntime(
                index,
                folded,
                jax.device_put(unit),
                jax.tree.map(jnp.asarray, split.units.stored_offsets(rate.tables)),
                rate.coder,
            )

    @property
    def header(self) -> bitstream.Header:
        """Header of containers of this family."""
        rates = tuple(
            bitstream.RateInfo(
                rate.rate_id, rate.tables.fingerprint, self._rates[rate.rate_id].split.latent_shape
            )
            for rate in self.family.rates
        )
        return bitstream.Header(
            self.family.fingerprint, rates, self.backbone.preprocessing.input_shape
        )

    def _rate(self, rate_id: str) -> RateRuntime:
        self.family[rate_id]  # an unknown rate is a FamilyError
        return self._rates[rate_id]
