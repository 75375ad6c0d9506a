"""Names of other packages' tensors: every one has its place, and errors name all that don't fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxsplit import models
from jaxsplit.errors import WeightsError
from jaxsplit.importers import names

# A few tensors of each package's state dict, with their shapes there, and where they belong.
KNOWN = {
    "resnet50": {
        "conv1.weight": ((64, 3, 7, 7), "params/stem/conv/kernel"),
        "bn1.running_var": ((64,), "batch_stats/stem/bn/var"),
        "layer1.0.downsample.0.weight": (
            (256, 64, 1, 1),
            "params/stage1_block1/conv_shortcut/kernel",
        ),
        "layer1.0.downsample.1.bias": ((256,), "params/stage1_block1/bn_shortcut/bias"),
        "layer3.5.conv2.weight": ((256, 256, 3, 3), "params/stage3_block6/conv2/kernel"),
        "layer4.2.bn3.weight": ((2048,), "params/stage4_block3/bn3/scale"),
        "fc.weight": ((1000, 2048), "params/logits/dense/kernel"),
    },
    "resnet34": {
        "layer2.3.conv1.weight": ((128, 128, 3, 3), "params/stage2_block4/conv1/kernel"),
        "layer2.0.downsample.1.running_mean": (
            (128,),
            "batch_stats/stage2_block1/bn_shortcut/mean",
        ),
    },
    "mobilenet_v2/torchvision": {
        "features.0.0.weight": ((32, 3, 3, 3), "params/stem/conv/kernel"),
        "features.1.conv.0.0.weight": (
            (32, 1, 3, 3),
            "params/stage1_block1/conv_depthwise/kernel",
        ),
        "features.1.conv.1.weight": ((16, 32, 1, 1), "params/stage1_block1/conv_project/kernel"),
        "features.1.conv.2.running_mean": ((16,), "batch_stats/stage1_block1/bn_project/mean"),
        "features.2.conv.1.0.weight": (
            (96, 1, 3, 3),
            "params/stage2_block1/conv_depthwise/kernel",
        ),
        "features.17.conv.3.bias": ((320,), "params/stage7_block1/bn_project/bias"),
        "features.18.1.weight": ((1280,), "params/top/bn/scale"),
        "classifier.1.bias": ((1000,), "params/logits/dense/bias"),
    },
    "mobilenet_v2/timm": {
        "conv_stem.weight": ((32, 3, 3, 3), "params/stem/conv/kernel"),
        "blocks.0.0.conv_pw.weight": ((16, 32, 1, 1), "params/stage1_block1/conv_project/kernel"),
        "blocks.0.0.bn1.bias": ((32,), "params/stage1_block1/bn_depthwise/bias"),
        "blocks.1.1.conv_pwl.weight": ((24, 144, 1, 1), "params/stage2_block2/conv_project/kernel"),
        "blocks.1.1.bn2.weight": ((144,), "params/stage2_block2/bn_depthwise/scale"),
        "bn2.running_mean": ((1280,), "batch_stats/top/bn/mean"),
        "classifier.weight": ((1000, 1280), "params/logits/dense/kernel"),
    },
    "efficientnet_lite0/efficientnet_lite_pytorch": {
        "_conv_stem.weight": ((32, 3, 3, 3), "params/stem/conv/kernel"),
        "_blocks.0._depthwise_conv.weight": (
            (32, 1, 3, 3),
            "params/stage1_block1/conv_depthwise/kernel",
        ),
        "_blocks.0._bn2.bias": ((16,), "params/stage1_block1/bn_project/bias"),
        "_blocks.3._depthwise_conv.weight": (
            (144, 1, 5, 5),
            "params/stage3_block1/conv_depthwise/kernel",
        ),
        "_blocks.15._bn0.weight": ((1152,), "params/stage7_block1/bn_expand/scale"),
        "_bn1.running_var": ((1280,), "batch_stats/top/bn/var"),
        "_fc.weight": ((1000, 1280), "params/logits/dense/kernel"),
    },
    "efficientnet_lite4/timm": {
        "blocks.5.5.conv_dw.weight": (
            (1632, 1, 5, 5),
            "params/stage6_block6/conv_depthwise/kernel",
        ),
        "blocks.6.0.bn3.running_var": ((448,), "batch_stats/stage7_block1/bn_project/var"),
    },
}


def torch_layout(value):
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim)
    return value if axes is None else value.transpose(axes)


def state_dict(case, classes=1000, seed=0):
    """Random variables of a network, and the same under another package's names."""
    name, _, package = case.partition("/")
    module = models.create(name, classes)
    image = jnp.zeros((1, 64, 64, 3))
    shapes = traverse_util.flatten_dict(
        jax.eval_shape(lambda: module.init(jax.random.key(0), image))
    )
    rng = np.random.default_rng(seed)
    flat = {
        path: rng.standard_normal(leaf.shape, dtype=np.float32) for path, leaf in shapes.items()
    }
    conventions = names._conventions(name)
    convention = next(f for known, f in conventions.items() if known.startswith(package))
    sources = names._source_names(name, convention)
    assert len(set(sources.values())) == len(flat)
    tensors = {sources[path]: torch_layout(value) for path, value in flat.items()}
    return name, traverse_util.unflatten_dict(flat), tensors


