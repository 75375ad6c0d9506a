"""Rate–accuracy curves: their points and their file.

The file is the `curve.json` that `quickstart`, `train` and `evaluate` write. Its numbers are the
shortest decimals that read back as the same float64, so equal curves are equal files.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from jaxsplit.errors import ConfigError, DataError
from jaxsplit.evaluation.checks import check_keys, set_count, set_interval, set_number
from jaxsplit.evaluation.image_codecs import QUALITIES, CodecPoint

Interval = tuple[float, float]


@dataclass(frozen=True)
class RatePoint:
    """What one rate costs and gives, measured over a set of images.

    All after `n_images` is None where it was not measured, as in an older file.

    Args:
      rate_id: name of the rate in its family.
      lmbda: weight of a bit in the training loss, >= 0; None where it is not known.
      bytes_per_image: mean length of real frames that were decoded again before the tail ran.
      estimated_bits_per_image: what the rate's prior charges for the same latents, mean; its
        tables, where it has none.
      bits_per_pixel: 8 · bytes_per_image per pixel of the image that entered the network.
      top1: accuracy through those bytes, 0 … 1.
      n_images: how many images were measured.
      table_bits_per_image: information content of the same latents under the rate's integer
        tables, mean: what an ideal coder would write.
      top1_interval: Wilson's 95 % interval of top-1, both ends 0 … 1.
      top5: share of images whose class is among the five likeliest; None with five classes or less.
      agreement: share of images to which the uncut network gives the same class.
      agreement_interval: its interval.
      bytes_p5, bytes_p95: lengths of frames: at least 5 % (95 %) are as short or shorter.
      device_macs, device_params: multiply-accumulates for an image, and parameters, of head and
        encoder, as of `plan.SplitCost`.
      device_share: device_macs as a share of the uncut network's.
      server_macs, server_params: those of decoder and tail.
      unit_bytes: what a packed family stores for the rate, `FamilyRate.stored_bytes`.
      unit_share: unit_bytes as a share of the backbone's arrays in float32.

    Raises:
      ConfigError: a number is not finite or out of its range.
    """

    rate_id: str
    lmbda: float | None
    bytes_per_image: float
    estimated_bits_per_image: float
    bits_per_pixel: float
    top1: float
    n_images: int
    table_bits_per_image: float | None = None
    top1_interval: Interval | None = None
    top5: float | None = None
    agreement: float | None = None
    agreement_interval: Interval | None = None
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
        if not isinstance(self.rate_id, str) or not self.rate_id:
            raise ConfigError(f"rate_id is {self.rate_id!r}, expected a name")
        for name in ("bytes_per_image", "estimated_bits_per_image", "bits_per_pixel"):
            set_number(self, name)
        set_number(self, "top1", highest=1.0)
        set_count(self, "n_images")
        for name in ("lmbda", *_OPTIONAL):
            if getattr(self, name) is None:
                continue
            if name.endswith("_interval"):
                set_interval(self, name)
            elif name.endswith(("_macs", "_params")) or name == "unit_bytes":
                set_count(self, name)
            else:
                set_number(self, name, 1.0 if name in ("top5", "agreement") else math.inf)


# Added to the file later: left out where it is None, and missing in older files.
_OPTIONAL = tuple(entry.name for entry in fields(RatePoint) if entry.default is None)


@dataclass(frozen=True)
class Curve:
    """The rates of a family on one set of images, and the uncut network on the same.

    Args:
      uncompressed_top1: accuracy of the uncut network, 0 … 1.
      n_images: how many images it was measured on.
      points: one for each rate, under different rate ids.
      uncompressed_top1_interval: Wilson's 95 % interval of that accuracy, both ends 0 … 1.
      uncompressed_top5: share of images whose class is among the five likeliest.
      baselines: image codec → its points over the same images.

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

    def __post_init__(self) -> None:
        set_number(self, "uncompressed_top1", highest=1.0)
        set_count(self, "n_images")
        if self.uncompressed_top1_interval is not None:
            set_interval(self, "uncompressed_top1_interval")
        if self.uncompressed_top5 is not None:
            set_number(self, "uncompressed_top5", highest=1.0)
        object.__setattr__(self, "points", tuple(self.points))
        names = [point.rate_id for point in self.points]
        if len(set(names)) < len(names):
            raise ConfigError(f"two points of a curve have the same rate id: {', '.join(names)}")

    def rate_quality(self) -> list[tuple[float, float]]:
        """(bytes per image, top-1) of every point, as `bd_rate` and `bd_accuracy` take them."""
        return [(point.bytes_per_image, point.top1) for point in self.points]

    def to_json(self) -> str:
        """The text of `curve.json`."""
        uncompressed: dict[str, Any] = {"top1": self.uncompressed_top1, "n_images": self.n_images}
        for key in _UNCOMPRESSED_OPTIONAL:
            if (value := getattr(self, f"uncompressed_{key}")) is not None:
                uncompressed[key] = value
        content: dict[str, Any] = {"uncompressed": uncompressed, "points": []}
        for point in self.points:
            entries = asdict(point).items()
            kept = {k: value for k, value in entries if value is not None or k not in _OPTIONAL}
            content["points"].append({_json_key(name): value for name, value in kept.items()})
        if self.baselines:
            content["baselines"] = {
                codec: [{key: getattr(point, key) for key in _CODEC_KEYS} for point in points]
                for codec, points in self.baselines.items()
            }
        return json.dumps(content, indent=2) + "\n"

    def write(self, path: str | Path) -> None:
        """Writes `curve.json`; a killed write leaves the file that was there.

        Args:
          path: of the file.
        """
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.to_json(), encoding="utf-8", newline="\n")
        os.replace(partial, path)

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


