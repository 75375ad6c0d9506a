"""Segmentation: losses, metrics at both resolutions, predictions at an image's own size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsplit import data
from jaxsplit.data.masks import IGNORED
from jaxsplit.data.placement import Placement
from jaxsplit.errors import ConfigError, DataError
from jaxsplit.evaluation.intervals import metric_value
from jaxsplit.tasks import AGREEMENT, Classification, Segmentation
from jaxsplit.tasks.pixelwise import cross_entropy, distillation, resize
from jaxsplit.tasks.stored import TaskFields, task_fields

NAMES = ("ground", "tree", "house")


@pytest.fixture
def drawn():
    """Logits [4, 6, 5, 3] and masks [4, 6, 5], a tenth of them ignored."""
    draw = np.random.default_rng(0)
    masks = draw.integers(0, 3, (4, 6, 5)).astype(np.uint8)
    masks[draw.random(masks.shape) < 0.1] = IGNORED
    return draw.normal(size=(4, 6, 5, 3)).astype(np.float32), masks


def test_cross_entropy_is_the_mean_over_known_pixels(drawn):
    logits, masks = drawn
    for smoothing in (0.0, 0.2):
        found = cross_entropy(jnp.asarray(logits), jnp.asarray(masks), smoothing)
        for i, mask in enumerate(masks):
            known = mask != IGNORED
            targets = optax.smooth_labels(np.eye(3)[mask[known]], smoothing)
            expected = optax.softmax_cross_entropy(logits[i][known], targets).mean()
            assert found[i] == pytest.approx(float(expected), rel=1e-5)
    nothing = jnp.full((1, 6, 5), IGNORED, jnp.uint8)
    value, slope = jax.value_and_grad(lambda x: cross_entropy(x, nothing).sum())(logits[:1])
    assert value == 0
    assert not slope.any()


def test_distillation_is_the_mean_divergence_of_pixels(drawn):
    logits, _ = drawn
    teacher = logits[::-1] * 2
    found = distillation(jnp.asarray(logits), jnp.asarray(teacher), temperature=2.0)
    p, q = (jax.nn.softmax(x / 2.0) for x in (teacher, logits))
    expected = 4 * (p * (jnp.log(p) - jnp.log(q))).sum(-1).mean((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("size", [(24, 20), (13, 9), (6, 5)])
def test_resizing_is_that_of_jax_and_of_tensorflow(drawn, size):
    logits, _ = drawn
    found = np.asarray(resize(jnp.asarray(logits), size))
    expected = jax.image.resize(logits, (4, *size, 3), "linear", antialias=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    corners = np.asarray(resize(jnp.asarray(logits), size, align_corners=True))
    np.testing.assert_allclose(corners[:, 0, 0], logits[:, 0, 0], atol=1e-6)
    np.testing.assert_allclose(corners[:, -1, -1], logits[:, -1, -1], atol=1e-6)


def counted(predicted, masks):
    """mIoU and pixel accuracy, pixel by pixel."""
    pairs = [(p, m) for p, m in zip(predicted.ravel(), masks.ravel(), strict=True) if m != IGNORED]
    ious = []
    for k in range(3):
        both = sum(p == m == k for p, m in pairs)
        either = sum(k in (p, m) for p, m in pairs)
        ious += [both / either] if either else []
    return np.mean(ious), np.mean([p == m for p, m in pairs])


def test_metrics_are_those_of_all_pixels_of_all_images(drawn):
    logits, masks = drawn
    logits, masks = logits.copy(), np.where(masks == 2, 0, masks)
    logits[..., 2] = -9  # a class that is nowhere counts nowhere
    task = Segmentation(NAMES)
    expected = counted(logits.argmax(-1), masks)
    for found in (task.evaluate(logits, masks), task.measure(logits, masks)):
        values = [metric_value(np.asarray(found[name]), task.metric(name)) for name in task.metrics]
        assert [one.mean for one in values] == pytest.approx(expected)
        for one in values:
            assert one.interval[0] < one.mean < one.interval[1]
    other = logits[::-1]
    agreement = task.agreement(logits, task.predict(other))
    value = metric_value(agreement, task.metric(AGREEMENT)).mean
    assert value == pytest.approx(counted(logits.argmax(-1), other.argmax(-1))[0])
    np.testing.assert_array_equal(task.measure_with(logits, None, other)[AGREEMENT], agreement)


def test_coarse_logits_are_measured_at_the_size_of_the_masks(drawn):
    logits, _ = drawn
    task = Segmentation(NAMES).fitted(data.Preprocessing((24, 20)))
    predicted = np.asarray(task.predict(logits))
    assert (predicted.dtype, predicted.shape) == (np.uint8, (4, 24, 20))
    fine = np.asarray(resize(jnp.asarray(logits), (24, 20)))
    np.testing.assert_array_equal(predicted, fine.argmax(-1))
    found = task.evaluate(logits, predicted)
    assert (found["miou"][:, 0] == found["miou"][:, 1]).all()
    assert found["miou"][:, 1].sum() == predicted.size
    assert task.loss(logits, predicted).shape == (4,)
    assert (task.loss(logits, predicted) < task.loss(logits, 2 - predicted)).all()
    coarse = task.measure(logits, predicted)["pixel_accuracy"]
    assert coarse[:, 1].sum() == 4 * 6 * 5
    assert coarse[:, 0].sum() > 0.8 * coarse[:, 1].sum()


def test_predictions_are_shown_at_the_image_s_own_size():
    logits = np.zeros((1, 4, 6, 3), np.float32)
    logits[0, :, :3, 0] = logits[0, :, 3:, 1] = 1
    task = Segmentation(NAMES)
    cropped = Placement(image=(8, 24), scaled=(4, 12), corner=(0, 3), window=(4, 6))
    [(values, pictures)] = task.show(logits, [cropped])
    mask = np.asarray(pictures["mask"])
    assert mask.shape == (8, 24)
    assert (mask[:, :6] == IGNORED).all()
    assert (mask[:, 18:] == IGNORED).all()
    assert (mask[:, 6:12] == 0).all()
    assert (mask[:, 12:18] == 1).all()
    assert values == {"shares": {"ground": 0.5, "tree": 0.5}}
    overlay = np.asarray(pictures["overlay"])
    assert overlay.shape == (8, 24, 4)
    assert not overlay[:, :6, 3].any()
    assert overlay[0, 15].tolist() == [*task.colours[1], 128]
    assert pictures["mask"].convert("RGB").getpixel((15, 0)) == task.colours[1]
    [whole] = task.draw(np.asarray(task.predict(logits)))
    np.testing.assert_array_equal(np.asarray(whole), logits[0].argmax(-1))


def test_the_sampled_likelihood_has_the_curvature_of_the_distillation():
    logits = np.random.default_rng(1).normal(size=(1, 2, 2, 3)).astype(np.float32)
    task, keys = Segmentation(NAMES), jax.random.split(jax.random.key(0), 4000)
    slope = jax.grad(lambda x, key: task.sampled_log_likelihood(x, key).sum())
    found = jax.vmap(lambda key: slope(logits, key).ravel())(keys)
    fisher = np.asarray(found.T @ found) / len(keys)
    curvature = jax.hessian(lambda x: task.distillation(x, logits).sum())(logits)
    np.testing.assert_allclose(fisher, curvature.reshape(12, 12), atol=0.01)


def test_a_task_is_stored_as_plain_values():
    for one in (Segmentation.of("camvid"), Segmentation(NAMES, align_corners=True)):
        fields = task_fields(one)
        assert TaskFields(**fields).make() == one
    assert task_fields(Classification(NAMES)) == {"class_names": NAMES}
    assert Segmentation.of("camvid").ignored == 11
    assert len(set(Segmentation.of("pascal_voc").colours)) == 21

    class Own(Segmentation):
        pass

    assert task_fields(Own(NAMES)) is None
    with pytest.raises(ConfigError, match=r"no class table is called 'camvit'.*camvid"):
        TaskFields("segmentation", table="camvit").make()
    for wrong in ({"colours": ((0, 0, 0),)}, {"ignored": 256}, {"colours": ((0, 0, 256),) * 3}):
        with pytest.raises(ConfigError):
            Segmentation(NAMES, **wrong)


def test_sources_of_other_targets_are_refused():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    masks = np.zeros((3, 4, 4), np.uint8)
    task = Segmentation(NAMES)
    task.check_source(data.from_arrays(images, masks))
    task.check_source(data.from_arrays(images, masks, NAMES))
    labelled = data.from_arrays(images, [0, 1, 2], NAMES)
    assert not task.has_targets(labelled)  # trained on without its labels
    with pytest.raises(DataError, match="has no masks"):
        task.check_source(labelled)
    with pytest.raises(DataError, match="number 1 is bush, but tree"):
        task.check_source(data.from_arrays(images, masks, ("ground", "bush", "house")))
    with pytest.raises(DataError, match="no classes of images"):
        Classification(NAMES).check_source(data.from_arrays(images, masks))
    with pytest.raises(DataError, match=r"masks are 2 arrays.*3 images"):
        data.from_arrays(images, masks[:2])
