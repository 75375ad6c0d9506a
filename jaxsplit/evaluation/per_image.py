"""Frame length, prediction and statistics of every image at every rate: `images.npz`.

The file lies beside `curve.json`: a NumPy archive, read without pickles.

    version     int64 []            1, or 2 with the last two
    rate_ids    str [rates]         in the order of the curve's points
    bytes       int32 [rates, N]    length of the frame that was decoded again
    predicted   int32 [rates, N]    what the tail predicted from the decoded frame: a class, or
                                    the CRC-32 of a larger prediction
    labels      int32 [N]           the targets, in the same form; missing without labels
    uncut       int32 [N]           `unsplit`: what the unsplit network predicted
    rates.NAME  [rates, N, …]       statistics of a metric, see `Task.measure`
    unsplit.NAME  [N, …]            those of the unsplit network

Without statistics a file has the metrics "top1" and "agreement": equal classes. Without labels it
has only the agreement.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsplit._moved import renamed_field
from jaxsplit.errors import ConfigError, DataError, choices
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.drawn import NOTHING, Drawn
from jaxsplit.io.files import read_file, write_whole
from jaxsplit.tasks import AGREEMENT, Metric

#: Name of the file in a folder that `jaxsplit evaluate --out` writes.
FILE = "images.npz"

# Name of an array in the file → its field.
_ARRAYS = {name: name for name in ("rate_ids", "bytes", "predicted", "labels")}
_ARRAYS["uncut"] = "unsplit"
_PERHAPS = "labels"  # of these
# What a damaged archive raises in NumPy and zipfile.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, EOFError, NotImplementedError)
# A small archive may unpack to any size.
_MOST_BYTES = 2**31
_RATES, _UNSPLIT = "rates.", "unsplit."


class Statistics(NamedTuple):
    """A metric's statistics of N images: of the rates [rates, N, …], the unsplit network [N, …]."""

    rates: np.ndarray
    unsplit: np.ndarray

    def values(self, metric: Metric) -> tuple[np.ndarray, float]:
        """Returns the metric of the rates [rates], and of the unsplit network."""
        rates = metric.value(self.rates.mean(axis=1, dtype=np.float64))
        return rates, float(metric.value(self.unsplit.mean(axis=0, dtype=np.float64)))


