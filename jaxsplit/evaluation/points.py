"""Points of a rate–accuracy curve, their metrics, and validation of their values."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any

import numpy as np

from jaxsplit._moved import gathered_metrics
from jaxsplit.errors import ConfigError, escaped
from jaxsplit.evaluation.intervals import Value
from jaxsplit.tasks import AGREEMENT, Metric, metric_of

#: Values by metric. Arguments may have plain numbers: values without an interval.
Values = Mapping[str, Value]
# Attributes that are None where a file lacks them.
_PERHAPS = ("top1_interval", "top5", "top5_interval", AGREEMENT, "agreement_interval")


class Measured:
    """Metrics as attributes: `point.top1` is `point.metrics["top1"].mean`, also _interval."""

    metrics: Values

    def __post_init__(self) -> None:
        check_fields(self)

    def __repr__(self) -> str:
        given: list[object] = []
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            if entry.name == "metrics":
                given += [f"{name} {one.mean:.4g}" for name, one in value.items()]
            elif isinstance(value, str):
                given.insert(0, repr(value))
            elif entry.name in ("quality", "bytes_per_image"):
                given.append(f"{entry.name.partition('_')[0]} {value:.4g}")
        return f"{type(self).__name__}({', '.join(map(str, given))})"

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name != "metrics":
            return attribute_of(self.metrics, name)
        raise AttributeError(name)


def attribute_of(values: Values, name: str) -> Any:
    """Returns a metric's value, or its interval for a name with _interval."""
    metric = name.removesuffix("_interval")
    if metric in values:
        mean, interval = values[metric]
        return mean if metric == name else interval
    if name in _PERHAPS:
        return None
    raise AttributeError(f"no {name} among the metrics {', '.join(values)}")


@gathered_metrics("metrics")
@dataclass(frozen=True, repr=False)
class RatePoint(Measured):
    """Cost and quality of one rate, measured over a set of images.

    Fields after `n_images` are None where they were not measured, as in an older file.

    Args:
      rate_id: name of the rate in its family.
      lmbda: rate weight (lambda) of the training loss, ≥ 0; None where it is not known.
      bytes_per_image: mean length of real frames; the tail ran on what was decoded from them.
      estimated_bits_per_image: mean code length of the same latents under the rate's prior; under
        its tables where it has no prior.
      bits_per_pixel: 8 · bytes_per_image per pixel of the network's input image.
      metrics: metric → its value through those bytes, the task's quality first, and "agreement",
        the quality with the unsplit network's predictions as targets, which images without labels
        have alone. Each is an attribute too: `point.top1`, `point.top1_interval`.
      n_images: number of images.
      table_bits_per_image: mean information content of the same latents under the rate's integer
        tables, in bits: the output of an ideal coder.
      bytes_p5, bytes_p95: 5th and 95th percentile of the lengths of frames.
      device_macs, device_params: multiply-accumulates of an image, and parameters, of head and
        encoder, see `cost.SplitCost`.
      device_share: device_macs as a share of the unsplit network's.
      server_macs, server_params: those of decoder and tail.
      unit_bytes: size of the rate in a packed family, see `FamilyRate.stored_bytes`; of a level,
        that of the whole family.
      unit_share: unit_bytes as a share of the backbone's arrays in float32.

    Raises:
      ConfigError: a number is not finite or out of its range.

    >>> point = RatePoint("r0", 0.01, 52.0, 400.0, 52 * 8 / 784, {"top1": 0.875}, n_images=2000)
    >>> point.top1, point.agreement
    (0.875, None)
    """

    rate_id: str
    lmbda: float | None
    bytes_per_image: float
    estimated_bits_per_image: float
    bits_per_pixel: float
    metrics: Values = field(hash=False)
    n_images: int
    table_bits_per_image: float | None = None
    bytes_p5: float | None = None
    bytes_p95: float | None = None
    device_macs: int | None = None
    device_share: float | None = None
    device_params: int | None = None
    server_macs: int | None = None
    server_params: int | None = None
    unit_bytes: int | None = None
    unit_share: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rate_id:
            raise ConfigError("rate_id is '', expected a name")


