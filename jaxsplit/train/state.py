"""State, batch and constants of a training step."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsplit import networks
from jaxsplit.tasks import Outputs, Targets
from jaxsplit.train.losses import Scale
from jaxsplit.units.quantization import Offsets
from jaxsplit.units.unit import Collection, Variables


@flax.struct.dataclass
class Batch:
    """Examples of a step, arrays [B, …], or None.

    Attributes:
      index: number of each example, int32 [B]: its noise depends on it.
      targets: of the images, such as labels int32 [B]; None where they have none.
      images: preprocessed, uint8 [B, h, w, c], where the head runs in the step.
      features, teacher: of the frozen head, and outputs of the unsplit network.
      pixels: normalized images, where heads are trained.
    """

    index: jax.Array | np.ndarray
    targets: Targets | None
    images: Any = None  # of numpy on the host, of jax in a step
    features: networks.Features | None = None
    teacher: Outputs | None = None
    pixels: jax.Array | None = None


@flax.struct.dataclass
class RateConstants:
    """Rate weights, float32 [R], and random keys of the noise, [R], of R rates."""

    lmbda: jax.Array
    key: jax.Array


@flax.struct.dataclass
class Constants:
    """Constants of a training step.

    Attributes:
      backbone: variables of the frozen network, folded.
      scale: see `losses.Scale`.
      rates: of the step: all rates of a curve, or those of one architecture.
      network: variables before any folding, where blocks of the network are trained.
    """

    backbone: networks.Variables
    scale: Scale
    rates: RateConstants
    network: networks.Variables | None = None


@flax.struct.dataclass
class TrainState:
    """The state of a training, without the frozen network.

    Attributes:
      step: number of finished steps.
      params, batch_stats: of the network or, with a leading axis of rates, of the units.
      opt_state: of the optimizer.
      offsets: of the units' rounding, in quantization steps; () where nothing rounds.
      ema: the running mean of `variables`, or ().
    """

    step: jax.Array
    params: optax.Params
    batch_stats: Collection
    opt_state: optax.OptState
    offsets: Offsets = ()
    ema: Variables | tuple[()] = ()

    @classmethod
    def create(cls, variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
        """Returns the state at step 0 of `{"params", "batch_stats"}`, without offsets and ema."""
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        return cls(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))

    @property
    def variables(self) -> Variables:
        """`{"params", "batch_stats"}`, as a Linen module takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def result(self) -> Variables:
        """The running mean of `variables` where there is one, else `variables`."""
        return self.ema or self.variables


@flax.struct.dataclass
class CurveState:
    """The state of a curve: rates of one architecture share a `TrainState`."""

    groups: tuple[TrainState, ...]

    @property
    def step(self) -> jax.Array:
        """Number of finished steps, the same in all groups."""
        return self.groups[0].step
