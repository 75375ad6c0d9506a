"""Names of other packages' tensors: each maps to a variable; errors list all mismatches."""

import functools

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
    "mobilenet_v3_large/torchvision": {
        "features.0.1.running_var": ((16,), "batch_stats/stem/bn/var"),
        "features.1.block.0.0.weight": (
            (16, 1, 3, 3),
            "params/stage1_block1/conv_depthwise/kernel",
        ),
        "features.1.block.1.1.bias": ((16,), "params/stage1_block1/bn_project/bias"),
        "features.4.block.2.fc1.weight": (
            (24, 72, 1, 1),
            "params/stage3_block1/squeeze/reduce/kernel",
        ),
        "features.4.block.3.0.weight": ((40, 72, 1, 1), "params/stage3_block1/conv_project/kernel"),
        "features.8.block.2.1.weight": ((80,), "params/stage4_block2/bn_project/scale"),
        "features.15.block.2.fc2.bias": ((960,), "params/stage6_block3/squeeze/expand/bias"),
        "features.16.0.weight": ((960, 160, 1, 1), "params/top/conv/kernel"),
        "classifier.0.weight": ((1280, 960), "params/pool/dense/kernel"),
        "classifier.3.bias": ((1000,), "params/logits/dense/bias"),
    },
    "convnext_tiny/torchvision": {
        "features.0.0.weight": ((96, 3, 4, 4), "params/stem/conv/kernel"),
        "features.1.0.block.0.weight": (
            (96, 1, 7, 7),
            "params/stage1_block1/depthwise/kernel",
        ),
        "features.2.0.weight": ((96,), "params/stage2_downsample/norm/scale"),
        "features.4.1.weight": ((384, 192, 2, 2), "params/stage3_downsample/conv/kernel"),
        "features.5.8.block.3.weight": (
            (1536, 384),
            "params/stage3_block9/perceptron/expand/kernel",
        ),
        "features.7.2.block.2.bias": ((768,), "params/stage4_block3/norm/bias"),
        "classifier.0.weight": ((768,), "params/pool/norm/scale"),
        "classifier.2.weight": ((1000, 768), "params/logits/dense/kernel"),
    },
    "convnext_tiny/timm": {
        "stem.1.bias": ((96,), "params/stem/norm/bias"),
        "stages.0.blocks.2.gamma": ((96,), "params/stage1_block3/layer_scale"),
        "stages.1.downsample.1.weight": (
            (192, 96, 2, 2),
            "params/stage2_downsample/conv/kernel",
        ),
        "stages.2.blocks.8.conv_dw.bias": ((384,), "params/stage3_block9/depthwise/bias"),
        "stages.3.blocks.0.mlp.fc2.weight": (
            (768, 3072),
            "params/stage4_block1/perceptron/project/kernel",
        ),
        "head.norm.weight": ((768,), "params/pool/norm/scale"),
        "head.fc.bias": ((1000,), "params/logits/dense/bias"),
    },
    "deit_tiny/timm": {
        "patch_embed.proj.weight": ((192, 3, 16, 16), "params/embedding/conv/kernel"),
        "blocks.0.norm1.weight": ((192,), "params/block1/norm1/scale"),
        "blocks.4.attn.qkv.weight": ((576, 192), "params/block5/attention/qkv/kernel"),
        "blocks.11.attn.proj.bias": ((192,), "params/block12/attention/project/bias"),
        "blocks.11.mlp.fc1.weight": ((768, 192), "params/block12/perceptron/expand/kernel"),
        "norm.bias": ((192,), "params/pool/norm/bias"),
        "head.weight": ((1000, 192), "params/logits/dense/kernel"),
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
    found, classes, of = name_maps.from_tensors(name, tensors | counters, "file")
    assert (classes, of) == (1000, package if "resnet" not in name else "torchvision")
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-7)
    jax.tree.map(close if name == "deit_tiny" else np.testing.assert_array_equal, found, variables)


def test_the_class_token_gets_its_position():
    _, tensors = random_network("deit_tiny", classes=3)
    token, position = tensors["cls_token"].copy(), tensors["pos_embed"].copy()
    assert (token.shape, position.shape) == ((1, 1, 192), (1, 197, 192))
    params = name_maps.from_tensors("deit_tiny", tensors, "file").variables["params"]
    np.testing.assert_array_equal(params["block1"]["class_token"], token + position[:, :1])
    np.testing.assert_array_equal(params["embedding"]["position"], position[:, 1:])
    for key, wrong in (("cls_token", token[..., :9]), ("pos_embed", position[:, :-1])):
        _, tensors = random_network("deit_tiny", classes=3)
        with pytest.raises(WeightsError, match=f"of another shape: '{key}' is"):
            name_maps.from_tensors("deit_tiny", tensors | {key: wrong}, "file")


def test_timms_mobilenet_v3_has_another_epsilon():
    """Normalization with 1e-3 and the converted scale is that with 1e-5 and the file's."""
    _, tensors = random_network("mobilenet_v3_large", "timm", classes=3)
    head = tensors["conv_head.weight"]
    assert head.shape == (1280, 960, 1, 1)
    x, given = np.random.default_rng(0).normal(size=(5, 16)), dict(tensors)
    found, _, package = name_maps.from_tensors("mobilenet_v3_large", tensors, "file")
    assert package == "timm"
    np.testing.assert_array_equal(found["params"]["pool"]["dense"]["kernel"], head[..., 0, 0].T)
    scale = found["params"]["stem"]["bn"]["scale"]
    stats = found["batch_stats"]["stem"]["bn"]
    epsilon = networks.create("mobilenet_v3_large", 3).epsilon
    np.testing.assert_allclose(
        (x - stats["mean"]) / np.sqrt(stats["var"] + epsilon) * scale,
        (x - given["bn1.running_mean"])
        / np.sqrt(given["bn1.running_var"] + 1e-5)
        * given["bn1.weight"],
        rtol=1e-5,
    )
    assert np.abs(scale - given["bn1.weight"]).max() > 1e-4


def test_another_number_of_classes_is_no_error():
    variables, tensors = random_network("resnet18", classes=7)
    found, classes, _ = name_maps.from_tensors("resnet18", tensors, "file")
    assert classes == 7
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_halves_become_floats():
    variables, tensors = random_network("mobilenet_v2", "timm")
    halves = {key: value.astype(np.float16) for key, value in tensors.items()}
    found, *_ = name_maps.from_tensors("mobilenet_v2", halves, "file")
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), variables)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}


def test_the_file_is_not_in_memory_twice():
    """Converted tensors are removed from the dict; float32 vectors are not copied."""
    variables, tensors = random_network("resnet18", classes=7)
    bias = tensors["fc.bias"]
    found, *_ = name_maps.from_tensors("resnet18", tensors, "file")
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
    found = name_maps.from_tensors("deeplabv3_resnet18", tensors | auxiliary, "file")
    assert (found.classes, found.package) == (3, "torchvision")
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
    assert name_maps.packages("deeplabv3_efficientnet_lite0") == ()
