"""Synthetic per-image records with known means of their population.

Every image has a difficulty, uniform from 0 to 1. A rate predicts the class of images below its
accuracy, with a little symmetric noise, which doesn't change the mean.
"""

import numpy as np
from points import make_curve, make_rate

from jaxsplit.evaluation.per_image import PerImage

UNCUT = 0.9
ACCURACIES = np.array([0.6, 0.7, 0.76, 0.8, 0.83])
BYTES = np.array([20, 40, 60, 80, 120])


def population(scale=1.0):
    """(bytes, top-1) of every rate over endlessly many images."""
    return list(zip(scale * BYTES, ACCURACIES, strict=True))


def draw(images, *, scale=1.0, seed=0, draw_seed=0):
    """N images; `seed` draws the images, `draw_seed` the predictions of a family."""
    random = np.random.default_rng(seed)
    labels, difficulty = random.integers(10, size=images), random.uniform(size=images)
    random = np.random.default_rng([draw_seed, seed])
    shape = (len(BYTES), images)
    found = difficulty + random.uniform(-0.05, 0.05, shape) < ACCURACIES[:, None]
    return PerImage(
        tuple(f"r{i}" for i in range(len(BYTES))),
        random.poisson(scale * BYTES[:, None], shape),
        np.where(found, labels, (labels + 1) % 10),
        labels,
        np.where(difficulty < UNCUT, labels, (labels + 1) % 10),
    )


def curve_of(images):
    """The curve that `evaluate` would write beside them."""
    count = len(images.labels)
    correct = images.statistics("top1").rates.mean(axis=1)
    points = [
        make_rate(rate_id, None, size, 8 * size, 8 * size / 784, top1, count)
        for rate_id, size, top1 in zip(
            images.rate_ids, images.bytes.mean(axis=1), correct, strict=True
        )
    ]
    return make_curve(images.statistics("top1").unsplit.mean(), count, points)


def write(folder, images):
    """Both files, as `evaluate --out` leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    curve_of(images).write(folder / "curve.json")
    images.write(folder / "images.npz")
    return folder
