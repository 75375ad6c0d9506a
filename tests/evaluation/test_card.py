"""Cards: the entries of an evaluation, and families of the package reproduce theirs."""

import copy
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxsplit import data
from jaxsplit.errors import ConfigError, DataError
from jaxsplit.evaluation import card
from jaxsplit.evaluation.card import with_measured
from jaxsplit.evaluation.evaluate import evaluate_images, predictor
from jaxsplit.evaluation.intervals import wilson_interval
from jaxsplit.family import RateFamily
from jaxsplit.family.pretrained import FAMILIES, load_pretrained, pretrained_names
from jaxsplit.networks.inference import batch_size

pytestmark = pytest.mark.optimized  # hundreds of photographs

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
# Data of a card → the archive with its images, which the project may not carry.
ARCHIVES = {
    "folder:cifar10": SHARED / "cifar10-jpeg.tar.xz",
    "folder:imagenet": SHARED / "imagenet-sample-500.tar",
    "folder:imagenette": SHARED / "imagenette-224.tar",
}
SYNSETS = SHARED / "imagenet-synsets.txt"
MOST_BYTES = 5_500_000  # of all families together


# What an evaluation writes.


@pytest.fixture(scope="module")
def measured(tiny_family, tiny_backbone, tiny_test_source):
    """Curve and per-image records of the tiny family."""
    return evaluate_images(tiny_family, tiny_backbone, tiny_test_source)


@pytest.fixture(scope="module")
def carded(tiny_family, measured, tiny_test_source):
    return with_measured(tiny_family, *measured, tiny_test_source)


def test_figures_stand_beside_each_rate(carded, measured, tmp_path):
    curve, seen = measured
    carded.save(tmp_path)
    loaded = RateFamily.load(tmp_path)
    for i, (rate, point) in enumerate(zip(loaded.rates, curve.points, strict=True)):
        found = rate.measured
        assert found["bytes_per_image"] == seen.bytes[i].mean()
        assert found["top1"] == (seen.predicted[i] == seen.labels).mean()
        assert found["agreement"] == point.agreement
        assert found["uncompressed_top1"] == curve.uncompressed_top1
        for name in ("top1", "agreement"):
            right = round(found[name] * found["n_images"])
            interval = wilson_interval(right, len(seen.labels))
            assert found[f"{name}_interval"] == pytest.approx(interval)
    assert loaded.card == carded.card
    assert loaded.fingerprint == carded.fingerprint


def test_the_card_says_what_was_evaluated_on_and_keeps_the_rest(
    tiny_family, carded, measured, tiny_test_source
):
    evaluation = carded.card["evaluation"]
    assert (evaluation["data"], evaluation["split"]) == ("embedded", "test")
    assert evaluation["n_images"] == len(tiny_test_source)
    assert "--data embedded --split test --max-samples 200" in evaluation["command"]
    assert evaluation["versions"]["jax"]
    kept = {key: value for key, value in carded.card.items() if key != "evaluation"}
    assert kept == tiny_family.card
    assert (kept["data"], kept["split"], kept["seed"]) == ("embedded", "train", 0)
    with pytest.raises(ConfigError, match="the curve's rates are not low, high, in this order"):
        with_measured(tiny_family.select(["low", "high"]), *measured, tiny_test_source)


def test_the_check_is_of_the_images_that_a_limit_gives(carded, measured):
    check = carded.card["evaluation"]["check"]
    source = data.open_source("embedded", split="test", max_samples=check["images"])
    assert check["labels"] == source.labels.tolist()
    assert check["images"] == card.CHECKED_IMAGES
    assert set(check["bytes"]) == set(check["predicted"]) == {"high", "mid", "low"}


def test_a_family_of_other_tables_has_no_figures(carded, tiny_backbone, tiny_test_source):
    from jaxsplit.family.table_fitting import fit_tables

    fitted = fit_tables(carded, tiny_backbone, tiny_test_source)
    assert "evaluation" not in fitted.card
    assert not any(rate.measured for rate in fitted.rates)


@pytest.mark.parametrize("key", card.KEYS)
def test_what_a_card_lacks_is_found(key):
    full = dict.fromkeys(card.KEYS, "said") | {"seed": 0}
    assert card.missing(full) == []
    assert card.missing({name: value for name, value in full.items() if name != key}) == [key]
    assert card.missing({**full, key: ""}) == [key]


# What the package ships.


def broken(family, backbone, source):
    """Lists deviations from the card's check; empty where there are none.

    Another machine may round a few symbols, or classify an image, differently.
    """
    check = family.card["evaluation"]["check"]
    images, labels = data.load_arrays(source, backbone.preprocessing)
    if labels.tolist() != check["labels"]:
        return ["the images are others"]
    allowed = 1 + len(labels) // 50
    found = []
    if (predictor(backbone)(images).argmax(-1) != check["uncut"]).sum() > allowed:
        found.append("the unsplit network predicts other classes")
    sender, receiver = family.codec(
        backbone, batch_size=batch_size(backbone.preprocessing.input_shape)
    )
    for rate in family.rates:
        frames = sender(images, rate=rate.rate_id)
        sizes = np.array([len(frame) for frame in frames])
        if (np.abs(sizes - check["bytes"][rate.rate_id]) > 1).sum() > allowed:
            found.append(f"{rate.rate_id}: frames have other sizes")
        if (receiver(frames).argmax(-1) != check["predicted"][rate.rate_id]).sum() > allowed:
            found.append(f"{rate.rate_id}: other classes are seen")
    return found


