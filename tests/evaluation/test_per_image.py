"""Per-image records are read as written; qualities compare with label and unsplit network."""

import dataclasses
import io
import zipfile

import numpy as np
import pytest
from evaluation import measured

from jaxsplit.errors import ConfigError, DataError
from jaxsplit.evaluation.bd_rate import bd_rate_interval
from jaxsplit.evaluation.per_image import PerImage

FIELDS = ("rate_ids", "bytes", "predicted", "labels", "unsplit")
# Arrays in the file.
ARRAYS = (*FIELDS[:-1], "uncut")


def _small(**changes):
    values = {
        "rate_ids": ("low", "high"),
        "bytes": [[20, 22, 19], [40, 41, 70_000]],
        "predicted": [[1, 1, 1], [1, 2, 1]],
        "labels": [1, 2, 3],
        "unsplit": [1, 1, 1],
    }
    return PerImage(**(values | changes))


def test_file_round_trip(tmp_path):
    path = tmp_path / "images.npz"
    path.write_text("an older file")
    images = _small()
    images.write(path)
    again = PerImage.read(path)
    for name in FIELDS:
        assert np.array_equal(getattr(again, name), getattr(images, name)), name
    assert [file.name for file in tmp_path.iterdir()] == ["images.npz"]


def test_file_has_the_documented_schema(tmp_path):
    _small().write(tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {"version", *ARRAYS}
        assert archive["version"] == 1
        assert archive["rate_ids"].tolist() == ["low", "high"]
        for name in ARRAYS[1:]:
            assert archive[name].dtype == np.int32, name


def test_qualities():
    images = _small()
    assert images.statistics("top1").rates.tolist() == [[True, False, False], [True, True, False]]
    assert images.statistics("agreement").rates.tolist() == [[True] * 3, [True, False, True]]
    assert images.statistics("top1").unsplit.tolist() == [True, False, False]
    assert images.statistics("agreement").unsplit.all()
    with pytest.raises(ConfigError, match="unknown metric 'psnr'; choose top1 or agreement"):
        images.statistics("psnr")


def test_same_images_are_those_of_one_label_and_one_network():
    images = _small()
    assert images.same_images(_small(rate_ids=("a", "b"), bytes=np.ones((2, 3), int)))
    assert not images.same_images(_small(labels=[1, 2, 2]))
    assert not images.same_images(_small(unsplit=[1, 1, 2]))
    assert not images.same_images(measured.draw(4))


def test_a_curve_belongs_to_its_images():
    images = measured.draw(100)
    curve = measured.curve_of(images)
    assert images.belongs_to(curve)
    first, *others = curve.points
    top1 = {"metrics": {"top1": 0.5}}
    for changes in ({"rate_id": "q"}, {"bytes_per_image": 21.0}, top1, {"n_images": 99}):
        points = (dataclasses.replace(first, **changes), *others)
        assert not images.belongs_to(dataclasses.replace(curve, points=points)), changes
    for changes in ({"unsplit": {"top1": 0.5}}, {"n_images": 99}, {"points": others}):
        assert not images.belongs_to(dataclasses.replace(curve, **changes)), changes
    assert not images.belongs_to(dataclasses.replace(curve, points=()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_ids": ("low", "low")}, "different names"),
        ({"rate_ids": (), "bytes": [], "predicted": []}, "different names"),
        ({"rate_ids": ("low",)}, r"bytes is int64 \[2, 3\], expected integers \[1, 3\]"),
        ({"labels": [1, 2]}, r"labels is int64 \[2\], expected integers \[3\]"),
        ({"unsplit": [1, 2]}, r"bytes is int64 \[2, 3\], expected integers \[2, 2\]"),
        ({"predicted": np.zeros((2, 3))}, "predicted is float64"),
        ({"bytes": [[1, 2, 3], [1, -2, 3]]}, "-2 bytes"),
        (dict.fromkeys(("bytes", "predicted"), np.zeros((2, 0), int)), "bytes"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        _small(**changes)


def _archive(**changes):
    images = _small()
    fields = zip(ARRAYS, FIELDS, strict=True)
    arrays = {name: np.asarray(getattr(images, field)) for name, field in fields}
    arrays["version"] = 1
    file = io.BytesIO()
    np.savez(file, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return file.getvalue()


def _zip(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("version.npy", content)
    return file.getvalue()


def _npy():
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 and no more",
        b"some text",
        _npy(),
        _archive()[:300],
        _zip(b"no array"),
        _archive(uncut=None),
        _archive(version=None),
        _archive(version=2),
        _archive(version=np.ones(2)),
        _archive(labels=np.array([{}, {}, {}], dtype=object)),
        _archive(labels=np.zeros((3, 1), int)),
        _archive(rate_ids=np.array("low")),
        _archive(bytes=np.zeros((2, 4), int)),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content):
    path = tmp_path / "images.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.npz (holds no per-image records|has version)"):
        PerImage.read(path)


def test_an_archive_that_unpacks_to_more_than_records_take_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "images.npz"
    images = measured.draw(500)
    images.write(path)
    monkeypatch.setattr("jaxsplit.evaluation.per_image._MOST_BYTES", 40_000)
    assert PerImage.read(path).same_images(images)
    path.write_bytes(_archive(bytes=np.zeros((2, 3000), int)))
    with pytest.raises(DataError, match="bytes unpacked, expected at most 40000"):
        PerImage.read(path)


def test_without_labels_there_is_only_the_agreement(tmp_path):
    images, path = _small(labels=None), tmp_path / "images.npz"
    images.write(path)
    assert PerImage.read(path).labels is None
    assert images.statistics("agreement").unsplit.all()
    with pytest.raises(ConfigError, match="unknown metric 'top1'; choose agreement"):
        images.statistics("top1")
    with pytest.raises(ConfigError, match=r"no BD-rate|common"):  # of one rate, not of top-1
        bd_rate_interval(images, images)
    assert not images.same_images(_small())
    assert not images.belongs_to(measured.curve_of(_small()))


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    path = tmp_path / "images.npz"
    measured.draw(500).write(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="no per-image records"):
        PerImage.read(path)
    with pytest.raises(DataError, match="No such file"):
        PerImage.read(tmp_path / "nothing.npz")
