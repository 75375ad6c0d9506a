"""Training a backbone: it learns, and what is measured is what is stored."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxsplit import data, networks
from jaxsplit.errors import ConfigError, DataError
from jaxsplit.experiments.run import run_backbone
from jaxsplit.train.backbone import train_backbone


def test_a_short_training_learns(tiny_training):
    _, _, report, losses = tiny_training
    assert report["steps"] == 64
    assert report["test_images"] == 256
    assert losses[-1] < losses[0] / 2
    assert report["top1"] > 0.6  # of ten classes


def test_the_weights_that_are_measured_are_those_that_are_stored(
    tiny_training, tiny_backbone, tmp_path
):
    config, variables, report, _ = tiny_training
    for leaf in jax.tree.leaves(variables):
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, leaf.astype(np.float16).astype(np.float32))
    networks.save_backbone(
        tmp_path / "tiny.safetensors",
        variables,
        name=config.model,
        preprocessing=config.preprocessing,
        class_names=tiny_backbone.class_names,
        card={},
    )
    stored = networks.read_backbone(tmp_path / "tiny.safetensors")
    assert stored.fingerprint == tiny_backbone.fingerprint
    test = data.open_source("embedded", split="test", max_samples=config.max_samples)
    images, labels = data.load_arrays(test, stored.preprocessing)
    logits = networks.predict(stored.module, stored.variables, stored.preprocessing, images)
    assert np.mean(logits.argmax(-1) == labels) == report["top1"]


def test_batch_statistics_have_moved_from_where_they_began(tiny_training):
    _, variables, _, _ = tiny_training
    stats = variables["batch_stats"]["stem"]["bn"]
    assert (stats["mean"] != 0).all()
    assert (stats["var"] != 1).all()


def test_fewer_images_than_a_batch_are_refused(tiny_training):
    config = dataclasses.replace(tiny_training[0], max_samples=20)
    with pytest.raises(ConfigError, match=r"20 training examples .* batch of 32"):
        train_backbone(config, None)


def test_one_step_is_a_training(tiny_training):
    config = dataclasses.replace(tiny_training[0], max_samples=32, epochs=1)
    assert train_backbone(config, None)[1]["steps"] == 1


def test_a_training_starts_from_the_initial_weights(tiny_training, tiny_backbone, tmp_path):
    config, trained, report, _ = tiny_training
    file = tmp_path / "tiny.safetensors"
    networks.save_backbone(
        file,
        trained,
        name=config.model,
        preprocessing=config.preprocessing,
        class_names=tiny_backbone.class_names,
        card={},
    )
    config = dataclasses.replace(
        config, max_samples=256, epochs=1, learning_rate=1e-6, initial=str(file)
    )
    card = run_backbone(config, tmp_path / "again", command="")
    assert abs(card["top1"] - report["top1"]) < 0.03
    other = dataclasses.replace(tiny_backbone, name="resnet20_small")
    with pytest.raises(ConfigError, match="initial weights are of resnet20_small"):
        train_backbone(config, None, initial=other)
    names = ("other", *tiny_backbone.class_names[1:])
    with pytest.raises(DataError, match="number 0"):
        train_backbone(config, None, initial=dataclasses.replace(tiny_backbone, task=names))
