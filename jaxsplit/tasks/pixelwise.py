"""Losses and statistics of one class a pixel: resizing, cross-entropy, distillation, counts."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.data.masks import IGNORED
from jaxsplit.data.placement import bilinear_weights

#: (height, width) in pixels.
Size = tuple[int, int]


def resize(logits: jax.Array, size: Size, align_corners: bool = False) -> jax.Array:
    """Resizes logits by bilinear interpolation, as DeepLab does before it takes the largest.

    Args:
      logits: float [B, h, w, K].
      size: (H, W).
      align_corners: see `data.placement.bilinear_weights`.

    Returns:
      float [B, H, W, K].

    >>> resize(jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1), (1, 4)).ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    if logits.shape[1:3] == size:
        return logits
    rows, columns = (
        jnp.asarray(bilinear_weights(np.arange(side) + 0.5, side, count, align_corners))
        for side, count in zip(size, logits.shape[1:3], strict=True)
    )
    across = jnp.einsum("xw,bhwk->bhxk", columns, logits, precision="highest")
    return jnp.einsum("yh,bhxk->byxk", rows, across, precision="highest")


def cross_entropy(logits: jax.Array, masks: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Computes the mean of -log softmax(logits)[class] over the pixels that are not ignored.

    Args:
      logits: float [B, H, W, K].
      masks: true classes, int [B, H, W]; `IGNORED` (255) for pixels that count nowhere.
      label_smoothing: share of a target that is spread over all classes.

    Returns:
      float [B], in nats, at least 0; 0 for an image whose pixels are all ignored.

    >>> logits = jnp.log(jnp.array([[[[0.5, 0.5], [0.9, 0.1]]]]))
    >>> f"{cross_entropy(logits, jnp.array([[[0, 255]]])).item():.4f}"
    '0.6931'
    """
    log_p, seen = jax.nn.log_softmax(logits), masks != IGNORED
    right = jnp.take_along_axis(log_p, jnp.where(seen, masks, 0)[..., None], axis=-1)[..., 0]
    nats = -right
    if label_smoothing:
        nats = (1 - label_smoothing) * nats - label_smoothing * log_p.mean(axis=-1)
    return (nats * seen).sum(axis=(1, 2)) / jnp.maximum(seen.sum(axis=(1, 2)), 1)


def distillation(logits: jax.Array, teacher: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Computes the mean over pixels of T² · KL(softmax(teacher / T) ‖ softmax(logits / T)).

    Args:
      logits: through the unit, float [B, h, w, K], at the network's own resolution.
      teacher: logits of the unsplit network, alike.
      temperature: T; larger ones give unlikely classes more weight.

    Returns:
      float [B], in nats, exactly 0 for equal distributions.

    >>> distillation(jnp.ones((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 3))).item()
    0.0
    """
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(logits / temperature)
    nats = (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return temperature**2 * nats.mean(axis=(1, 2))


@functools.partial(jax.jit, static_argnames=("size", "align_corners"))
def predicted_masks(logits: jax.Array, size: Size, align_corners: bool) -> jax.Array:
    """Resizes logits and takes the class of the largest, uint8 [B, H, W].

    One image at a time: the interpolated logits of a batch may take gigabytes.
    """

    def one(logits: jax.Array) -> jax.Array:
        return resize(logits[None], size, align_corners)[0].argmax(-1).astype(jnp.uint8)

    return jax.lax.map(one, logits)


def sampled(masks: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns masks [B, h, w] by nearest neighbour, at the centres of a coarser grid."""
    rows, columns = (
        ((np.arange(count) + 0.5) * side / count).astype(int)
        for side, count in zip(masks.shape[1:], size, strict=True)
    )
    return masks[:, rows[:, None], columns]


def mask_statistics(found: jax.Array, true: jax.Array, count: int) -> dict[str, jax.Array]:
    """Returns the statistics of mIoU and pixel accuracy, see `Segmentation.measure`."""
    seen = (true != IGNORED)[..., None]
    classes = jnp.arange(count).reshape(1, 1, 1, -1)
    is_found, is_true = (one[..., None] == classes for one in (found, true))
    both = (is_found & is_true).sum(axis=(1, 2))
    either = ((is_found & seen) | is_true).sum(axis=(1, 2))
    pixels = jnp.stack([both.sum(axis=1), seen.sum(axis=(1, 2, 3))], axis=1)
    return {"miou": jnp.stack([both, either], axis=1), "pixel_accuracy": pixels[..., None]}


def confusion(predicted: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    """Counts the known pixels of a mask by true and predicted class, int [K, K]."""
    seen = true != IGNORED
    joint = true[seen].astype(np.int64) * classes + predicted[seen]
    return np.bincount(joint, minlength=classes**2).reshape(classes, classes)
