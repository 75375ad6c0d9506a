"""Views depend only on the seed, the view and the image's number."""

import dataclasses

import numpy as np
import pytest

from jaxsplit.data import Augmentation, Views
from jaxsplit.errors import ConfigError

CROPS = Views(2, Augmentation(padding=2, flip=True), seed=3)


def test_a_view_is_the_same_in_any_company():
    images = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 1), np.uint8)
    views = dataclasses.replace(CROPS, flip=True)
    assert len(views) == 4
    whole = {v: views.apply(images, np.arange(6), np.full(6, v)) for v in range(4)}
    order, mixed = np.array([4, 0, 4, 2]), np.array([1, 0, 3, 2])
    for image, i, view in zip(views.apply(images[order], order, mixed), order, mixed, strict=True):
        np.testing.assert_array_equal(image, whole[view][i])
    np.testing.assert_array_equal(whole[2], whole[0][:, :, ::-1])
    np.testing.assert_array_equal(whole[3], whole[1][:, :, ::-1])
    assert len({whole[v][0].tobytes() for v in range(4)}) == 4
    twins = views.apply(np.repeat(images[:1], 6, 0), np.arange(6), np.zeros(6, int))
    assert len({twin.tobytes() for twin in twins}) > 1
    other = dataclasses.replace(views, seed=4)
    assert (other.apply(images, np.arange(6), np.zeros(6, int)) != whole[0]).any()


def test_views_that_would_be_equal_or_none_are_refused():
    for values in ({"count": 2}, {"count": 0}, {"seed": -1}):
        with pytest.raises(ConfigError):
            Views(**values)
