"""The weights that come with the package are what their cards say."""

import numpy as np
import pytest

from jaxsplit import data, models

BARS = {"fashion_mnist_resnet8": (0.925, 0.9365)}


@pytest.mark.parametrize("name", models.embedded_weights())
def test_shipped_weights_keep_their_accuracy(name):
    """The card's figure is of 10,000 test images; the second one of the embedded 2,000 of them."""
    card_bar, embedded = BARS[name]
    backbone = models.open_embedded(name)
    assert backbone.card["top1"] >= card_bar
    assert backbone.card["test_images"] == 10_000
    assert backbone.card["command"].startswith("jaxsplit train --config ")
    images, labels = data.load_arrays(data.open_source("embedded"), backbone.preprocessing)
    logits = models.predict(backbone.module, backbone.variables, backbone.preprocessing, images)
    # Another machine may see an image or two differently.
    assert np.mean(logits.argmax(-1) == labels) == pytest.approx(embedded, abs=1e-3)
