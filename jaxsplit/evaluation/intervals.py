"""Metrics of a set of images, and their 95 % intervals over the choice of images."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxsplit.data.masks import IGNORED
from jaxsplit.errors import ConfigError
from jaxsplit.tasks import AGREEMENT, Metric, Outputs, Task

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
    draws = resampled(count, _RESAMPLES, seed=0)
    values = metric.value(np.concatenate([drawn_means(draw, statistics) for draw in draws]))
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


def resampled(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draws N `images` with replacement: yields float64 [n, N], how often each of n draws has each.

    The same seed gives the same draws on any machine.

    >>> [(counts.shape, counts.sum()) for counts in resampled(5, resamples=120, seed=0)]
    [((100, 5), np.float64(500.0)), ((20, 5), np.float64(100.0))]
    """
    draws = np.random.default_rng(seed)
    for start in range(0, resamples, _AT_ONCE):
        rows = (draws.integers(images, size=images) for _ in range(start, resamples)[:_AT_ONCE])
        yield np.stack([np.bincount(row, minlength=images) for row in rows]).astype(np.float64)


def drawn_means(counts: np.ndarray, statistics: np.ndarray, axis: int = 0) -> np.ndarray:
    """Returns the means [n, …] over draws [n, N] of statistics whose `axis` is N images."""
    # Sums of integers are exact in float64, so the order of the additions doesn't matter.
    return np.tensordot(counts, statistics.astype(np.float64), (1, axis)) / counts.shape[1]


class Predictions(NamedTuple):
    """Predictions [N, …] for N images; metric → statistics [N, …], also of the agreement."""

    predicted: np.ndarray
    statistics: dict[str, np.ndarray]

    def values(self, task: Task) -> dict[str, Value]:
        """Returns the metrics of the images together, with 95 % intervals."""
        return {name: metric_value(x, task.metric(name)) for name, x in self.statistics.items()}


def measure_outputs(
    task: Task,
    run: Callable[[slice], Outputs],
    targets: np.ndarray | None,
    count: int,
    size: int,
    unsplit: np.ndarray | None = None,
    windows: np.ndarray | None = None,
) -> Predictions:
    """Measures the outputs that `run` gives for slices of `count` images, `size` at once.

    The agreement is with `unsplit`, predictions of the unsplit network; None: with themselves.
    Without `targets` it is all that is measured. Where `windows`, bool [N, h, w], is False, the
    input is padding and the predicted maps are `IGNORED`.
    """
    predicted, statistics = [], []
    for start in range(0, count, size):
        part = slice(start, start + size)
        outputs = run(part)
        found = np.asarray(task.predict(outputs))
        predicted.append(found if windows is None else np.where(windows[part], found, IGNORED))
        agreement = task.agreement(outputs, predicted[-1] if unsplit is None else unsplit[part])
        known = {} if targets is None else task.evaluate(outputs, targets[part])
        statistics.append({**known, AGREEMENT: agreement})
    joined = {name: np.concatenate([one[name] for one in statistics]) for name in statistics[0]}
    return Predictions(np.concatenate(predicted), joined)
