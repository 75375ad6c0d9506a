"""Names of other packages' tensors: each maps to a variable; errors list all mismatches."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from foreign_files import random_network, torch_layout

from jaxsplit import networks
from jaxsplit.errors import ConfigError, WeightsError
from jaxsplit.weights import name_maps

# Some tensors of each package's state dict, their shapes there, and our variables.
KNOWN = {
    "resnet50/torchvision": {
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
    "resnet34/timm": {
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


@pytest.mark.parametrize("case", KNOWN)
def test_known_tensors_find_their_place(case):
    name, _, package = case.partition("/")
    variables, tensors = random_network(name, package)
    flat = traverse_util.flatten_dict(variables, sep="/")
    for key, (shape, path) in KNOWN[case].items():
        assert tensors[key].shape == shape
        np.testing.assert_array_equal(tensors[key], torch_layout(flat[path]))
    counters = {
        key.replace("running_var", "num_batches_tracked"): np.int64(7)
        for key in tensors
        if key.endswith("running_var")
    }
    found, classes = name_maps.from_tensors(name, tensors | counters, "file")
    assert classes == 1000
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_another_number_of_classes_is_no_error():
    variables, tensors = random_network("resnet18", classes=7)
    found, classes = name_maps.from_tensors("resnet18", tensors, "file")
    assert classes == 7
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_halves_become_floats():
    variables, tensors = random_network("mobilenet_v2", "timm")
    halves = {key: value.astype(np.float16) for key, value in tensors.items()}
    found, _ = name_maps.from_tensors("mobilenet_v2", halves, "file")
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), variables)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}


def test_the_file_is_not_in_memory_twice():
    """Converted tensors are removed from the dict; float32 vectors are not copied."""
    variables, tensors = random_network("resnet18", classes=7)
    bias = tensors["fc.bias"]
    found, _ = name_maps.from_tensors("resnet18", tensors, "file")
    assert not tensors
    assert np.shares_memory(found["params"]["logits"]["dense"]["bias"], bias)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_one_error_names_all_that_does_not_fit():
    _, tensors = random_network("resnet18")
    del tensors["bn1.weight"], tensors["layer4.1.conv2.weight"]
    tensors["fc.bias"] = tensors["fc.bias"][:10]
    tensors["layer1.0.bn1.bias"] = np.zeros((3, 4), np.float32)
    tensors["head.bias"] = np.zeros(3, np.float32)
    with pytest.raises(WeightsError) as caught:
        name_maps.from_tensors("resnet18", tensors, "weights.pth")
    message = str(caught.value)
    for word in (
        "weights.pth does not fit resnet18, whose tensors are named as in torchvision or timm;",
        "missing: 'bn1.weight', 'layer4.1.conv2.weight';",
        "unused: 'head.bias';",
        "'layer1.0.bn1.bias' is (3, 4), expected (64,)",
        "'fc.weight' is (1000, 512), expected (10, 512)",  # the bias says ten classes
    ):
        assert word in message
    assert "\n" not in message


def test_names_of_the_file_are_escaped_and_short():
    for name in ("\x1b[2J", "a\nb", "w" * 10**6):
        _, tensors = random_network("resnet18", classes=2)
        with pytest.raises(WeightsError, match="unused") as caught:
            name_maps.from_tensors("resnet18", tensors | {name: np.zeros(1)}, "file")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


def test_integers_are_refused():
    _, tensors = random_network("resnet18")
    tensors["layer1.0.bn2.bias"] = np.zeros(64, np.int64)
    with pytest.raises(
        WeightsError, match=r"file has .* not floating point: 'layer1\.0\.bn2\.bias'"
    ):
        name_maps.from_tensors("resnet18", tensors, "file")


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_values_that_are_no_float32_are_refused(value):
    _, tensors = random_network("resnet18")
    tensors["bn1.weight"] = np.full(64, value)
    with pytest.raises(WeightsError, match=r"file has .* not finite in float32: 'bn1\.weight'"):
        name_maps.from_tensors("resnet18", tensors, "file")


def test_negative_variances_are_refused():
    _, tensors = random_network("resnet18")
    tensors["bn1.running_var"][3] = -1e-6
    with pytest.raises(WeightsError, match=r"negative variances: 'bn1\.running_var'"):
        name_maps.from_tensors("resnet18", tensors, "file")


def test_a_file_of_another_network_gives_a_bounded_message():
    _, tensors = random_network("resnet18")
    with pytest.raises(WeightsError, match=r"conv1\.weight.* and \d+ more") as caught:
        name_maps.from_tensors("efficientnet_lite0", tensors, "file")
    assert len(str(caught.value)) < 2000
    assert "efficientnet_lite_pytorch or timm" in str(caught.value)
    with pytest.raises(WeightsError, match="missing"):
        name_maps.from_tensors("resnet18", {}, "file")


def test_packages_have_names_for_their_networks_alone():
    for name in networks.names():
        for package in name_maps.packages(name):
            sources = name_maps.source_names(name, package)
            assert len(set(sources.values())) == len(sources)
    assert name_maps.packages("resnet8_small") == ()
    for name, package in (("resnet8_small", "timm"), ("efficientnet_lite0", "torchvision")):
        with pytest.raises(ConfigError, match=f"{package} has no {name}"):
            name_maps.source_names(name, package)


def test_own_networks_have_no_foreign_weights():
    with pytest.raises(WeightsError, match="resnet8_small"):
        name_maps.from_tensors("resnet8_small", {}, "file")


def test_deeplab_has_torchvisions_names_and_no_auxiliary_head():
    variables, tensors = random_network("deeplabv3_resnet18", classes=3)
    shapes = {
        "backbone.layer4.1.conv2.weight": (512, 512, 3, 3),
        "classifier.0.convs.0.0.weight": (256, 512, 1, 1),
        "classifier.0.convs.3.1.running_mean": (256,),
        "classifier.0.convs.4.1.weight": (256, 512, 1, 1),
        "classifier.0.project.0.weight": (256, 1280, 1, 1),
        "classifier.1.weight": (256, 256, 3, 3),
        "classifier.2.bias": (256,),
        "classifier.4.bias": (3,),
    }
    assert {key: tensors[key].shape for key in shapes} == shapes
    auxiliary = {f"aux_classifier.{i}.weight": np.ones(2) for i in (0, 4)}
    found, classes = name_maps.from_tensors("deeplabv3_resnet18", tensors | auxiliary, "file")
    assert classes == 3
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    assert name_maps.packages("deeplabv3_efficientnet_lite0") == ()
