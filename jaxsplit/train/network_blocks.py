"""Blocks of the network that are trained with each unit, where more than the unit is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import optax

from jaxsplit.errors import ConfigError
from jaxsplit.networks import Features, LinenNetwork, Variables
from jaxsplit.split import Split
from jaxsplit.train.state import Batch, Constants
from jaxsplit.trees import Tree
from jaxsplit.units.unit import Collection

#: Trainable parameters: the unit, unit and tail, or all.
TRAINABLE = ("unit", "tail", "all")
#: Name of a rate's own blocks of the network in its parameters, beside encoder, decoder and prior.
NETWORK = "network"


def learning_blocks(split: Split, variables: Variables, trainable: str) -> Collection:
    """Returns the blocks that are trained with every unit: none, those behind the cut, or all.

    They start from the frozen ones and belong to one rate. Their batch normalization stays in
    inference mode: moments are constant, scale and bias are trained.
    """
    if trainable == "unit":
        return {}
    names = _endpoints(split)
    first = names.index(split.cut) + 1 if trainable == "tail" else 0
    chosen = {name.replace(".", "_") for name in names[first:]}
    params = cast("Mapping[str, Collection]", variables)["params"]  # of a Linen network
    return {name: block for name, block in params.items() if name in chosen}


def with_blocks(variables: Variables, blocks: Tree) -> Variables:
    """Replaces the parameters of some blocks in the variables of a Linen network."""
    old = cast("Mapping[str, Collection]", variables)
    return {**old, "params": {**old["params"], **cast("Collection", blocks)}}


def rate_network(split: Split, params: optax.Params, constants: Constants) -> Variables:
    """Returns the variables of a rate's network, with its own blocks where some are trained."""
    if NETWORK not in params:
        return constants.backbone
    assert constants.network is not None
    variables = with_blocks(constants.network, params[NETWORK])
    if split.network.folded and "batch_stats" in cast("Mapping[str, Tree]", variables):
        return split.network.fold(variables)[1]
    return variables


def rate_features(split: Split, params: optax.Params, network: Variables, batch: Batch) -> Features:
    """Returns the inputs of a rate's encoder, from the frozen head or from its own `network`."""
    learned = params.get(NETWORK, {})
    if learned and _endpoints(split)[0].replace(".", "_") in learned:
        assert batch.pixels is not None
        return split.head(network, batch.pixels)
    assert batch.features is not None
    return batch.features


def _endpoints(split: Split) -> tuple[str, ...]:
    if not isinstance(split.network, LinenNetwork):
        raise ConfigError(
            f"{type(split.network).__name__}: only blocks of a Linen network can be trained; "
            "expected trainable 'unit'"
        )
    return tuple(split.network.module.endpoints())
