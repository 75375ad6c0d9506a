"""Weights of .tflite files: their values, and files that no converter writes."""

import struct
import time
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_files import Stored, network_layers, write_tflite

from jaxsplit import load_backbone, networks
from jaxsplit.errors import WeightsError
from jaxsplit.networks.network import variable_shapes
from jaxsplit.tasks import Segmentation
from jaxsplit.weights.deeplab_names import from_convolutions
from jaxsplit.weights.formats import format_of, read_tensors
from jaxsplit.weights.tflite import Convolution, read_convolutions

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data"
NAME = "deeplabv3_mobilenet_v2"
rng = np.random.default_rng(0)
BIAS = Stored(np.arange(4, dtype=np.int32), [0.5], [0])


def layer(kernel, bias=BIAS, depthwise=False, name="net/first"):
    return (name, depthwise, kernel, bias, 2, 1)


def quantized(shape=(4, 3, 3, 2), **options):
    values = rng.integers(0, 256, shape, np.uint8)
    return Stored(values, **{"scale": [0.25], "zero": [128], **options})


def test_weights_of_a_tensor_and_of_each_channel(write):
    """scale · (q - zero point), in our order of axes."""
    whole, half = quantized(), Stored(np.ones((4, 3, 3, 2), np.float16))
    signed = Stored(
        rng.integers(-128, 128, (1, 5, 5, 4)).astype(np.int8), [1, 2, 3, 4], [0, 1, 0, -1], axis=3
    )
    per_channel = Stored(np.full(4, 3, np.int32), [1, 2, 3, 4], [0, 0, 0, 0])
    layers = [
        layer(whole),
        layer(signed, per_channel, depthwise=True, name="net/second"),
        ("third", False, half, Stored(np.ones(4, np.float32)), 1, 2),
    ]
    found = read_convolutions(write(write_tflite(layers), "net.tflite"))
    assert list(found) == ["net/first", "net/second", "third"]
    first, second, third = found.values()
    expected = 0.25 * (np.float32(whole.values) - 128)
    np.testing.assert_array_equal(first.kernel, expected.transpose(1, 2, 3, 0))
    np.testing.assert_array_equal(first.bias, [0, 0.5, 1, 1.5])
    expected = np.array([1, 2, 3, 4]) * (signed.values[0] - np.float32([0, 1, 0, -1]))
    np.testing.assert_array_equal(second.kernel, expected[:, :, None])
    np.testing.assert_array_equal(second.bias, [3, 6, 9, 12])
    assert (first.stride, first.dilation, third.stride, third.dilation) == (2, 1, 1, 2)
    assert {x.dtype for one in found.values() for x in one[:2]} == {np.dtype(np.float32)}


def _random_file(width=0.125, classes=5):
    """A network of random weights without normalization, and what its file holds."""
    module = networks.create(NAME, classes, width=width)
    params = variable_shapes(module.clone(folded=True), (64, 64, 3))["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    convolutions, index = {}, 0
    for block, layers in params.items():
        scope = {
            "stem": "MobilenetV2/Conv",
            "aspp": "concat_projection",
            "logits": "logits/semantic",
        }
        if block.startswith("stage"):
            scope[block] = "MobilenetV2/expanded_conv" + (f"_{index}" if index else "")
            index += 1
        for name, leaves in layers.items():
            source = {"conv0": "aspp0", "conv_pooling": "image_pooling"}.get(name, scope.get(block))
            if block.startswith("stage"):
                source += name.replace("conv_", "/")
            kernel = leaves["kernel"]
            if block == "aspp":
                kernel = np.concatenate((kernel[:, :, 256:], kernel[:, :, :256]), axis=2)
            strided = source in (
                "MobilenetV2/Conv",
                *(f"MobilenetV2/expanded_conv_{i}/depthwise" for i in (1, 3, 6)),
            )
            convolutions[source] = Convolution(kernel, leaves["bias"], 1 + strided, 1)
    return params, convolutions


def test_a_file_becomes_the_network_whose_normalization_adds_the_bias(write):
    params, convolutions = _random_file()
    path = write(write_tflite(list(network_layers(convolutions))), "net.tflite")
    backbone = load_backbone(NAME, path)
    assert (backbone.module.width, backbone.module.num_classes) == (0.125, 5)
    folded, found = backbone.network.fold(backbone.variables)
    assert folded.folded
    jax.tree.map(np.testing.assert_array_equal, found["params"], params)


def test_a_backbone_of_another_width_is_saved_and_loaded(write, tmp_path):
    _, convolutions = _random_file()
    backbone = load_backbone(NAME, write(write_tflite(list(network_layers(convolutions)))))
    assert isinstance(backbone.task, Segmentation)
    assert backbone.task.align_corners
    backbone.save(tmp_path / "net.safetensors")
    loaded = load_backbone(tmp_path / "net.safetensors")
    assert (loaded.network, loaded.task) == (backbone.network, backbone.task)
    assert loaded.fingerprint == backbone.fingerprint


def test_files_of_other_networks_are_refused(write):
    _, convolutions = _random_file()
    path = write(write_tflite(list(network_layers(convolutions))))
    assert format_of(path) == "tflite"
    with pytest.raises(WeightsError, match=r"only deeplabv3_mobilenet_v2 is read from one"):
        load_backbone("resnet50", path)
    with pytest.raises(WeightsError, match=r"is a \.tflite; expected"):
        read_tensors(path)
    cases = {
        r"no layers of deeplabv3_mobilenet_v2": lambda c: c.pop("MobilenetV2/Conv"),
        r"missing: 'aspp0/bias', 'aspp0/kernel'": lambda c: c.pop("aspp0"),
        r"unused: 'more/bias'": lambda c: c.update(more=c["aspp0"]),
        r"output stride of 8, expected 16": lambda c: c.update(
            {"MobilenetV2/Conv": c["MobilenetV2/Conv"]._replace(stride=1)}
        ),
        r"not finite in float32: 'aspp0/bias'": lambda c: c.update(
            aspp0=c["aspp0"]._replace(bias=np.full(256, np.inf, np.float32))
        ),
        r"a stem of 2 channels": lambda c: c.update(
            {"MobilenetV2/Conv": c["MobilenetV2/Conv"]._replace(bias=np.zeros(2))}
        ),
    }
    for match, change in cases.items():
        changed = dict(convolutions)
        change(changed)
        with pytest.raises(WeightsError, match=match):
            from_convolutions(NAME, changed, "file")


def refused(path, match):
    with pytest.raises(WeightsError, match=match) as caught:
        read_convolutions(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (layer(Stored(np.ones((4, 3, 3, 2), np.int64))), "weights of type 4"),
        (layer(quantized(), Stored(np.ones(3, np.int32))), "with 0 scales"),
        (layer(quantized(scale=[1, 2], zero=[0, 0])), "with 2 scales"),
        (layer(quantized(scale=[1] * 4, zero=[0] * 3)), "4 scales and 3 zero points"),
        (layer(quantized(scale=[1] * 4, zero=[0] * 4, axis=7)), "with 4 scales"),
        (layer(quantized(scale=[1] * 4, zero=[0] * 4, axis=-1)), "with 4 scales"),
        (layer(quantized(scale=[float("nan")])), "not positive numbers"),
        (layer(quantized(scale=[-1.0])), "not positive numbers"),
        (layer(quantized(zero=[2**40])), "beyond int32"),
        (layer(quantized((4, 9, 2))), r"weights of \(4, 9, 2\)"),
        (layer(quantized(), quantized((2, 2))), r"weights of"),
        (layer(Stored(np.ones((0, 3, 3, 2), np.float32))), "in 0 bytes"),
        (layer(Stored(np.ones((4, 3, 3, 2), np.float32), kind=1)), "in 288 bytes"),
        (layer(quantized(), name="a\x1b[2J/b"), "has a layer called"),
        (layer(quantized(), name="w" * 300), "has a layer called"),
    ],
    ids=range(15),
)
def test_weights_without_sense_are_refused(write, changed, match):
    refused(write(write_tflite([changed])), match)


