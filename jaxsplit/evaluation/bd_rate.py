"""Bjøntegaard deltas: the mean distance of two rate–accuracy curves, in bytes or accuracy.

Bjøntegaard, "Calculation of average PSNR differences between RD-curves" (VCEG-M33, 2001), with
interpolants through any number of points, in place of one cubic through four. The `bjontegaard`
package computes them; it imports scipy and matplotlib, so it is imported on first use.

Curves are (rate, quality) of each point. Ignored are dominated points, of a higher rate than
another one and no better quality. `higher_is_better` is the direction of the quality.

Confidence intervals are of a paired bootstrap (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13): images are drawn with replacement, the same ones for both curves.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from jaxsplit.errors import ConfigError, choices
from jaxsplit.evaluation.intervals import drawn_means, resampled
from jaxsplit.evaluation.per_image import PerImage
from jaxsplit.tasks import AGREEMENT, CLASSIFICATION_METRICS, Metric, metric_of

RateQuality = Iterable[tuple[float, float]]
Limits = tuple[float, float]

#: Interpolants, and how many points they need. PCHIP (Fritsch and Butland, 1984) stays in the range
#: of two neighbours. Akima's (1970) is smoother.
METHODS = {"pchip": 2, "akima": 3}
#: Qualities, and drops below the unsplit network, that exclude nothing.
UNLIMITED, ANY_DROP = (-math.inf, math.inf), (math.inf, -math.inf)


@dataclass(frozen=True)
class Overlap:
    """Range of qualities over which two curves are compared.

    Args:
      low, high: its limits, in the curves' unit.
      of_reference, of_test, of_limits: its share of each curve's range and of the requested
        limits, 0 … 1; the last is None unless both limits were given.
    """

    low: float
    high: float
    of_reference: float
    of_test: float
    of_limits: float | None = None


def overlap(
    reference: RateQuality,
    test: RateQuality,
    limits: Limits = UNLIMITED,
    higher_is_better: bool = True,
) -> Overlap:
    """Computes the qualities that both curves reach, inside the limits.

    Args:
      reference, test, higher_is_better: the curves.
      limits: lowest and highest quality to compare.

    Raises:
      ConfigError: as in `bd_rate`.

    >>> both = overlap([(50, 0.80), (80, 0.90)], [(40, 0.85), (90, 0.95)], (0.82, 0.87))
    >>> print(both.low, both.high, f"{both.of_reference:.2f} {both.of_limits:.2f}")
    0.85 0.87 0.20 0.40
    """
    return _overlap(_fronts(reference, test, "pchip", higher_is_better), limits)


def bd_rate(
    reference: RateQuality,
    test: RateQuality,
    *,
    method: str = "pchip",
    limits: Limits = UNLIMITED,
    higher_is_better: bool = True,
) -> float:
    """Computes the Bjøntegaard delta rate: the bytes of `test` at equal quality, in percent.

    100 · (exp(mean of ln rate_test(q) - ln rate_reference(q)) - 1) over the qualities q that both
    curves reach.

    Args:
      reference, test, higher_is_better: the curves.
      method: the interpolant, of `METHODS`.
      limits: lowest and highest quality to compare, where both curves reach them. Points outside
        the limits still shape the interpolants.

    Returns:
      Percent; negative where `test` needs fewer bytes.

    Raises:
      ConfigError: a curve has fewer non-dominated points than the method needs, a rate is not
        positive, a number is not finite, or the curves share no quality within the limits.

    >>> curve = [(50.0, 0.86), (80.0, 0.89), (120.0, 0.91)]
    >>> round(bd_rate(curve, [(0.9 * rate, quality) for rate, quality in curve]), 6)
    -10.0
    """
    fronts = _fronts(reference, test, method, higher_is_better)
    both = _overlap(fronts, limits)
    # ln rate over the quality, which rises.
    curves = [front[::-1, :: 1 if higher_is_better else -1] for front in fronts]
    return 100 * math.expm1(_mean_difference(curves, method, both.low, both.high))


def bd_accuracy(
    reference: RateQuality,
    test: RateQuality,
    *,
    method: str = "pchip",
    higher_is_better: bool = True,
) -> float:
    """Computes the Bjøntegaard delta accuracy: the gain of `test` at equal rate.

    100 · mean of quality_test(ln rate) - quality_reference(ln rate), over logarithms of the rates
    that both curves have.

    Args:
      reference, test, higher_is_better: the curves, such as with top-1 as 0 … 1.
      method: the interpolant, of `METHODS`.

    Returns:
      Percentage points; positive where `test` is better.

    Raises:
      ConfigError: as in `bd_rate`, or the curves have no common rate.

    >>> curve = [(50.0, 0.86), (80.0, 0.89), (120.0, 0.91)]
    >>> round(bd_accuracy(curve, [(rate, quality + 0.02) for rate, quality in curve]), 6)
    2.0
    """
    fronts = _fronts(reference, test, method, higher_is_better)
    low, high = _common_logs(fronts)
    if not low < high:
        raise _no_range("rate", [np.exp(front[0]) for front in fronts])
    gain = _mean_difference(fronts, method, low, high)
    return 100 * (gain if higher_is_better else -gain)


def common_rates(
    reference: RateQuality, test: RateQuality, *, higher_is_better: bool = True
) -> tuple[float, float]:
    """Returns the lowest and highest rate that both curves have, the range of `bd_accuracy`."""
    low, high = _common_logs(_fronts(reference, test, "pchip", higher_is_better))
    return math.exp(low), math.exp(high)


def drop_limits(unsplit: float, drops: tuple[float, float], metric: Metric) -> Limits:
    """Returns the limits of a quality for the largest and smallest drop below `unsplit`."""
    low, high = (unsplit - metric.sign * drop for drop in drops[:: metric.sign])
    return low, high


def _fronts(reference: RateQuality, test: RateQuality, method: str, up: bool) -> list[np.ndarray]:
    return [_front(points, method, up) for points in (reference, test)]


def _front(points: RateQuality, method: str, up: bool) -> np.ndarray:
    """Returns the Pareto front [2, n]: ln rate and quality, rate strictly rising."""
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}; choose one of {choices(method, METHODS)}")
    given = [(float(rate), float(quality)) for rate, quality in points]
    if not all(math.isfinite(r) and math.isfinite(q) and r > 0 for r, q in given):
        raise ConfigError(
            f"expected finite qualities at positive finite rates, got {_points_text(given)}"
        )
    sign = 1 if up else -1
    # Sorted after the logarithm, which can make close rates equal; the best of equals comes first.
    logs = sorted((math.log(rate), -sign * quality) for rate, quality in given)
    front: list[tuple[float, float]] = []
    for log, worse in logs:
        if not front or worse < -sign * front[-1][1]:
            front.append((log, -sign * worse))
    if len(front) < METHODS[method]:
        raise ConfigError(
            f"expected at least {METHODS[method]} points for {method}, each better than all of "
            f"lower rate; got {_points_text(given)}: measure more rates"
        )
    return np.array(front).T


def _points_text(points: RateQuality) -> str:
    return ", ".join(f"{quality:.4g} at {rate:.4g}" for rate, quality in points) or "none"


def _overlap(fronts: list[np.ndarray], limits: Limits) -> Overlap:
    if not limits[0] < limits[1]:
        raise ConfigError(f"the limits {limits[0]:.4g} and {limits[1]:.4g} are not increasing")
    spans = [(float(front[1].min()), float(front[1].max())) for front in fronts]
    low, high = (max(ends[0] for ends in (*spans, limits)), min(e[1] for e in (*spans, limits)))
    if not low < high:
        raise _no_range("quality", [front[1] for front in fronts], limits)
    shares = [(high - low) / (span[1] - span[0]) for span in (*spans, limits)]
    # With an infinite limit there is no requested range to have a share of.
    of_limits = shares[2] if math.isfinite(limits[1] - limits[0]) else None
    return Overlap(low, high, shares[0], shares[1], of_limits)


def _common_logs(fronts: list[np.ndarray]) -> tuple[float, float]:
    return max(float(f[0][0]) for f in fronts), min(float(f[0][-1]) for f in fronts)


def _no_range(axis: str, values: list[np.ndarray], limits: Limits = UNLIMITED) -> ConfigError:
    spans = [f"{min(one):.4g} … {max(one):.4g}" for one in values]
    within = f" within {limits[0]:.4g} … {limits[1]:.4g}" if np.isfinite(limits).any() else ""
    return ConfigError(
        f"the curves share no range of {axis}{within}: {' and '.join(spans)}; measure more points"
    )


def _mean_difference(fronts: list[np.ndarray], method: str, low: float, high: float) -> float:
    """Returns the mean of y_test(x) - y_reference(x), low ≤ x ≤ high, of curves (x, y) [2, n]."""
    from bjontegaard import bd_linear

    # The package takes no limits: its interpolants are integrated between ours.
    _, *interpolants = bd_linear(
        *fronts[0],
        *fronts[1],
        method=method,
        require_matching_points=False,
        interpolators=True,
        min_overlap=0,
    )
    reference, test = (float(one.integrate(low, high)) for one in interpolants)
    return (test - reference) / (high - low)


@dataclass(frozen=True)
class BootstrapInterval:
    """Percentile interval of a BD-rate, with the settings of its bootstrap.

    Args:
      low, high: its limits, BD-rate in percent.
      level, resamples, seed: as in `bd_rate_interval`.
      undefined: resamples without a BD-rate; each counts as below `low` and as above `high`.
      n_images: number of images that were drawn from.
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
    quality: str | None = None,
    method: str = "pchip",
    drops: tuple[float, float] = ANY_DROP,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> BootstrapInterval:
    """Computes the interval of `test`'s BD-rate against `reference`, over draws of the images.

    Everything is computed anew for each draw, also the unsplit network's quality.

    Args:
      reference, test: the same images through both families.
      quality: the compared metric, or "agreement" with the unsplit network; None: the leading
        metric of the records.
      metric: its unit and direction; None for a metric of a classification.
      method: the interpolant, of `METHODS`.
      drops: largest and smallest drop below the unsplit network to compare, such as (0.06, 0.005);
        by default all that both curves reach.
      level: share of the draws inside the interval.
      resamples, seed: number and seed of the draws; a seed gives one interval on any machine.

    Raises:
      ConfigError: the images are not the same, or too many draws have no BD-rate for an interval.
    """
    if not reference.same_images(test):
        raise ConfigError("the two curves have different images or networks")
    if resamples < 1 or not 0 < level < 1:
        raise ConfigError(f"{resamples} resamples and the level {level} don't define an interval")
    # Records without statistics are of a classification.
    leading = AGREEMENT if reference.labels is None else next(iter(CLASSIFICATION_METRICS))
    quality = quality or next(iter(reference.measured), leading)
    metric = metric or metric_of(CLASSIFICATION_METRICS, quality)
    values, reason, up = [], "", metric.higher_is_better
    for unsplit, *curves in _resampled(reference, test, quality, metric, resamples, seed):
        limits = drop_limits(float(unsplit), drops, metric)
        try:
            values.append(bd_rate(*curves, method=method, limits=limits, higher_is_better=up))
        except ConfigError as error:
            reason = str(error)
    undefined, tail = resamples - len(values), (1 - level) / 2
    # An undefined BD-rate may have any value: it counts as beyond both limits, the worst case.
    beyond = np.full(undefined, np.inf)
    low = float(np.quantile(np.concatenate([-beyond, values]), tail, method="lower"))
    high = float(np.quantile(np.concatenate([values, beyond]), 1 - tail, method="higher"))
    if not np.isfinite([low, high]).all():
        raise ConfigError(
            f"{undefined} of {resamples} resamples have no BD-rate, such as: {reason}"
        )
    return BootstrapInterval(low, high, level, resamples, undefined, reference.n_images, seed)


def _resampled(
    reference: PerImage, test: PerImage, quality: str, metric: Metric, resamples: int, seed: int
) -> Iterator[tuple]:
    """Yields for each draw the unsplit network's quality and (bytes, quality) of both curves."""
    unsplit = reference.statistics(quality).unsplit
    sides = [(side.bytes, side.statistics(quality).rates) for side in (reference, test)]
    for counts in resampled(reference.n_images, resamples, seed):
        curves = [
            np.stack([drawn_means(counts, x, 1), metric.value(drawn_means(counts, y, 1))], -1)
            for x, y in sides
        ]
        yield from zip(metric.value(drawn_means(counts, unsplit)), *curves, strict=True)
