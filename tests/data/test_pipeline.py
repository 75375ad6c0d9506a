"""Preprocessing, augmentation, and batches that depend only on their arguments."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxsplit.data import (
    Augmentation,
    Preprocessing,
    batches,
    load_arrays,
    num_batches,
    open_source,
)
from jaxsplit.errors import ConfigError, DataError

GREY = Preprocessing((28, 28), 1)


@pytest.fixture(scope="module")
def source():
    return open_source("embedded", "train", max_samples=50)


def assert_same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


# Preprocessing.


def gradient(height, width, channels=3):
    rows = np.linspace(0, 255, height)[:, None, None]
    columns = np.linspace(0, 255, width)[None, :, None]
    return np.broadcast_to((rows + columns) / 2, (height, width, channels)).astype(np.uint8)


def test_an_image_of_the_right_shape_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
    assert GREY.apply(image) is image


@pytest.mark.parametrize(
    "shape", [(300, 400, 3), (400, 300, 1), (8, 9, 3), (224, 224, 3), (225, 999, 1)]
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", [None, 256])
def test_any_image_gets_the_inputs_shape(shape, channels, resize):
    preprocessing = Preprocessing((224, 224), channels, resize)
    result = preprocessing.apply(gradient(*shape))
    assert result.shape == preprocessing.input_shape == (224, 224, channels)
    assert result.dtype == np.uint8


def test_resize_and_centre_crop_are_those_of_pillow():
    image = np.random.default_rng(1).integers(0, 256, (30, 60, 3), np.uint8)
    resized = Image.fromarray(image).resize((80, 40), Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[4:36, 24:56]
    np.testing.assert_array_equal(Preprocessing((32, 32), 3, 40, "bicubic").apply(image), expected)


def test_the_crop_is_central_and_keeps_the_aspect():
    image = gradient(40, 40)
    wide = np.pad(image, ((0, 0), (20, 20), (0, 0)))
    np.testing.assert_array_equal(Preprocessing((40, 40)).apply(wide), image)


def test_without_resize_an_image_just_covers_the_input():
    # Twice as wide: the middle half remains, at half the size.
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 4:12] = 200
    assert np.all(Preprocessing((4, 4), interpolation="nearest").apply(image) == 200)


def test_grey_and_rgb_become_each_other():
    colour = np.zeros((28, 28, 3), np.uint8)
    colour[...] = (255, 0, 0)
    assert np.all(GREY.apply(colour) == 76)  # ITU-R 601: 0.299 · 255
    grey = np.full((28, 28, 1), 9, np.uint8)
    assert np.all(Preprocessing((28, 28), 3).apply(grey) == np.full((28, 28, 3), 9))


def test_normalise_is_the_same_in_numpy_and_jax():
    preprocessing = Preprocessing((4, 4), 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    images = np.random.default_rng(2).integers(0, 256, (2, 4, 4, 3), np.uint8)
    expected = (images / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    ours = preprocessing.normalize(images)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    theirs = jax.jit(preprocessing.normalize)(jnp.asarray(images))
    assert theirs.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ours[0], preprocessing.normalize(images[0]))  # any rank


def test_preprocessing_survives_json():
    preprocessing = Preprocessing((224, 192), 3, 256, "bicubic", (0.5,) * 3, (0.25,) * 3)
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"size": [4]},
        {"size": [4, 4], "channels": 2},
        {"size": [4, 4], "interpolation": "best"},
        {"size": [4, 4], "resize": 3},
        {"size": [4, 4], "mean": [0.5, 0.5]},
        {"size": [4, 4], "std": [0.0]},
        {"size": [4, 4], "std": [1e-60]},
        {"size": [4, 4], "crop": 3},
        {"size": [4.5, 4]},
        {"size": [True, 4]},
        {"size": [10**9, 4]},
        {"size": 4},
        {"size": [4, 4], "channels": True},
        {"size": [4, 4], "resize": "9"},
        {"size": [4, 4], "interpolation": ["nearest"]},
        {"size": [4, 4], "mean": ["a"]},
        {"size": [4, 4], "mean": 0.5},
        {"size": [4, 4], "mean": [float("nan")]},
        {"size": [4, 4], "mean": [10**400]},
        {"size": [4, 4], "std": [float("inf")]},
        ["size"],
        None,
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(values):
    with pytest.raises(ConfigError) as error:
        Preprocessing.from_dict(values)
    assert "\n" not in str(error.value)


# Augmentation.


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(1, 256, (64, 10, 8, 3), np.uint8)


def test_augmentation_leaves_its_input_alone_and_keeps_shapes(images):
    original = images.copy()
    for augment in (Augmentation(), Augmentation(3, True, 4, 7, 0.5)):
        result = augment(images, np.random.default_rng(0))
        assert (result.shape, result.dtype) == (images.shape, np.uint8)
        np.testing.assert_array_equal(images, original)
    np.testing.assert_array_equal(Augmentation()(images, np.random.default_rng(0)), images)


def test_flips_mirror_about_half_of_the_images(images):
    flipped = Augmentation(flip=True)(images, np.random.default_rng(0))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    same = (flipped == images).all((1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 16 < mirrored.sum() < 48


def test_crops_are_shifts_by_at_most_the_padding_in_all_directions(images):
    p, fill = 2, 0
    cropped = Augmentation(padding=p, fill=fill)(images, np.random.default_rng(0))
    padded = np.pad(images, ((0, 0), (p, p), (p, p), (0, 0)), constant_values=fill)
    seen = set()
    for image, whole in zip(cropped, padded, strict=True):
        shifts = [
            (y, x)
            for y, x in itertools.product(range(2 * p + 1), repeat=2)
            if np.array_equal(image, whole[y : y + 10, x : x + 8])
        ]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) > 15  # of 25


def test_cutout_erases_one_square_at_most(images):
    erased = Augmentation(cutout=4, fill=0)(images, np.random.default_rng(0))
    for image, original in zip(erased, images, strict=True):
        gone = (image == 0).all(-1)
        np.testing.assert_array_equal(image[~gone], original[~gone])
        rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
        assert 2 <= len(rows) <= 4
        assert 2 <= len(columns) <= 4
        assert gone.sum() == len(rows) * len(columns)
        assert np.all(np.diff(rows) == 1)


def test_zooming_shows_a_part_of_every_image_larger():
    """A crop of a linear ramp is a ramp of smaller slope within the ramp's range."""
    ramp = np.zeros((32, 96, 80, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = 2 * np.arange(96)[:, None], 3 * np.arange(80)
    zoomed = Augmentation(zoom=0.5)(ramp, np.random.default_rng(0)).astype(float)
    inner = zoomed[:, 4:-4, 4:-4]  # the edges have no neighbours to interpolate between
    down = np.polyfit(np.arange(4, 92), inner[..., 0].mean(2).T, 1)
    right = np.polyfit(np.arange(4, 76), inner[..., 1].mean(1).T, 1)
    shares = down[0] / 2
    np.testing.assert_allclose(right[0] / 3, shares, atol=0.01)  # both sides alike
    assert 0.49 < shares.min() < 0.6
    assert 0.9 < shares.max() < 1.01
    assert down[1].min() >= -1  # from inside of the image …
    assert (down[0] * 95 + down[1]).max() <= 192  # … and to inside of it
    assert np.ptp(down[1]) > 30  # at different places
    assert np.ptp(right[1]) > 30


@pytest.mark.parametrize(
    "options", [{"padding": -1}, {"cutout": -1}, {"fill": 256}, {"zoom": 0.0}, {"zoom": 1.5}]
)
def test_augmentation_that_does_not_fit_is_refused(options):
    with pytest.raises(ConfigError):
        Augmentation(**options)


# Batches.


def test_in_order_and_padded(source):
    all_images, all_labels = load_arrays(source, GREY)
    found = list(batches(source, GREY, 16))
    assert len(found) == num_batches(50, 16) == 4
    for batch in found:
        assert batch["image"].shape == (16, 28, 28, 1)
        assert {key: value.dtype.name for key, value in batch.items()} == {
            "image": "uint8",
            "label": "int32",
            "index": "int64",
            "mask": "bool",
        }
    joined = {key: np.concatenate([batch[key] for batch in found]) for key in found[0]}
    np.testing.assert_array_equal(joined["mask"], np.arange(64) < 50)
    np.testing.assert_array_equal(joined["index"][:50], np.arange(50))
    np.testing.assert_array_equal(joined["image"][:50], all_images)
    np.testing.assert_array_equal(joined["label"][:50], all_labels)
    assert np.all(joined["index"][50:] == -1)
    assert np.all(joined["label"][50:] == -1)
    assert not joined["image"][50:].any()


def test_every_epoch_sees_each_example_once_in_another_order(source):
    found = list(batches(source, GREY, 16, seed=5, epochs=3))
    orders = []
    for epoch in range(3):
        part = found[4 * epoch : 4 * epoch + 4]
        order = np.concatenate([batch["index"][batch["mask"]] for batch in part])
        assert sorted(order) == list(range(50))
        orders.append(tuple(order))
    assert len({*orders, tuple(range(50))}) == 4
    all_images, all_labels = load_arrays(source, GREY)
    for batch in found:
        kept = batch["mask"]
        np.testing.assert_array_equal(batch["image"][kept], all_images[batch["index"][kept]])
        np.testing.assert_array_equal(batch["label"][kept], all_labels[batch["index"][kept]])


def test_the_seed_decides(source):
    augment = Augmentation(2, True, 4)
    first = list(batches(source, GREY, 16, seed=1, augment=augment))
    assert_same(first, batches(source, GREY, 16, seed=1, augment=augment))
    other = next(batches(source, GREY, 16, seed=2, augment=augment))
    assert not np.array_equal(first[0]["index"], other["index"])
    plain = next(batches(source, GREY, 16, seed=1))
    np.testing.assert_array_equal(first[0]["index"], plain["index"])
    assert not np.array_equal(first[0]["image"], plain["image"])


@pytest.mark.parametrize("memory_limit", [2**30, 0])
@pytest.mark.parametrize("start", [1, 3, 5, 8, 9])
def test_an_iteration_resumes_anywhere(source, start, memory_limit):
    options = {
        "seed": 7,
        "epochs": 3,
        "augment": Augmentation(2, True),
        "drop_remainder": True,
        "memory_limit": memory_limit,
    }
    whole = list(batches(source, GREY, 16, **options))
    assert len(whole) == 9
    assert_same(whole[start:], batches(source, GREY, 16, start_step=start, **options))


def test_streaming_gives_what_memory_gives(source):
    for options in ({}, {"seed": 3, "augment": Augmentation(1, True)}):
        assert_same(
            batches(source, GREY, 16, **options),
            batches(source, GREY, 16, memory_limit=0, **options),
        )


def test_endless(source):
    endless = batches(source, GREY, 16, seed=0, epochs=None)
    ended = batches(source, GREY, 16, seed=0, epochs=2)
    assert_same(itertools.islice(endless, 8), ended)
    assert next(endless)["mask"].all()
    far = next(batches(source, GREY, 16, seed=0, epochs=None, start_step=10**9))
    assert far["mask"].all()


def test_batches_are_the_callers_own(source):
    first = next(batches(source, GREY, 16))
    first["image"][:] = 0
    assert next(batches(source, GREY, 16))["image"].any()
    with pytest.raises(ValueError, match="read-only"):
        load_arrays(source, GREY)[0][:] = 0


def test_an_image_is_decoded_once(source, monkeypatch):
    calls = []
    original = type(source).examples

    def counting(self, indices):
        calls.extend(indices)
        return original(self, indices)

    monkeypatch.setattr(type(source), "examples", counting)
    fresh = open_source("embedded", "train", max_samples=30)
    load_arrays(fresh, GREY)
    list(batches(fresh, GREY, 8, seed=0, epochs=2))
    list(batches(fresh, Preprocessing((28, 28), 1, mean=(0.5,)), 8))  # same geometry
    assert sorted(calls) == list(range(30))


@pytest.mark.parametrize("memory_limit", [2**30, 0])
def test_an_unreadable_image_is_named_from_within_the_pipeline(tmp_path, memory_limit):
    (tmp_path / "a").mkdir()
    for name in ("1.png", "2.png"):
        Image.new("L", (28, 28)).save(tmp_path / "a" / name)
    (tmp_path / "a" / "2.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"2\.png"):
        list(batches(open_source(f"folder:{tmp_path}"), GREY, 1, memory_limit=memory_limit))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 51, "drop_remainder": True},
        {"seed": -1},
        {"start_step": -1},
        {"epochs": -1},
        {"augment": Augmentation(flip=True)},
    ],
)
def test_arguments_that_do_not_fit_are_refused(source, options):
    with pytest.raises(ConfigError) as error:
        batches(source, GREY, **{"batch_size": 16, **options})
    assert "\n" not in str(error.value)
