"""Bjøntegaard deltas: the mean distance of two rate–accuracy curves, in bytes or accuracy.

The distances are those of Bjøntegaard, "Calculation of average PSNR differences between RD-curves"
(VCEG-M33, 2001), as the `bjontegaard` package computes them: with interpolants through any number
of points, in place of one cubic through four. The package is imported when a distance is computed,
since it imports scipy and matplotlib.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxsplit.errors import ConfigError

RateQuality = Iterable[tuple[float, float]]

#: Interpolants, and how many points they need. PCHIP (Fritsch and Butland, 1984) stays in the range
#: of two neighbours. Akima's (1970) is smoother; through two points the package draws a line.
METHODS = {"pchip": 2, "akima": 3}


@dataclass(frozen=True)
class Overlap:
    """Range of qualities over which two curves are compared.

    Args:
      low, high: its limits, in the curves' unit.
      of_reference, of_test: its share of each curve's range, 0 … 1.
      of_limits: its share of the requested limits; None unless both were given.
    """

    low: float
    high: float
    of_reference: float
    of_test: float
    of_limits: float | None = None


def overlap(
    reference: RateQuality,
    test: RateQuality,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Overlap:
    """Computes the qualities that both curves reach, inside the limits.

    Args:
      reference, test: (rate, quality) of each point; dominated ones are ignored, see `bd_rate`.
      limits: lowest and highest quality to compare.

    Raises:
      ConfigError: as in `bd_rate`.

    >>> both = overlap([(50, 0.80), (80, 0.90)], [(40, 0.85), (90, 0.95)], (0.82, 0.87))
    >>> print(both.low, both.high, f"{both.of_reference:.2f} {both.of_limits:.2f}")
    0.85 0.87 0.20 0.40
    """
    return _overlap(_front(reference), _front(test), limits)


def bd_rate(
    reference: RateQuality,
    test: RateQuality,
    *,
    method: str = "pchip",
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> float:
    """Computes the Bjøntegaard delta rate: the bytes of `test` at equal quality, in percent.

    100 · (exp(mean of ln rate_test(q) - ln rate_reference(q)) - 1) over the qualities q that both
    curves reach. Dominated points are ignored: those with a higher rate than another point and no
    better quality.

    Args:
      reference, test: (rate, quality) of each point; any units, the same for both.
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
    fronts = _front(reference, method), _front(test, method)
    both = _overlap(*fronts, limits)
    curves = fronts[0][::-1], fronts[1][::-1]
    return 100 * math.expm1(_mean_difference(*curves, method, both.low, both.high))


def bd_accuracy(reference: RateQuality, test: RateQuality, *, method: str = "pchip") -> float:
    """Computes the Bjøntegaard delta accuracy: the gain of `test` at equal rate.

    100 · mean of quality_test(ln rate) - quality_reference(ln rate), over logarithms of the rates
    that both curves have.

    Args:
      reference, test: (rate, quality) of each point, such as top-1 as 0 … 1.
      method: the interpolant, of `METHODS`.

    Returns:
      Percentage points; positive where `test` is better.

    Raises:
      ConfigError: as in `bd_rate`, or the curves have no common rate.

    >>> curve = [(50.0, 0.86), (80.0, 0.89), (120.0, 0.91)]
    >>> round(bd_accuracy(curve, [(rate, quality + 0.02) for rate, quality in curve]), 6)
    2.0
    """
    fronts = _front(reference, method), _front(test, method)
    low, high = max(float(f[0][0]) for f in fronts), min(float(f[0][-1]) for f in fronts)
    if not low < high:
        raise _no_range("rate", np.exp(fronts[0][0]), np.exp(fronts[1][0]))
    return 100 * _mean_difference(*fronts, method, low, high)


