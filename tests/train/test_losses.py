"""Rates and distortions against float64 numpy, in their limits and at their extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.errors import ConfigError
from jaxsplit.tasks import Classification
from jaxsplit.tasks.classification import cross_entropy, distillation
from jaxsplit.train.losses import Distortion, DistortionInputs, feature_error, rate

close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def normal(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def divergence(teacher, logits, temperature=1.0):
    log_p = log_softmax(np.asarray(teacher, np.float64) / temperature)
    log_q = log_softmax(np.asarray(logits, np.float64) / temperature)
    return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def test_rate_is_the_sum_over_each_image():
    bits = np.abs(normal(0, 3, 4, 5, 6))
    close(rate(bits), bits.astype(np.float64).reshape(3, -1).sum(axis=1))
    assert rate(jnp.zeros((2, 1, 1, 1))).tolist() == [0.0, 0.0]
    gradient = jax.grad(lambda bits: rate(bits)[1])(jnp.asarray(bits))
    np.testing.assert_array_equal(gradient, np.ones((3, 4, 5, 6)) * [[[[0]]], [[[1]]], [[[0]]]])


def test_cross_entropy_is_the_surprise_of_the_label():
    logits, labels = normal(1, 6, 5, scale=3.0), np.array([0, 4, 2, 2, 1, 3])
    close(cross_entropy(logits, labels), -log_softmax(logits)[np.arange(6), labels])
    uniform = cross_entropy(jnp.zeros((2, 7)), jnp.array([0, 6]))
    close(uniform, np.log(7) * np.ones(2))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_is_the_divergence_from_the_teacher(temperature):
    logits, teacher = normal(2, 8, 5, scale=3.0), normal(3, 8, 5, scale=3.0)
    got = distillation(logits, teacher, temperature)
    close(got, divergence(teacher, logits, temperature))
    assert (got > 0).all()
    close(jax.jit(distillation)(logits, teacher, temperature), got)


def test_distillation_is_zero_where_both_agree_and_only_there():
    logits = normal(4, 50, 6, scale=5.0)
    assert not distillation(logits, logits, 2.0).any()
    shifted = logits + normal(5, 50, 1)  # the same probabilities
    close(distillation(shifted, logits), np.zeros(50), atol=1e-5)
    moved = logits + np.eye(1, 6, dtype=np.float32)
    assert (distillation(moved, logits) >= -1e-6).all()  # but for the sum's rounding
    assert distillation(moved, logits).max() > 0.01
    gradient = jax.grad(lambda x: distillation(x, logits, 2.0).sum())(jnp.asarray(logits))
    close(gradient, np.zeros_like(logits))


def test_a_hot_distillation_is_the_error_of_the_centred_logits():
    """T² · KL → |centred difference|² / 2K for T → ∞ (Hinton et al. 2015, section 2.1)."""
    logits, teacher = normal(6, 4, 5), normal(7, 4, 5)
    difference = (logits - teacher).astype(np.float64)
    difference -= difference.mean(axis=-1, keepdims=True)
    limit = np.square(difference).sum(axis=-1) / (2 * 5)
    np.testing.assert_allclose(distillation(logits, teacher, 100.0), limit, rtol=0.05)


def test_a_sure_teacher_is_a_label():
    logits, labels = normal(8, 5, 4), np.array([3, 0, 1, 2, 2])
    teacher = 200.0 * np.eye(4, dtype=np.float32)[labels]
    close(distillation(logits, teacher), cross_entropy(logits, labels))


def test_feature_error_is_relative_to_the_scale():
    a, b = normal(9, 3, 4, 5, 2), normal(10, 3, 4, 5, 2)
    expected = np.square(a.astype(np.float64) - b).reshape(3, -1).mean(axis=1)
    close(feature_error(a, b, 1.0), expected)
    close(feature_error(10 * a, 10 * b, 100.0), expected)
    assert not feature_error(a, a, 0.5).any()
    # Nothing learned, the reconstruction zero: an error of one, whatever the features' size.
    close(feature_error(0 * a, a, np.square(a).mean()).mean(), 1.0)


def arguments(seed=11):
    return DistortionInputs(
        reconstruction=normal(seed, 3, 2, 2, 4),
        features=normal(seed + 1, 3, 2, 2, 4),
        outputs=normal(seed + 2, 3, 5),
        teacher=normal(seed + 3, 3, 5),
        targets=np.array([4, 0, 2]),
        scale=jnp.float32(0.7),
        task=Classification(tuple("abcde")),
    )


def test_a_distortion_is_the_weighted_sum():
    a = arguments()
    got = Distortion(labels=0.5, distillation=2.0, features=3.0, temperature=2.0)(a)
    expected = (
        0.5 * cross_entropy(a.outputs, a.targets)
        + 2.0 * distillation(a.outputs, a.teacher, 2.0)
        + 3.0 * feature_error(a.reconstruction, a.features, 0.7)
    )
    close(got, expected)
    assert got.shape == (3,)
    distortion = Distortion(0.5, 2.0, 3.0, 2.0)
    jitted = jax.jit(lambda arrays: distortion(a._replace(**arrays)))(
        {name: value for name, value in a._asdict().items() if name != "task"}
    )
    close(jitted, got)
    close(Distortion()(a), distillation(a.outputs, a.teacher))


@pytest.mark.parametrize(
    ("weights", "needs_tail"),
    [
        ({"distillation": 0.0, "features": 1.0}, False),
        ({"distillation": 1.0, "features": 1.0}, True),
        ({"distillation": 0.0, "labels": 0.1}, True),
        ({}, True),
    ],
)
def test_only_the_features_do_without_the_tail(weights, needs_tail):
    distortion = Distortion(**weights)
    assert distortion.needs_tail is needs_tail
    a = arguments()
    gradient = jax.grad(lambda logits: distortion(a._replace(outputs=logits)).sum())(a.outputs)
    assert gradient.any() == needs_tail
    if not needs_tail:
        close(distortion(a._replace(outputs=None)), distortion(a))


@pytest.mark.parametrize(
    "wrong",
    [
        {"distillation": 0.0},
        {"labels": -1.0},
        {"features": -0.1},
        {"distillation": -1.0, "features": 1.0},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"labels": float("nan")},
        {"temperature": float("nan")},
    ],
    ids=str,
)
def test_weights_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        Distortion(**wrong)


def test_extreme_logits_keep_values_and_gradients_finite():
    extremes = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0], [1e4, 1e4, 1e4], [0, 0, -1e4]], np.float32)
    logits, teacher = np.repeat(extremes, 4, axis=0), np.tile(extremes, (4, 1))
    a = DistortionInputs(
        reconstruction=normal(20, 16, 1, 1, 1, scale=1e4),
        features=normal(21, 16, 1, 1, 1),
        outputs=logits,
        teacher=teacher,
        targets=np.arange(16) % 3,
        scale=1.0,
        task=Classification(tuple("abc")),
    )
    distortion = Distortion(labels=1.0, distillation=1.0, features=1.0, temperature=0.5)

    def total(logits, reconstruction):
        return distortion(a._replace(outputs=logits, reconstruction=reconstruction)).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(logits, a.reconstruction)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    # Labels and teacher bound the pull on a logit: 1 and T.
    assert np.abs(gradients[0]).max() <= 1.5 + 1e-6
    close(distillation(logits, teacher), divergence(teacher, logits), rtol=1e-4)
