"""Decodes image files to uint8 arrays, by Pillow alone so that all sources decode equally.

Only raster formats that Pillow decodes itself are opened. Files whose decoding is ambiguous (depth,
range, transparency) or takes more than about 1 GiB are refused.
"""

import functools
import io
import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from jaxsplit.errors import DataError, JaxsplitWarning, warn_once

#: Formats that are decoded, by Pillow's names. Others call programs (EPS), are stubs or too rare.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "AVIF", "JPEG2000")
# Those of Pillow's plugins that `Image.open` always loads.
_LOADED = ("PNG", "JPEG", "GIF", "BMP", "PPM")
HEIC_ADVICE = "convert HEIC to JPEG, for example with heif-convert of libheif"
_GREY = ("1", "L", "LA", "La")  # Pillow's modes, with or without transparency
_MEMORY = 900 * 2**20  # bytes for one image
# Measured at their worst: with transparency or progressive, including the array.
_BYTES_PER_PIXEL = {"AVIF": 20, "JPEG2000": 26, "WEBP": 22}
_OTHER_BYTES_PER_PIXEL = 13
_BAND = 2**20  # pixels converted at a time
_HEIF = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
_TILE_WIDTH, _TILE_LENGTH, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 322, 323, 258, 262, 339  # of TIFF
_ORIENTATION = 0x0112  # of EXIF


@functools.cache
def suffixes() -> frozenset[str]:
    """Returns Pillow's suffixes of the files of `FORMATS`; a folder source ignores other files."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, form in known.items() if form in (*FORMATS, "MPO"))


def decode_image(encoded: bytes | str | Path | Image.Image, where: str = "") -> np.ndarray:
    """Decodes one image file and applies its orientation (EXIF, XMP or the container's).

    Args:
      encoded: the file's bytes, or its path; or an image of Pillow, whose current frame is taken
        and which stays as it is.
      where: name of the image in errors; default: its path.

    Returns:
      uint8 [height, width, channels]: 1 channel for grey images, 3 (RGB) for all others.
      Transparent parts are composited on white, animations give their first frame, and 12-bit and
      16-bit grey is scaled to 8 bits.

    Warns:
      JaxsplitWarning: the first transparent, the first animated and the first 16-bit image of a
        process that uses less than a quarter of its range.

    Raises:
      DataError: the file is missing, truncated, not of `FORMATS`, too large to decode safely, or
        its values have no defined range: 32-bit, signed or floating-point samples.

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 2), (10, 20, 30)).save(file, "PNG")
    >>> decode_image(file.getvalue())[1, 3].tolist()
    [10, 20, 30]
    """
    encoded = Path(encoded) if isinstance(encoded, str) else encoded
    unnamed = "the file's bytes" if isinstance(encoded, bytes) else "a Pillow image"
    name = where or (str(encoded) if isinstance(encoded, Path) else unnamed)
    try:
        if isinstance(encoded, Path) and encoded.stat().st_size > _MEMORY // 2:
            raise ValueError(f"the file has more than {_MEMORY >> 21} MiB")
        if isinstance(encoded, Image.Image):
            _check_format(encoded)
            _check(encoded)
            return _to_array(_unturned(encoded), name)
        # By its name, Pillow would map an uncompressed TIFF, with wrong pixels where it turns it.
        opened = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded.open("rb")
        with opened as file, _open(file) as image:
            _check(image)
            # The further pictures of an MPO are previews, not an animation.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                advice = "to use another frame, save it as an image of its own"
                warn_once("animated", f"{name} is animated: only its first frame is used; {advice}")
            return _to_array(image, name)
    except JaxsplitWarning:  # raised if warnings are errors
        raise
    except IsADirectoryError as error:
        raise DataError(f"{name} is a folder: name the image files in it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name} has too many pixels to decode safely; make it smaller") from error
    except Exception as error:  # Pillow's plugins raise errors of any kind on damaged files
        reason = " ".join(str(error).split()) or repr(error)
        if isinstance(error, FileNotFoundError):
            reason = "no such file"
        elif isinstance(error, UnidentifiedImageError) and isinstance(encoded, bytes | Path):
            reason = _unidentified(encoded)
        raise DataError(f"cannot read {name} as an image: {reason}") from error


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    """Opens an image; Pillow loads the plugins of all its formats only for the rarer ones."""
    try:
        return Image.open(file, formats=_LOADED)
    except UnidentifiedImageError:
        return Image.open(file, formats=FORMATS)


def convert(image: Image.Image, channels: int) -> Image.Image:
    """Converts a Pillow image to grey (1 channel, ITU-R 601 luma) or RGB (3 channels)."""
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def to_pillow(image: np.ndarray) -> Image.Image:
    """Makes a Pillow image from uint8 [H, W, 1 or 3]."""
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _unturned(image: Image.Image) -> Image.Image:
    """Returns an image that may be turned in place: a caller's own one must not be."""
    turned = image.getexif().get(_ORIENTATION, 1) != 1
    if image.mode == "I":  # 32 bits in memory; files fill 16 of them
        low, high = (int(end) for end in image.getextrema())  # type: ignore[arg-type]
        if low < 0 or high > 65535:
            raise ValueError(f"its values are {low} … {high}; expected 0 … 65535")
    if turned and isinstance(image, ImageFile.ImageFile):
        name, image.filename = image.filename, ""  # else Pillow would map it, see decode_image
        try:
            image.load()
        finally:
            image.filename = name
    return image.copy() if turned else image