def quality_at(points: RateQuality, rate: float, *, method: str = "pchip") -> float | None:
    """Interpolates the quality of a curve at a rate, over the logarithm of the rate.

    Args:
      points: (rate, quality) of each; dominated ones are ignored, see `bd_rate`.
      rate: in the curve's unit.
      method: the interpolant, of `METHODS`.

    Returns:
      The quality; None outside the curve's range of rates.

    Raises:
      ConfigError: as in `bd_rate`.

    >>> curve = [(50.0, 0.86), (80.0, 0.89), (120.0, 0.91)]
    >>> round(quality_at(curve, 80.0), 6), quality_at(curve, 49.0)
    (0.89, None)
    """
    front = _front(points, method)
    log = math.log(rate)
    if not front[0][0] <= log <= front[0][-1]:
        return None
    return float(_interpolants(front, front, method)[0](log))


def common_rates(reference: RateQuality, test: RateQuality) -> tuple[float, float]:
    """Returns the lowest and highest rate that both curves have, the range of `bd_accuracy`."""
    logs = [_front(points)[0] for points in (reference, test)]
    return math.exp(max(log[0] for log in logs)), math.exp(min(log[-1] for log in logs))


def _front(points: RateQuality, method: str = "pchip") -> np.ndarray:
    """Returns the Pareto front [2, n]: ln rate and quality, both strictly rising."""
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    given = [(float(rate), float(quality)) for rate, quality in points]
    if not all(math.isfinite(r) and math.isfinite(q) and r > 0 for r, q in given):
        raise ConfigError(f"expected finite qualities at positive finite rates, got {given}")
    # Sorted after the logarithm, which can make close rates equal; the best of equals comes first.
    logs = sorted(((math.log(r), q) for r, q in given), key=lambda point: (point[0], -point[1]))
    front: list[tuple[float, float]] = []
    for point in logs:
        if not front or point[1] > front[-1][1]:
            front.append(point)
    if len(front) < METHODS[method]:
        least = {2: "two", 3: "three"}[METHODS[method]]
        raise ConfigError(
            f"expected at least {least} points for {method}, each better than all of lower rate; "
            f"got {given}"
        )
    return np.array(front).T


def _overlap(reference: np.ndarray, test: np.ndarray, limits: tuple[float, float]) -> Overlap:
    if not limits[0] < limits[1]:
        raise ConfigError(f"the limits {limits[0]:.4g} and {limits[1]:.4g} are not increasing")
    spans = [(float(front[1][0]), float(front[1][-1])) for front in (reference, test)]
    low = max(limits[0], *(span[0] for span in spans))
    high = min(limits[1], *(span[1] for span in spans))
    if not low < high:
        raise _no_range("quality", reference[1], test[1], limits)
    shares = [(high - low) / (span[1] - span[0]) for span in (*spans, limits)]
    # With an infinite limit there is no requested range to have a share of.
    of_limits = shares[2] if math.isfinite(limits[1] - limits[0]) else None
    return Overlap(low, high, shares[0], shares[1], of_limits)


def _no_range(
    axis: str,
    reference: np.ndarray,
    test: np.ndarray,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> ConfigError:
    spans = [f"{values[0]:.4g} … {values[-1]:.4g}" for values in (reference, test)]
    within = f" within {limits[0]:.4g} … {limits[1]:.4g}" if np.isfinite(limits).any() else ""
    return ConfigError(
        f"the curves share no range of {axis}{within}: {' and '.join(spans)}; measure more points"
    )


def _mean_difference(
    reference: np.ndarray, test: np.ndarray, method: str, low: float, high: float
) -> float:
    """Returns the mean of y_test(x) - y_reference(x), low ≤ x ≤ high, of curves (x, y) [2, n]."""
    interpolants = _interpolants(reference, test, method)
    areas = [float(interpolant.integrate(low, high)) for interpolant in interpolants]
    return (areas[1] - areas[0]) / (high - low)


def _interpolants(reference: np.ndarray, test: np.ndarray, method: str) -> list[Any]:
    from bjontegaard import bd_linear

    # The package takes no limits: its interpolants are integrated between ours.
    _, *interpolants = bd_linear(
        *reference,
        *test,
        method=method,
        require_matching_points=False,
        interpolators=True,
        min_overlap=0,
    )
    return interpolants