_UNCOMPRESSED_OPTIONAL = ("top1_interval", "top5")
_CODEC_KEYS = ("quality", "bytes_per_image", "header_bytes_per_image", "top1", "agreement")


def _parsed(content: Any) -> Curve:
    check_keys(content, ("uncompressed", "points"), "the file", optional=("baselines",))
    uncompressed, entries = content["uncompressed"], content["points"]
    check_keys(uncompressed, ("top1", "n_images"), "uncompressed", _UNCOMPRESSED_OPTIONAL)
    if not isinstance(entries, list):
        raise ConfigError("points is not a list")
    names = {_json_key(entry.name): entry.name for entry in fields(RatePoint)}
    required = tuple(key for key, name in names.items() if name not in _OPTIONAL)
    points = []
    for number, entry in enumerate(entries):
        check_keys(entry, required, f"points[{number}]", _OPTIONAL)
        points.append(RatePoint(**{names[key]: value for key, value in entry.items()}))
    baselines = content.get("baselines", {})
    check_keys(baselines, (), "baselines", tuple(QUALITIES))
    return Curve(
        uncompressed["top1"],
        uncompressed["n_images"],
        tuple(points),
        uncompressed.get("top1_interval"),
        uncompressed.get("top5"),
        {codec: _codec_points(codec, given) for codec, given in baselines.items()},
    )


def _codec_points(codec: str, entries: Any) -> tuple[CodecPoint, ...]:
    if not isinstance(entries, list):
        raise ConfigError(f"the baseline {codec} is not a list")
    points = []
    for number, entry in enumerate(entries):
        check_keys(entry, _CODEC_KEYS, f"{codec}[{number}]")
        point = CodecPoint(codec, **entry)
        set_count(point, "quality", lowest=0)
        for name in _CODEC_KEYS[1:]:
            set_number(point, name, 1.0 if name in ("top1", "agreement") else math.inf)
        points.append(point)
    return tuple(points)


def _json_key(name: str) -> str:
    return "lambda" if name == "lmbda" else name
