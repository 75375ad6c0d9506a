"""Masks: folders of them, TFDS sets with them, their geometry, and wrong inputs in one line."""

import io

import drawn_scenes
import numpy as np
import pytest
from PIL import Image

from jaxsplit.data import Preprocessing, batches, load_arrays, open_source
from jaxsplit.data.augmentation import Augmentation
from jaxsplit.data.masks import IGNORED, MaskReader, decode_mask
from jaxsplit.data.placement import Placement
from jaxsplit.errors import DataError

READER = MaskReader(4, drawn_scenes.UNKNOWN)


@pytest.fixture
def folder(tmp_path):
    drawn_scenes.write_folder(tmp_path, {"train": 5, "val": 2})
    return tmp_path


def test_a_folder_of_images_and_masks_is_read_by_split(folder):
    source = open_source(f"folder:{folder}")
    assert (source.split, len(source)) == ("val", 2)
    train = open_source(folder, "train")
    images, masks = load_arrays(train, drawn_scenes.PREPROCESSING, READER)
    expected, indices = drawn_scenes.scenes(5)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(masks, np.where(indices == drawn_scenes.UNKNOWN, 255, indices))
    assert train.labelled
    assert train.mask_classes == ()
    (folder / "classes.txt").write_text("\n".join(drawn_scenes.NAMES))
    named = open_source(folder, "train")
    assert named.mask_classes == drawn_scenes.NAMES
    assert named.fingerprint != train.fingerprint
    assert len(open_source(folder, "train[:40%]")) == 2


def test_without_splits_the_last_tenth_is_for_tests(tmp_path):
    drawn_scenes.write_folder(tmp_path, {".": 10})
    assert len(open_source(tmp_path)) == 10
    with pytest.warns(UserWarning, match="has no splits"):
        assert len(open_source(tmp_path, "test")) == 1


def refused(source, reader=READER):
    with pytest.raises(DataError) as error:
        load_arrays(source(), drawn_scenes.PREPROCESSING, reader)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_wrong_masks_are_refused_in_one_line(folder):
    path = folder / "masks" / "val" / "005.png"

    def source():
        return open_source(folder, "val")

    assert "005.png has the index 3, expected 0 … 2 for 3 classes, or 4" in refused(
        source, MaskReader(3, 4)
    )
    Image.new("L", (40, 32)).save(path)
    assert "005.png is 32×40, expected 32×48" in refused(source)
    Image.new("RGB", (48, 32)).save(path)
    assert "its pixels are RGB, expected indices" in refused(source)
    path.write_bytes(b"none")
    assert "cannot read" in refused(source)
    path.unlink()
    assert "005.png has no mask: expected" in refused(source)
    assert "has no split 'test'; it has: train, val" in refused(lambda: open_source(folder, "test"))


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_grey_and_paletted_files_of_any_depth_hold_indices(mode):
    indices = np.array([[0, 1], [1, 0]] if mode == "1" else [[0, 1], [2, 3]], np.uint8)
    picture = Image.fromarray(indices.astype(bool) if mode == "1" else indices)
    for bits in (1,) if mode == "1" else (2, 4, 8):
        file = io.BytesIO()
        if mode == "P":
            picture.putpalette(np.arange(768, dtype=np.uint8).tobytes())
        picture.save(file, "PNG", bits=bits)
        np.testing.assert_array_equal(decode_mask(file.getvalue()), indices)


@pytest.mark.parametrize(
    "preprocessing",
    [Preprocessing((20, 20)), Preprocessing((24, 16), resize=30), Preprocessing((64, 90))],
)
def test_masks_follow_their_images_into_the_network_and_back(preprocessing):
    rows, columns = np.mgrid[:32, :48]
    mask = ((rows // 8 + columns // 8) % 2).astype(np.uint8)
    image = np.repeat(200 * mask[..., None], 3, 2)
    placement = preprocessing.placement((32, 48))
    moved = placement.apply(mask, IGNORED)
    assert moved.shape == preprocessing.size
    seen = preprocessing.apply(image)[..., 0] > 100
    assert (seen == (moved == 1)).mean() > 0.9  # the edges are interpolated in the image
    back = placement.restore(moved, IGNORED)
    known = back != IGNORED
    assert (back[known] == mask[known]).mean() > 0.85
    logits = np.stack([moved == 0, moved == 1], -1).astype(np.float32)
    fine = placement.interpolate(logits)
    np.testing.assert_array_equal(np.isnan(fine[..., 0]), ~known)
    assert (fine.argmax(-1)[known] == mask[known]).mean() > 0.85


def test_padding_is_ignored_and_has_no_prediction():
    padded = Placement(image=(4, 8), scaled=(8, 16), corner=(-4, 0), window=(16, 16))
    mask = np.arange(32, dtype=np.uint8).reshape(4, 8)
    moved = padded.apply(mask, IGNORED)
    assert (moved[:4] == IGNORED).all()
    assert (moved[12:] == IGNORED).all()
    np.testing.assert_array_equal(padded.restore(moved, IGNORED), mask)
    assert np.isfinite(padded.interpolate(np.ones((2, 2, 3)))).all()


def test_a_flip_in_training_flips_the_mask(folder):
    source, flip = open_source(folder, "train"), Augmentation(flip=True)
    images, masks = load_arrays(source, drawn_scenes.PREPROCESSING, READER)
    [batch] = batches(source, drawn_scenes.PREPROCESSING, 5, seed=1, augment=flip, targets=READER)
    flipped = 0
    for image, mask, i in zip(batch["image"], batch["label"], batch["index"], strict=True):
        turn = -1 if (image != images[i]).any() else 1
        np.testing.assert_array_equal(image, images[i][:, ::turn])
        np.testing.assert_array_equal(mask, masks[i][:, ::turn])
        flipped += turn == -1
    assert 0 < flipped < 5


def test_masks_of_a_tfds_set_are_read(tmp_path):
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=3, policy=tfds.testing.MockPolicy.USE_CODE):
        pets = open_source("tfds:oxford_iiit_pet", "train", data_dir=tmp_path)
        assert pets.has_masks
        assert len(pets.class_names) == 37
        assert pets[0]["mask"].ndim == 2
        with pytest.raises(DataError, match="or a mask of class indices"):
            open_source("tfds:scene_parse150", "train", data_dir=tmp_path)  # in colours
