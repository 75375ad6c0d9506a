"""Rate–accuracy curves: their points and their file.

The file is the `curve.json` that `quickstart`, `train` and `evaluate` write. Its numbers are the
shortest decimals that read back as the same float64, so equal curves are equal files.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jaxsplit.errors import ConfigError, DataError
from jaxsplit.evaluation.bd import bd_accuracy as bd_accuracy
from jaxsplit.evaluation.bd import bd_rate as bd_rate

# Added to the file later: left out where it is None, and missing in older files.
_OPTIONAL = ("table_bits_per_image",)


@dataclass(frozen=True)
class RatePoint:
    """What one rate costs and gives, measured over a set of images.

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
        tables, mean: what an ideal coder would write; None in a file of before it was measured.

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

    def __post_init__(self) -> None:
        if not isinstance(self.rate_id, str) or not self.rate_id:
            raise ConfigError(f"rate_id is {self.rate_id!r}, expected a name")
        for name in ("bytes_per_image", "estimated_bits_per_image", "bits_per_pixel"):
            _set_number(self, name)
        for name in ("lmbda", "table_bits_per_image"):
            if getattr(self, name) is not None:
                _set_number(self, name)
        _set_number(self, "top1", highest=1.0)
        _set_count(self, "n_images")


@dataclass(frozen=True)
class Curve:
    """The rates of a family on one set of images, and the uncut network on the same.

    Args:
      uncompressed_top1: accuracy of the uncut network, 0 … 1.
      n_images: how many images it was measured on.
      points: one for each rate, under different rate ids.

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

    def __post_init__(self) -> None:
        _set_number(self, "uncompressed_top1", highest=1.0)
        _set_count(self, "n_images")
        object.__setattr__(self, "points", tuple(self.points))
        names = [point.rate_id for point in self.points]
        if len(set(names)) < len(names):
            raise ConfigError(f"two points of a curve have the same rate id: {', '.join(names)}")

    def rate_quality(self) -> list[tuple[float, float]]:
        """(bytes per image, top-1) of every point, as `bd_rate` and `bd_accuracy` take them."""
        return [(point.bytes_per_image, point.top1) for point in self.points]

    def to_json(self) -> str:
        """The text of `curve.json`."""
        points = [
            {
                _json_key(name): value
                for name, value in asdict(point).items()
                if value is not None or name not in _OPTIONAL
            }
            for point in self.points
        ]
        uncompressed = {"top1": self.uncompressed_top1, "n_images": self.n_images}
        return json.dumps({"uncompressed": uncompressed, "points": points}, indent=2) + "\n"

    def write(self, path: str | Path) -> None:
        """Writes `curve.json`; a killed write leaves the file that was there."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.to_json(), encoding="utf-8", newline="\n")
        os.replace(partial, path)

    @classmethod
    def read(cls, path: str | Path) -> "Curve":
        """Reads what `write` wrote.

        Raises:
          DataError: the file is missing, not JSON, or not of this schema.
        """
        try:
            content = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not a rate–accuracy curve: not JSON ({error})") from error
        try:
            _check_keys(content, ("uncompressed", "points"), "the file")
            _check_keys(content["uncompressed"], ("top1", "n_images"), "uncompressed")
            if not isinstance(content["points"], list):
                raise ConfigError("points is not a list")
            names = tuple(RatePoint.__dataclass_fields__)
            points = []
            for number, entry in enumerate(content["points"]):
                keys = entry if isinstance(entry, dict) else ()
                present = [name for name in names if name not in _OPTIONAL or name in keys]
                _check_keys(entry, tuple(map(_json_key, present)), f"points[{number}]")
                points.append(RatePoint(**{name: entry[_json_key(name)] for name in present}))
            uncompressed = content["uncompressed"]
            return cls(uncompressed["top1"], uncompressed["n_images"], tuple(points))
        except ConfigError as error:
            raise DataError(
                f"{path} is not a rate–accuracy curve: {error}; write one with jaxsplit evaluate"
            ) from error


def _json_key(name: str) -> str:
    return "lambda" if name == "lmbda" else name


def _check_keys(value: object, expected: tuple[str, ...], where: str) -> None:
    if not isinstance(value, dict) or set(value) != set(expected):
        got = f"the keys {sorted(value)}" if isinstance(value, dict) else type(value).__name__
        raise ConfigError(f"{where} has {got}, expected {sorted(expected)}")


def _set_number(instance: object, name: str, highest: float = math.inf) -> None:
    value = getattr(instance, name)
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not 0 <= value <= highest:
        raise ConfigError(f"{name} is {value!r}, expected a number from 0 to {highest:g}")
    object.__setattr__(instance, name, float(value))


def _set_count(instance: object, name: str) -> None:
    value = getattr(instance, name)
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}, expected a whole number of at least 1")
    object.__setattr__(instance, name, int(value))
