"""Images and labels in memory are a source like any other."""

import numpy as np
import pytest

from jaxsplit.data import as_source, from_arrays, open_source
from jaxsplit.errors import DataError

NAMES = ("a", "b", "c")


def test_a_source_of_arrays_gives_what_was_put_in():
    embedded = open_source("embedded", max_samples=20)
    images = np.stack([example["image"] for example in embedded])
    source = from_arrays(images, embedded.labels, embedded.class_names)
    assert (len(source), source.class_names, source.labelled) == (20, embedded.class_names, True)
    for ours, theirs in zip(source, embedded, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        assert ours["label"] == theirs["label"]
    assert np.bincount(source.take(10).labels).tolist() == [1] * 10
    assert source.take(None) is source.take(30) is source
    with pytest.raises(DataError, match="max_samples 0"):
        source.take(0)


def test_its_fingerprint_is_that_of_the_content():
    images, labels = np.zeros((3, 4, 5, 3), np.uint8), [0, 1, 2]
    first = from_arrays(images, labels, NAMES)
    assert first.listing == from_arrays(images.copy(), labels, NAMES).listing
    changed = images.copy()
    changed[2, 3, 4, 2] = 1
    others = [(changed, labels), (images, [0, 1, 1]), (images.reshape(3, 5, 4, 3), labels)]
    found = {first.listing, *(from_arrays(*other, NAMES).listing for other in others)}
    assert len(found) == 4


def test_images_may_have_any_sizes_and_no_labels():
    source = from_arrays([np.zeros((4, 5), np.uint8), np.zeros((6, 7, 3), np.uint8)])
    assert [example["image"].shape for example in source] == [(4, 5, 1), (6, 7, 3)]
    assert (source.labelled, source.class_names) == (False, ())
    assert from_arrays(np.zeros((2, 4, 4), np.uint8), np.array([0, 4])).class_names[4] == "4"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_image_is_no_stack_of_grey_ones(channels):
    photo = np.zeros((40, 64, channels), np.uint8)
    for labels in (None, [0]):
        with pytest.raises(DataError, match=r"one image: give images\[None\]"):
            from_arrays(photo, labels, NAMES)
    with pytest.raises(DataError, match=r"one image: give images\[None\]"):
        as_source(photo)
    if channels != 4:
        assert from_arrays(photo[None], [0])[0]["image"].shape == photo.shape
    narrow = from_arrays(photo, [0] * 40)  # with a label for each: grey images
    assert (len(narrow), narrow[0]["image"].shape) == (40, (64, channels, 1))
    assert len(from_arrays(photo[..., None])) == 40


def test_names_folders_and_arrays_are_opened_as_sources(tmp_path):
    images = np.zeros((2, 4, 5), np.uint8)
    assert as_source("embedded").name == "embedded"
    source = from_arrays(images)
    assert as_source(source) is source
    assert as_source((images, [0, 1]), NAMES).class_names == NAMES
    assert not as_source(images).labelled
    with pytest.raises(DataError, match=f"folder:{tmp_path} has no images"):
        as_source(tmp_path)
    for wrong in (3, None, {"image": images}):
        with pytest.raises(DataError, match=r"expected a name such as folder:PATH, a source"):
            as_source(wrong)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.zeros((2, 4, 4, 1)), None, "float64"),
        (np.zeros((2, 1, 4, 4), np.uint8), None, r"\(1, 4, 4\)"),
        (np.zeros((4, 4), np.uint8), None, "an image is uint8"),
        ([], None, "no images"),
        (np.zeros((2, 4, 5), np.uint8), [0], r"labels are int64 \(1,\); expected an integer"),
        (np.zeros((2, 4, 5), np.uint8), [0.0, 1.0], "labels are float64"),
        (np.zeros((2, 4, 5), np.uint8), np.eye(2, 3, dtype=int), r"labels are int64 \(2, 3\)"),
        (np.zeros((2, 4, 4), np.uint8), [0, 3], r"labels are 0 … 3; expected 0 … 2"),
        (np.zeros((2, 4, 4), np.uint8), [-1, 0], r"labels are -1 … 0"),
    ],
)
def test_other_arrays_are_refused(images, labels, words):
    with pytest.raises(DataError, match=words):
        from_arrays(images, labels, NAMES)