@pytest.mark.parametrize("case", KNOWN)
def test_known_tensors_find_their_place(case):
    name, variables, tensors = state_dict(case)
    flat = traverse_util.flatten_dict(variables, sep="/")
    for key, (shape, path) in KNOWN[case].items():
        assert tensors[key].shape == shape
        np.testing.assert_array_equal(tensors[key], torch_layout(flat[path]))
    counters = {
        key.replace("running_var", "num_batches_tracked"): np.int64(7)
        for key in tensors
        if key.endswith("running_var")
    }
    found, classes = names.from_tensors(name, tensors | counters, "file")
    assert classes == 1000
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_another_number_of_classes_is_no_error():
    name, variables, tensors = state_dict("resnet18", classes=7)
    found, classes = names.from_tensors(name, tensors, "file")
    assert classes == 7
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_halves_become_floats():
    name, variables, tensors = state_dict("mobilenet_v2/timm")
    halves = {key: value.astype(np.float16) for key, value in tensors.items()}
    found, _ = names.from_tensors(name, halves, "file")
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), variables)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}


def test_one_error_names_all_that_does_not_fit():
    name, _, tensors = state_dict("resnet18")
    del tensors["bn1.weight"], tensors["layer4.1.conv2.weight"]
    tensors["fc.bias"] = tensors["fc.bias"][:10]
    tensors["layer1.0.bn1.bias"] = np.zeros((3, 4), np.float32)
    tensors["head.bias"] = np.zeros(3, np.float32)
    tensors["layer1.0.bn2.bias"] = np.zeros(64, np.int64)
    with pytest.raises(WeightsError) as caught:
        names.from_tensors(name, tensors, "weights.pth")
    message = str(caught.value)
    for word in (
        "weights.pth does not fit resnet18",
        "missing: bn1.weight, layer4.1.conv2.weight;",
        "of no use: head.bias;",
        "layer1.0.bn1.bias (3, 4)",
        "fc.weight (1000, 512)",  # the bias says ten classes
        "not of numbers: layer1.0.bn2.bias",
    ):
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_values_that_are_no_float32_are_refused(value):
    name, _, tensors = state_dict("resnet18")
    tensors["bn1.weight"] = np.full(64, value)
    with pytest.raises(WeightsError, match=r"file is damaged.*bn1\.weight"):
        names.from_tensors(name, tensors, "file")


def test_a_file_of_another_network_gives_a_bounded_message():
    _, _, tensors = state_dict("resnet18")
    with pytest.raises(WeightsError, match=r"conv1\.weight.* and \d+ more") as caught:
        names.from_tensors("efficientnet_lite0", tensors, "file")
    assert len(str(caught.value)) < 2000
    assert "efficientnet_lite_pytorch or timm" in str(caught.value)
    with pytest.raises(WeightsError, match="missing"):
        names.from_tensors("resnet18", {}, "file")


def test_own_networks_have_no_foreign_weights():
    with pytest.raises(WeightsError, match="resnet8_small"):
        names.from_tensors("resnet8_small", {}, "file")
