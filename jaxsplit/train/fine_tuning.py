"""Selects the trainable parameters: unit, unit and tail, or all.

A rate's parameters are all that is trained. Blocks of the network among them start from the frozen
ones, belong to that rate alone, and are checkpointed, averaged and evaluated with its unit. Their
batch normalisation stays in inference mode: moments are constant, scale and bias are trained. It is
folded inside the step, so that a step costs no more than its gradients.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxsplit.errors import ConfigError
from jaxsplit.networks import Features, LinenNetwork, Variables
from jaxsplit.split import Split
from jaxsplit.train.records import Batch, Constants

TRAINABLE = ("unit", "tail", "all")
#: Name of a rate's own blocks in its parameters, beside encoder, decoder and prior.
NETWORK = "network"


def learning_blocks(split: Split, variables: Variables, trainable: str) -> Variables:
    """Returns the blocks that are trained with every unit: none, those behind the cut, or all."""
    if trainable == "unit":
        return {}
    names = _endpoints(split)
    first = {"tail": names.index(split.cut) + 1, "all": 0}[trainable]
    blocks = [name.replace(".", "_") for name in names[first:]]
    params = variables["params"]
    return {block: params[block] for block in blocks if block in params}


def with_blocks(variables: Variables, blocks: Variables) -> Variables:
    """Replaces the parameters of some blocks in a network's variables."""
    return {**variables, "params": {**variables["params"], **blocks}}


def rate_network(split: Split, params: optax.Params, constants: Constants) -> Variables:
    """Returns the variables of a rate's network, with its own blocks where some are trained."""
    if NETWORK not in params:
        return constants.backbone
    assert constants.network is not None
    variables = with_blocks(constants.network, params[NETWORK])
    if split.network.folded and "batch_stats" in variables:
        return split.network.fold(variables)[1]
    return variables


def rate_features(split: Split, params: optax.Params, network: Variables, batch: Batch) -> Features:
    """Returns the inputs of a rate's encoder, from the frozen head or from its own `network`.

    The frozen head's features become float32; its own head runs in the network's dtype.
    """
    learned = params.get(NETWORK, {})
    if learned and _endpoints(split)[0].replace(".", "_") in learned:
        assert batch.pixels is not None
        return split.head(network, batch.pixels)
    return jax.tree.map(lambda x: x.astype(jnp.float32), batch.features)


def _endpoints(split: Split) -> tuple[str, ...]:
    if not isinstance(split.network, LinenNetwork):
        raise ConfigError(
            f"{type(split.network).__name__}: only blocks of a Linen network can be trained; "
            "expected trainable 'unit'"
        )
    return tuple(split.network.module.endpoints())
