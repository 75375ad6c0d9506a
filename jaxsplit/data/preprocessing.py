"""What happens to an image before the network: geometry by Pillow, then one affine map.

`Preprocessing` belongs to a backbone and is written down with it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from jaxsplit.data.images import convert
from jaxsplit.errors import ConfigError

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_LONGEST = 65_535  # pixels of a side, as in JPEG
_LEAST_STD = 1e-30  # float32 divides by it


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From any image to a network's input.

    The image becomes grey or RGB, its shorter side is scaled to `resize`, the centre is cut to
    `size`, and `(x / 255 - mean) / std` makes floats of it.

    Attributes:
      size: (height, width) of the network's input, in pixels.
      channels: 1 (grey) or 3 (RGB).
      resize: length of the shorter side before the crop; None: just enough to cover `size`,
        so that an image of the right size stays as it is.
      interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`, antialiased as Pillow does.
      mean: one per channel, in units of full scale (0 to 1).
      std: likewise.

    >>> lite0 = Preprocessing((224, 224), 3, 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
    >>> lite0.apply(np.zeros((300, 400, 1), np.uint8)).shape
    (224, 224, 3)
    >>> lite0.normalise(np.full((2, 224, 224, 3), 255, np.uint8))[1, 2, 3].tolist()
    [1.0, 1.0, 1.0]
    >>> Preprocessing.from_dict(lite0.to_dict()) == lite0
    True
    """

    size: tuple[int, int]
    channels: int = 3
    resize: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        # The values may come from a file: of any type.
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise ConfigError(f"channels must be 1 or 3, not {self.channels!r}")
        if not isinstance(self.interpolation, str) or self.interpolation not in _INTERPOLATIONS:
            raise ConfigError(
                f"unknown interpolation {self.interpolation!r}: "
                f"expected one of {', '.join(_INTERPOLATIONS)}"
            )
        size = self.size
        if not isinstance(size, tuple) or len(size) != 2 or not all(map(_is_side, size)):
            raise ConfigError(
                f"size must be (height, width) in pixels, 1 … {_LONGEST}; got {size!r}"
            )
        if self.resize is not None and not _is_side(self.resize):
            raise ConfigError(f"resize must be 1 … {_LONGEST} pixels, not {self.resize!r}")
        if self.resize is not None and self.resize < max(size):
            raise ConfigError(f"resize {self.resize} leaves too little for a crop of {size}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not all(map(_is_number, values)):
                raise ConfigError(f"{name} must be finite numbers, not {values!r}")
            if len(values) not in (1, self.channels):
                raise ConfigError(f"{name} has {len(values)} values for {self.channels} channels")
        if min(self.std) < _LEAST_STD:
            raise ConfigError(f"std must be positive, not {self.std}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the network's input."""
        return (*self.size, self.channels)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The geometry: grey or RGB, resize, centre crop.

        Args:
          image: uint8 [H, W, 1 or 3].

        Returns:
          uint8 [h, w, channels], contiguous; the image itself where nothing is to be done.
        """
        if image.shape == self.input_shape and self.resize in (None, min(self.size)):
            return image
        picture = convert(
            Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), self.channels
        )
        height, width = self.size
        if self.resize is None:
            scale = max(height / picture.height, width / picture.width)
        else:
            scale = self.resize / min(picture.size)
        # The longer side is rounded down, as is usual, but never below the crop.
        scaled = (
            max(width, int(picture.width * scale + 1e-6)),
            max(height, int(picture.height * scale + 1e-6)),
        )
        if scaled != picture.size:
            picture = picture.resize(scaled, _INTERPOLATIONS[self.interpolation])
        left = round((scaled[0] - width) / 2)
        top = round((scaled[1] - height) / 2)
        cropped = np.asarray(picture.crop((left, top, left + width, top + height)))
        return cropped.reshape(self.input_shape)

    def normalise(self, images: Any) -> Any:
        """`(x / 255 - mean) / std` in float32; numpy in, numpy out, and the same for jax.

        Args:
          images: uint8 [..., h, w, channels].

        Returns:
          float32, same shape.
        """
        # Constants get the rank of the images: ranks don't promote silently here.
        rank = (1,) * (images.ndim - 1)
        mean = np.asarray(self.mean, np.float32).reshape(*rank, -1)
        std = np.asarray(self.std, np.float32).reshape(*rank, -1)
        return (images.astype(np.float32) / np.float32(255) - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, ready for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`.

        Args:
          values: name → value; all but `size` have defaults.

        Returns:
          The preprocessing.

        Raises:
          ConfigError: a key is unknown or missing, or a value doesn't fit.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"preprocessing is made of keys and values, not {values!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown preprocessing keys: {', '.join(unknown)}")
        if "size" not in values:
            raise ConfigError("preprocessing lacks its size")
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= _LONGEST


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e30  # finite in float32 too
