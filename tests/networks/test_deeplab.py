"""DeepLabV3: its cuts, its costs, and dilation in place of strides."""

import jax
import numpy as np
import pytest

from jaxsplit import networks
from jaxsplit.cost import count_macs, make_plan
from jaxsplit.cost.counting import inference_form
from jaxsplit.errors import ConfigError
from jaxsplit.networks.architectures import create, cuts
from jaxsplit.networks.deeplab import DEEPLABS, DeepLab, DeepLabSize
from jaxsplit.networks.layers import NormConfig
from jaxsplit.networks.network import variable_shapes
from jaxsplit.networks.residual import (
    InvertedResidualSize,
    ResNetSize,
    Stage,
    inverted_residual_blocks,
    resnet_blocks,
)
from jaxsplit.units import BottleneckSpec, per_tensor
from jaxsplit.units.unit_tree import UnitTree

TINY = {
    "resnet": DeepLabSize(
        ResNetSize((1, 1, 2, 2), (4, 4, 6, 8), bottleneck=True), 8, (2, 3), align_corners=False
    ),
    "inverted": DeepLabSize(
        InvertedResidualSize(
            (Stage(1, 4, 1, 1), Stage(2, 6, 2, 2), Stage(2, 8, 2, 2, 5)), "SAME", 1e-3, stem=4
        ),
        4,
        (),
    ),
}


def tiny(kind, randomised, **options):
    module = DeepLab(num_classes=3, size=TINY[kind], **options)
    return module, randomised(module, (33, 31, 3))


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", TINY)
def test_head_then_tail_is_the_unsplit_network_at_every_cut(randomised, kind):
    module, variables = tiny(kind, randomised)
    network, x = networks.as_network(module), images(2, 33, 31, 3)
    features, expected = jax.jit(lambda x: network.at_cuts(variables, x, network.cuts()))(x)
    stride = module.size.output_stride
    assert expected.shape == (2, -(-33 // stride), -(-31 // stride), 3)
    assert np.ptp(expected, axis=(0, 1, 2)).min() > 0.01
    tails = jax.jit(lambda f: [network.tail(variables, f[cut], cut) for cut in network.cuts()])(
        features
    )
    for logits in tails:
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize("kind", TINY)
def test_folded_normalization_gives_the_same(randomised, kind):
    module, variables = tiny(kind, randomised)
    network, x = networks.as_network(module), images(1, 33, 31, 3)
    folded, arrays = network.fold(variables)
    assert "batch_stats" not in arrays
    expected = jax.jit(network)(variables, x)
    np.testing.assert_allclose(
        jax.jit(folded)(arrays, x), expected, rtol=0, atol=1e-4 * np.ptp(expected)
    )


def _final(blocks, variables, x):
    for name, block in blocks.items():
        key = name.replace(".", "_")
        own = {kind: tree[key] for kind, tree in variables.items()}
        x = block().apply(own, x, False)
    return x


def test_dilation_computes_what_strides_did_and_the_pixels_between(randomised):
    """The weights reach the same pixels: every second one of the finer map is the coarser one's."""
    config, x = NormConfig(1e-3), images(1, 33, 33, 3)
    for kind, make in (("resnet", resnet_blocks), ("inverted", inverted_residual_blocks)):
        _, variables = tiny(kind, randomised)
        size = TINY[kind].backbone
        stride = TINY[kind].output_stride

        @jax.jit
        def run(x, size=size, stride=stride, make=make, variables=variables):
            plain = make(size, config)
            found = _final(plain, variables, x)
            return found, _final(make(size, config, stride), variables, x)

        coarse, fine = run(x)
        step = (fine.shape[1] - 1) // (coarse.shape[1] - 1)
        assert step > 1
        np.testing.assert_allclose(
            fine[:, ::step, ::step], coarse, rtol=0, atol=1e-5 * np.ptp(coarse)
        )


@pytest.mark.parametrize("name", DEEPLABS)
def test_any_size_of_image_gives_logits_at_the_output_stride(name):
    module = create(name, 21)
    stride = module.size.output_stride
    shapes = cuts(name, (97, 65, 3))
    assert shapes["aspp"] == (-(-97 // stride), -(-65 // stride), 256)
    branches = [f"branch{i}" for i in range(1 + len(module.size.rates))]
    assert list(shapes["aspp.branches"]) == [*branches, "pooling"]
    assert shapes["aspp.branches"]["pooling"] == (1, 1, 256)


def test_costs_are_those_of_the_paper():
    """Sandler et al. 2018, table 7: MobileNetV2, output stride 16, without ASPP: 2.75 G, 2.11 M."""
    plan = make_plan(create("deeplabv3_mobilenet_v2", 21), (513, 513, 3), channels=(), strides=())
    assert plan.macs == pytest.approx(2.75e9, rel=0.01)
    assert plan.params == pytest.approx(2.11e6, rel=0.01)
    branches = plan["aspp.branches"]
    assert branches.feature_shape == (33 * 33 * 256 + 256,)
    assert branches.device_macs + branches.server_macs == plan.macs


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("deeplabv3_resnet50", 42_004_074, 178.722e9), ("deeplabv3_resnet101", 60_996_202, 258.743e9)],
)
def test_costs_are_those_that_torchvision_states(name, parameters, macs):
    """Less those of its auxiliary head: 3×3 of 1024 to 256 channels, normalization and 1×1."""
    network = networks.as_network(create(name, 21))
    image = jax.ShapeDtypeStruct((1, 520, 520, 3), np.float32)
    trained = variable_shapes(network.module, image.shape[1:])
    count = sum(leaf.size for leaf in jax.tree.leaves(trained["params"]))
    assert count == parameters - (9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21)
    folded, variables = inference_form(network, trained)
    expected = macs - 65 * 65 * (9 * 1024 * 256 + 256 * 21)
    assert count_macs(folded, variables, image) == pytest.approx(expected, rel=1e-3)


def test_widths_are_rounded_to_whole_channels():
    module = create("deeplabv3_mobilenet_v2", 21, width=0.5)
    shapes = networks.endpoint_shapes(module, (65, 65, 3))
    assert [shapes[f"stage{i}.block1"][2] for i in range(1, 8)] == [8, 12, 16, 32, 48, 80, 160]
    for name, width in (("deeplabv3_resnet50", 0.5), ("resnet50", 2.0)):
        with pytest.raises(ConfigError, match="width"):
            create(name, 21, width=width)
    for width in (0.0, float("nan"), 100.0):
        with pytest.raises(ConfigError, match="width"):
            create("deeplabv3_mobilenet_v2", 21, width=width)


def test_all_that_crosses_aspp_is_coded_or_refused():
    """A unit for one branch alone is refused: the tail needs the others."""
    module = DeepLab(num_classes=3, size=TINY["inverted"])
    features = networks.as_network(module).feature_shapes({}, (33, 31, 3))["aspp.branches"]
    units = UnitTree.at(features, BottleneckSpec(channels=2))
    assert [tensor.name for tensor in units.tensors] == ["branch0", "pooling"]
    with pytest.raises(ConfigError, match="pooling"):
        UnitTree.at(features, per_tensor({"branch0": BottleneckSpec(channels=2)}))
