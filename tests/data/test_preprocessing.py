"""Fits of images of any size: the pixels, and maps that follow them there and back."""

import numpy as np
import pytest
from PIL import Image

from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError

SIZES = [(30, 40), (64, 48), (200, 31), (48, 64), (1, 300), (7, 7)]


def photo(height, width):
    """A smooth picture, which resizing changes little."""
    rows, columns = np.mgrid[:height, :width]
    x = np.stack((rows / height, columns / width, (rows + columns) / (height + width)), -1)
    return (40 + 200 * x).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_a_letterbox_shows_the_whole_image_and_the_mean_around_it(size):
    preprocessing = Preprocessing((48, 64), fit="letterbox", mean=(0.2, 0.4, 0.6))
    image = photo(*size)
    scale = min(48 / size[0], 64 / size[1])
    height, width = (max(1, round(scale * side)) for side in size)
    found = preprocessing.apply(image)
    assert found.shape == (48, 64, 3)
    expected = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found[:height, :width], expected)
    padded = np.concatenate((found[height:].reshape(-1, 3), found[:, width:].reshape(-1, 3)))
    assert (padded == [51, 102, 153]).all()
    assert abs(preprocessing.normalize(padded)).max(initial=0) < 1e-6
    assert max(height / 48, width / 64) == 1


@pytest.mark.parametrize("size", SIZES)
def test_scaling_shows_the_whole_image_alone(size):
    image = photo(*size)
    found = Preprocessing((48, 64), fit="scale").apply(image)
    expected = Image.fromarray(image).resize((64, 48), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("fit", ["crop", "letterbox", "scale"])
@pytest.mark.parametrize("size", SIZES)
def test_a_map_of_the_input_comes_back_at_the_images_size(size, fit):
    """The pixels of the input themselves, taken for the map, come back as the image's."""
    preprocessing, image = Preprocessing((48, 64), fit=fit), photo(*size)
    placement = preprocessing.placement(size)
    back = placement.restore(preprocessing.apply(image).astype(np.int32), -1)
    assert back.shape == image.shape
    known = back[..., 0] >= 0
    assert known.all() or fit == "crop"
    # As far as a pixel of the coarser of both images, and one more of rounding.
    rows = 200 / min(placement.scaled[0], size[0])
    columns = 200 / min(placement.scaled[1], size[1])
    steps = np.array([rows, columns, max(rows, columns)])
    assert (np.abs(back - image)[known] <= 1.5 * steps + 2).all()


def test_masks_follow_a_letterbox_and_its_padding_is_ignored():
    placement = Preprocessing((4, 4), fit="letterbox").placement((4, 8))
    mask = np.arange(32, dtype=np.uint8).reshape(4, 8)
    moved = placement.apply(mask, 255)
    assert (moved[2:] == 255).all()
    assert moved[:2].max() < 32
    np.testing.assert_array_equal(placement.apply(placement.restore(moved, 255), 255), moved)


def test_fits_are_stored_and_checked():
    known = Preprocessing((48, 64), fit="letterbox")
    assert Preprocessing.from_dict(known.to_dict()) == known
    # Files from before there were fits, and for programs from before, have none.
    assert "fit" not in Preprocessing((48, 64)).to_dict()
    with pytest.raises(ConfigError, match="fit is 'letter', expected one of crop"):
        Preprocessing((48, 64), fit="letter")
    with pytest.raises(ConfigError, match="resize is 64, expected None: 'scale' crops nothing"):
        Preprocessing((48, 64), resize=64, fit="scale")
