"""Classes of ImageNet have names beside their WordNet ids."""

import numpy as np

from jaxsplit.data import imagenet
from jaxsplit.tasks import Classification


def test_every_class_has_a_name_of_its_own():
    named = [imagenet.named(one) for one in imagenet.class_names()]
    assert len({one["name"] for one in named}) == imagenet.NUM_CLASSES
    for wordnet, name in (("n01440764", "tench"), ("n02012849", "crane"), ("n04357314", "sun")):
        assert imagenet.named(wordnet)["name"].startswith(name)


def test_a_prediction_is_named(monkeypatch):
    task = Classification(("n02690373", "n99999999", "cat"))
    assert [one.get("name") for one in task.describe(np.eye(3))] == ["airliner", None, None]
    monkeypatch.setattr(imagenet, "_file", lambda *path: None)
    imagenet._names.cache_clear()
    try:
        assert imagenet.named("n02690373") == {"class": "n02690373"}
    finally:
        imagenet._names.cache_clear()
