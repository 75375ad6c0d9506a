"""Bilinear interpolation of maps, by two matrix products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(x: jax.Array, size: tuple[int, int], align_corners: bool = False) -> jax.Array:
    """Resizes maps by bilinear interpolation, without antialiasing.

    Args:
      x: float [B, h, w, C].
      size: (H, W) of the result.
      align_corners: True: the centres of the corner pixels stay in place, as in TensorFlow's
        DeepLab. False: pixels are squares that tile the image, as in PyTorch's.

    Returns:
      float [B, H, W, C], constant beyond the centres of the outer pixels.

    >>> x = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    >>> resize_bilinear(x, (1, 4)).ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
    >>> resize_bilinear(x, (1, 5), align_corners=True).ravel().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    rows, columns = (
        jnp.asarray(interpolation_weights(before, after, align_corners), x.dtype)
        for before, after in zip(x.shape[1:3], size, strict=True)
    )
    with jax.default_matmul_precision("highest"):
        return jnp.einsum("bhwc,Hh,Ww->bHWc", x, rows, columns)


def interpolation_weights(before: int, after: int, align_corners: bool) -> np.ndarray:
    """Returns the weights of linear interpolation, float32 [after, before]; rows sum to 1.

    Args:
      before, after: pixels of a side.
      align_corners: see `resize_bilinear`.
    """
    if align_corners:
        position = np.arange(after) * ((before - 1) / max(after - 1, 1))
    else:
        position = ((np.arange(after) + 0.5) * before / after - 0.5).clip(0, before - 1)
    below = np.floor(position).astype(int).clip(0, max(before - 2, 0))
    share, each = position - below, np.arange(after)
    weights = np.zeros((after, before), np.float32)
    weights[each, below] = 1 - share
    weights[each, np.minimum(below + 1, before - 1)] += share
    return weights
