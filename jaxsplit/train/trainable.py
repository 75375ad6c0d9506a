"""What learns with a unit: nothing else, the tail behind it, or the whole network.

A rate's parameters hold what learns. Where blocks of the network are among them, they begin as the
frozen ones, belong to that rate alone, and are checkpointed, averaged and evaluated with its unit.
Their batch normalisation stays in inference mode: the stored moments stay as they are, scale and
bias learn. It is folded inside of the step, so that a step costs no more than its gradients do.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsplit.networks.layers import fold_normalization
from jaxsplit.split import Split

TRAINABLE = ("unit", "tail", "all")
#: Under this name, beside encoder, decoder and prior, a rate's parameters hold its own blocks.
NETWORK = "network"


def learning_blocks(split: Split, params: dict[str, Any], trainable: str) -> dict[str, Any]:
    """The blocks of a network that learn with every unit.

    Args:
      split: the cut.
      params: of the network, block by block.
      trainable: of `TRAINABLE`: no block, those behind the cut, or all.
    """
    names = split.module.endpoints()
    first = {"unit": len(names), "tail": names.index(split.cut) + 1, "all": 0}[trainable]
    blocks = [name.replace(".", "_") for name in names[first:]]
    return {block: params[block] for block in blocks if block in params}


def with_blocks(variables: dict[str, Any], blocks: dict[str, Any]) -> dict[str, Any]:
    """The variables of a network, some blocks' parameters replaced."""
    return {**variables, "params": {**variables["params"], **blocks}}


def rate_network(split: Split, params: Any, constants: Any) -> Any:
    """The network that a rate sees, as `split.module` takes it.

    Args:
      split: the cut.
      params: of the rate.
      constants: "backbone", the variables of the frozen network, and "network", those before any
        folding, where blocks of it learn.
    """
    if NETWORK not in params:
        return constants["backbone"]
    variables = with_blocks(constants["network"], params[NETWORK])
    if getattr(split.module, "folded", False) and "batch_stats" in variables:
        return fold_normalization(variables, split.module.epsilon)
    return variables


def rate_features(split: Split, params: Any, network: Any, batch: Any) -> jax.Array:
    """What a rate's encoder is given, float [B, H, W, Cin]: by the frozen head, or by its own.

    Args:
      split: the cut.
      params: of the rate.
      network: of the rate, in the dtype of its arithmetic.
      batch: features [B, H, W, Cin] of the frozen head; pixels, normalised, where heads learn.
    """
    first = split.module.endpoints()[0].replace(".", "_")
    if first in params.get(NETWORK, ()):
        return split.head(network, batch["pixels"])
    return batch["features"].astype(jnp.float32)
