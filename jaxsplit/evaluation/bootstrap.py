"""Confidence interval of a BD-rate over the choice of images: a paired bootstrap.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13: images are drawn with
replacement, the same ones for both curves, and the BD-rate is computed for each draw.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxsplit.errors import ConfigError
from jaxsplit.evaluation.bd_rate import bd_rate
from jaxsplit.evaluation.per_image import PerImage

#: Drops that exclude nothing.
EVERYTHING = (math.inf, -math.inf)

_AT_ONCE = 100  # resamples; their counts are float64 [_AT_ONCE, N]


@dataclass(frozen=True)
class BootstrapInterval:
    """Percentile interval of a BD-rate, with the settings of its bootstrap.

    Args:
      low, high: its limits, BD-rate in percent.
      level: share of the resamples between them, such as 0.95.
      resamples: number of resamples.
      undefined: resamples without a BD-rate; each counts as below `low` and as above `high`.
      n_images: number of images that were drawn from.
      seed: of the draws.
    """

    low: float
    high: float
    level: float
    resamples: int
    undefined: int
    n_images: int
    seed: int


def bd_rate_interval(
    reference: PerImage,
    test: PerImage,
    *,
    quality: str = "top1",
    method: str = "pchip",
    drops: tuple[float, float] = EVERYTHING,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> BootstrapInterval:
    """Computes the interval of `test`'s BD-rate against `reference`, over draws of the images.

    Mean bytes, accuracies, Pareto front, overlap and the unsplit network's accuracy, which the
    drops are counted from, are computed anew for each draw.

    Args:
      reference, test: the same images through both families.
      quality: "top1", or "agreement" with the unsplit network.
      method: the interpolant, of `bd_rate.METHODS`.
      drops: largest and smallest drop below the unsplit network to compare, such as (0.06, 0.005);
        by default all that both curves reach.
      level: share of the draws inside the interval.
      resamples: number of draws.
      seed: of the draws; the same seed gives the same interval on any machine.

    Raises:
      ConfigError: the images are not the same, or too many draws have no BD-rate for an interval.
    """
    if not reference.same_images(test):
        raise ConfigError("the two curves have different images or networks")
    if resamples < 1 or not 0 < level < 1:
        raise ConfigError(f"{resamples} resamples and the level {level} don't define an interval")
    values, reason = [], ""
    for unsplit, *curves in _resampled(reference, test, quality, resamples, seed):
        limits = unsplit - drops[0], unsplit - drops[1]
        try:
            values.append(bd_rate(*curves, method=method, limits=limits))
        except ConfigError as error:
            reason = str(error)
    undefined = resamples - len(values)
    tail = (1 - level) / 2
    # An undefined BD-rate may have any value: it counts as beyond both limits, the worst case.
    beyond = np.full(undefined, np.inf)
    low = float(np.quantile(np.concatenate([-beyond, values]), tail, method="lower"))
    high = float(np.quantile(np.concatenate([values, beyond]), 1 - tail, method="higher"))
    if not np.isfinite([low, high]).all():
        raise ConfigError(
            f"{undefined} of {resamples} resamples have no BD-rate, such as: {reason}"
        )
    return BootstrapInterval(low, high, level, resamples, undefined, len(reference.labels), seed)


def _resampled(
    reference: PerImage, test: PerImage, quality: str, resamples: int, seed: int
) -> Iterator[tuple]:
    """Yields for each draw the unsplit accuracy and (bytes, quality) of both curves' rates."""
    columns = [reference.uncut_correct(quality)[None]]
    for curve in (reference, test):
        columns += [curve.bytes, curve.correct(quality)]
    # Sums of integers are exact in float64, so the order of the additions doesn't matter.
    table = np.concatenate(columns).astype(np.float64).T
    images = len(table)
    ends = np.cumsum([len(column) for column in columns])[:-1]
    draws = np.random.default_rng(seed)
    for start in range(0, resamples, _AT_ONCE):
        counts = np.stack(
            [
                np.bincount(draws.integers(images, size=images), minlength=images)
                for _ in range(min(_AT_ONCE, resamples - start))
            ]
        )
        for means in counts.astype(np.float64) @ table / images:
            unsplit, *parts = np.split(means, ends)
            curves = (np.stack(pair, axis=1) for pair in (parts[:2], parts[2:]))
            yield float(unsplit[0]), *curves
