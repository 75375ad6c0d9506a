"""The included weights reach the accuracy on their cards."""

from pathlib import Path

import numpy as np
import pytest

from jaxsplit import data, networks

pytestmark = pytest.mark.optimized

# Least top-1 on all 10,000 test images, from the card; the goal for CIFAR-10 is 0.88.
BARS = {
    "cifar10_resnet20": 0.87,
    "fashion_mnist_resnet20": 0.93,
    "fashion_mnist_resnet8": 0.925,
}
CIFAR10 = Path(__file__).parents[2].parent / "shared" / "data" / "cifar10-jpeg.tar.xz"


def accuracy(backbone, source):
    images, labels = data.load_arrays(source, backbone.preprocessing)
    logits = networks.predict(backbone.module, backbone.variables, backbone.preprocessing, images)
    return np.mean(logits.argmax(-1) == labels)


def test_all_weights_have_a_bar():
    assert set(networks.embedded_weights()) == set(BARS)


@pytest.mark.parametrize("name", BARS)
def test_the_card_says_where_the_weights_come_from(name):
    backbone = networks.open_embedded(name)
    card = backbone.card
    assert card["top1"] >= BARS[name]
    assert card["test_images"] == 10_000
    assert card["command"].startswith("jaxsplit train --config ")
    assert isinstance(card["seed"], int)
    assert card["data"] in ("tfds:fashion_mnist", "folder:cifar10")
    assert backbone.weights == name
    assert len(backbone.class_names) == 10


# On the embedded 2,000 test images, a subset of the card's 10,000.
@pytest.mark.parametrize(
    ("name", "top1"), [("fashion_mnist_resnet8", 0.9365), ("fashion_mnist_resnet20", 0.943)]
)
def test_weights_keep_their_accuracy_on_the_embedded_images(name, top1):
    # Another machine may classify an image or two differently.
    got = accuracy(networks.open_embedded(name), data.open_source("embedded"))
    assert got == pytest.approx(top1, abs=1e-3)


@pytest.mark.skipif(
    not CIFAR10.is_file(), reason="needs CIFAR-10's images, which the project may not carry"
)
def test_weights_keep_their_accuracy_on_cifar10(tmp_path):
    """On every tenth test image; the card's figure lies within three standard errors of it."""
    import tarfile

    with tarfile.open(CIFAR10) as archive:
        members = (m for m in archive if m.isfile() and m.name.startswith("test/"))
        for member in members:
            if int(Path(member.name).stem) % 10 == 0:
                target = tmp_path / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())
    backbone = networks.open_embedded("cifar10_resnet20")
    source = data.open_source(f"folder:{tmp_path}")
    assert len(source) == 1000
    assert accuracy(backbone, source) == pytest.approx(backbone.card["top1"], abs=0.03)
