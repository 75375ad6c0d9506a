"""Rate–accuracy curves and their file, `curve.json`.

Its numbers are the shortest decimals that read back as the same float64, so equal curves are equal
files.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from jaxsplit._moved import gathered_metrics
from jaxsplit._notebook import Shown
from jaxsplit.errors import ConfigError, DataError, choices, escaped
from jaxsplit.evaluation.companions import name_of
from jaxsplit.evaluation.image_codecs import QUALITIES
from jaxsplit.evaluation.intervals import Value
from jaxsplit.evaluation.points import (
    CodecPoint,
    RatePoint,
    Values,
    attribute_of,
    check_fields,
    check_keys,
    check_metric_values,
    optional,
)
from jaxsplit.io.files import parse_json, write_whole
from jaxsplit.io.text_table import rate_rows, text_table
from jaxsplit.tasks import AGREEMENT, CLASSIFICATION_METRICS, Metric, metric_of


@dataclass(frozen=True)
class Origin:
    """The network and the images of a curve.

    Args:
      backbone, backbone_fingerprint: name of the network and sha256 of its parameters.
      cut: the endpoint after which it was cut.
      data, split: source of the images, without local folders, and its split.
      data_fingerprint: of these images, the same for a copy elsewhere.
      classes: their number; 0 where a task has none.
      jaxsplit, jax: versions.
    """

    backbone: str
    backbone_fingerprint: str
    cut: str
    data: str
    split: str
    data_fingerprint: str
    classes: int
    jaxsplit: str
    jax: str

    def __post_init__(self) -> None:
        check_fields(self)

    def same_images(self, other: "Origin") -> bool:
        """Returns whether both have the same images; a ConfigError if data or classes differ."""
        if self.data_fingerprint == other.data_fingerprint:
            return True
        if (self.data, self.classes) != (other.data, other.classes):
            first, second = (f"{one.data} ({one.classes} classes)" for one in (self, other))
            raise ConfigError(
                f"one curve is of {first}, the other of {second}: they cannot be compared; "
                "evaluate both on the same images"
            )
        return False


_Record = TypeVar("_Record", RatePoint, CodecPoint, Origin, Metric)
_KEYS = {"lmbda": "lambda"}  # field of a point → its key in a file


@gathered_metrics("unsplit", "uncompressed_")
@dataclass(frozen=True)
class Curve(Shown):
    """The rates of a family on one set of images, and the unsplit network on the same images.

    Args:
      unsplit: metric → value of the unsplit network, the task's quality first; empty for images
        without labels, whose points have the agreement alone. Each is an attribute too:
        `curve.uncompressed_top1`, `curve.uncompressed_top1_interval`.
      n_images: number of images that it was measured on.
      points: one for each rate, under different rate ids.
      baselines: image codec → its points over the same images.
      origin: the network and the images; None in an older file.
      metrics: metric → label, unit and direction, the quality first.

    Raises:
      ConfigError: a number is out of its range, a metric is unknown, or two points share a rate
        id.

    >>> point = RatePoint("r0", 0.01, 52.0, 400.0, 52 * 8 / 784, {"top1": 0.875}, 2000)
    >>> curve = Curve({"top1": 0.925}, 2000, (point,))
    >>> curve.rate_quality()
    [(52.0, 0.875)]
    """

    unsplit: Values = field(hash=False)
    n_images: int
    points: tuple[RatePoint, ...]
    baselines: Mapping[str, tuple[CodecPoint, ...]] = field(default_factory=dict, hash=False)
    origin: Origin | None = None
    metrics: Mapping[str, Metric] = field(
        default_factory=lambda: CLASSIFICATION_METRICS, hash=False
    )

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "points", tuple(self.points))
        names = [point.rate_id for point in self.points]
        if len(set(names)) < len(names):
            raise ConfigError(f"two points of a curve have the same rate id: {', '.join(names)}")
        if AGREEMENT in self.unsplit:
            raise ConfigError("the unsplit network's agreement is with itself, it is not stored")
        if self.labelled:
            check_metric_values(self.unsplit, self.metrics, prefix="uncompressed_")
        for point in itertools.chain(self.points, *self.baselines.values()):
            check_metric_values(point.metrics, self.metrics, self.labelled)

    @property
    def labelled(self) -> bool:
        """True if the images had labels; without them only the agreement is known."""
        return bool(self.unsplit)

    def __repr__(self) -> str:
        unsplit = "no labels"
        if self.labelled:
            metric, value = self.metric(self.quality), self.unsplit[self.quality].mean
            unsplit = f"unsplit {metric.label} {metric.show(value)} {metric.unit}".rstrip()
        codecs = "".join(f", {codec}" for codec in self.baselines)
        rates = "1 rate" if len(self.points) == 1 else f"{len(self.points)} rates"
        head = f"Curve({rates}{codecs}, {self.n_images} images, {unsplit})"
        return f"{head}\n{text_table(self.rows())}" if self.points else head

    def rows(self) -> list[tuple[str, ...]]:
        """Returns a header, then name, lambda, bytes and quality of each rate.

        Returns:
          The rows, for `text_table`.
        """
        metric = self.metric(self.quality)
        rates = (
            (
                point.rate_id,
                point.lmbda,
                point.bytes_per_image,
                metric.show(point.metrics[self.quality].mean),
            )
            for point in self.points
        )
        return rate_rows(rates, f"{metric.label} {metric.unit}".rstrip())

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names of the rates, as a family does."""
        return (point.rate_id for point in self.points)

    def __getitem__(self, rate_id: str) -> RatePoint:
        for point in self.points:
            if point.rate_id == rate_id:
                return point
        raise ConfigError(f"the curve has no rate {rate_id!r}; it has {choices(rate_id, self)}")

    @property
    def quality(self) -> str:
        """Name of the metric that curves are compared by: the task's, or the agreement."""
        return next(iter(self.metrics)) if self.labelled else AGREEMENT

    def __getattr__(self, name: str) -> Any:
        if name.startswith("uncompressed_"):
            return attribute_of(self.unsplit, name.removeprefix("uncompressed_"))
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def metric(self, name: str) -> Metric:
        """Returns label, unit and direction of a metric.

        Args:
          name: of the metric, or "agreement"; a ConfigError if it is unknown.

        Returns:
          The metric.
        """
        return metric_of(self.metrics, name)

    def rate_quality(self, metric: str | None = None) -> list[tuple[float, float]]:
        """Returns the points of a rate–quality curve, for `bd_rate`.

        Args:
          metric: its name; None for the quality.

        Returns:
          (bytes per image, metric) of every point.
        """
        name = metric or self.quality
        return [(point.bytes_per_image, point.metrics[name].mean) for point in self.points]

    def to_json(self) -> str:
        """Returns the text of `curve.json`."""
        quality = {self.quality: self.unsplit[self.quality].mean} if self.labelled else {}
        unsplit = {**quality, "n_images": self.n_images, **_flat(self.unsplit)}
        content: dict[str, object] = {"uncompressed": unsplit}
        content["points"] = [self._written(point) for point in self.points]
        if self.baselines:
            content["baselines"] = {
                codec: [self._written(point) for point in points]
                for codec, points in self.baselines.items()
            }
        if self.origin is not None:
            content["origin"] = asdict(self.origin)
        if self.metrics != CLASSIFICATION_METRICS:
            content["metrics"] = {name: asdict(metric) for name, metric in self.metrics.items()}
        return json.dumps(content, indent=2) + "\n"

    def _written(self, point: RatePoint | CodecPoint) -> dict[str, object]:
        """Returns a point as it is stored; the order of keys is that of older files."""
        flat = _flat(point.metrics)
        names = (self.quality,) if isinstance(point, RatePoint) else tuple(point.metrics)
        entries: dict[str, object] = {}
        for name, value in vars(point).items():
            if name == "metrics":
                entries |= {metric: flat[metric] for metric in names}
            elif name == "lmbda" or (name != "codec" and value is not None):
                entries[_KEYS.get(name, name)] = value
            if name == "table_bits_per_image":
                entries |= flat
        return entries | flat

    @property
    def name(self) -> str:
        """First digits of the SHA-256 of `curve.json`, which reports of the curve carry."""
        return name_of(self.to_json().encode())

    def write(self, path: str | Path) -> None:
        """Writes `curve.json`; a killed write leaves the file that was there.

        Args:
          path: of the file.
        """
        write_whole(Path(path), self.to_json().encode())

    @classmethod
    def read(cls, path: str | Path) -> "Curve":
        """Reads what `write` wrote.

        Args:
          path: of the file.

        Returns:
          An equal curve.

        Raises:
          DataError: the file is missing, not JSON, or not of this schema.
        """
        try:
            content = parse_json(Path(path).read_bytes())
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror}; jaxsplit evaluate --out writes one"
            ) from error
        except ValueError as error:
            raise DataError(f"{path} is not a rate–accuracy curve: not JSON ({error})") from error
        try:
            return _parsed(content)
        except ConfigError as error:
            raise DataError(
                f"{path} is not a rate–accuracy curve: {error}; write one with jaxsplit evaluate"
            ) from error


