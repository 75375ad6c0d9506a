"""Weights of a classification network in a segmentation network."""

import jax
import numpy as np
import pytest
from foreign_files import random_network

from jaxsplit import Preprocessing, make_backbone, networks
from jaxsplit.errors import WeightsError
from jaxsplit.networks.network import variable_shapes
from jaxsplit.weights.transfer import take_over


def backbone_of(name, classes):
    variables, _ = random_network(name, classes=classes)
    labels = tuple(map(str, range(classes)))
    network = networks.create(name, classes)
    return make_backbone(name, network, variables, Preprocessing((64, 64)), labels)


def fresh(name):
    shapes = variable_shapes(networks.create(name, 3), (64, 64, 3))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


def test_blocks_are_taken_over_by_name():
    source, variables = backbone_of("resnet18", 5), fresh("deeplabv3_resnet18")
    found = take_over(variables, source)
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, variables)
    for kind, blocks in found.items():
        assert blocks.keys() == variables[kind].keys()
        for block, layers in blocks.items():
            shared = block == "stem" or block.startswith("stage")
            expected = (source.variables if shared else variables)[kind][block]
            jax.tree.map(np.testing.assert_array_equal, layers, expected)


def test_other_networks_are_refused():
    with pytest.raises(WeightsError, match=r"other shapes than this network: '.*stage1_block1"):
        take_over(fresh("deeplabv3_resnet18"), backbone_of("efficientnet_lite0", 5))
    with pytest.raises(WeightsError, match="no block of this network"):
        take_over({"params": {"other": {}}}, backbone_of("resnet18", 5))
