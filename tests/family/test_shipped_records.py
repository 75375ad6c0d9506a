"""The shipped families are those whose measurements are on record."""

from pathlib import Path

import pytest

from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.per_image import PerImage
from jaxsplit.family.pretrained import load_pretrained

pytestmark = pytest.mark.optimized

CURVES = Path(__file__).parents[1] / "benchmarks" / "results" / "curves"
CUTS = {"early": "stage4.block3", "middle": "stage6.block1", "late": "stage6.block4"}


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_the_families_of_small_images_are_those_that_were_measured(name):
    curve = Curve.read(CURVES / f"resnet20_small-{name}" / "curve.json")
    family = load_pretrained(f"resnet20_small-{name}/stage1.block3")
    for rate, point in zip(family.rates, curve.points, strict=True):
        assert rate.measured["bytes_per_image"] == point.bytes_per_image
        assert rate.measured["top1"] == point.top1
        assert rate.stored_bytes == point.unit_bytes


@pytest.mark.parametrize("name", CUTS)
def test_the_families_of_imagenet_are_those_that_were_measured_on_the_first_fold(name):
    curve = Curve.read(CURVES / f"efficientnet_lite0-{name}" / "curve.json")
    family = load_pretrained(f"efficientnet_lite0/{CUTS[name]}")
    for rate, point in zip(family.rates, curve.points, strict=True):
        assert rate.stored_bytes == point.unit_bytes
        for figure in ("bytes_per_image", "agreement", "top1"):
            assert rate.measured[figure] == getattr(point, figure)
    # The card's limits give the agreement on images that were used for no choice.
    others = Curve.read(CURVES / f"folds-efficientnet_lite0-{name}" / "curve.json")
    *shares, last = [f"{100 * point.agreement:.1f}" for point in others.points]
    assert f"{', '.join(shares)} and {last} % (r1 to r6)" in family.card["limits"]


def test_the_family_for_a_weak_device_is_the_one_that_was_measured():
    curve = Curve.read(CURVES / "efficientnet_lite0-stage3.block1" / "curve.json")
    family = load_pretrained("efficientnet_lite0/stage3.block1")
    for rate, point in zip(family.rates, curve.points, strict=True):
        for figure in ("bytes_per_image", "agreement", "top1"):
            assert rate.measured[figure] == getattr(point, figure)


@pytest.mark.parametrize("name", CUTS)
def test_the_folds_are_of_the_same_images_and_of_none_that_choices_were_made_by(name):
    folds = CURVES / f"folds-efficientnet_lite0-{name}"
    assert Curve.read(folds / "curve.json").n_images == 400
    images = PerImage.read(folds / "images.npz")
    first = PerImage.read(CURVES / "folds-efficientnet_lite0-early" / "images.npz")
    assert images.same_images(first)
    scored = PerImage.read(CURVES / f"efficientnet_lite0-{name}" / "images.npz")
    assert len({*images.labels, *scored.labels}) == 500
