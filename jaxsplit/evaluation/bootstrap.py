"""Confidence interval of a BD-rate over the choice of images: a paired bootstrap.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13: images are drawn with
replacement, the same ones for both curves, and the BD-rate is computed for each draw.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxsplit import _moved
from jaxsplit.errors import ConfigError
from jaxsplit.evaluation.bd_rate import bd_rate
from jaxsplit.evaluation.intervals import resampled_means
from jaxsplit.evaluation.per_image import PerImage
from jaxsplit.tasks import CLASSIFICATION_METRICS, Metric, metric_of

#: Drops that exclude nothing.
EVERYTHING = (math.inf, -math.inf)


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
    metric: Metric | None = None,
    quality: str = "top1",
    method: str = "pchip",
    drops: tuple[float, float] = EVERYTHING,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> BootstrapInterval:
    """Computes the interval of `test`'s BD-rate against `reference`, over draws of the images.

    Mean bytes, qualities, Pareto front, overlap and the unsplit network's quality, which the
    drops are counted from, are computed anew for each draw.

    Args:
      reference, test: the same images through both families.
      quality: the compared metric, or "agreement" with the unsplit network.
      metric: its unit and direction; None for a metric of a classification.
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
    metric = metric or metric_of(CLASSIFICATION_METRICS, quality)
    values, reason = [], ""
    for unsplit, *curves in _resampled(reference, test, quality, metric, resamples, seed):
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
    reference: PerImage, test: PerImage, quality: str, metric: Metric, resamples: int, seed: int
) -> Iterator[tuple]:
    """Yields for each draw the unsplit network's quality and (bytes, quality) of both curves.

    Qualities are negated where lower is better.
    """
    found = [side.statistics(quality) for side in (reference, test)]
    parts = [found[0].unsplit[None]]
    for side, statistics in zip((reference, test), found, strict=True):
        parts += [side.bytes, statistics.rates]
    # Images first, then one column for each rate and number of a statistic.
    columns = [np.moveaxis(part, 1, 0) for part in parts]
    table = np.concatenate([part.reshape(len(part), -1) for part in columns], 1).astype(np.float64)
    ends = np.cumsum([math.prod(part.shape[1:]) for part in columns])[:-1]
    for batch in resampled_means(table, resamples, seed):
        for means in batch:
            split = zip(np.split(means, ends), columns, strict=True)
            unsplit, *both = (row.reshape(part.shape[1:]) for row, part in split)
            curves = (
                np.stack([size, metric.sign * metric.value(value)], axis=1)
                for size, value in (both[:2], both[2:])
            )
            yield metric.sign * float(metric.value(unsplit)[0]), *curves


__getattr__ = _moved.renamed(__name__)
