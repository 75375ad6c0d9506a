"""The feature cache: what the frozen parts say, computed once, and batches that can be resumed."""

import itertools

import jax
import numpy as np
import pytest

from jaxsplit import data
from jaxsplit.errors import ConfigError
from jaxsplit.split import make_split
from jaxsplit.train import features, parallel


@pytest.fixture(scope="module")
def source():
    return data.open_source("embedded", split="train", limit=30)


@pytest.fixture
def fills(monkeypatch):
    """Grows by one whenever the head runs over the images."""
    calls = []
    fill = features._fill

    def counted(*args):
        calls.append(args)
        return fill(*args)

    monkeypatch.setattr(features, "_fill", counted)
    return calls


def assert_same(ours, theirs):
    for name in ("features", "teacher", "labels", "scale"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.fixture(scope="module")
def plain(problem, source):
    return features.compute(problem.split, problem.backbone, source)


def test_the_cache_holds_what_the_head_and_the_uncut_network_say(problem, source, plain):
    backbone = problem.backbone
    images, labels = data.load_arrays(source, backbone.preprocessing)
    x = backbone.preprocessing.normalise(images)
    direct = jax.jit(problem.split.head)(backbone.variables, x)
    logits = jax.jit(backbone.module.apply)(backbone.variables, x)
    # Programs of other batch sizes: the same to float32.
    np.testing.assert_allclose(plain.features, direct, 1e-5, 1e-5)
    np.testing.assert_allclose(plain.teacher, logits, 1e-4, 1e-4)
    np.testing.assert_array_equal(plain.labels, labels)
    assert plain.features.shape == (30, *problem.split.shape)
    np.testing.assert_allclose(plain.scale, np.square(direct).mean(), rtol=1e-5)


def test_flip_appends_every_image_mirrored(problem, source, plain):
    flipped = features.compute(problem.split, problem.backbone, source, flip=True)
    images, _ = data.load_arrays(source, problem.backbone.preprocessing)
    mirrored = problem.backbone.preprocessing.normalise(images[:, :, ::-1])
    direct = jax.jit(problem.split.head)(problem.backbone.variables, mirrored)
    np.testing.assert_array_equal(flipped.features[:30], plain.features)
    np.testing.assert_allclose(flipped.features[30:], direct, 1e-5, 1e-5)
    np.testing.assert_array_equal(flipped.labels, [*plain.labels, *plain.labels])
    assert flipped.teacher.shape == (60, 10)


def test_features_on_disk_are_used_again(problem, source, plain, tmp_path, fills):
    first = features.compute(problem.split, problem.backbone, source, directory=tmp_path)
    second = features.compute(problem.split, problem.backbone, source, directory=tmp_path)
    assert len(fills) == 1
    assert isinstance(second.features, np.memmap)
    assert_same(first, plain)
    assert_same(second, plain)


def test_half_precision_features_are_the_rounded_ones(problem, source, plain):
    half = features.compute(problem.split, problem.backbone, source, dtype="float16")
    assert half.features.dtype == np.float16
    np.testing.assert_array_equal(half.features, plain.features.astype(np.float16))
    np.testing.assert_array_equal(half.teacher, plain.teacher)


def test_whatever_changes_the_features_changes_their_key(problem, source, other_backbone):
    def key(split=problem.split, backbone=problem.backbone, source=source, flip=False, dtype="f4"):
        return features._key(split, backbone, source, flip, dtype)

    stem = make_split(problem.backbone, "stem", problem.split.spec, parallel.AXIS)
    keys = [
        key(),
        key(split=stem),
        key(backbone=other_backbone),
        key(source=data.open_source("embedded", split="test", limit=30)),
        key(source=data.open_source("embedded", split="train", limit=31)),
        key(flip=True),
        key(dtype="f2"),
    ]
    with jax.default_matmul_precision("highest"):
        keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == key()


def test_an_interrupted_computation_is_begun_again(problem, source, plain, tmp_path, fills):
    features.compute(problem.split, problem.backbone, source, directory=tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "teacher.npy").unlink()
    stored = np.load(folder / "features.npy", mmap_mode="r+")
    stored[10:] = 0
    stored.flush()
    assert_same(
        features.compute(problem.split, problem.backbone, source, directory=tmp_path), plain
    )
    assert len(fills) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["features.npy", "teacher.npy"]


def test_an_epoch_shows_every_example_at_most_once_with_what_belongs_to_it(plain):
    seen = []
    for batch in itertools.islice(plain.batches(8, seed=0), 3):
        index = batch["index"]
        np.testing.assert_array_equal(batch["features"], plain.features[index])
        np.testing.assert_array_equal(batch["teacher"], plain.teacher[index])
        np.testing.assert_array_equal(batch["label"], plain.labels[index])
        assert index.dtype == np.int32
        seen.extend(index.tolist())
    assert len(set(seen)) == 24
    whole = itertools.islice(plain.batches(10, seed=0), 3)
    assert sorted(np.concatenate([batch["index"] for batch in whole])) == list(range(30))


def test_batches_depend_on_seed_and_step_alone(plain):
    def indices(seed, start=0):
        return [b["index"].tolist() for b in itertools.islice(plain.batches(8, seed, start), 7)]

    assert indices(0) == indices(0)
    assert indices(0) != indices(1)
    assert indices(0)[:3] != indices(0)[3:6]  # another order in the next epoch
    assert indices(0, start=2)[:5] == indices(0)[2:]


def test_fewer_examples_than_a_batch_are_refused_in_one_line(plain):
    with pytest.raises(ConfigError, match=r"^30 .*batch of 31") as error:
        next(plain.batches(31, seed=0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "missing", "other shape", "no array", "teacher"])
def test_a_damaged_cache_is_computed_again(problem, source, plain, tmp_path, damage):
    features.compute(problem.split, problem.backbone, source, directory=tmp_path)
    (folder,) = tmp_path.iterdir()
    path = folder / "features.npy"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "missing":
        path.unlink()
    elif damage == "other shape":
        np.save(path, plain.features[:20])
    elif damage == "no array":
        np.savez(folder / "zip.npz", plain.features)
        (folder / "zip.npz").rename(path)
    else:
        (folder / "teacher.npy").write_bytes(b"")
    again = features.compute(problem.split, problem.backbone, source, directory=tmp_path)
    assert_same(again, plain)
