"""Metrics of tasks: label, unit, direction, and how images are averaged; imports no jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from jaxsplit.errors import ConfigError, choices

if TYPE_CHECKING:
    import jax

    Mean = TypeVar("Mean", jax.Array, np.ndarray)

#: The metric that compares with the unsplit network, of every task.
AGREEMENT = "agreement"


@dataclasses.dataclass(frozen=True)
class Metric:
    """Label, unit and direction of a task's metric.

    Attributes:
      label: for columns of tables, such as "top-1".
      unit: such as "%", for which a share from 0 to 1 is shown times 100.
      higher_is_better: the metric's direction.
      name: for axes, such as "top-1 accuracy"; the label by default.
      ratios: False where an image's statistic is its own value and the metric their mean, such as
        top-1. True where it is the numerators and denominators of K ratios, [2, K]: the metric is
        the mean of the K ratios of sums over images, such as a mean intersection over union.

    >>> metric = Metric("top-1", "%", name="top-1 accuracy")
    >>> metric.show(0.875), metric.show(metric.sign * (0.925 - 0.875)), metric.drop_unit
    ('87.50', '5.00', 'pp')
    """

    label: str
    unit: str
    higher_is_better: bool = True
    name: str = ""
    ratios: bool = False

    def value(self, mean: Mean) -> Mean:
        """Computes the metric of sets of images from the means of their statistics.

        Args:
          mean: [R] for R sets, or [R, 2, K] of ratios; NumPy or JAX.

        Returns:
          The values, [R]. A ratio without a denominator is left out; without any it is 0.
        """
        if not self.ratios:
            return mean
        above, below = mean[..., 0, :], mean[..., 1, :]
        seen = below > 0
        count = seen.sum(axis=-1)
        return (above * seen / (below + ~seen)).sum(axis=-1) / (count + (count == 0))

    @property
    def is_share(self) -> bool:
        """True for shares, 0 … 1, which are shown in percent."""
        return self.unit == "%"

    @property
    def scale(self) -> float:
        """The factor from a value to what is shown: 100 for a share, else 1."""
        return 100.0 if self.is_share else 1.0

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1: `sign * value` rises with the quality."""
        return 1 if self.higher_is_better else -1

    @property
    def drop_unit(self) -> str:
        """Unit of a difference of two values: percentage points for shares."""
        return "pp" if self.is_share else self.unit

    @property
    def title(self) -> str:
        """Name and unit, for an axis: "top-1 accuracy (%)"."""
        return f"{self.name or self.label} ({self.unit})" if self.unit else self.name or self.label

    def show(self, value: float | None, digits: int = 2, plus: str = "") -> str:
        """Formats a value in the metric's unit.

        Args:
          value: of the metric; None for an unknown one.
          digits: of a share, after the decimal point. In another unit there are two, or three
            significant ones below 0.1.
          plus: "+" to write the sign of positive values too.

        Returns:
          The text, "n/a" for None.

        >>> distance = Metric("RMSE", "m", higher_is_better=False)
        >>> distance.show(3.4567), distance.show(0.012345), distance.show(0)
        ('3.46', '0.0123', '0.00')
        """
        if value is None:
            return "n/a"
        if self.is_share:
            return f"{self.scale * value:{plus}z.{digits}f}"
        return f"{value:{plus}#.3g}" if 0 < abs(value) < 0.1 else f"{value:{plus}z.2f}"


#: Metrics of a classification; those of a file that names none.
CLASSIFICATION_METRICS: Mapping[str, Metric] = {
    "top1": Metric("top-1", "%", name="top-1 accuracy"),
    "top5": Metric("top-5", "%", name="top-5 accuracy"),
}


def metric_of(metrics: Mapping[str, Metric], name: str) -> Metric:
    """Returns one of a task's metrics, or "agreement" with the unsplit network.

    Agreement is the first metric with the unsplit network's predictions as targets.

    Args:
      metrics: of the task, the quality first.
      name: of the metric; a ConfigError if there is none such.

    Returns:
      Label, unit and direction.

    >>> metric_of({"rmse": Metric("RMSE", "m", higher_is_better=False)}, AGREEMENT)
    Metric(label='agreement', unit='m', higher_is_better=False, name='', ratios=False)
    """
    if name == AGREEMENT:
        return dataclasses.replace(next(iter(metrics.values())), label=AGREEMENT, name="")
    if name not in (known := (*metrics, AGREEMENT)):
        raise ConfigError(f"unknown metric {name!r}; choose {choices(name, known, ' or ')}")
    return metrics[name]
