"""The variable-rate unit: one encoder, decoder and prior for all rates, and gains between them.

The latents of another unit are multiplied by a gain for each channel before they are rounded, and
by an inverse gain before they are decoded. Gains are learned at a few rate weights and interpolated
in log lambda. The density of the latents does not depend on the rate, so one prior prices every
gain: P(k) = F((k + 1/2) / gain) - F((k - 1/2) / gain). A unit may take factors in its decoder too,
learned and interpolated alike: what restores coarse latents would harm fine ones.

Source: Cui et al. 2021, Asymmetric gained deep image compression with continuous rate adaptation,
arXiv 2003.02012; here without a hyperprior.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import entropy
from jaxsplit.bitstream import CodingTables
from jaxsplit.errors import ConfigError
from jaxsplit.trees import TreeOf
from jaxsplit.units.factorized_unit import DECODER_SCALES, FactorizedUnit, prior_of
from jaxsplit.units.unit import Collection, Shape, Unit, Variables, register

#: Collection of a unit's gains at one rate, and its members.
RATE = "rate"
ANALYSIS, SYNTHESIS, SCALES = "gain", "inverse_gain", "decoder_scale"

_Position = TypeVar("_Position", float, jax.Array)
_MAX_ANCHORS = 64  # a stored spec may be of any origin


@register
@dataclasses.dataclass(frozen=True)
class VariableRate(Unit):
    """A bottleneck unit whose rate is chosen when it runs.

    A *position* is 0 at the largest rate weight (lambda), with the fewest bytes, and 1 at the
    smallest; it is linear in log lambda. `at` adds the gains of a position to the variables, and
    the other methods need them there.

    Attributes:
      unit: encoder, decoder and prior.
      lambdas: smallest and largest rate weight.
      anchors: number of positions whose gains are learned.

    Raises:
      ConfigError: the lambdas are not two rising numbers above 0, or the anchors not 2 … 64.

    >>> from jaxsplit.units import BottleneckSpec
    >>> unit = VariableRate(BottleneckSpec(channels=4), lambdas=(1e-5, 1e-3))
    >>> variables = unit.init(jax.random.key(0), (8, 8, 16))
    >>> features = jnp.ones((2, 8, 8, 16))
    >>> low, high = (unit.encode(unit.at(variables, p), features) for p in (0.0, 1.0))
    >>> round(float(jnp.abs(high / low).mean()), 3)  # steps are as the root of lambda at first
    10.0
    """

    unit: FactorizedUnit
    lambdas: tuple[float, float]
    anchors: int = 6
    kind: ClassVar[str] = "variable_rate"

    def __post_init__(self) -> None:
        if not isinstance(self.unit, FactorizedUnit):
            raise ConfigError(
                f"a variable-rate unit is made of a unit with a factorized prior; got {self.unit}"
            )
        low, high = self.lambdas
        if not 0 < low < high < math.inf:
            raise ConfigError(f"lambdas are {self.lambdas}; expected two rising numbers above 0")
        if not 2 <= self.anchors <= _MAX_ANCHORS:
            raise ConfigError(f"anchors is {self.anchors}; expected 2 … {_MAX_ANCHORS}")

    def position(self, lmbda: float) -> float:
        """Returns the position of a rate weight.

        Args:
          lmbda: the weight; a ConfigError if it is outside of `lambdas`.

        Returns:
          From 0, the largest lambda, to 1.

        >>> from jaxsplit.units import BottleneckSpec
        >>> VariableRate(BottleneckSpec(channels=4), lambdas=(1e-5, 1e-3)).position(1e-4)
        0.5
        """
        low, high = self.lambdas
        if not low * (1 - 1e-6) <= lmbda <= high * (1 + 1e-6):
            raise ConfigError(f"lambda {lmbda:g} is outside of the unit's {low:g} … {high:g}")
        return round(min(max(math.log(high / lmbda) / math.log(high / low), 0.0), 1.0), 9)

    def weight(self, position: _Position) -> _Position:
        """Returns the rate weight (lambda) of positions.

        Args:
          position: from 0 to 1, a number or an array.

        Returns:
          Rate weights of the same shape.
        """
        low, high = self.lambdas
        return high * (low / high) ** position

    def at(self, variables: Variables, position: jax.Array | np.ndarray | float) -> Variables:
        """Adds the gains of a position.

        Args:
          variables: as from `init` or trained.
          position: from 0 to 1; a number, or one for each image [B].

        Returns:
          The variables with a collection "rate" of gains [C] or [B, C], and decoder factors.
        """
        gains = cast("Mapping[str, Mapping[str, jax.Array]]", variables["params"])["gains"]
        place = jnp.asarray(position, jnp.float32)[..., None] * (self.anchors - 1)
        anchors = jnp.arange(self.anchors).reshape((1,) * (place.ndim - 1) + (-1,))
        near = jnp.maximum(0, 1 - jnp.abs(place - anchors))
        # Accelerators may round float32 products: sender and receiver need the same gains.
        at = {
            name: jnp.exp(jnp.matmul(near, logs, precision="highest"))
            for name, logs in gains.items()
        }
        return {**variables, RATE: at}

    def to_dict(self) -> dict[str, object]:
        """See `Unit.to_dict`."""
        return {**super().to_dict(), "unit": self.unit.to_dict()}

    def latent_shape(self, shape: Shape) -> Shape:
        """See `Unit.latent_shape`."""
        return self.unit.latent_shape(shape)

    def init(self, key: jax.Array, shape: Shape) -> Variables:
        """Returns the unit's variables, with gains, at the middle position; see `Unit.init`."""
        variables = self.unit.init(key, shape)
        low, high = self.lambdas
        # The optimal step grows with the root of lambda: see `train.pca.best_step`.
        spread = 0.5 * math.log(high / low) * (np.linspace(0, 1, self.anchors) - 0.5)
        logs = jnp.asarray(np.tile(spread[:, None], (1, self.unit.channels)), jnp.float32)
        gains = {ANALYSIS: logs, SYNTHESIS: -logs}
        if self.unit.decoder_scales:
            # What a decoder restores is about as large as a step.
            gains[SCALES] = jnp.tile(-logs[:, :1], (1, self.unit.decoder_scales))
        params = {**variables["params"], "gains": gains}
        return self.at({**variables, "params": params}, 0.5)

    def encode(self, variables: Variables, features: jax.Array) -> jax.Array:
        """Latents in steps of the rate; see `Unit.encode`."""
        return self.scale(variables, self.unit.encode(_of_unit(variables), features))

    def scale(self, variables: Variables, latents: jax.Array) -> jax.Array:
        """Scales latents of `unit` to steps of the rate: the only part of `encode` with a rate.

        Args:
          variables: with a rate, see `at`.
          latents: of `unit`, float [B, …, C].

        Returns:
          Latents of the same shape.
        """
        return latents * _gain(variables, ANALYSIS, latents)

    def decode(self, variables: Variables, latents: jax.Array, shape: Shape) -> jax.Array:
        """Decodes latents in steps of the rate; see `Unit.decode`."""
        latents = latents * _gain(variables, SYNTHESIS, latents)
        return self.unit.decode(_of_unit(variables), latents, shape)

    def encode_train(
        self, variables: Variables, features: jax.Array, axis_name: str | None
    ) -> tuple[jax.Array, Collection]:
        """See `Unit.encode_train`."""
        latents, stats = self.unit.encode_train(_of_unit(variables), features, axis_name)
        return self.scale(variables, latents), stats

    def decode_train(
        self, variables: Variables, latents: jax.Array, shape: Shape, axis_name: str | None
    ) -> tuple[jax.Array, Collection]:
        """See `Unit.decode_train`."""
        latents = latents * _gain(variables, SYNTHESIS, latents)
        return self.unit.decode_train(_of_unit(variables), latents, shape, axis_name)

    def bits(self, variables: Variables, latents: jax.Array) -> jax.Array:
        """Returns the bits of steps of the rate under the one prior; see `Unit.bits`."""
        step = 1 / _gain(variables, ANALYSIS, latents)
        return entropy.bits(self.prior(variables), latents * step, step)

    def tables(self, variables: Variables, offsets: np.ndarray) -> CodingTables:
        """Freezes the prior at the rate's steps; see `Unit.tables`."""
        gain = np.asarray(cast("Mapping[str, np.ndarray]", variables[RATE])[ANALYSIS], np.float64)
        prior = jax.tree.map(np.asarray, self.prior(variables))
        return entropy.build_tables(entropy.Density(prior, gain), offsets)

    def prior(self, variables: Variables) -> entropy.factorized.Params:
        """Returns the parameters of the prior, with medians of 0.

        Args:
          variables: of the unit.

        Returns:
          The tree of `entropy.init_params`.
        """
        return entropy.centred(prior_of(variables))

    def has_prior(self, variables: Variables) -> bool:
        """See `Unit.has_prior`."""
        return self.unit.has_prior(variables)

    def fold(self, variables: Variables) -> tuple[Self, Variables]:
        """Folds the unit; the gains stay, so that another rate is another [C]. See `Unit.fold`."""
        own = {name: tree for name, tree in variables.items() if name != RATE}
        plain, folded = self.unit.fold(own)
        params = {**folded["params"], "gains": variables["params"]["gains"]}
        variables = {**folded, "params": params, RATE: variables[RATE]}
        return dataclasses.replace(self, unit=plain), variables

    def variable_shapes(self, shape: Shape) -> Mapping[str, TreeOf[Shape]] | None:
        """Returns the shapes of encoder, decoder and gains; see `Unit.variable_shapes`."""
        shapes: dict[str, Any] = dict(self.unit.variable_shapes(shape) or {})
        if not shapes:
            return None
        sizes = dict.fromkeys((ANALYSIS, SYNTHESIS), self.unit.channels)
        if self.unit.decoder_scales:
            sizes[SCALES] = self.unit.decoder_scales
        gains = {name: (self.anchors, size) for name, size in sizes.items()}
        shapes["params"] = {**shapes["params"], "gains": gains}
        return {**shapes, RATE: {name: (size,) for name, size in sizes.items()}}


def _of_unit(variables: Variables) -> Variables:
    """Returns the variables of the unit, with its decoder's factors at the rate."""
    own: dict[str, Any] = {name: tree for name, tree in variables.items() if name != RATE}
    scales = _rate(variables).get(SCALES)
    return own if scales is None else own | {DECODER_SCALES: scales}


def _rate(variables: Variables) -> Mapping[str, jax.Array]:
    if RATE not in variables:
        raise ConfigError("a variable-rate unit runs at a rate: pass unit.at(variables, position)")
    return cast("Mapping[str, jax.Array]", variables[RATE])


def _gain(variables: Variables, name: str, latents: jax.Array) -> jax.Array:
    """Returns gains [C] or [B, C] in the shape of latents [B, …, C]."""
    gain = _rate(variables)[name]
    images, channels = gain.shape[:-1], gain.shape[-1:]
    images = images or (1,)
    return gain.reshape(images + (1,) * (latents.ndim - 2) + channels)
