"""The cost of an error of the features: the loss itself, where errors are small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit import data, networks
from jaxsplit.split import make_split
from jaxsplit.train.losses import Distortion
from jaxsplit.train.pca import loss_metric, patches
from jaxsplit.units.bottleneck import BottleneckSpec


@pytest.fixture(scope="module")
def backbone():
    return networks.open_embedded("fashion_mnist_resnet8").fold()


@pytest.fixture(scope="module")
def split(backbone):
    spec = BottleneckSpec(
        channels=8, stride=2, kernel=2, padding=0, multiplier=4, activation="none"
    )
    return make_split(backbone, "stage2.block1", spec)


@pytest.fixture(scope="module")
def features(split, backbone):
    images, _ = data.load_arrays(
        data.open_source("embedded", max_samples=200), backbone.preprocessing
    )
    return np.asarray(
        jax.jit(split.head)(backbone.variables, backbone.preprocessing.normalize(images))
    )


def test_of_the_features_alone_it_is_the_mean_square(split, backbone, features):
    scale = float(np.square(features).mean())
    key = jax.random.key(0)
    metric = loss_metric(
        split, backbone, features, Distortion(distillation=0.0, features=2.0), scale, key
    )
    error = np.random.default_rng(0).normal(size=(1, *split.shape))
    cost = np.einsum("nhwi,ij,nhwj->", patches(error, 2), metric, patches(error, 2))
    assert cost == pytest.approx(2 * np.square(error).mean() / scale)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_of_the_answers_it_is_what_small_errors_cost(split, backbone, features, temperature):
    """Kullback and Leibler's divergence, of errors of one size in all patches and directions."""
    scale, key = float(np.square(features).mean()), jax.random.key(0)
    metric = loss_metric(
        split,
        backbone,
        features,
        Distortion(distillation=3.0, temperature=temperature),
        scale,
        key,
    )
    np.testing.assert_allclose(metric, metric.T)
    assert np.linalg.eigvalsh(metric)[0] >= -1e-12
    tail = jax.jit(lambda x: jax.nn.log_softmax(split.tail(backbone.variables, x) / temperature))
    answers = tail(jnp.asarray(features))
    rng, found, expected = np.random.default_rng(1), [], []
    for _ in range(8):
        error = 0.02 * scale**0.5 * rng.normal(size=features.shape)
        errors = patches(error, 2)
        expected.append(np.einsum("nhwi,ij,nhwj->n", errors, metric, errors).mean())
        wrong = tail(jnp.asarray(features + error, jnp.float32))
        found.append(
            3 * temperature**2 * float((jnp.exp(answers) * (answers - wrong)).sum(-1).mean())
        )
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.25)