def _check_format(image: Image.Image) -> None:
    """Refuses an image that is still to be decoded from a file of none of `FORMATS`."""
    if not isinstance(image, ImageFile.ImageFile) or image.format in (None, "MPO", *FORMATS):
        return
    if image.tile or isinstance(image, ImageFile.StubImageFile):
        raise ValueError(
            f"{image.format} is not a supported format ({', '.join(FORMATS)}); if you trust the "
            "file, call the image's load() before"
        )


def _check(image: Image.Image) -> None:
    """Refuses, before decoding, what takes too much memory or has no defined range."""
    tags = getattr(image, "tag_v2", {})  # of TIFF
    tiles = getattr(image, "tile", "")  # an image that was made in memory has none
    tile = tags.get(_TILE_WIDTH, 1) * tags.get(_TILE_LENGTH, 1)  # may exceed the image
    per_pixel = _BYTES_PER_PIXEL.get(image.format or "", _OTHER_BYTES_PER_PIXEL)
    if max(math.prod(image.size), tile) > _MEMORY // per_pixel:
        raise Image.DecompressionBombError
    unsigned = {1, 4}.issuperset(tags.get(_SAMPLE_FORMAT, (1,)))  # 4: undefined, as if absent
    if not unsigned or image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError(
            "its samples are 32-bit, signed or floating-point numbers, whose range is not known; "
            "scale them to 8 or 16 bits without sign"
        )
    if tags and image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) != 1:
        raise ValueError("it is 16-bit grey with white as 0; save it with black as 0")
    # Pillow compares the key, of the file's depth, with values scaled to 8 bits.
    if "transparency" in image.info and image.mode != "P" and ";" in str(tiles):
        raise ValueError(
            "its transparent colour is not of 8 bits; save it with an alpha channel or as 8-bit"
        )


def _unidentified(encoded: bytes | Path) -> str:
    """Says why Pillow doesn't open a file."""
    if isinstance(encoded, Path):
        with encoded.open("rb") as file:
            encoded = file.read(12)
    if encoded[4:12] in _HEIF:
        return f"HEIC is not supported; {HEIC_ADVICE}"
    return f"not an image file of a supported format ({', '.join(FORMATS)}), or a damaged one"


def _to_array(image: Image.Image, name: str) -> np.ndarray:
    ImageOps.exif_transpose(image, in_place=True)
    grey = image.mode in _GREY or image.mode.startswith("I")
    array = np.empty((image.height, image.width, 1 if grey else 3), np.uint8)
    brightest = 0
    # In bands, since each conversion copies what it converts.
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        out = array[top : top + rows]
        whole = len(out) == image.height
        band = image if whole else image.crop((0, top, image.width, top + len(out)))
        if band.mode.startswith("I"):  # Pillow would clip 16-bit grey instead of scaling it
            bits = getattr(image, "tag_v2", {}).get(_BITS, (16,))[0]
            values = np.asarray(band)
            brightest = max(brightest, int(values.max()) << (16 - bits))
            out[..., 0] = values >> (bits - 8)
            continue
        if band.has_transparency_data:
            band = _on_white(band, name)
        out[...] = np.asarray(convert(band, out.shape[2])).reshape(out.shape)
    if 0 < brightest < 2**14:
        warn_once(
            "dark",
            f"{name} is 16-bit grey and its brightest value is {brightest} of 65535; if its depth "
            f"is {brightest.bit_length()} bits, scale it to 16",
        )
    return array


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
