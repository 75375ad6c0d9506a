"""Image files and bytes → uint8 arrays, by Pillow alone, so that every source decodes alike."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxsplit.errors import DataError

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
      uint8 [height, width, channels]: 1 channel for grey images, 3 (RGB) for all others;
      transparency is dropped and 16-bit grey is scaled to 8 bits.

    Raises:
      DataError: the file is missing, truncated or not an image.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 2), (10, 20, 30)).save(file, "PNG")
    >>> decode_image(file.getvalue())[1, 3].tolist()
    [10, 20, 30]
    """
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            return _to_array(image)
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them
        name = where or ("an image" if isinstance(encoded, bytes) else str(encoded))
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else _one_line(error)
        raise DataError(f"cannot read {name} as an image: {reason}") from error


def convert(image: Image.Image, channels: int) -> Image.Image:
    """A Pillow image as grey (1 channel, ITU-R 601 luma) or RGB (3 channels)."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _to_array(image: Image.Image) -> np.ndarray:
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow clips 16-bit grey where it should scale
        return np.clip(np.asarray(image, np.int64) >> 8, 0, 255).astype(np.uint8)[..., None]
    grey = image.mode in ("1", "L", "LA", "La", "F")
    array = np.asarray(convert(image, 1 if grey else 3))
    return array[..., None] if grey else array


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # Pillow names its own BytesIO object, which tells a user nothing.
    return "not an image file" if "cannot identify image file" in text else text or repr(error)
