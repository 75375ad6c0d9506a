"""How far a BD-rate would move with other images: a paired bootstrap.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13: images are drawn with
replacement, the same ones for both curves, and the distance is computed again for each draw.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxsplit.errors import ConfigError
from jaxsplit.evaluation.bd_rate import bd_rate
from jaxsplit.evaluation.per_image import PerImage

#: Drops that leave nothing out.
EVERYTHING = (math.inf, -math.inf)

_AT_ONCE = 100  # resamples; their counts are float64 [_AT_ONCE, N]


@dataclass(frozen=True)
class BootstrapInterval:
    """Ends of a percentile interval, and what it was made of.

    Args:
      low, high: its ends, in percent of BD-rate.
      level: how much of the resamples lies between them, such as 0.95.
      resamples: how many there were.
      undefined: how many of them had no BD-rate; each counts as below `low` and as above `high`.
      n_images: how many images were drawn from.
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
    """The interval of `test`'s BD-rate against `reference`, over draws of the images.

    Each draw has its own mean bytes, accuracies, front and overlap, and its own accuracy of the
    uncut network, which the drops are counted from.

    Args:
      reference, test: the same images through both families.
      quality: "top1", or "agreement" with the uncut network.
      method: the interpolant, of `bd.METHODS`.
      drops: compare from so much below the uncut network to so much, such as (0.06, 0.005); by
        default all that both curves reach.
      level: share of the draws inside the interval.
      resamples: how many draws.
      seed: of the draws; the same gives the same interval on any machine.

    Raises:
      ConfigError: the images are not the same, or so many draws have no BD-rate that the interval
        has no ends.
    """
    if not reference.same_images(test):
        raise ConfigError("the two curves are of different images, or of different networks")
    if resamples < 1 or not 0 < level < 1:
        raise ConfigError(f"{resamples} resamples and the level {level} give no interval")
    values, reason = [], ""
    for uncut, *curves in _resampled(reference, test, quality, resamples, seed):
        limits = uncut - drops[0], uncut - drops[1]
        try:
            values.append(bd_rate(*curves, method=method, limits=limits))
        except ConfigError as error:
            reason = str(error)
    undefined = resamples - len(values)
    tail = (1 - level) / 2
    # Where nothing could be computed anything may be true: at both ends rather than left out.
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
    """For each draw: uncut accuracy, then (bytes, quality) of every rate of both curves."""
    columns = [reference.uncut_correct(quality)[None]]
    for curve in (reference, test):
        columns += [curve.bytes, curve.correct(quality)]
    # Sums of whole numbers are exact in float64: the order of the additions changes nothing.
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
            uncut, *parts = np.split(means, ends)
            curves = (np.stack(pair, axis=1) for pair in (parts[:2], parts[2:]))
            yield float(uncut[0]), *curves
