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
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    offsets: Any = ()

    @classmethod
    def create(
        cls, variables: Any, optimizer: optax.GradientTransformation, offsets: Any = ()
    ) -> TrainState:
        """State at step 0 of `{"params", "batch_stats"}`."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
            offsets=offsets,
        )

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params", "batch_stats"}`, as a Linen module takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}
