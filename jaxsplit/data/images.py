"""Image files and bytes → uint8 arrays, by Pillow alone, so that every source decodes alike."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxsplit.errors import DataError, JaxsplitWarning, warn_once

#: File names that a folder of images is searched for; anything else in it is left alone.
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def decode_image(encoded: bytes | Path, where: str = "") -> np.ndarray:
    """Decodes one image file, turned upright where its EXIF data says so.

    Args:
      encoded: the file's bytes, or its path.
      where: what an error calls the image; a path speaks for itself.

    Returns:
      uint8 [height, width, channels]: 1 channel for grey images, 3 (RGB) for all others.
      Transparent parts are shown on white, as a page would; of an animation the first frame is
      taken; 16-bit grey is scaled to 8 bits.

    Warns:
      JaxsplitWarning: the first time that something was transparent, or animated.

    Raises:
      DataError: the file is missing, truncated, not an image or too large to be safe.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 2), (10, 20, 30)).save(file, "PNG")
    >>> decode_image(file.getvalue())[1, 3].tolist()
    [10, 20, 30]
    """
    name = where or ("an image" if isinstance(encoded, bytes) else str(encoded))
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            # The second picture of an MPO is a preview, which nobody means.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                warn_once(
                    "animated",
                    f"{name} is animated: only its first frame is taken; if another one is meant, "
                    "save it as an image of its own",
                )
            return _to_array(image, name)
    except JaxsplitWarning:  # where warnings are errors
        raise
    except IsADirectoryError as error:
        raise DataError(f"{name} is a folder: name the image files in it") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name} has more pixels than are safe to decode: make it smaller"
        ) from error
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else _one_line(error)
        raise DataError(f"cannot read {name} as an image: {reason}") from error


def convert(image: Image.Image, channels: int) -> Image.Image:
    """A Pillow image as grey (1 channel, ITU-R 601 luma) or RGB (3 channels)."""
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _to_array(image: Image.Image, name: str) -> np.ndarray:
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow clips 16-bit grey where it should scale
        return np.clip(np.asarray(image, np.int64) >> 8, 0, 255).astype(np.uint8)[..., None]
    if image.has_transparency_data:
        image = _on_white(image, name)
    grey = image.mode in ("1", "L", "LA", "La", "F")
    array = np.asarray(convert(image, 1 if grey else 3))
    return array[..., None] if grey else array


def _on_white(image: Image.Image, name: str) -> Image.Image:
    """What lies under transparent pixels is whatever a program left there: it isn't shown."""
    layers = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    alpha = layers.getchannel("A")
    opaque = layers.convert(layers.mode.removesuffix("A"))
    if alpha.getextrema() == (255, 255):
        return opaque
    warn_once(
        "transparent",
        f"{name} is transparent in parts: they are shown on white; if another background is "
        "meant, save the image on it",
    )
    white = Image.new(opaque.mode, opaque.size, "white")
    white.paste(opaque, mask=alpha)
    return white


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # Pillow names its own BytesIO object, which tells a user nothing.
    return "not an image file" if "cannot identify image file" in text else text or repr(error)
