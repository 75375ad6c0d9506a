"""A curve on all folds of a data set: what `tests/benchmarks/cross_validation.py` makes of them."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxsplit import data
from jaxsplit.evaluation import image_codecs
from jaxsplit.evaluation.accuracy import evaluate_images, predictor


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
    for name in ("bytes", "predicted", "labels", "uncut"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(of_whole, name))
    assert seen.belongs_to(curve)
    for found, expected in zip((curve, *curve.points), (whole, *whole.points), strict=True):
        for entry in dataclasses.fields(expected):
            if entry.name not in ("points", "origin", "baselines"):
                one, other = (getattr(side, entry.name) for side in (found, expected))
                assert one == (other if isinstance(other, str) else pytest.approx(other))
    assert curve.origin.data_fingerprint != whole.origin.data_fingerprint


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
    sources = [data.open_source(f"folder:{fold}", split="val") for fold in folds]
    parts = [data.load_arrays(one, tiny_backbone.preprocessing) for one in sources]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert len(labels) == 20
    predict = predictor(tiny_backbone)
    uncut = predict(pixels).argmax(-1)
    assert found == image_codecs.sweep(pixels, labels, uncut, predict, "jpeg", (1, 61))
    origin = dataclasses.replace(curve.origin, backbone_fingerprint="another")
    with pytest.raises(SystemExit, match="other weights"):
        validation.image_files(folds, dataclasses.replace(curve, origin=origin), ["jpeg"])
