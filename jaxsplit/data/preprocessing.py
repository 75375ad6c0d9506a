"""Preprocessing of a network's input: resize and crop by Pillow, then normalization.

`Preprocessing` belongs to a backbone and is saved with it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

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
_LEAST_STD = 1e-30  # the smallest divisor in float32


_ArrayT = TypeVar("_ArrayT")  # of numpy or jax


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Converts images of any size to a network's input.

    Converts to grey or RGB, scales the shorter side to `resize`, crops the centre to `size` and
    normalizes by `(x / 255 - mean) / std`.

    Attributes:
      size: (height, width) of the network's input, in pixels.
      channels: 1 (grey) or 3 (RGB).
      resize: length of the shorter side before the crop; None: the least that covers `size`, so
        that an image of the right size is unchanged.
      interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`, antialiased by Pillow.
      mean: one per channel or one for all, in units of full scale (0 to 1).
      std: likewise.

    >>> lite0 = Preprocessing((224, 224), 3, 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
    >>> lite0.normalise(lite0.apply(np.full((300, 400, 1), 255, np.uint8)))[2, 3].tolist()
    [1.0, 1.0, 1.0]
    """

    size: tuple[int, int]
    channels: int = 3
    resize: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        # Values from a file may be of any type.
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise ConfigError(f"channels is {self.channels!r}, expected 1 (grey) or 3 (RGB)")
        if not isinstance(self.interpolation, str) or self.interpolation not in _INTERPOLATIONS:
            raise ConfigError(
                f"unknown interpolation {self.interpolation!r}, "
                f"expected one of {', '.join(_INTERPOLATIONS)}"
            )
        size, resize, sides = self.size, self.resize, f"1 … {_LONGEST}"
        if not isinstance(size, tuple) or len(size) != 2 or not all(map(_is_side, size)):
            raise ConfigError(f"size is {size!r}, expected (height, width) in pixels, each {sides}")
        if resize is not None and not _is_side(resize):
            raise ConfigError(f"resize is {resize!r}, expected {sides} pixels")
        if resize is not None and resize < max(size):
            raise ConfigError(
                f"resize is {resize}, expected at least the longer side of the crop {size}"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not all(map(_is_number, values)):
                raise ConfigError(f"{name} is {values!r}, expected a tuple of finite numbers")
            if len(values) not in (1, self.channels):
                raise ConfigError(
                    f"{name} has {len(values)} values, expected 1 or {self.channels} (channels)"
                )
        if min(self.std) < _LEAST_STD:
            raise ConfigError(f"std is {self.std}, expected positive numbers")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the network's input."""
        return (*self.size, self.channels)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Converts to grey or RGB, resizes and crops the centre.

        Args:
          image: uint8 [H, W, 1 or 3].

        Returns:
          uint8 [h, w, channels], contiguous; `image` itself if it already fits.
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
        # The longer side is rounded down as in torchvision, but not below the crop.
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

    def normalise(self, images: _ArrayT) -> _ArrayT:
        """Computes `(x / 255 - mean) / std` in float32, of numpy or jax arrays.

        Args:
          images: uint8 [..., h, w, channels].

        Returns:
          float32, same shape and kind of array.
        """
        # Constants of the images' rank, since implicit rank promotion is an error.
        pixels: Any = images
        rank = (1,) * (pixels.ndim - 1)
        mean = np.asarray(self.mean, np.float32).reshape(*rank, -1)
        std = np.asarray(self.std, np.float32).reshape(*rank, -1)
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as lists, strings and numbers, for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Inverts `to_dict`.

        Args:
          values: name → value, all but `size` optional; a ConfigError if one is unknown or invalid.

        Returns:
          The preprocessing.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"preprocessing is {values!r}, expected keys and values")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(
                f"unknown preprocessing keys {', '.join(unknown)}, "
                f"expected some of {', '.join(sorted(known))}"
            )
        if "size" not in values:
            raise ConfigError("preprocessing lacks the key size; add [height, width]")
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
