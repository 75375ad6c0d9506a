"""Blocks of MobileNetV3, ConvNeXt and vision transformers against their definitions in float64."""

import functools

import jax
import numpy as np
import pytest
from flax import traverse_util
from scipy.special import erf

from jaxsplit.networks.convnext import ConvNeXtBlock
from jaxsplit.networks.layers import NormConfig
from jaxsplit.networks.mobilenet_v3 import MobileBlock, MobileBlockSize
from jaxsplit.networks.vision_transformer import TransformerBlock

pytestmark = pytest.mark.optimized


def drawn(randomised, block, x):
    """Random variables of a block, and the same in float64 by path, such as "norm/scale"."""

    class Image:
        """Lets `randomised` call a block as it calls a network."""

        init = staticmethod(lambda key, image: block.init(key, x, False))

    variables = randomised(Image, (1,))
    flat = {
        key: np.asarray(leaf, np.float64)
        for tree in variables.values()
        for key, leaf in traverse_util.flatten_dict(tree, sep="/").items()
    }
    return variables, flat


def run(block, variables, x):
    return jax.jit(functools.partial(block.apply, train=False))(variables, x)


def depthwise(x, kernel, stride=1):
    k = len(kernel)
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    h, w = ((n - k) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), h, w, x.shape[-1]))
    for i, j in np.ndindex(k, k):
        y += x[:, i:, j:][:, ::stride, ::stride][:, :h, :w] * kernel[i, j, 0]
    return y


def layer_norm(x, flat, name):
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return unit * flat[f"{name}/scale"] + flat[f"{name}/bias"]


def affine(x, flat, name):
    return x @ flat[f"{name}/kernel"].reshape(x.shape[-1], -1) + flat[f"{name}/bias"]


def perceptron(x, flat):
    y = affine(x, flat, "perceptron/expand")
    return affine(y * 0.5 * (1 + erf(y / np.sqrt(2))), flat, "perceptron/project")


@pytest.mark.parametrize(
    ("size", "expanded"),
    [
        (MobileBlockSize(16, 6, 5, squeeze=True), True),
        (MobileBlockSize(6, 6, swish=False), False),
        (MobileBlockSize(12, 6, 3, 2, squeeze=True, swish=False), True),
    ],
)
def test_a_block_of_mobilenet_v3(randomised, size, expanded):
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 6)).astype(np.float32)
    block = MobileBlock(size, NormConfig(epsilon=1e-3))
    variables, flat = drawn(randomised, block, x)
    assert ("conv_expand/kernel" in flat) == expanded

    def norm(y, name):
        unit = (y - flat[f"bn_{name}/mean"]) / np.sqrt(flat[f"bn_{name}/var"] + 1e-3)
        return unit * flat[f"bn_{name}/scale"] + flat[f"bn_{name}/bias"]

    def activation(y):
        return y * np.clip(y + 3, 0, 6) / 6 if size.swish else np.maximum(y, 0)

    y = x.astype(np.float64)
    if expanded:
        y = activation(norm(y @ flat["conv_expand/kernel"][0, 0], "expand"))
    y = activation(norm(depthwise(y, flat["conv_depthwise/kernel"], size.stride), "depthwise"))
    if size.squeeze:
        inside = np.maximum(affine(y.mean(axis=(1, 2), keepdims=True), flat, "squeeze/reduce"), 0)
        assert inside.shape[-1] == 8  # a quarter, rounded to a multiple of 8
        y = y * np.clip(affine(inside, flat, "squeeze/expand") + 3, 0, 6) / 6
    y = norm(y @ flat["conv_project/kernel"][0, 0], "project")
    expected = x + y if size.stride == 1 else y
    np.testing.assert_allclose(run(block, variables, x), expected, rtol=1e-4, atol=1e-4)


def test_a_block_of_convnext(randomised):
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 6)).astype(np.float32)
    block = ConvNeXtBlock()
    variables, flat = drawn(randomised, block, x)
    y = depthwise(x, flat["depthwise/kernel"]) + flat["depthwise/bias"]
    y = perceptron(layer_norm(y, flat, "norm"), flat)
    expected = x + y * flat["layer_scale"]
    np.testing.assert_allclose(run(block, variables, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("first", "last"), [(True, False), (False, False), (False, True)])
def test_a_block_of_a_vision_transformer(randomised, first, last):
    rng = np.random.default_rng(0)
    token, patches = (rng.normal(size=(2, n, n, 8)).astype(np.float32) for n in (1, 3))
    features = patches if first else {"class_token": token, "patches": patches}
    block = TransformerBlock(heads=2, first=first, last=last)
    variables, flat = drawn(randomised, block, features)
    if first:
        token = np.broadcast_to(flat["class_token"], (2, 1, 8))
    x = np.concatenate([token.reshape(2, 1, 8), patches.reshape(2, 9, 8)], axis=1)
    qkv = affine(layer_norm(x, flat, "norm1"), flat, "attention/qkv")
    heads = []
    for head in range(2):
        query, key, value = (qkv[..., 8 * i + 4 * head :][..., :4] for i in range(3))
        scores = np.exp(query @ key.transpose(0, 2, 1) / 2)
        heads.append(scores / scores.sum(-1, keepdims=True) @ value)
    x = x + affine(np.concatenate(heads, -1), flat, "attention/project")
    x = x + perceptron(layer_norm(x, flat, "norm2"), flat)
    found = run(block, variables, features)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    close(found if last else found["class_token"], x[:, :1].reshape(2, 1, 1, 8))
    if not last:
        close(found["patches"], x[:, 1:].reshape(2, 3, 3, 8))
