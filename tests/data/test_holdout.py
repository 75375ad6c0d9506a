"""Training and held-out images of sets with splits and without, and images that can't be read."""

import numpy as np
import pytest
from PIL import Image

from jaxsplit import data
from jaxsplit.errors import DataError, JaxsplitWarning

GREY = data.Preprocessing((8, 8), 1)


def write(folder, counts, splits=("",)):
    """A folder of grey images, whose grey levels are their numbers."""
    for split in splits:
        for name, count in counts.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (8, 8), i).save(folder / split / name / f"{i:03}.png")
    return folder


@pytest.mark.parametrize(("count", "held"), [(3, 1), (4, 1), (5, 1), (7, 1), (10, 2), (100, 20)])
def test_the_last_of_every_class_are_held_out(count, held):
    labels = np.repeat([0, 1], count)
    images = np.zeros((len(labels), 4, 4), np.uint8)
    train, test = data.hold_out(data.from_arrays(images, labels, ["a", "b"]))
    assert np.bincount(test.labels).tolist() == [held, held]
    assert sorted([*train.keep, *test.keep]) == list(range(2 * count))
    assert train.keep[train.labels == 0].max() < test.keep[test.labels == 0].min()


def test_a_part_can_be_opened_again_by_its_name(tmp_path):
    source = f"folder:{write(tmp_path, {'a': 10, 'b': 5})}"
    for part in data.open_parts(source):
        again = data.open_source(source, part.split)
        assert (again.listing, len(again)) == (part.listing, len(part))


def test_splits_are_taken_as_they_are(tmp_path):
    write(tmp_path, {"a": 4, "b": 2}, ("train", "validation"))
    train, test = data.open_parts(tmp_path)
    assert (train.split, test.split, len(train), len(test)) == ("train", "validation", 6, 6)


def test_a_lone_split_is_divided(tmp_path):
    write(tmp_path, {"a": 5, "b": 5}, ("train",))
    assert [part.split for part in data.open_parts(tmp_path)] == [
        "train[0%:80%]",
        "train[80%:100%]",
    ]


def test_a_class_of_two_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"class b of folder:.* has 2 images: give 3 or more"):
        data.open_parts(write(tmp_path, {"a": 9, "b": 2}))


@pytest.mark.parametrize("memory", ["kept", "decoded on the fly"])
def test_unreadable_images_are_left_out_with_a_warning(tmp_path, memory, monkeypatch):
    if memory != "kept":
        monkeypatch.setattr("jaxsplit.data.holdout.fits_memory", lambda *_: False)
    write(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    source = data.open_source(tmp_path)
    with pytest.warns(JaxsplitWarning, match=r"1 of 6 images are left out, such as: .*001\.png"):
        left = data.readable(source, GREY)
    assert left.keep.tolist() == [0, 2, 3, 4, 5]
    assert data.load_arrays(left, GREY)[0][:, 0, 0, 0].tolist() == [0, 2, 0, 1, 2]


def test_readable_images_stay_as_they_are(tmp_path):
    source = data.open_source(write(tmp_path, {"a": 2}))
    assert data.readable(source, GREY) is source


def test_no_readable_image_is_an_error(tmp_path):
    source = data.open_source(write(tmp_path, {"a": 2}))
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"no image of folder:.* can be read, such as: "):
        data.readable(source, GREY)
