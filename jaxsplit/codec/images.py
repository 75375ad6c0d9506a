"""Images as a caller has them, arrays, Pillow's images or files, as input of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from jaxsplit.data import Preprocessing, decode_image
from jaxsplit.errors import DataError, FamilyError

_LONGEST = 16  # times the other side of an image that is given as [H, W]
_CHANNELS = (1, 3, 4)  # grey, RGB, RGB with transparency

#: One image: uint8 [H, W] or [H, W, c], an image of Pillow, a path, a file's bytes, an open file,
#: or an example of a `data.Source`.
OneImage = ArrayLike | Image.Image | str | Path | bytes | BinaryIO | Mapping[str, object]
#: One image, an array uint8 [N, H, W, c], or any iterable of images of any sizes.
Images = OneImage | Iterable[OneImage]


class Inputs(NamedTuple):
    """Images uint8 [N, h, w, channels] as a network takes them, and the (H, W) that each had."""

    images: np.ndarray
    sizes: list[tuple[int, int]]


def network_inputs(images: Images, preprocessing: Preprocessing, name: str) -> Inputs:
    """Converts images to what a network takes, all but the normalization.

    An array of the network's own input shape is taken as it is. All others are decoded, converted
    to the network's channels, resized and cropped, to the pixel as `jaxsplit encode` does it.

    Args:
      images: one or several. A network of grey images also takes uint8 [N, h, w] of its own size.
      preprocessing: of the network.
      name: of the network, for errors.

    Returns:
      The images; N is 1 for one image.

    Raises:
      FamilyError: arrays of another dtype or with other axes, or no images.
      DataError: an image cannot be read.

    >>> grey = Preprocessing((2, 2), 1)
    >>> inputs = network_inputs(np.full((4, 6, 3), 7, np.uint8), grey, "own")
    >>> inputs.images[..., 0].tolist(), inputs.sizes
    ([[[7, 7], [7, 7]]], [(4, 6)])
    """
    shape = preprocessing.input_shape
    several: Iterable[object]
    if hasattr(images, "read"):
        images = images.read()  # of an open file
    if hasattr(images, "__array__") and not isinstance(images, Image.Image):
        several = array = _rows(images, preprocessing, name)
        if array.shape[1:] == shape:
            return Inputs(array, [shape[:2]] * len(array))
    elif isinstance(images, Image.Image | str | Path | bytes | Mapping):
        several = [images]
    else:
        several = _iterated(images, name)
    found, sizes = [], []
    for number, one in enumerate(several):
        try:
            pixels, size = _input(one, preprocessing, name)
            found.append(pixels)
            sizes.append(size)
        except (FamilyError, DataError) as error:
            if several is not images:  # an array, or one image, which is named
                raise
            raise type(error)(f"image {number}: {error}") from error
    return Inputs(np.array(found, np.uint8).reshape(-1, *shape), sizes)


def _input(
    image: object, preprocessing: Preprocessing, name: str
) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns one image as uint8 [h, w, channels], and the (H, W) that it had."""
    if isinstance(image, Mapping) and "image" in image:
        image = image["image"]
    if isinstance(image, Image.Image | str | Path | bytes):
        return _applied(decode_image(image), preprocessing)
    if not hasattr(image, "__array__"):
        raise FamilyError(f"it is a {type(image).__name__}; {_expected(name)}")
    rows = _rows(image, preprocessing, name)
    if len(rows) != 1:
        raise FamilyError(f"it is {len(rows)} images of {rows.shape[1:]}; give each of them alone")
    pixels: np.ndarray = rows[0]
    if pixels.shape == preprocessing.input_shape:
        return pixels, preprocessing.size
    if pixels.shape[2] == 4:
        pixels = decode_image(Image.fromarray(pixels))
    return _applied(pixels, preprocessing)


def _applied(
    pixels: np.ndarray, preprocessing: Preprocessing
) -> tuple[np.ndarray, tuple[int, int]]:
    return preprocessing.apply(pixels), (pixels.shape[0], pixels.shape[1])


def _rows(images: object, preprocessing: Preprocessing, name: str) -> np.ndarray:
    """Returns an array of one or several images as uint8 [N, H, W, 1, 3 or 4]."""
    try:
        array = np.asarray(images)
    except (TypeError, ValueError, RuntimeError) as error:  # such as a tensor on an accelerator
        text = " ".join(str(error).split())
        raise FamilyError(f"images of {type(images).__name__} are no array: {text}") from error
    shape, last = array.shape, (array.shape or (0,))[-1]
    stacked = preprocessing.channels == 1 and shape[1:] == preprocessing.size
    if array.dtype != np.uint8:
        advice = {
            "f": "; from 0 to 1: (255 * images).round().astype(np.uint8)",
            "i": ": images.astype(np.uint8)",
        }.get(array.dtype.kind, "")
        raise FamilyError(
            f"images are {array.dtype} {shape}; {_expected(name)} from 0 to 255, which is "
            f"normalized inside{advice}"
        )
    if array.ndim == 2 and max(shape) > _LONGEST * min(shape):
        size = ", ".join(map(str, preprocessing.size))
        raise FamilyError(
            f"images are uint8 {shape}, one image of unlikely sides; flat ones need their shape: "
            f"images.reshape(-1, {size}, {preprocessing.channels})"
        )
    if array.ndim == 2 or (array.ndim == 3 and stacked and last not in _CHANNELS):
        array = array[..., np.newaxis]
    if array.ndim == 3 and array.shape[-1] in _CHANNELS:
        array = array[np.newaxis]
    if array.ndim != 4 or array.shape[-1] not in _CHANNELS or 0 in array.shape[1:]:
        first = array.ndim in (3, 4) and shape[-3] in _CHANNELS
        axes = "(0, 2, 3, 1)" if array.ndim == 4 else "(1, 2, 0)"
        advice = f": move the channels to the end, as in images.transpose{axes}" if first else ""
        raise FamilyError(f"images are uint8 {shape}; {_expected(name)}{advice}")
    return array


def _iterated(images: object, name: str) -> Iterable[object]:
    try:
        iter(images)  # type: ignore[call-overload]  # a `data.Source` has no __iter__
    except TypeError:
        raise FamilyError(f"images are a {type(images).__name__}; {_expected(name)}") from None
    return images  # type: ignore[return-value]


def _expected(name: str) -> str:
    return f"{name} takes files, Pillow's images, or arrays uint8 [N, H, W, 1 or 3]"
