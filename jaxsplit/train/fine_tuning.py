"""Selects the trainable parameters: unit, unit and tail, or all.

A rate's parameters hold what learns. Where blocks of the network are among them, they begin as the
frozen ones, belong to that rate alone, and are checkpointed, averaged and evaluated with its unit.
Their batch normalisation stays in inference mode: the stored moments stay as they are, scale and
bias learn. It is folded inside of the step, so that a step costs no more than its gradients do.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsplit.errors import ConfigError
from jaxsplit.networks import Features, LinenNetwork, Variables
from jaxsplit.split import Split
from jaxsplit.train.records import Batch, Constants

TRAINABLE = ("unit", "tail", "all")
#: Under this name, beside encoder, decoder and prior, a rate's parameters hold its own blocks.
NETWORK = "network"


def learning_blocks(split: Split, variables: Variables, trainable: str) -> dict[str, Any]:
    """The blocks of a network that learn with every unit.

    Args:
      split: the cut.
      variables: of the network, whose params are block by block.
      trainable: of `TRAINABLE`: no block, those behind the cut, or all.
    """
    if trainable == "unit":
        return {}
    names = _endpoints(split)
    first = {"tail": names.index(split.cut) + 1, "all": 0}[trainable]
    blocks = [name.replace(".", "_") for name in names[first:]]
    params = variables["params"]
    return {block: params[block] for block in blocks if block in params}


def with_blocks(variables: dict[str, Any], blocks: dict[str, Any]) -> dict[str, Any]:
    """The variables of a network, some blocks' parameters replaced."""
    return {**variables, "params": {**variables["params"], **blocks}}


def rate_network(split: Split, params: Any, constants: Constants) -> Variables:
    """Returns the variables of the network that a rate sees.

    Args:
      split: the cut.
      params: of the rate.
      constants: with `network` where blocks of it learn.
    """
    if NETWORK not in params:
        return constants.backbone
    assert constants.network is not None
    variables = with_blocks(constants.network, params[NETWORK])
    if split.network.folded and "batch_stats" in variables:
        return split.network.fold(variables)[1]
    return variables


def rate_features(split: Split, params: Any, network: Variables, batch: Batch) -> Features:
    """Returns what a rate's encoder is given: by the frozen head, or by its own.

    Args:
      split: the cut.
      params: of the rate.
      network: of the rate, in the dtype of its arithmetic.
      batch: features of the frozen head; pixels where heads learn.

    Returns:
      Features float32 [B, …].
    """
    learned = params.get(NETWORK, {})
    if learned and _endpoints(split)[0].replace(".", "_") in learned:
        assert batch.pixels is not None
        return split.head(network, batch.pixels)
    return jax.tree.map(lambda x: x.astype(jnp.float32), batch.features)


def _endpoints(split: Split) -> tuple[str, ...]:
    if not isinstance(split.network, LinenNetwork):
        raise ConfigError(
            f"{type(split.network).__name__}: only blocks of a Linen network can learn; expected "
            "trainable 'unit'"
        )
    return tuple(split.network.module.endpoints())