def unpack(archive, folder):
    """The images as `split/class/image`; of ImageNet's, named by class, every fifth is `val`."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for number, path in enumerate(files):
        target = folder / ("train" if number % 5 else "val") / path.name.partition("_")[0]
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name)
    for split in folder.glob("imagenette-224/*/"):
        split.rename(folder / split.name)
    if "imagenet" in archive.name:
        shutil.copy(SYNSETS, folder / "classes.txt")


@pytest.fixture(scope="module")
def check_source(tmp_path_factory):
    """From a card's evaluation to the images of its check; skips where they may not be carried."""

    def find(evaluation):
        name, split, limit = evaluation["data"], evaluation["split"], evaluation["check"]["images"]
        if name == "tfds:fashion_mnist":
            try:
                return data.open_source(name, split=split, max_samples=limit)
            except DataError:
                pytest.skip("needs Fashion-MNIST prepared by TFDS: its 70,000 images aren't here")
        if not name.startswith("folder:"):
            return data.open_source(name, split=split, max_samples=limit)
        archive = ARCHIVES.get(name)
        if archive is None or not archive.is_file():
            pytest.skip(f"needs the images of {name}, which the project may not carry")
        folder = tmp_path_factory.getbasetemp() / archive.name.partition(".")[0]
        if not folder.exists():
            unpack(archive, folder)
        return data.open_source(f"folder:{folder}", split=split, max_samples=limit)

    return find


@pytest.mark.parametrize("name", pretrained_names())
def test_a_shipped_card_is_complete(name):
    family = load_pretrained(name)
    assert card.missing(family.card) == []
    assert family.card["command"].startswith("jaxsplit train --config ")
    assert len(family.card["limits"]) > 40
    for images in (family.card["data"], family.card["evaluation"]["data"]):
        assert images == data.portable_name(images)
    evaluation = family.card["evaluation"]
    for rate in family.rates:
        figures = rate.measured
        assert figures["n_images"] == evaluation["n_images"]
        low, high = figures["top1_interval"]
        assert low < figures["top1"] < high
        assert figures["uncompressed_top1"] == evaluation["uncompressed_top1"]
        # The check is of these figures: its mean lies within five standard errors of theirs.
        sizes = np.array(evaluation["check"]["bytes"][rate.rate_id])
        error = sizes.std() / len(sizes) ** 0.5
        assert abs(sizes.mean() - figures["bytes_per_image"]) < 5 * error + 0.5
        assert figures["bytes_p5"] <= figures["bytes_per_image"] <= figures["bytes_p95"]


@pytest.mark.parametrize("name", pretrained_names())
def test_a_shipped_family_still_gives_what_its_card_says(name, check_source):
    family = load_pretrained(name)
    backbone = family.backbone_of()
    assert broken(family, backbone, check_source(family.card["evaluation"])) == []


def test_the_families_of_the_package_are_small_and_nothing_else():
    files = [path for path in FAMILIES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    named = set()
    for name in pretrained_names():
        index = json.loads((FAMILIES / name / "family.json").read_text())
        assert index["format"] == (4 if "levels" in index else 2)
        stored = [index["levels"]] if "levels" in index else index["rates"]
        named |= {FAMILIES / name / "family.json"}
        named |= {FAMILIES / name / entry["file"] for entry in stored}
    assert set(files) == named


# That the test above can fail.


@pytest.fixture(scope="module")
def tiny_check(carded, tmp_path_factory):
    """(the tiny family as it is loaded, the images of its check)."""
    folder = tmp_path_factory.mktemp("carded")
    carded.save(folder)
    check = carded.card["evaluation"]["check"]
    return load_pretrained(folder), data.open_source("embedded", max_samples=check["images"])


def test_an_unchanged_family_keeps_its_word(tiny_check, tiny_backbone):
    family, source = tiny_check
    assert broken(family, tiny_backbone, source) == []


def test_other_units_other_images_and_another_card_are_found(tiny_check, tiny_backbone):
    import dataclasses

    family, source = tiny_check
    high, mid, low = family.rates
    # The units of two rates change places.
    swapped = dataclasses.replace(
        family,
        rates=(
            dataclasses.replace(high, variables=mid.variables, tables=mid.tables),
            dataclasses.replace(mid, variables=high.variables, tables=high.tables),
            low,
        ),
    )
    found = broken(swapped, tiny_backbone, source)
    assert "high: frames have other sizes" in found
    assert "mid: frames have other sizes" in found
    assert not [text for text in found if text.startswith("low")]
    others = data.open_source("embedded", split="test[50%:]", max_samples=len(source) - 1)
    assert broken(family, tiny_backbone, others) == ["the images are others"]
    altered = copy.deepcopy(family.card)
    altered["evaluation"]["check"]["predicted"]["low"] = [0] * len(source)
    told = dataclasses.replace(family, card=altered)
    assert broken(told, tiny_backbone, source) == ["low: other classes are seen"]


def test_the_card_of_arrays_has_no_command(tiny_family, tiny_backbone, tiny_test_source):
    images = np.stack([example["image"] for example in tiny_test_source[:20]])
    source = data.from_arrays(images, tiny_test_source.labels[:20], tiny_backbone.class_names)
    found = evaluate_images(tiny_family, tiny_backbone, source)
    evaluation = with_measured(tiny_family, *found, source).card["evaluation"]
    assert "command" not in evaluation
    assert (evaluation["data"], evaluation["n_images"]) == ("arrays", 20)
