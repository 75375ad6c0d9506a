"""Images as a caller has them become what `jaxsplit encode` makes of their files."""

import re
import warnings

import numpy as np
import pytest
from PIL import Image

from jaxsplit.codec.images import network_inputs
from jaxsplit.data import Preprocessing, decode_image, open_source
from jaxsplit.errors import DataError, FamilyError, JaxsplitWarning

RGB = Preprocessing((8, 8), 3, 12, "bicubic")
GREY = Preprocessing((28, 28), 1)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture
def path(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def inputs(images, preprocessing=RGB):
    return network_inputs(images, preprocessing, "own").images


def test_all_kinds_of_one_image_give_the_same_pixels(pixels, path):
    expected = RGB.apply(decode_image(path))[np.newaxis]
    with Image.open(path) as opened:
        kinds = [pixels, pixels[np.newaxis], path, str(path), path.read_bytes(), opened]
        for one in [*kinds, {"image": pixels, "label": 0}]:
            np.testing.assert_array_equal(inputs(one), expected)
        np.testing.assert_array_equal(inputs(kinds[::2]), np.concatenate([expected] * 3))


def test_an_array_of_the_networks_shape_is_taken_as_it_is_and_a_file_of_it_is_not(tmp_path):
    exact = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
    assert inputs(exact) is exact
    np.testing.assert_array_equal(inputs(list(exact)), exact)
    Image.fromarray(exact[0]).save(tmp_path / "exact.png")
    with Image.open(tmp_path / "exact.png") as opened:
        for one in (opened, tmp_path / "exact.png"):
            np.testing.assert_array_equal(inputs(one)[0], RGB.apply(exact[0]))
    assert not np.array_equal(RGB.apply(exact[0]), exact[0])


def test_an_image_of_pillow_is_turned_and_stays_as_it_is(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        found = inputs(opened)
        assert opened.size == (30, 20)
    np.testing.assert_array_equal(found, inputs(tmp_path / "turned.png"))
    np.testing.assert_array_equal(found, inputs(np.rot90(pixels, -1)))


def test_transparency_is_white_in_arrays_too(pixels):
    clear = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JaxsplitWarning)  # once a process, that it is on white
        assert (inputs(clear) == 255).all()


def test_grey_images_need_no_axis_of_channels():
    source = open_source("embedded", max_samples=3)
    images = np.stack([example["image"] for example in source])
    for same in (images[..., 0], source, list(images[..., 0])):
        np.testing.assert_array_equal(inputs(same, GREY), images)
    np.testing.assert_array_equal(inputs(images[0, ..., 0])[0], RGB.apply(images[0]))
    assert inputs(iter([])).shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "float32 (2, 8, 8, 3)"),
        (np.zeros((2, 8, 8, 3)) - 1, "(255 * images).round().astype(np.uint8)"),
        (np.zeros((8, 8, 3), int), "images.astype(np.uint8)"),
        (np.zeros((2, 3, 8, 8), np.uint8), "images.transpose(0, 2, 3, 1)"),
        (np.zeros((3, 8, 8), np.uint8), "images.transpose(1, 2, 0)"),
        (np.zeros((5, 8, 8), np.uint8), "[N, H, W, 1 or 3]"),
        (np.zeros((4, 784), np.uint8), "flat ones need their shape: images.reshape(-1, "),
        (np.zeros((1, 0, 8, 3), np.uint8), "(1, 0, 8, 3)"),
        (np.array([None]), "object (1,)"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3))], "image 1: images are float64"),
        ([np.zeros((2, 8, 8, 3), np.uint8)], "image 0: it is 2 images"),
        ([[0, 1]], "image 0: it is a list; own takes files"),
        ({"label": 1}, "it is a dict"),
        (None, "a NoneType; own takes files"),
        (7, "a int; own takes files"),
    ],
)
def test_what_is_no_image_is_refused_and_told_what_is(images, words):
    with pytest.raises(FamilyError, match=re.escape(words)) as error:
        inputs(images)
    assert "\n" not in str(error.value)


def test_an_open_file_is_read(tmp_path):
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(image).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        np.testing.assert_array_equal(inputs(file), inputs(tmp_path / "a.png"))


def test_files_and_images_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"image 1: cannot read none.png as an image: no such file"):
        inputs([np.zeros((8, 8, 3), np.uint8), "none.png"])
    for wide in (Image.new("F", (9, 9)), Image.new("I", (9, 9), 70_000)):
        with pytest.raises(DataError, match="cannot read a Pillow image as an image: its"):
            inputs(wide)
