"""A network's last layer is fitted to other classes, and all else works with them."""

import numpy as np
import pytest

import jaxsplit
from jaxsplit import networks
from jaxsplit.data import from_arrays
from jaxsplit.errors import ConfigError, DataError
from jaxsplit.networks import FunctionNetwork
from jaxsplit.train.last_layer import fit_head
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase

NAMES = ("top", "trouser", "dress", "shoe", "bag")
GROUPS = np.array([0, 1, 0, 2, 0, 3, 0, 3, 4, 3])


def grouped(split, count):
    """Images whose ten classes are put together to five."""
    source = jaxsplit.open_source("embedded", split=split, max_samples=count)
    images = np.array([example["image"] for example in source])
    return from_arrays(images, GROUPS[source.labels], NAMES)


@pytest.fixture(scope="module")
def backbone():
    return jaxsplit.load_backbone("fashion_mnist_resnet8")


@pytest.fixture(scope="module")
def fitted(backbone):
    return fit_head(backbone, grouped("train", 400), progress=False)


def right(backbone, source):
    images = np.array([example["image"] for example in source])
    logits = networks.predict(backbone.network, backbone.variables, backbone.preprocessing, images)
    return np.asarray(logits).argmax(axis=-1) == source.labels


def test_it_classifies_other_images(fitted):
    assert fitted.class_names == NAMES
    test = grouped("test", 300)
    assert right(fitted, test).mean() > 0.95
    report = fitted.card["head"]
    assert (report["images"], report["held_out"]) == (400, 80)
    assert abs(report["top1"] - right(fitted, test).mean()) < 0.05


def test_only_the_last_layer_changes(fitted, backbone):
    new, old = fitted.variables, backbone.variables
    assert new["batch_stats"] is old["batch_stats"]
    assert {k for k in old["params"] if new["params"][k] is not old["params"][k]} == {"logits"}
    assert new["params"]["logits"]["dense"]["kernel"].shape == (64, 5)
    assert fitted.fingerprint != backbone.fingerprint


def test_the_same_images_give_the_same_layer(backbone, fitted):
    again = fit_head(backbone, grouped("train", 400), progress=False)
    assert again.fingerprint == fitted.fingerprint


def test_it_is_saved_trained_behind_and_sends_its_own_classes(fitted, tmp_path):
    fitted.save(tmp_path / "own.safetensors")
    own = jaxsplit.load_backbone(tmp_path / "own.safetensors")
    assert (own.class_names, own.fingerprint) == (NAMES, fitted.fingerprint)
    family = jaxsplit.train_family(
        *(own, "stage3.block1", [1e-3]),
        data=grouped("train", 64),
        channels=4,
        phases=[Phase(2, Distortion())],
        batch_size=16,
        progress=False,
    )
    sender, receiver = family.codec()
    outputs = receiver(sender(grouped("test", 5), "r1"))
    assert {one["class"] for one in own.task.describe(outputs)} <= set(NAMES)


def test_balanced_weights_find_a_rare_class(backbone):
    """One of eleven: with equal weights of images, the layer leans to the frequent class."""
    source = grouped("train", 2000)
    images = np.array([example["image"] for example in source])
    chosen = np.concatenate(
        [np.flatnonzero(source.labels == 0)[:220], np.flatnonzero(source.labels == 2)[:20]]
    )
    labels = (source.labels[chosen] == 2).astype(int)
    rare = from_arrays(images[chosen], labels, ["top", "dress"])
    test = grouped("test", 1000)
    dresses = np.array([x["image"] for x in test])[test.labels == 2]
    found = {
        weights: right(
            fit_head(backbone, rare, class_weights=weights, progress=False),
            from_arrays(dresses, np.ones(len(dresses), int), ["top", "dress"]),
        ).mean()
        for weights in ("none", "balanced")
    }
    assert found["balanced"] > found["none"]


def test_constant_features_have_no_weight(backbone):
    """Their deviation is 0."""
    source = from_arrays(np.zeros((4, 28, 28), np.uint8), [0, 0, 1, 1])
    fitted = fit_head(backbone, source, progress=False)
    np.testing.assert_array_equal(fitted.variables["params"]["logits"]["dense"]["kernel"], 0)


@pytest.mark.parametrize(
    ("labels", "names", "match"),
    [
        (None, (), "has no labels"),
        ([0] * 6, ["only"], "has one class, only"),
        ([0, 0, 0, 0, 0, 1], ["a", "b"], "the class b of arrays has 1 images: give 2 or more"),
        ([0, 0, 0, 1, 1, 1], ["a", "b", "c"], "the class c of arrays has 0 images"),
    ],
)
def test_too_few_images_or_classes_are_refused(backbone, labels, names, match):
    source = from_arrays(np.zeros((6, 28, 28), np.uint8), labels, names)
    with pytest.raises(DataError, match=match):
        fit_head(backbone, source, progress=False)


def test_other_networks_are_refused(backbone):
    source = from_arrays(np.zeros((4, 28, 28), np.uint8), [0, 0, 1, 1])
    with pytest.raises(ConfigError, match="expected one of none, balanced"):
        fit_head(backbone, source, class_weights="equal")
    own = FunctionNetwork(lambda v, x, cut: x, lambda v, x, cut: x.mean((1, 2)) @ v["w"], ("in",))
    other = jaxsplit.make_backbone(
        "own", own, {"w": np.zeros((1, 2), np.float32)}, backbone.preprocessing, ["a", "b"]
    )
    with pytest.raises(ConfigError, match="no Linen module"):
        fit_head(other, source)


def test_wrong_classes_say_what_to_do(backbone):
    with pytest.raises(DataError, match=r"jaxsplit\.fit_head fits the network's last layer"):
        jaxsplit.train_family(backbone, "stage3.block1", [1e-3], data=grouped("train", 64))


def test_a_folded_network_is_fitted_too(backbone, fitted):
    folded = fit_head(backbone.fold(), grouped("train", 400), progress=False)
    test = grouped("test", 100)
    assert (right(folded, test) == right(fitted, test)).mean() > 0.97
