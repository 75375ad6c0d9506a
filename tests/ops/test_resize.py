"""Bilinear interpolation against jax's own, and between corners that stay."""

import jax
import numpy as np
import pytest

from jaxsplit.ops import resize_bilinear


@pytest.mark.parametrize("size", [(9, 14), (5, 7), (1, 1), (23, 7)])
def test_pixels_that_tile_the_image_are_jaxs(size):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    expected = jax.image.resize(x, (2, *size, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(resize_bilinear(x, size), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("before", [1, 2, 5])
def test_corners_stay(before):
    """A linear map stays linear between the corners."""
    x = np.broadcast_to(np.arange(before, dtype=np.float32)[:, None], (before, 2))
    x = x[None, :, :, None]
    found = np.asarray(resize_bilinear(x, (9, 3), align_corners=True))[0, :, 1, 0]
    np.testing.assert_allclose(found, np.linspace(0, before - 1, 9), rtol=0, atol=1e-6)
