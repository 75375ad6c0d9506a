"""The records that pass between the functions of a training."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxsplit.networks import Features, Variables
from jaxsplit.tasks import Outputs, Targets


@flax.struct.dataclass
class Batch:
    """Examples of a step, arrays [B, …]; what a batch does not have is None.

    Attributes:
      index: number of each example, int32 [B]: its noise depends on it.
      targets: of the images, such as labels int32 [B].
      images: preprocessed, uint8 [B, h, w, c], where the head runs in the step.
      features: of the frozen head.
      teacher: outputs of the unsplit network.
      pixels: normalised images, where heads learn.
      slopes: for each rate the gradient of each image's distortion behind the tail by the
        reconstruction, where the step runs no tail.
    """

    index: Any
    targets: Targets
    images: Any = None
    features: Features | None = None
    teacher: Outputs | None = None
    pixels: jax.Array | None = None
    slopes: tuple[Features, ...] | None = None


@flax.struct.dataclass
class RateConstants:
    """What no step changes, for R rates of one architecture.

    Attributes:
      lmbda: rate weights, float32 [R].
      key: random keys of the noise, [R].
    """

    lmbda: jax.Array
    key: jax.Array


@flax.struct.dataclass
class Constants:
    """What no step changes, for the rates of one architecture.

    Attributes:
      backbone: variables of the frozen network, folded.
      scale: mean square of the features, a number for each array that crosses.
      rates: lambdas and noise keys.
      network: variables before any folding, where blocks of the network learn.
    """

    backbone: Variables
    scale: Any
    rates: RateConstants
    network: Variables | None = None


@flax.struct.dataclass
class CurveConstants:
    """What no step changes, for all rates of a curve.

    Attributes:
      backbone, scale, network: as in `Constants`.
      groups: lambdas and noise keys of every group of rates.
    """

    backbone: Variables
    scale: Any
    groups: tuple[RateConstants, ...]
    network: Variables | None = None

    def of(self, rates: RateConstants) -> Constants:
        """Returns the constants of one of the groups."""
        return Constants(self.backbone, self.scale, rates, self.network)


@flax.struct.dataclass
class TrainState:
    """What a training changes; the backbone that a curve is trained behind is never in it.

    Attributes:
      step: number of finished steps.
      params, batch_stats: of the network or, with a leading axis of rates, of the units.
      opt_state: the optimiser's.
      offsets: where the units round, in steps; empty where nothing rounds.
      ema: the running mean of `variables`; empty where none is kept.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    offsets: Any = ()
    ema: Any = ()

    @classmethod
    def create(
        cls,
        variables: Any,
        optimizer: optax.GradientTransformation,
        offsets: Any = (),
        ema: bool = False,
    ) -> TrainState:
        """State at step 0 of `{"params", "batch_stats"}`."""
        state = cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
            offsets=offsets,
        )
        return state.replace(ema=state.variables) if ema else state  # type: ignore[attr-defined]

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params", "batch_stats"}`, as a Linen module takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def result(self) -> dict[str, Any]:
        """What is evaluated and kept: the running mean of `variables` where there is one."""
        return self.ema or self.variables


@flax.struct.dataclass
class CurveState:
    """The state of rates of several forms: units of one form share a `TrainState`."""

    groups: tuple[TrainState, ...]

    @property
    def step(self) -> jax.Array:
        """Number of finished steps, the same in all groups."""
        return self.groups[0].step
