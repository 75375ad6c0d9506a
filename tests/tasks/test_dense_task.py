"""A task of its own, not a classification: a mask for each image, from the data to the curve."""

import dataclasses
import itertools
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsplit
from jaxsplit import data, networks
from jaxsplit.data import Augmentation, Preprocessing, Source, TargetReader, Views
from jaxsplit.data.targets import reader_identity
from jaxsplit.errors import DataError
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.evaluate import evaluate_images
from jaxsplit.tasks import Metric, Task
from jaxsplit.train import features
from jaxsplit.train.batches import FeatureCache, ImageBatches
from jaxsplit.train.losses import Distortion

PREPROCESSING = Preprocessing((12, 12), 1, mean=(0.3,), std=(0.35,))
IGNORED = 255


@dataclasses.dataclass(frozen=True)
class Masks(TargetReader):
    """Masks uint8 [h, w], cropped like the images."""

    def blank(self, preprocessing):
        return np.full(preprocessing.size, IGNORED, np.uint8)

    def read(self, example, preprocessing):
        exact = dataclasses.replace(preprocessing, channels=1, interpolation="nearest")
        return exact.apply(example["mask"][..., None])[..., 0]


@dataclasses.dataclass(frozen=True)
class Foreground(Task):
    """Two classes a pixel, from logits [B, h, w, 2]; masks uint8 [B, h, w]."""

    name = "foreground"
    quality = "iou"
    metrics = MappingProxyType({"iou": Metric("IoU", "%", ratios=True)})
    target_reader = Masks()

    def loss(self, outputs, targets):
        log_p = jax.nn.log_softmax(outputs)
        seen = targets != IGNORED
        right = jnp.take_along_axis(log_p, jnp.where(seen, targets, 0)[..., None], -1)[..., 0]
        return -(right * seen).sum((1, 2)) / seen.sum((1, 2))

    def distillation(self, outputs, teacher, temperature=1.0):
        p, q = (jax.nn.log_softmax(x / temperature) for x in (teacher, outputs))
        return temperature**2 * (jnp.exp(p) * (p - q)).sum(-1).mean((1, 2))

    def measure(self, outputs, targets):
        found, true, seen = outputs.argmax(-1) == 1, targets == 1, targets != IGNORED
        both, either = (found & true & seen), ((found | true) & seen)
        return {"iou": jnp.stack([both.sum((1, 2)), either.sum((1, 2))], -1)[..., None]}

    def predict(self, outputs):
        return outputs.argmax(-1)


class Drawn:
    """Bright squares on dark ground, 14 × 12 pixels, each with its mask."""

    class_names, identity, listing = (), "drawn", "drawn"

    def __init__(self, count):
        self.labels = np.zeros(count, np.int32)

    def __len__(self):
        return len(self.labels)

    def examples(self, indices):
        for i in indices:
            mask = np.zeros((14, 12), np.uint8)
            top, left = 2 + i % 5, 1 + i % 6
            mask[top : top + 4, left : left + 5] = 1
            yield {"image": (40 + 180 * mask)[..., None].astype(np.uint8), "mask": mask}


def head(variables, images, cut):
    patches = images.reshape(len(images), 6, 2, 6, 2).transpose(0, 1, 3, 2, 4)
    return jax.nn.relu(patches.reshape(len(images), 6, 6, 4) @ variables["first"])


def tail(variables, features, cut):
    logits = (features @ variables["last"]).reshape(len(features), 6, 6, 2, 2, 2)
    return logits.transpose(0, 1, 3, 2, 4, 5).reshape(len(features), 12, 12, 2)


@pytest.fixture(scope="module")
def backbone():
    """An exact network: each patch's pixels cross the cut, and decide."""
    last = np.zeros((4, 4, 2))
    last[range(4), range(4), 1] = 1
    variables = {"first": jnp.eye(4), "last": jnp.asarray(last.reshape(4, 8), jnp.float32)}
    network = networks.FunctionNetwork(head, tail, ("middle",))
    return networks.make_backbone("own", network, variables, PREPROCESSING, Foreground())


@pytest.fixture(scope="module")
def source():
    return Source("drawn", "train", Drawn(64))


def test_masks_are_read_in_the_geometry_of_the_images(backbone, source):
    images, masks = data.load_arrays(source, PREPROCESSING, Masks())
    assert masks.shape == (64, 12, 12)
    assert masks.dtype == np.uint8
    np.testing.assert_array_equal(images[..., 0] > 128, masks == 1)
    with pytest.raises(ValueError, match="read-only"):
        masks[:] = 0
    for limit in (0, 2**30):  # read on the fly, and kept
        padded = list(data.batches(source, PREPROCESSING, 48, memory_limit=limit, targets=Masks()))[
            -1
        ]
        np.testing.assert_array_equal(padded["label"][:16], masks[48:])
        assert (padded["label"][16:] == IGNORED).all()
        assert not padded["mask"][16:].any()


