"""What a training carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


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
