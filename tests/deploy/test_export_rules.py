"""Functions of JAX, traced and run by onnxruntime, give what JAX gives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit import ops
from jaxsplit.deploy.export_graph import Graph, Value
from jaxsplit.deploy.export_model import graph_proto, model_bytes
from jaxsplit.deploy.export_trace import append, batched
from jaxsplit.errors import ConfigError
from jaxsplit.units import ResidualSpec

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SHAPE = (8, 8, 6)
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 6, 5)).astype(np.float32)
DEEP = RNG.normal(size=(3, 3, 6, 2)).astype(np.float32)
SCALE = RNG.normal(size=(1, 1, 1, 5)).astype(np.float32)
MATRIX = RNG.normal(size=(6, 4)).astype(np.float32)
CONV = {"window_strides": (2, 2), "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
PADS = ((0, 1), (1, 0))


def conv(x):
    return jax.lax.conv_general_dilated(x, KERNEL, padding=PADS, **CONV)


def exported(function, shape=SHAPE):
    """The model of a function of one array, and its operations."""
    graph = Graph()
    x = Value(batched(shape), np.dtype(np.float32), batched(shape), "x")
    (y,) = append(graph, function, x)
    y = graph.whole(y)
    graph.fold_scales([y.name])
    graph.remove_unused([y.name])
    return model_bytes(graph, [x], {"y": y}), [node.op for node in graph.nodes]


def run(model, x):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, settings, ["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


FUNCTIONS = {
    "arithmetic": lambda x: (2 * x - 1) / (x * x + 3) + jnp.abs(-x) ** 3,
    "activations": lambda x: nn.relu6(3 * x) + nn.gelu(x) + nn.silu(x) + jnp.tanh(x),
    "clip": lambda x: jnp.clip(x, -0.5, 0.5) + jnp.minimum(x, 0.1) + jnp.maximum(0.2, x),
    "roots": lambda x: jax.lax.rsqrt(x * x + 1) + jnp.sqrt(jnp.exp(x)) + jnp.log(x * x + 1),
    "rounding": lambda x: jnp.round(4 * x) + jnp.floor(x) + jnp.sign(x),
    "selection": lambda x: jnp.where((x > 0) & (x != 1), x, -x) * jnp.isfinite(x),
    "integers": lambda x: (10 * x).astype(jnp.int32),
    "convolution": lambda x: conv(x) * SCALE + 1,
    "normalization": lambda x: nn.relu((conv(x) - SCALE) / 3 * SCALE),
    "depthwise": lambda x: ops.depthwise_conv(x, DEEP, 2, 1) - 1,
    "pointwise": lambda x: ops.pointwise(conv(x), KERNEL[0, 0, :5, :4]) @ MATRIX[:4].T[:, :4],
    "winograd": lambda x: ops.conv(x, np.ones((3, 3, 6, 64), np.float32) / 9, 1, 1),
    "twice": lambda x: conv(x) + jnp.sin(conv(x)),
    "means": lambda x: conv(x).mean(axis=(1, 2)) @ KERNEL[0, 0, :5],
    "channel sums": lambda x: conv(x).sum(axis=-1),
    "excitation": lambda x: x * nn.sigmoid(x.mean(axis=(1, 2), keepdims=True) @ np.eye(6)),
    "max pool": lambda x: nn.max_pool(conv(x), (2, 2), (2, 2), "SAME"),
    "average pool": lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME"),
    "padding": lambda x: jnp.pad(conv(x), ((0, 0), (1, 0), (0, 2), (0, 1)), constant_values=2),
    "slices": lambda x: conv(x)[:, 1:, ::2, :3],
    "concatenation": lambda x: jnp.concatenate([conv(x), 2 * conv(x)], axis=-1),
    "stack": lambda x: jnp.stack([x, 2 * x], axis=2).sum(axis=1),
    "tokens": lambda x: x.reshape(x.shape[0], -1, 6) @ MATRIX + MATRIX[None, :1],
    "attention": lambda x: jnp.einsum("bhwc,bhvc->bhwv", conv(x), conv(x)),
    "channels first": lambda x: conv(x).transpose(0, 3, 1, 2).reshape(x.shape[0], -1),
    "softmax": lambda x: nn.softmax(x, axis=-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_onnxruntime_gives_what_jax_gives(name):
    model, _ = exported(FUNCTIONS[name])
    for batch in (1, 3):
        x = RNG.normal(size=(batch, *SHAPE)).astype(np.float32)
        y = run(model, x)
        expected = jax.jit(FUNCTIONS[name])(x)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-5)


def test_scales_are_folded_and_layers_are_not_transposed_between():
    def network(x):
        x = nn.relu6(conv(x) * SCALE + 1)
        x = nn.relu((ops.depthwise_conv(x, DEEP[:, :, :5, :1], 1, 1) - 1) / 2)
        return nn.relu(ops.pointwise(x, KERNEL[0, 0, :5, :5]) + SCALE) + x

    operations = exported(network)[1]
    middle = ["Conv", "Clip", "Conv", "Relu", "Conv", "Relu", "Add"]
    assert operations == ["Transpose", *middle, "Transpose"]


def test_a_strided_shortcut_is_one_convolution():
    def network(x):
        x = conv_same(x)
        return ops.conv(x, KERNEL[:1, :1], 2, 0) + ops.conv(x, KERNEL, 2, 1)

    model, operations = exported(network)
    assert operations == ["Transpose", "Conv", "Conv", "Conv", "Add", "Transpose"]
    x = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
    np.testing.assert_allclose(run(model, x), network(x), rtol=2e-5, atol=2e-5)


def test_patches_of_a_residual_unit_are_one_operation():
    unit = ResidualSpec(channels=4, stride=2, width=8)
    variables = unit.init(jax.random.key(0), SHAPE)
    model, operations = exported(lambda x: unit.encode(variables, conv_same(x)))
    assert operations.count("SpaceToDepth") == 1
    assert operations.count("Transpose") == 2  # of the image and of the latents
    x = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
    expected = unit.encode(variables, conv_same(x))
    np.testing.assert_allclose(run(model, x), expected, rtol=2e-5, atol=2e-5)


def conv_same(x):
    return ops.conv(x, KERNEL[..., :1] * np.ones(6, np.float32), 1, 1)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: jnp.sort(x, axis=-1), "sort"),
        (lambda x: jax.lax.scan(lambda c, _: (c + x, None), x, None, 3)[0], "scan"),
        (lambda x: jax.lax.cond(x.sum() > 0, lambda: x, lambda: -x), "cond"),
        (lambda x: x[:1], "slice of the batch"),
    ],
)
def test_what_has_no_rule_is_named(function, named):
    with pytest.raises(ConfigError, match=named):
        exported(function)


def test_no_size_may_look_like_a_batch():
    with pytest.raises(ConfigError, match="1009"):
        exported(lambda x: x, (1009, 4))


def test_a_graph_has_names_for_its_outputs():
    graph = Graph()
    x = Value(batched((3,)), np.dtype(np.float32), batched((3,)), "x")
    (y,) = append(graph, lambda x: 2 * x, x)
    proto = graph_proto(graph, "double", [x], {"y": y})
    assert [one.name for one in proto.output] == ["y"]
    assert proto.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