@renamed_field("uncut", "unsplit")
@dataclass(frozen=True, eq=False)
class PerImage:
    """Sizes and predictions of N images at every rate.

    Args:
      rate_ids: names of the rates.
      bytes: integers [rates, N], length of each frame.
      predicted: integers [rates, N], the class that was predicted from the frame, or a checksum
        of a larger prediction, see `checksums`.
      labels: integers [N], the targets likewise; None for images without labels.
      unsplit: integers [N], the predictions of the unsplit network.
      measured: metric → its statistics; empty for top-1, which follows from the predictions.
      drawn: pictures of a few images, which the file does not have.

    Raises:
      ConfigError: shapes don't fit, an array is not of integers, a size is negative, or two rates
        share an id.

    >>> one = PerImage(("r0",), [[52, 48, 50]], [[7, 1, 3]], labels=[7, 1, 2], unsplit=[7, 2, 3])
    >>> one.statistics("top1").rates, one.statistics("agreement").unsplit
    (array([[ True,  True, False]]), array([ True,  True,  True]))
    """

    rate_ids: tuple[str, ...]
    bytes: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray | None
    unsplit: np.ndarray
    measured: Mapping[str, Statistics] = field(default_factory=dict)
    drawn: Drawn = NOTHING

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate_ids", tuple(map(str, self.rate_ids)))
        if not self.rate_ids or len(set(self.rate_ids)) < len(self.rate_ids):
            raise ConfigError(f"the rate ids are {list(self.rate_ids)}, expected different names")
        count = self.n_images
        one, each = (count,), (len(self.rate_ids), count)
        shapes = {"bytes": each, "predicted": each, "labels": one, "unsplit": one}
        if self.labels is None:
            del shapes["labels"]
        for name, shape in shapes.items():
            array = np.asarray(getattr(self, name))
            if array.shape != shape or not count or not np.issubdtype(array.dtype, np.integer):
                raise ConfigError(
                    f"{name} is {array.dtype} {list(array.shape)}, expected integers "
                    f"{list(shape)} of at least one image"
                )
            object.__setattr__(self, name, array.astype(np.int64))
        if self.bytes.min() < 0:
            raise ConfigError(f"an image has {self.bytes.min()} bytes")
        for name, (rates, unsplit) in self.measured.items():
            numbers = not {rates.dtype.kind, unsplit.dtype.kind} - set("biuf")
            fits = rates.shape == (*each, *unsplit.shape[1:]) and unsplit.shape[:1] == one
            if not (numbers and fits):
                raise ConfigError(
                    f"statistics of {name} are {rates.dtype} {list(rates.shape)} and "
                    f"{list(unsplit.shape)}, expected numbers {[*each, '…']} and {[*one, '…']}"
                )

    @property
    def n_images(self) -> int:
        """Number of images."""
        return np.size(self.unsplit)

    def statistics(self, metric: str) -> Statistics:
        """Returns the statistics of a metric; a ConfigError where they were not kept."""
        if metric in self.measured:
            return self.measured[metric]
        known: tuple[str, ...] = (AGREEMENT,) if self.labels is None else ("top1", AGREEMENT)
        if self.measured or metric not in known:
            known = tuple(self.measured) or known
            raise ConfigError(f"unknown metric {metric!r}; choose {choices(metric, known, ' or ')}")
        truth = self.labels if metric == "top1" else self.unsplit
        return Statistics(self.predicted == truth, self.unsplit == truth)

    def same_images(self, other: "PerImage") -> bool:
        """Returns whether both have the same labels, or none, and the same unsplit predictions."""
        return np.array_equal(self.unsplit, other.unsplit) and (
            self.labels is other.labels
            if self.labels is None or other.labels is None
            else np.array_equal(self.labels, other.labels)
        )

    def belongs_to(self, curve: Curve) -> bool:
        """Returns whether the curve is the mean over these images."""
        counts = {curve.n_images, self.n_images, *(point.n_images for point in curve.points)}
        if self.rate_ids != tuple(point.rate_id for point in curve.points) or len(counts) > 1:
            return False
        if (self.labels is not None) != curve.labelled:
            return False
        metric = curve.metric(curve.quality)
        try:
            statistics = self.statistics(curve.quality)
        except ConfigError:
            return False
        if statistics.unsplit.ndim != (3 if metric.ratios else 1):
            return False
        rates, unsplit = statistics.values(metric)
        points = np.stack([self.bytes.mean(axis=1), rates], axis=1)
        known = not curve.labelled or np.isclose(curve.unsplit[curve.quality].mean, unsplit)
        return bool(known and np.allclose(curve.rate_quality(), points, rtol=1e-9, atol=0))

    def write(self, path: str | Path) -> None:
        """Writes the file; a killed write leaves the one that was there."""
        rows = {name: getattr(self, field) for name, field in _ARRAYS.items() if name != "rate_ids"}
        arrays = {name: row.astype(np.int32) for name, row in rows.items() if row is not None}
        for name, (rates, unsplit) in self.measured.items():
            arrays |= {_RATES + name: rates, _UNSPLIT + name: unsplit}
        file = io.BytesIO()
        version = np.int64(2 if self.measured else 1)
        np.savez_compressed(file, version=version, rate_ids=np.array(self.rate_ids), **arrays)
        write_whole(Path(path), file.getvalue())

    @classmethod
    def read(cls, path: str | Path) -> "PerImage":
        """Reads what `write` wrote.

        Raises:
          DataError: the file is missing, damaged, or not of this schema.
        """
        file = io.BytesIO(read_file(Path(path)))
        try:
            with zipfile.ZipFile(file) as packed:
                if (size := sum(one.file_size for one in packed.infolist())) > _MOST_BYTES:
                    raise ConfigError(f"{size} bytes unpacked, expected at most {_MOST_BYTES}")
            with np.load(file, allow_pickle=False) as archive:
                names = [name for name in _ARRAYS if name != _PERHAPS or name in archive]
                found: dict[str, Any] = {_PERHAPS: None}
                found |= {_ARRAYS[name]: archive[name] for name in names}
                measured = {
                    name: Statistics(archive[key], archive[_UNSPLIT + name])
                    for key in archive
                    if (name := key.removeprefix(_RATES)) != key
                }
                version = archive["version"]
                if version.shape or version != (2 if measured else 1):
                    raise ConfigError(f"version {version}, expected 1, or 2 with statistics")
            return cls(**found, measured=measured)
        except (*_DAMAGE, MemoryError, zipfile.BadZipFile, zlib.error, ConfigError) as error:
            raise DataError(
                f"{path} holds no per-image records: {error}; write one with jaxsplit evaluate "
                "--out"
            ) from error


def checksums(predictions: np.ndarray) -> np.ndarray:
    """Returns 32 bits for each of N predictions, int64 [N]: itself, or the CRC-32 of a larger one.

    >>> checksums(np.array([7, 3])), len(set(checksums(np.eye(3, dtype=np.int32)).tolist()))
    (array([7, 3]), 3)
    """
    whole = np.issubdtype(predictions.dtype, np.integer)
    if whole and predictions.ndim == 1:
        return predictions.astype(np.int64)
    rows = np.ascontiguousarray(predictions, np.int32 if whole else None)
    rows = rows.reshape(len(predictions), -1)
    return np.array([zlib.crc32(row.tobytes()) for row in rows]).astype(np.int32).astype(np.int64)
