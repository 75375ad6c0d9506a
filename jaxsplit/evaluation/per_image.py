"""Frame length and prediction of every image at every rate: `images.npz`, beside `curve.json`.

The file is a NumPy archive, read without pickles:

    version     int64 []            1
    rate_ids    str [rates]         in the order of the curve's points
    bytes       int32 [rates, N]    length of the frame that was decoded again
    predicted   int32 [rates, N]    class that the tail predicted from the decoded frame
    labels      int32 [N]
    uncut       int32 [N]           class that the unsplit network predicted

`evaluation.bootstrap` computes confidence intervals of the distance of two curves from it.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxsplit.errors import ConfigError, DataError
from jaxsplit.evaluation.curve import Curve
from jaxsplit.io.files import write_whole

#: Name of the file in a folder that `jaxsplit evaluate --out` writes.
FILE = "images.npz"

_VERSION = 1
_ARRAYS = {"rate_ids": 1, "bytes": 2, "predicted": 2, "labels": 1, "uncut": 1}  # their ranks
_QUALITIES = ("top1", "agreement")


@dataclass(frozen=True, eq=False)
class PerImage:
    """Sizes and predictions of N images at every rate.

    Args:
      rate_ids: names of the rates.
      bytes: integers [rates, N], length of each frame.
      predicted: integers [rates, N], the class that was predicted from the frame.
      labels: integers [N], the true class.
      uncut: integers [N], the class that the unsplit network predicts.

    Raises:
      ConfigError: shapes don't fit, an array is not of integers, a size is negative, or two rates
        share an id.

    >>> one = PerImage(("r0",), [[52, 48, 50]], [[7, 1, 3]], labels=[7, 1, 2], uncut=[7, 2, 3])
    >>> one.correct("top1").mean(), one.correct("agreement").mean(), one.bytes.mean()
    (np.float64(0.6666666666666666), np.float64(0.6666666666666666), np.float64(50.0))
    """

    rate_ids: tuple[str, ...]
    bytes: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray
    uncut: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate_ids", tuple(map(str, self.rate_ids)))
        if not self.rate_ids or len(set(self.rate_ids)) < len(self.rate_ids):
            raise ConfigError(f"the rate ids are {list(self.rate_ids)}, expected different names")
        count = np.size(self.labels)
        one, each = (count,), (len(self.rate_ids), count)
        shapes = {"bytes": each, "predicted": each, "labels": one, "uncut": one}
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

    def correct(self, quality: str) -> np.ndarray:
        """Returns bool [rates, N]: equal to the label ("top1") or the unsplit network's class."""
        return self.predicted == self._truth(quality)

    def uncut_correct(self, quality: str) -> np.ndarray:
        """Returns bool [N]: the same for the unsplit network, which always agrees with itself."""
        return self.uncut == self._truth(quality)

    def _truth(self, quality: str) -> np.ndarray:
        if quality not in _QUALITIES:
            raise ConfigError(f"unknown quality {quality!r}; choose {' or '.join(_QUALITIES)}")
        return self.labels if quality == "top1" else self.uncut

    def same_images(self, other: "PerImage") -> bool:
        """Returns whether labels and predictions of the unsplit network are equal."""
        return np.array_equal(self.labels, other.labels) and np.array_equal(self.uncut, other.uncut)

    def belongs_to(self, curve: Curve) -> bool:
        """Returns whether the curve is the mean over these images."""
        points = [(point.bytes_per_image, point.top1) for point in curve.points]
        means = np.stack([self.bytes.mean(axis=1), self.correct("top1").mean(axis=1)], axis=1)
        return (
            self.rate_ids == tuple(point.rate_id for point in curve.points)
            and {len(self.labels)} == {curve.n_images, *(p.n_images for p in curve.points)}
            and np.allclose(points, means, rtol=1e-9, atol=0)
            and np.isclose(curve.uncompressed_top1, self.uncut_correct("top1").mean())
        )

    def write(self, path: str | Path) -> None:
        """Writes the file; a killed write leaves the one that was there."""
        numbers = {name: getattr(self, name).astype(np.int32) for name in list(_ARRAYS)[1:]}
        file = io.BytesIO()
        np.savez_compressed(
            file, version=np.int64(_VERSION), rate_ids=np.array(self.rate_ids), **numbers
        )
        write_whole(Path(path), file.getvalue())

    @classmethod
    def read(cls, path: str | Path) -> "PerImage":
        """Reads what `write` wrote.

        Raises:
          DataError: the file is missing, damaged, or not of this schema.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                found = {name: archive[name] for name in ("version", *_ARRAYS)}
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            raise _damaged(path, error) from error
        except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise _damaged(path, error) from error
        version = found.pop("version")
        if version.shape or version != _VERSION:
            raise DataError(f"{path} has version {version}, expected {_VERSION}")
        try:
            for name, rank in _ARRAYS.items():
                if found[name].ndim != rank:
                    raise ConfigError(f"{name} has {found[name].ndim} axes, expected {rank}")
            return cls(**found)
        except ConfigError as error:
            raise _damaged(path, error) from error


def _damaged(path: str | Path, error: Exception) -> DataError:
    return DataError(
        f"{path} holds no per-image records: {error}; write one with jaxsplit evaluate --out"
    )