@gathered_metrics("metrics")
@dataclass(frozen=True, repr=False)
class CodecPoint(Measured):
    """One quality of one codec, measured over a set of images.

    Args:
      codec: "jpeg", "webp" or "avif".
      quality: Pillow's quality, 1 … 95 (JPEG) or 0 … 100 (WebP, AVIF).
      bytes_per_image: mean length of the whole files.
      header_bytes_per_image: mean of `image_codecs.header_bytes`.
      metrics: as in `RatePoint`, of the unsplit network on the decoded images: the task's quality,
        and "agreement" with what it predicts for the images before coding.

    Raises:
      ConfigError: a number is not finite or out of its range.

    >>> point = CodecPoint("jpeg", 50, 500.0, 330.0, {"top1": 0.9, "agreement": 0.95})
    >>> point.payload_bytes_per_image, point.agreement
    (170.0, 0.95)
    """

    codec: str
    quality: int
    bytes_per_image: float
    header_bytes_per_image: float
    metrics: Values = field(hash=False)

    @property
    def payload_bytes_per_image(self) -> float:
        """Mean bytes without the header, which a system could agree on once."""
        return self.bytes_per_image - self.header_bytes_per_image


def optional(point: type) -> tuple[str, ...]:
    """Returns the fields that a class of points may lack: older files don't have them.

    >>> optional(RatePoint)[:3]
    ('table_bits_per_image', 'bytes_p5', 'bytes_p95')
    """
    return tuple(entry.name for entry in fields(point) if entry.default is None)


def check_keys(
    value: object, expected: tuple[str, ...], where: str, optional: tuple[str, ...] = ()
) -> None:
    """Checks that a value is a dict of the expected keys and any of the optional ones."""
    if not isinstance(value, dict) or set(value) - set(optional) != set(expected):
        got = f"the keys {sorted(value)}" if isinstance(value, dict) else type(value).__name__
        perhaps = f" and perhaps {sorted(optional)}" if optional else ""
        raise ConfigError(f"{where} has {got}, expected {sorted(expected)}{perhaps}")


def check_metric_values(
    values: Values, metrics: Mapping[str, Metric], labelled: bool = True, prefix: str = ""
) -> None:
    """Checks that values are of known metrics, the quality among them, and shares 0 … 1.

    Those of images that are not `labelled` are the agreement alone.
    """
    quality = next(iter(metrics)) if labelled else AGREEMENT
    if quality not in values:
        raise ConfigError(f"there is no {quality} among {', '.join(values) or 'the metrics'}")
    if not labelled and len(values) > 1:
        raise ConfigError(
            f"there is {' and '.join(values)}, but no {next(iter(metrics))} of the unsplit network"
        )
    for name, (mean, interval) in values.items():
        if metric_of(metrics, name).is_share:
            _number(f"{prefix}{name}", mean, 0.0, 1.0)
            for end in interval or ():
                _number(f"{prefix}{name}_interval", end, 0.0, 1.0)


def check_fields(record: Any) -> None:
    """Converts the fields of a frozen dataclass to its types; a ConfigError if one can't be."""
    for entry in fields(record):
        check, value = _CHECKS.get(entry.type), getattr(record, entry.name)
        if check and not (value is None and isinstance(entry.type, UnionType)):
            object.__setattr__(record, entry.name, check(entry.name, value))


def _number(name: str, value: object, low: float = 0.0, high: float = math.inf) -> float:
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        number = float(value)
        if math.isfinite(number) and low <= number <= high:
            return number
    raise ConfigError(f"{name} is {value!r}, expected a number from {low:g} to {high:g}")


def _count(name: str, value: object) -> int:
    lowest = 0 if name in ("quality", "classes") else 1
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= lowest:
        return int(value)
    raise ConfigError(f"{name} is {value!r}, expected a whole number of at least {lowest}")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or escaped(value) != value:
        raise ConfigError(f"{name} is {value!r}, expected a string without control characters")
    return value


def _values(name: str, found: object) -> Values:
    if not isinstance(found, Mapping):
        raise ConfigError(f"{name} is {found!r}, expected a dict of values by metric")
    values = {}
    for metric, given in found.items():
        mean, interval = given if isinstance(given, (tuple, list)) else (given, None)
        ends = None if interval is None else _interval(f"{metric}_interval", interval)
        values[metric] = Value(_number(metric, mean, -math.inf), ends)
    return values


def _interval(name: str, given: object) -> tuple[float, float]:
    if not isinstance(given, (list, tuple)) or len(given) != 2:
        raise ConfigError(f"{name} is {given!r}, expected its lower and upper limit")
    low, high = (_number(name, end, -math.inf) for end in given)
    if low > high:
        raise ConfigError(f"{name} is {given!r}, expected the lower limit first")
    return low, high


# Type of a field → what checks and converts it.
_CHECKS: dict[Any, Callable[[str, object], object]] = {
    str: _text,
    int: _count,
    int | None: _count,
    float: _number,
    float | None: _number,
    Values: _values,
}
