"""Decodes image files to uint8 arrays, by Pillow alone so that all sources decode equally."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxsplit.errors import DataError, JaxsplitWarning, warn_once

#: Suffixes of image files; a folder source ignores other files.
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_GREY = ("1", "L", "LA", "La")  # Pillow's modes, with or without transparency


def decode_image(encoded: bytes | Path, where: str = "") -> np.ndarray:
    """Decodes one image file and applies its EXIF orientation.

    Args:
      encoded: the file's bytes, or its path.
      where: name of the image in errors; default: its path.

    Returns:
      uint8 [height, width, channels]: 1 channel for grey images, 3 (RGB) for all others.
      Transparent parts are composited on white, animations give their first frame, and 16-bit grey
      is scaled to 8 bits.

    Warns:
      JaxsplitWarning: the first transparent and the first animated image of a process.

    Raises:
      DataError: the file is missing, truncated, not an image or too large to decode safely.

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 2), (10, 20, 30)).save(file, "PNG")
    >>> decode_image(file.getvalue())[1, 3].tolist()
    [10, 20, 30]
    """
    name = where or ("an image" if isinstance(encoded, bytes) else str(encoded))
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            # The further pictures of an MPO are previews, not an animation.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                advice = "to use another frame, save it as an image of its own"
                warn_once("animated", f"{name} is animated: only its first frame is used; {advice}")
            return _to_array(image, name)
    except JaxsplitWarning:  # raised if warnings are errors
        raise
    except IsADirectoryError as error:
        raise DataError(f"{name} is a folder: name the image files in it") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} has too many pixels to decode safely; make it smaller") from error
    except Exception as error:  # Pillow's plugins raise errors of any kind on damaged files
        reason = " ".join(str(error).split()) or repr(error)
        if isinstance(error, FileNotFoundError):
            reason = "no such file"
        elif "cannot identify image file" in reason:  # followed by the name of a BytesIO
            reason = "not an image file"
        raise DataError(f"cannot read {name} as an image: {reason}") from error


def convert(image: Image.Image, channels: int) -> Image.Image:
    """Converts a Pillow image to grey (1 channel, ITU-R 601 luma) or RGB (3 channels)."""
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def to_pillow(image: np.ndarray) -> Image.Image:
    """Makes a Pillow image from uint8 [H, W, 1 or 3]."""
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _to_array(image: Image.Image, name: str) -> np.ndarray:
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow would clip 16-bit grey instead of scaling it
        return np.clip(np.asarray(image, np.int64) >> 8, 0, 255).astype(np.uint8)[..., None]
    if image.has_transparency_data:
        image = _on_white(image, name)
    grey = image.mode in (*_GREY, "F")
    array = np.asarray(convert(image, 1 if grey else 3))
    return array[..., None] if grey else array


def _on_white(image: Image.Image, name: str) -> Image.Image:
    """Composites on white: the colours under transparent pixels are arbitrary."""
    layers = image.convert("LA" if image.mode in _GREY else "RGBA")
    alpha = layers.getchannel("A")
    opaque = layers.convert(layers.mode.removesuffix("A"))
    if alpha.getextrema() == (255, 255):
        return opaque
    advice = "for another background, save the image with it"
    warn_once("transparent", f"{name} is partly transparent: composited on white; {advice}")
    white = Image.new(opaque.mode, opaque.size, "white")
    white.paste(opaque, mask=alpha)
    return white