def _flat(values: Values) -> dict[str, object]:
    """Returns the entries of metrics in a file: NAME, and NAME_interval where it is known."""
    entries: dict[str, object] = {}
    for name, (mean, interval) in values.items():
        entries[name] = mean
        if interval is not None:
            entries[f"{name}_interval"] = interval
    return entries


def _parsed(content: Any) -> Curve:
    check_keys(content, ("uncompressed", "points"), "the file", ("baselines", "origin", "metrics"))
    metrics = (
        described_metrics(content["metrics"]) if "metrics" in content else CLASSIFICATION_METRICS
    )
    unsplit, baselines = content["uncompressed"], content.get("baselines", {})
    origin, values = content.get("origin"), _taken(unsplit, metrics)
    check_keys(unsplit, ("n_images",), "uncompressed")
    check_keys(baselines, (), "baselines", tuple(QUALITIES))
    return Curve(
        values,
        unsplit["n_images"],
        points=_points(RatePoint, content["points"], "points", metrics),
        baselines={
            codec: _points(CodecPoint, found, codec, metrics, codec=codec)
            for codec, found in baselines.items()
        },
        origin=None if origin is None else _record(Origin, origin, "origin"),
        metrics=metrics,
    )


def described_metrics(found: Any) -> dict[str, Metric]:
    """Returns the metrics that a file describes; a ConfigError if it doesn't."""
    if not isinstance(found, dict) or not found:
        raise ConfigError("metrics is not a dict of at least one metric")
    metrics = {name: _record(Metric, entry, f"metrics[{name!r}]") for name, entry in found.items()}
    for name, metric in metrics.items():
        for key, value in vars(metric).items():
            if type(value) is not (bool if key in ("higher_is_better", "ratios") else str) or (
                escaped(f"{name}{value}") != f"{name}{value}"
            ):
                raise ConfigError(f"{key} of metrics[{name!r}] is {value!r}")
    return metrics


