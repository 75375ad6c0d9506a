"""Values of metrics over a set of images, and their 95 % intervals over the choice of images."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxsplit.errors import ConfigError
from jaxsplit.tasks import Metric

__all__ = ["Interval", "Value", "metric_value", "resampled_means", "wilson_interval"]

#: Lower and upper limit of a metric.
Interval = tuple[float, float]

_Z = 1.959963984540054  # two-sided 95 % quantile of the standard normal distribution
_AT_ONCE = 100  # resamples; their counts are float64 [_AT_ONCE, N]
_RESAMPLES = 1000


class Value(NamedTuple):
    """A metric of a set of images.

    Attributes:
      mean: the metric's value, such as the share of images that are classified correctly.
      interval: its 95 % interval; None where it is not known.

    >>> Value(0.9).interval
    """

    mean: float
    interval: Interval | None = None


def metric_value(statistics: np.ndarray, metric: Metric) -> Value:
    """Computes a metric of N images and its 95 % interval.

    Args:
      statistics: of the images, [N] or [N, …], see `Task.measure`.
      metric: says how statistics are averaged.

    Returns:
      The value, with Wilson's interval for booleans, else the percentiles of a bootstrap.

    >>> metric_value(np.array([True] * 81 + [False] * 182), Metric("top-1", "%")).mean
    0.30798479087452474
    """
    count, mean = len(statistics), float(metric.value(statistics.mean(0, dtype=np.float64)))
    if statistics.dtype == bool and not metric.ratios:
        return Value(mean, wilson_interval(int(statistics.sum()), count))
    table = statistics.reshape(count, -1).astype(np.float64)
    means = np.concatenate(list(resampled_means(table, _RESAMPLES, seed=0)))
    values = metric.value(means.reshape(-1, *statistics.shape[1:]))
    low, high = np.quantile(values, (0.025, 0.975))
    return Value(mean, (float(low), float(high)))


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Computes Wilson's 95 % interval of a proportion.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = successes / n, n = trials. Unlike
    p ± z √(p(1-p)/n) it is accurate near 0 and 1 too, and stays between them.

    Wilson, "Probable inference, the law of succession, and statistical inference" (1927).

    Args:
      successes: 0 … trials.
      trials: at least 1.

    Returns:
      Its lower and upper limit, 0 … 1.

    Raises:
      ConfigError: the counts are not as above.

    >>> low, high = wilson_interval(81, 263)
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ConfigError(f"{successes} of {trials} is not a proportion")
    share, square = successes / trials, _Z**2 / trials
    middle = share + square / 2
    reach = _Z * math.sqrt(share * (1 - share) / trials + (_Z / (2 * trials)) ** 2)
    # A share of 0 or 1 is itself the limit; rounding may miss it.
    low = 0.0 if successes == 0 else (middle - reach) / (1 + square)
    high = 1.0 if successes == trials else (middle + reach) / (1 + square)
    return low, high


def resampled_means(table: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields means over draws of rows with replacement, a number of draws at a time.

    Args:
      table: float64 [N, K].
      resamples: number of draws.
      seed: of the draws; the same seed gives the same means on any machine.

    Yields:
      float64 [n, K] for the next n draws.

    >>> [means.shape for means in resampled_means(np.eye(5), resamples=120, seed=0)]
    [(100, 5), (20, 5)]
    """
    images = len(table)
    draws = np.random.default_rng(seed)
    for start in range(0, resamples, _AT_ONCE):
        counts = np.stack(
            [
                np.bincount(draws.integers(images, size=images), minlength=images)
                for _ in range(min(_AT_ONCE, resamples - start))
            ]
        )
        # Sums of integers are exact in float64, so the order of the additions doesn't matter.
        yield counts.astype(np.float64) @ table / images
