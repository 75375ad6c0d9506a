"""A curve on all folds of a data set: what `tests/benchmarks/cross_validation.py` makes of them."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxsplit import data
from jaxsplit.evaluation.accuracy import evaluate_images
from jaxsplit.evaluation.points import CodecPoint


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


def test_image_files_are_averaged_over_all_images(validation, tiny_family, tiny_backbone):
    curves, seen = [], []
    for start, stop, size, agreement in ((0, 30, 100.0, 0.9), (30, 40, 140.0, 0.6)):
        curve, images = evaluate_images(
            tiny_family, tiny_backbone, part(start, stop), rate_ids=["low"]
        )
        point = CodecPoint("jpeg", 5, size, 20.0, 0.5, agreement, (0.4, 0.6), (0.5, 0.95))
        curves.append(dataclasses.replace(curve, baselines={"jpeg": (point,)}))
        seen.append(images)
    (point,) = validation.pooled(curves, seen)[0].baselines["jpeg"]
    assert (point.quality, point.bytes_per_image, point.header_bytes_per_image) == (5, 110.0, 20.0)
    assert (point.top1, point.agreement) == (0.5, 33 / 40)
    assert point.agreement_interval == validation.wilson_interval(33, 40)