@pytest.mark.parametrize("zoom", [1.0, 0.7])
def test_augmentation_moves_masks_with_their_images(backbone, source, zoom):
    augmentation = Augmentation(padding=2, flip=True, zoom=zoom, cutout=0)
    views = Views(3, augmentation, flip=True, seed=4)
    shown = ImageBatches(backbone, source, views, 1.0)
    cached = features.compute(backbone, "middle", source, views=views)
    assert isinstance(cached, FeatureCache)
    assert cached.targets.shape == (6 * 64, 12, 12)
    moved = 0
    for batch in itertools.islice(shown.batches(32, 0), 12):
        bright, mask = np.asarray(batch.images)[..., 0] > 128, np.asarray(batch.targets)
        known = mask != IGNORED
        right = bright[known] == (mask[known] == 1)
        assert right.all() if zoom == 1 else right.mean() > 0.97
        np.testing.assert_array_equal(cached.targets[batch.index], mask)
        moved += (~known).any((1, 2)).sum()
    assert moved > 200  # padding beyond the border counts nowhere
    augmented = data.batches(
        source, PREPROCESSING, 32, seed=0, augment=augmentation, targets=Masks()
    )
    for batch in augmented:
        known = batch["label"] != IGNORED
        right = (batch["image"][..., 0] > 128)[known] == (batch["label"][known] == 1)
        assert right.all() if zoom == 1 else right.mean() > 0.97


def test_a_family_is_trained_and_measured_by_the_task_s_own_targets(backbone, source, tmp_path):
    family = jaxsplit.train_family(
        backbone,
        "middle",
        {"r1": 1e-2, "r2": 1e-5},
        data=source,
        unit=jaxsplit.BottleneckSpec(4, stride=1),
        loss=Distortion(labels=1.0),
        steps=60,
        batch_size=16,
        learning_rate=3e-2,
        progress=False,
    )
    curve, seen = evaluate_images(family, backbone, source)
    assert curve.quality == "iou"
    assert curve.origin.classes == 0
    assert curve.unsplit["iou"].mean == 1  # the network is exact
    best = curve.points[-1]
    assert best.metrics["iou"].mean > max(0.5, curve.points[0].metrics["iou"].mean)
    assert best.metrics["agreement"].mean == pytest.approx(best.metrics["iou"].mean)
    masks = data.load_arrays(source, PREPROCESSING, Masks())[1]
    sender, receiver = family.codec(backbone)
    predicted = np.asarray(receiver(sender(source, rate="r2"))).argmax(-1) == 1
    both, either = (op(predicted, masks == 1).sum() for op in (np.logical_and, np.logical_or))
    assert both / either == pytest.approx(best.metrics["iou"].mean)
    curve.write(tmp_path / "curve.json")
    assert Curve.read(tmp_path / "curve.json") == curve
    assert seen.statistics("iou").rates.shape == (2, 64, 2, 1)


class Bare(Drawn):
    """The same images without their masks."""

    def __init__(self, count):
        self.labels = np.full(count, -1, np.int32)

    def examples(self, indices):
        return ({"image": one["image"]} for one in super().examples(indices))


@pytest.mark.filterwarnings("ignore:no labels in bare")
def test_images_without_targets_are_distilled_and_agree(backbone):
    source = Source("bare", "train", Bare(32))
    family = jaxsplit.train_family(
        backbone, "middle", [1e-3], data=source, steps=3, batch_size=16, progress=False
    )
    curve, seen = evaluate_images(family, backbone, source)
    assert curve.quality == "agreement"
    assert seen.labels is None
    claimed = Source("claimed", "train", Bare(32))
    claimed._records.labels[:] = 0
    with pytest.raises(DataError, match="an example has no 'mask', which Masks reads"):
        data.load_arrays(claimed, PREPROCESSING, Masks())


def test_readers_of_other_attributes_are_not_the_same():
    class Shifted(Masks):
        def __init__(self, by):
            object.__setattr__(self, "by", by)

    first, second = (reader_identity(Shifted(by)) for by in (1, 2))
    assert first != second == reader_identity(Shifted(2))


def test_a_target_of_another_shape_is_refused(source):
    class Whole(Masks):
        def read(self, example, preprocessing):
            return example["mask"]

    with pytest.raises(DataError, match=r"target is uint8 \(14, 12\).* uint8 \(12, 12\)"):
        data.load_arrays(source, PREPROCESSING, Whole())
