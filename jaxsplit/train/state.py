"""What a training carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """Parameters, batch statistics and optimiser state; the backbone of a curve is never in it."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @classmethod
    def create(cls, variables: Any, optimizer: optax.GradientTransformation) -> TrainState:
        """State at step 0 of `{"params", "batch_stats"}`."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
        )

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params", "batch_stats"}`, as a Linen module takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}
