"""A curve on all folds of a data set: what `tests/benchmarks/cross_validation.py` makes of them."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxsplit import data
from jaxsplit.evaluation import image_codecs
from jaxsplit.evaluation.evaluate import evaluate_images, predictor


@pytest.fixture(scope="module")
def validation():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "benchmarks")
        yield importlib.import_module("cross_validation")


@pytest.mark.parametrize("splits", [("",), ("train", "val")])
def test_every_image_is_held_out_once(validation, tmp_path, splits):
    root = tmp_path / "images"
    names = [f"{kind}/{number}.png" for kind in ("cat", "dog", "eel") for number in range(3)]
    for number, name in enumerate(names):
        file = root / splits[number % len(splits)] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), number).save(file)
    (root / "classes.txt").write_text("eel\ncat\ndog\nfox\n")
    for _ in range(2):  # they may be there already
        folds = validation.make_folds(root, tmp_path / "folds", 2)
    held_out = []
    for fold in folds:
        parts = {}
        for split in ("train", "val"):
            source = data.open_source(f"folder:{fold}", split=split)
            assert source.class_names == ("eel", "cat", "dog", "fox")
            images = data.load_arrays(source, data.Preprocessing((2, 2), 1, resize=2))[0]
            parts[split] = images[:, 0, 0, 0].tolist()
        assert sorted(parts["train"] + parts["val"]) == list(range(len(names)))
        held_out += parts["val"]
    assert sorted(held_out) == list(range(len(names)))
    assert sorted(held_out[:5]) == [0, 2, 4, 6, 8]  # in turn, whatever split they were in


def test_folds_of_other_images_are_refused(validation, tmp_path):
    for name in ("train/cat/1.png", "train/cat/2.png", "val/dog/1.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / "images" / name)
    validation.make_folds(tmp_path / "images", tmp_path / "folds", 2)
    with pytest.raises(SystemExit, match="take another folder"):
        validation.make_folds(tmp_path / "images", tmp_path / "folds", 3)
    (tmp_path / "images" / "val" / "cat").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "images" / "val" / "cat" / "1.png")
    with pytest.raises(SystemExit, match="one name"):
        validation.make_folds(tmp_path / "images", tmp_path / "more", 2)


def part(start, stop):
    """Some of the embedded test images, in their order."""
    source = data.open_source("embedded", "test")
    return data.Source(source.name, source.split, source._records, np.arange(start, stop))


def test_the_folds_together_are_what_an_evaluation_of_all_images_finds(
    validation, tiny_family, tiny_backbone
):
    def measured(start, stop):
        return evaluate_images(tiny_family, tiny_backbone, part(start, stop))

    whole, of_whole = measured(0, 120)
    curve, seen = validation.pooled(*zip(measured(0, 50), measured(50, 120), strict=True))
    for name in ("bytes", "predicted", "labels", "unsplit"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(of_whole, name))
    assert seen.belongs_to(curve)
    for found, expected in zip((curve, *curve.points), (whole, *whole.points), strict=True):
        for entry in dataclasses.fields(expected):
            if entry.name in ("metrics", "unsplit"):
                assert getattr(found, entry.name) == getattr(expected, entry.name)
            elif entry.name not in ("points", "origin", "baselines"):
                one, other = (getattr(side, entry.name) for side in (found, expected))
                assert one == (other if isinstance(other, str) else pytest.approx(other))
    assert curve.origin.data_fingerprint != whole.origin.data_fingerprint


def test_what_each_fold_s_units_cost_is_averaged_and_other_trainings_are_refused(
    validation, tiny_family, tiny_backbone
):
    curve, seen = evaluate_images(tiny_family, tiny_backbone, part(0, 30))
    more = [dataclasses.replace(point, unit_bytes=point.unit_bytes + 9) for point in curve.points]
    other = evaluate_images(tiny_family, tiny_backbone, part(30, 90))[1]
    larger = dataclasses.replace(curve, points=more, n_images=60)
    found = validation.pooled([curve, larger], [seen, other])[0]
    for point, before in zip(found.points, curve.points, strict=True):
        assert point.unit_bytes == before.unit_bytes + 6
        assert point.unit_share == before.unit_share
    dearer = [dataclasses.replace(point, lmbda=1.0) for point in curve.points]
    with pytest.raises(SystemExit, match="different trainings"):
        validation.pooled([curve, dataclasses.replace(curve, points=dearer)], [seen, seen])


def test_image_files_are_of_the_images_of_all_folds(
    validation, tiny_family, tiny_backbone, tmp_path, monkeypatch
):
    source = part(0, 30)
    for number in range(len(source)):
        name = source.class_names[source[number]["label"]].replace("/", "_")
        file = tmp_path / "images" / name / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source[number]["image"][..., 0]).save(file)
    (tmp_path / "images" / "classes.txt").write_text("\n".join(source.class_names))
    folds = validation.make_folds(tmp_path / "images", tmp_path / "folds", 3)[1:]
    curve = evaluate_images(tiny_family, tiny_backbone, source)[0]
    monkeypatch.setattr(validation, "load_backbone", lambda name: tiny_backbone)
    monkeypatch.setitem(image_codecs.QUALITIES, "jpeg", range(1, 96, 30))
    found = validation.image_files(folds, curve, ["jpeg"])["jpeg"]
    # The same without the folds: in turn by the names of classes and files, then by label.
    named = {
        (source.class_names[source.labels[number]].replace("/", "_"), f"{number}.png"): number
        for number in range(len(source))
    }
    dealt = [named[name] for name in sorted(named)]
    held_out = [
        sorted(dealt[fold::3], key=lambda number: (source.labels[number], f"{number}.png"))
        for fold in (1, 2)
    ]
    pixels, labels = data.load_arrays(source, tiny_backbone.preprocessing)
    pixels, labels = (array[np.concatenate(held_out)] for array in (pixels, labels))
    predict = predictor(tiny_backbone)
    uncut = predict(pixels).argmax(-1)
    assert found == image_codecs.sweep(pixels, labels, uncut, predict, "jpeg", (1, 61))
    origin = dataclasses.replace(curve.origin, backbone_fingerprint="another")
    with pytest.raises(SystemExit, match="other weights"):
        validation.image_files(folds, dataclasses.replace(curve, origin=origin), ["jpeg"])
