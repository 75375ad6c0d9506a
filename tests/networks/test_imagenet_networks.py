"""Sizes and cuts of the ImageNet networks; blocks of ResNets and inverted residual networks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit import networks
from jaxsplit.cost import count_macs
from jaxsplit.cost.counting import inference_form
from jaxsplit.networks.deeplab import DEEPLABS
from jaxsplit.networks.layers import NormConfig
from jaxsplit.networks.residual import BottleneckBlock, InvertedResidual
from jaxsplit.weights import name_maps

pytestmark = pytest.mark.optimized

# Millions of parameters and of multiply-adds of convolutions and matrix products, counted in
# torchvision's and timm's own modules; side of the input. A transformer's class token and the first
# position are one parameter here.
PUBLISHED = {
    "resnet18": (11.69, 1814, 224),
    "resnet34": (21.80, 3664, 224),
    "resnet50": (25.56, 4089, 224),
    "resnet101": (44.55, 7801, 224),
    "resnet152": (60.19, 11514, 224),
    "wide_resnet50_2": (68.88, 11398.0, 224),
    "mobilenet_v2": (3.50, 300.8, 224),
    "mobilenet_v3_large": (5.48, 216.6, 224),
    "convnext_tiny": (28.59, 4455.5, 224),
    "deit_tiny": (5.72, 1253.7, 224),
    "deit_small": (22.05, 4598.9, 224),
    "efficientnet_lite0": (4.65, 385.2, 224),
    "efficientnet_lite1": (5.42, 600.2, 240),
    "efficientnet_lite2": (6.09, 859.7, 260),
    "efficientnet_lite3": (8.20, 1383.3, 280),
    "efficientnet_lite4": (13.01, 2553.0, 300),
}

# Products of single elements count too: those of activations, gates and layer normalization, as a
# share of the others.
ELEMENTWISE = {
    "mobilenet_v3_large": 0.0097,
    "convnext_tiny": 0.0076,
    "deit_tiny": 0.0058,
    "deit_small": 0.0032,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    parameters, macs, side = PUBLISHED[name]
    network, image = networks.as_network(networks.create(name, 1000)), jnp.zeros((1, side, side, 3))
    trained = jax.eval_shape(network.module.init, jax.random.key(0), image)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained["params"]))
    assert round(count / 1e6, 2) == parameters
    folded, variables = inference_form(network, trained)
    expected = macs * (1 + ELEMENTWISE.get(name, 0))
    assert count_macs(folded, variables, image) / 1e6 == pytest.approx(expected, rel=1e-3)


def test_every_network_has_its_size_checked():
    own = {name for name in networks.names() if not name_maps.packages(name)}
    # Those of DeepLabV3 are in test_deeplab.py.
    assert set(networks.names()) == {*PUBLISHED, *own, *DEEPLABS}


@pytest.mark.parametrize(
    ("name", "count", "shapes"),
    [
        (
            "resnet50",
            17,
            {
                "stem": (56, 56, 64),
                "stage3.block5": (14, 14, 1024),
                "stage4.block1": (7, 7, 2048),
                "stage4.block3": (7, 7, 2048),
            },
        ),
        ("resnet18", 9, {"stage2.block2": (28, 28, 128)}),
        (
            "efficientnet_lite0",
            18,
            {"stem": (112, 112, 32), "stage3.block1": (28, 28, 40), "top": (7, 7, 1280)},
        ),
        ("mobilenet_v2", 19, {"stage5.block3": (14, 14, 96)}),
        ("wide_resnet50_2", 17, {"stage1.block1": (56, 56, 256)}),
        ("mobilenet_v3_large", 18, {"stage5.block2": (14, 14, 112), "pool": (1, 1, 1280)}),
        (
            "convnext_tiny",
            23,
            {"stem": (56, 56, 96), "stage2.downsample": (28, 28, 192), "pool": (1, 1, 768)},
        ),
        (
            "deit_tiny",
            14,
            {
                "embedding": (14, 14, 192),  # the class token is the network's, not the image's
                "block1": {"class_token": (1, 1, 192), "patches": (14, 14, 192)},
                "block12": (1, 1, 192),  # what follows reads the class token alone
            },
        ),
    ],
)
def test_every_block_is_a_cut(name, count, shapes):
    cuts = networks.cuts(name)
    assert len(cuts) == count
    assert {cut: cuts[cut] for cut in shapes} == shapes
    assert (*cuts, "logits") == networks.create(name, 10).endpoints()


def naive_conv(x, kernel, stride, pads, depthwise=False):
    """In float64, one output pixel at a time."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *pads, (0, 0)))
    k = kernel.shape[0]
    h, w = ((n - k) // stride + 1 for n in x.shape[1:3])
    y = np.empty((len(x), h, w, kernel.shape[-1]))
    for i in range(h):
        for j in range(w):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            if depthwise:
                y[:, i, j] = np.einsum("bklc,klc->bc", window, kernel[:, :, 0])
            else:
                y[:, i, j] = np.einsum("bklc,klcd->bd", window, kernel)
    return y


def norm(x, variables, layer, epsilon):
    params, stats = variables["params"][layer], variables["batch_stats"][layer]
    unit = (x - stats["mean"]) / np.sqrt(stats["var"].astype(np.float64) + epsilon)
    return unit * params["scale"] + params["bias"]


def run(block, variables, x):
    return jax.jit(functools.partial(block.apply, train=False))(variables, x)


@pytest.fixture
def block_variables(randomised):
    def draw(block, x):
        class Image:
            """Lets `randomised` call a block as it calls a network."""

            init = staticmethod(lambda key, image: block.init(key, image, False))

        return randomised(Image, x.shape[1:])

    return draw


@pytest.mark.parametrize(("channels", "stride"), [(24, 1), (24, 2), (10, 1)])
def test_a_bottleneck_block_in_float64(block_variables, channels, stride):
    """The stride is in the 3×3 convolution, the shortcut a 1×1 one where the shape changes."""
    x = np.random.default_rng(0).normal(size=(2, 7, 6, channels)).astype(np.float32)
    block = BottleneckBlock(width=6, stride=stride, config=NormConfig())
    variables = block_variables(block, x)
    kernels = {name: tree["kernel"] for name, tree in variables["params"].items() if "conv" in name}
    assert ("conv_shortcut" in kernels) == (channels != 24 or stride == 2)
    none, ones = ((0, 0), (0, 0)), ((1, 1), (1, 1))
    normed = functools.partial(norm, variables=variables, epsilon=1e-5)
    y = np.maximum(normed(naive_conv(x, kernels["conv1"], 1, none), layer="bn1"), 0)
    y = np.maximum(normed(naive_conv(y, kernels["conv2"], stride, ones), layer="bn2"), 0)
    y = normed(naive_conv(y, kernels["conv3"], 1, none), layer="bn3")
    if "conv_shortcut" in kernels:
        shortcut = naive_conv(x, kernels["conv_shortcut"], stride, none)
        y += normed(shortcut, layer="bn_shortcut")
    else:
        y += x
    np.testing.assert_allclose(run(block, variables, x), np.maximum(y, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (8, 3, 2, (0, 1)),  # TensorFlow's "SAME": the odd zero comes last
        (8, 5, 2, (1, 2)),
        (7, 3, 2, (1, 1)),
        (7, 5, 2, (2, 2)),
        (6, 5, 1, (2, 2)),
    ],
)
@pytest.mark.parametrize("expansion", [1, 6])
def test_an_inverted_residual_block_in_float64(
    block_variables, size, kernel, stride, pads, expansion
):
    x = np.random.default_rng(0).normal(size=(2, size, size, 4)).astype(np.float32)
    block = InvertedResidual(expansion, 4, kernel, stride, "SAME", NormConfig(epsilon=1e-3))
    variables = block_variables(block, x)
    kernels = {name: tree["kernel"] for name, tree in variables["params"].items() if "conv" in name}
    normed = functools.partial(norm, variables=variables, epsilon=1e-3)
    none = ((0, 0), (0, 0))
    y = x
    if expansion > 1:
        y = np.clip(normed(naive_conv(y, kernels["conv_expand"], 1, none), layer="bn_expand"), 0, 6)
    y = naive_conv(y, kernels["conv_depthwise"], stride, (pads, pads), depthwise=True)
    y = np.clip(normed(y, layer="bn_depthwise"), 0, 6)
    y = normed(naive_conv(y, kernels["conv_project"], 1, none), layer="bn_project")
    expected = x + y if stride == 1 else y
    np.testing.assert_allclose(run(block, variables, x), expected, rtol=1e-4, atol=1e-4)
