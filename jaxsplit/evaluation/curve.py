"""Rate–accuracy curves and their file, `curve.json`.

`quickstart`, `train` and `evaluate` write the file. Its numbers are the shortest decimals that read
back as the same float64, so equal curves are equal files.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from jaxsplit.errors import ConfigError, DataError
from jaxsplit.evaluation.image_codecs import QUALITIES
from jaxsplit.evaluation.points import (
    CodecPoint,
    Interval,
    RatePoint,
    check_keys,
    optional,
    set_count,
    set_interval,
    set_number,
)
from jaxsplit.io.files import write_whole


@dataclass(frozen=True)
class Origin:
    """The network and the images of a curve.

    Args:
      backbone, backbone_fingerprint: name of the network and sha256 of its parameters.
      cut: the endpoint after which it was cut.
      data, split: source of the images, without local folders, and its split.
      data_fingerprint: of these images, the same for a copy elsewhere.
      classes: number of classes.
      jaxsplit, jax: versions.

    Raises:
      ConfigError: an entry is not a string, or the number of classes is not a positive integer.
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
        set_count(self, "classes")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name != "classes" and not isinstance(value, str):
                raise ConfigError(f"{entry.name} is {value!r}, expected a string")

    def same_images(self, other: "Origin") -> bool:
        """Returns whether both have the same images, not only the same data.

        The networks may differ.

        Raises:
          ConfigError: the data or the classes differ.
        """
        if self.data_fingerprint == other.data_fingerprint:
            return True
        if (self.data, self.classes) != (other.data, other.classes):
            first, second = (f"{one.data} ({one.classes} classes)" for one in (self, other))
            raise ConfigError(
                f"one curve is of {first}, the other of {second}: they cannot be compared; "
                "evaluate both on the same images"
            )
        return False


@dataclass(frozen=True)
class Curve:
    """The rates of a family on one set of images, and the unsplit network on the same images.

    Args:
      uncompressed_top1: accuracy of the unsplit network, 0 … 1.
      n_images: number of images that it was measured on.
      points: one for each rate, under different rate ids.
      uncompressed_top1_interval: Wilson's 95 % interval of that accuracy, 0 … 1.
      uncompressed_top5: share of images whose class is among the five likeliest.
      uncompressed_top5_interval: its interval.
      baselines: image codec → its points over the same images.
      origin: the network and the images; None in an older file.

    Raises:
      ConfigError: a number is out of its range, or two points share a rate id.

    >>> point = RatePoint("r0", 0.01, 52.0, 400.0, 52 * 8 / 784, 0.875, 2000)
    >>> curve = Curve(0.925, 2000, (point,))
    >>> curve.rate_quality()
    [(52.0, 0.875)]
    """

    uncompressed_top1: float
    n_images: int
    points: tuple[RatePoint, ...]
    uncompressed_top1_interval: Interval | None = None
    uncompressed_top5: float | None = None
    baselines: Mapping[str, tuple[CodecPoint, ...]] = field(default_factory=dict, hash=False)
    uncompressed_top5_interval: Interval | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        set_number(self, "uncompressed_top1", highest=1.0)
        set_count(self, "n_images")
        for name in ("uncompressed_top1_interval", "uncompressed_top5_interval"):
            if getattr(self, name) is not None:
                set_interval(self, name)
        if self.uncompressed_top5 is not None:
            set_number(self, "uncompressed_top5", highest=1.0)
        object.__setattr__(self, "points", tuple(self.points))
        names = [point.rate_id for point in self.points]
        if len(set(names)) < len(names):
            raise ConfigError(f"two points of a curve have the same rate id: {', '.join(names)}")

    def rate_quality(self) -> list[tuple[float, float]]:
        """(bytes per image, top-1) of every point, for `bd_rate` and `bd_accuracy`."""
        return [(point.bytes_per_image, point.top1) for point in self.points]

    def to_json(self) -> str:
        """Returns the text of `curve.json`."""
        uncompressed: dict[str, object] = {
            "top1": self.uncompressed_top1,
            "n_images": self.n_images,
        }
        for key in _UNCOMPRESSED_OPTIONAL:
            if (value := getattr(self, f"uncompressed_{key}")) is not None:
                uncompressed[key] = value
        content: dict[str, object] = {"uncompressed": uncompressed}
        content["points"] = [_written(point) for point in self.points]
        if self.baselines:
            content["baselines"] = {
                codec: [_written(point, without="codec") for point in points]
                for codec, points in self.baselines.items()
            }
        if self.origin is not None:
            content["origin"] = asdict(self.origin)
        return json.dumps(content, indent=2) + "\n"

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
            content = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror}; jaxsplit evaluate --out writes one"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not a rate–accuracy curve: not JSON ({error})") from error
        try:
            return _parsed(content)
        except ConfigError as error:
            raise DataError(
                f"{path} is not a rate–accuracy curve: {error}; write one with jaxsplit evaluate"
            ) from error


_UNCOMPRESSED_OPTIONAL = ("top1_interval", "top5", "top5_interval")


def _written(point: RatePoint | CodecPoint, without: str = "") -> dict[str, object]:
    """Returns a point as it is stored: without optional entries that are unknown."""
    unknown = {name for name in optional(type(point)) if getattr(point, name) is None}
    entries = asdict(point).items()
    return {_json_key(k): value for k, value in entries if k not in (*unknown, without)}


def _parsed(content: Any) -> Curve:
    check_keys(content, ("uncompressed", "points"), "the file", ("baselines", "origin"))
    uncompressed = content["uncompressed"]
    check_keys(uncompressed, ("top1", "n_images"), "uncompressed", _UNCOMPRESSED_OPTIONAL)
    points = _entries(content["points"], RatePoint, "points")
    baselines, origin = content.get("baselines", {}), content.get("origin")
    check_keys(baselines, (), "baselines", tuple(QUALITIES))
    if origin is not None:
        check_keys(origin, tuple(entry.name for entry in fields(Origin)), "origin")
    return Curve(
        points=tuple(RatePoint(**entry) for entry in points),
        n_images=uncompressed["n_images"],
        **{f"uncompressed_{k}": value for k, value in uncompressed.items() if k != "n_images"},
        baselines={
            codec: tuple(
                CodecPoint(codec, **entry)
                for entry in _entries(given, CodecPoint, codec, without="codec")
            )
            for codec, given in baselines.items()
        },
        origin=None if origin is None else Origin(**origin),
    )


def _entries(found: Any, point: type, where: str, without: str = "") -> list[dict[str, Any]]:
    """Returns stored points as arguments of their class."""
    if not isinstance(found, list):
        raise ConfigError(f"{where} is not a list")
    names = {_json_key(entry.name): entry.name for entry in fields(point)}
    perhaps = optional(point)
    required = tuple(key for key, name in names.items() if name not in (*perhaps, without))
    for number, entry in enumerate(found):
        check_keys(entry, required, f"{where}[{number}]", perhaps)
    return [{names[key]: value for key, value in entry.items()} for entry in found]


def _json_key(name: str) -> str:
    return "lambda" if name == "lmbda" else name