def _points(
    kind: type[_Record], found: Any, where: str, metrics: Mapping[str, Metric], **known: str
) -> tuple[_Record, ...]:
    if not isinstance(found, list):
        raise ConfigError(f"{where} is not a list")
    return tuple(
        _record(kind, entry, f"{where}[{i}]", metrics=_taken(entry, metrics), **known)
        for i, entry in enumerate(found)
    )


def _taken(entry: Any, metrics: Mapping[str, Metric]) -> Values:
    """Removes the metrics from a stored entry, and returns them."""
    values, left = {}, entry if isinstance(entry, dict) else {}
    for name in (*metrics, AGREEMENT):
        if left.keys() & {name, f"{name}_interval"}:
            values[name] = Value(left.pop(name, None), left.pop(f"{name}_interval", None))
    return values


def _record(kind: type[_Record], entry: Any, where: str, **known: Any) -> _Record:
    """Returns the record of a stored entry; `known` are fields that the file has elsewhere."""
    names = {_KEYS.get(one.name, one.name): one.name for one in fields(kind)}
    perhaps: tuple[str, ...] = optional(kind)
    check_keys(entry, tuple(names.keys() - {*perhaps, *known}), where, perhaps)
    return kind(**known, **{names[key]: value for key, value in entry.items()})
