"""Preprocessing of a network's input: resize and crop by Pillow, then normalization.

`Preprocessing` belongs to a backbone and is saved with it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self, TypeVar

import numpy as np
from PIL import Image

from jaxsplit import _moved
from jaxsplit.data.images import convert, to_pillow
from jaxsplit.data.placement import Placement
from jaxsplit.errors import ConfigError, choices
from jaxsplit.io.fields import build

_FITS = ("crop", "letterbox", "scale")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_LONGEST = 65_535  # pixels of a side, as in JPEG
_MOST_PIXELS = 1 << 26
_MOST_SCALED = 2**24  # pixels of a resized image; of a larger one only the crop is computed
_REACH = 4  # source pixels that an interpolation uses around a position, or more
_LEAST_STD = 1e-30  # the smallest divisor in float32

_ArrayT = TypeVar("_ArrayT")  # of numpy or jax


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Converts images of any size to a network's input.

    Converts to grey or RGB, fits the image into `size` and normalizes by `(x / 255 - mean) / std`.

    Attributes:
      size: (height, width) of the network's input, in pixels.
      channels: 1 (grey) or 3 (RGB).
      resize: length of the shorter side before a crop; None: the least that covers `size`, so
        that an image of the right size is unchanged.
      interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`, antialiased by Pillow.
      mean: one per channel or one for all, in units of full scale (0 to 1).
      std: likewise.
      fit: "crop" scales the shorter side to `resize` and crops the centre; "letterbox" scales the
        whole image into `size`, with `mean` below or to the right; "scale" scales it to `size`
        without keeping its ratio of sides.

    >>> lite0 = Preprocessing((224, 224), 3, 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
    >>> lite0.normalize(lite0.apply(np.full((300, 400, 1), 255, np.uint8)))[2, 3].tolist()
    [1.0, 1.0, 1.0]
    """

    size: tuple[int, int]
    channels: int = 3
    resize: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    fit: str = "crop"

    def __post_init__(self):
        # Values from a file may be of any type.
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise ConfigError(f"channels is {self.channels!r}, expected 1 (grey) or 3 (RGB)")
        if self.interpolation not in _INTERPOLATIONS:
            known = choices(self.interpolation, _INTERPOLATIONS)
            raise ConfigError(f"interpolation is {self.interpolation!r}, expected one of {known}")
        if self.fit not in _FITS:
            known = choices(self.fit, _FITS)
            raise ConfigError(f"fit is {self.fit!r}, expected one of {known}")
        size, resize = self.size, self.resize
        if resize is not None and self.fit != "crop":
            raise ConfigError(f"resize is {resize!r}, expected None: {self.fit!r} crops nothing")
        if not isinstance(size, tuple) or len(size) != 2 or not all(map(_is_side, size)):
            raise ConfigError(f"size is {size!r}, expected (height, width), each 1 … {_LONGEST}")
        if size[0] * size[1] > _MOST_PIXELS:
            raise ConfigError(f"size is {size!r}, expected at most {_MOST_PIXELS} pixels")
        if resize is not None and not (_is_side(resize) and resize >= max(size)):
            raise ConfigError(
                f"resize is {resize!r}, expected None or {max(size)} … {_LONGEST}: at least the "
                f"longer side of the crop {size}"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            fits = isinstance(values, tuple) and len(values) in (1, self.channels)
            if not fits or not all(map(_is_number, values)):
                raise ConfigError(
                    f"{name} is {values!r}, expected 1 or {self.channels} (channels) finite numbers"
                )
        if min(self.std) < _LEAST_STD:
            raise ConfigError(f"std is {self.std}, expected positive numbers")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the network's input."""
        return (*self.size, self.channels)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Converts to grey or RGB, resizes, and crops or pads.

        Args:
          image: uint8 [H, W, 1 or 3].

        Returns:
          uint8 [h, w, channels], contiguous; `image` itself if it already fits.
        """
        if image.shape == self.input_shape and self.resize in (None, min(self.size)):
            return image
        picture = convert(to_pillow(image), self.channels)
        placement = self.placement(image.shape[:2])
        (top, left), (height, width) = placement.corner, placement.window
        scaled, box = placement.scaled[::-1], (left, top, left + width, top + height)
        resampling = Image.Resampling[self.interpolation.upper()]
        if self.fit == "letterbox":
            return self._padded(picture.resize(scaled, resampling))
        if math.prod(scaled) > _MOST_SCALED:
            cropped = _scaled_crop(picture, scaled, box, resampling)
        else:
            resized = picture if scaled == picture.size else picture.resize(scaled, resampling)
            cropped = resized.crop(box)
        return np.asarray(cropped).reshape(self.input_shape)

    def _padded(self, picture: Image.Image) -> np.ndarray:
        """Returns a picture at the top left of the input, with the mean colour around it."""
        colour = np.clip(np.round(255 * np.asarray(self.mean)), 0, 255)
        padded = np.empty(self.input_shape, np.uint8)
        padded[:] = colour.astype(np.uint8)
        pixels = np.asarray(picture).reshape(picture.height, picture.width, self.channels)
        padded[: picture.height, : picture.width] = pixels
        return padded

    def placement(self, image: tuple[int, ...]) -> Placement:
        """Computes where `apply` puts an image, for masks, which follow it there and back.

        Args:
          image: (height, width) of the image.

        Returns:
          The geometry.

        >>> Preprocessing((224, 224), resize=256).placement((300, 400)).corner
        (16, 58)
        >>> Preprocessing((224, 224), fit="letterbox").placement((300, 400)).scaled
        (168, 224)
        """
        height, width = self.size
        if self.fit == "scale":
            return Placement((image[0], image[1]), self.size, (0, 0), self.size)
        if self.fit == "letterbox":
            scale = min(height / image[0], width / image[1])
            inside = (
                min(n, max(1, round(m * scale))) for m, n in zip(image, self.size, strict=True)
            )
            return Placement((image[0], image[1]), (next(inside), next(inside)), (0, 0), self.size)
        if self.resize is None:
            scale = max(height / image[0], width / image[1])
        else:
            scale = self.resize / min(image)
        # The longer side is rounded down as in torchvision, but not below the crop.
        sides = [int(side * scale + 1e-6) for side in image]
        scaled = max(height, sides[0]), max(width, sides[1])
        corner = round((scaled[0] - height) / 2), round((scaled[1] - width) / 2)
        return Placement((image[0], image[1]), scaled, corner, self.size)

    def normalize(self, images: _ArrayT) -> _ArrayT:
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

    normalise = _moved.renamed_method("Preprocessing.normalise", normalize)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as lists, strings and numbers, for JSON; `fit` only if not "crop"."""
        values = dataclasses.asdict(self)
        if self.fit == "crop":  # as in files that were written before there were others
            del values["fit"]
        return {key: list(x) if isinstance(x, tuple) else x for key, x in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverts `to_dict`.

        Args:
          values: name → value, all but `size` optional; a ConfigError if one is unknown or invalid.

        Returns:
          The preprocessing.
        """
        return build(cls, values, what="the preprocessing")


def _scaled_crop(
    picture: Image.Image,
    scaled: tuple[int, int],
    box: tuple[int, int, int, int],
    resampling: Image.Resampling,
) -> Image.Image:
    """Computes `picture.resize(scaled).crop(box)`, up to rounding, without the rest of `scaled`.

    The picture is cropped first because Pillow's source boxes are float32.
    """
    ratios = 2 * (picture.width / scaled[0], picture.height / scaled[1])
    kept = [side * ratio for side, ratio in zip(box, ratios, strict=True)]
    reach = [math.ceil(_REACH * max(1, ratio)) for ratio in ratios[:2]]
    left, top = (max(0, math.floor(x) - r) for x, r in zip(kept[:2], reach, strict=True))
    right, bottom = (
        min(side, math.ceil(x) + r)
        for side, x, r in zip(picture.size, kept[2:], reach, strict=True)
    )
    near = picture.crop((left, top, right, bottom))
    inside = kept[0] - left, kept[1] - top, kept[2] - left, kept[3] - top
    return near.resize((box[2] - box[0], box[3] - box[1]), resampling, inside)


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= _LONGEST


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e30  # finite in float32 too