def test_files_without_sense_are_refused(write, tmp_path):
    refused(write(write_tflite([layer(quantized()), layer(quantized())])), "two layers 'net/first'")
    refused(write(write_tflite([])), "has no convolutions")
    refused(write(b""), "is empty")
    refused(write(b"\0" * 20), "expected a .tflite")
    refused(write(struct.pack("<I", 2**31) + b"TFL3"), "cannot parse its graph")
    refused(tmp_path / "none.tflite", "there is no such file")
    refused(tmp_path, "is not a file")


def test_weights_that_many_layers_share_take_no_more_than_the_file(write):
    """A small file that names one buffer a thousand times does not fill the memory."""
    big = Stored(np.ones((4, 64, 64, 16), np.float32))
    data = write_tflite([layer(big, name=f"l{i}") for i in range(1000)])
    assert len(data) < 2 * big.values.nbytes
    path = write(data)
    tracemalloc.start()
    try:
        refused(path, "take more than its")
        assert tracemalloc.get_traced_memory()[1] < 8 * len(data)
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    cut=st.floats(0.5, 1.2),
)
def test_damage_gives_an_error_or_weights(tmp_path_factory, changes, cut):
    data = bytearray(
        write_tflite([layer(quantized()), layer(quantized((1, 3, 3, 4)), depthwise=True, name="b")])
    )
    for place, byte in changes:
        data[int(place * (len(data) - 1))] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.tflite"
    path.write_bytes(bytes(data[: int(cut * len(data))]))
    start = time.monotonic()
    message, found = "", {}
    try:
        found = read_convolutions(path)
    except WeightsError as error:
        message = str(error)
    assert message.isprintable()
    assert all(one.kernel.size + one.bias.size <= len(data) for one in found.values())
    assert time.monotonic() - start < 5


@pytest.mark.skipif(
    not (PUBLISHED / "deeplabv3_mnv2_pascal_quant.tflite").is_file(),
    reason="the published .tflite files are not in ../shared/data",
)
@pytest.mark.parametrize(("part", "width"), [("", 1.0), ("dm05_", 0.5)])
def test_the_published_files_load(part, width):
    backbone = load_backbone(NAME, PUBLISHED / f"deeplabv3_mnv2_{part}pascal_quant.tflite")
    assert backbone.module.width == width
    assert backbone.class_names[15] == "person"
    assert backbone.preprocessing.normalize(np.uint8([[[0, 128, 255]]])).ravel().tolist() == [
        -1.0,
        0.0,
        pytest.approx(127 / 128),
    ]
    flat = traverse_util.flatten_dict(backbone.variables, sep="/")
    # The dequantized range of the logits' weights, as the file's own quantization says.
    assert np.ptp(flat["params/logits/conv/kernel"]) == pytest.approx(255 * 0.0041, rel=0.12)
