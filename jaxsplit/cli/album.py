"""The pictures that `jaxsplit decode --out` writes: masks and overlays, as PNG files."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from jaxsplit.data import decode_image
from jaxsplit.errors import ConfigError, DataError
from jaxsplit.io.files import as_text, check_writable, write_whole


class Album:
    """Writes the pictures of images, `STEM-NUMBER-NAME.png`, into a folder.

    Args:
      folder: for the pictures; a ConfigError if it can't be written.
      files: names of the files that are decoded; a ConfigError if two have the same stem.
      over: the images of the only file, in its order, to draw pictures with transparency on; a
        ConfigError beside several files.
    """

    def __init__(self, folder: Path, files: Sequence[str], over: Sequence[str]) -> None:
        [(stem, count)] = Counter(Path(name).stem for name in files).most_common(1)
        if count > 1:
            raise ConfigError(f"{count} files are called {stem}: decode them into two folders")
        if over and len(files) > 1:
            raise ConfigError(f"--over is for one file, got {len(files)}")
        check_writable(folder)
        self._folder, self._over = folder, over

    def add(
        self, file: str, values: dict[str, object], pictures: Mapping[str, Image.Image]
    ) -> None:
        """Writes the pictures of an image, and adds their names to its values.

        Args:
          file: name of the decoded file.
          values: of the image, with its number in the file as "image".
          pictures: name → picture; a DataError if it doesn't fit the image of `over`.
        """
        number, names = values["image"], {}
        for name, picture in pictures.items():
            drawn = self._on_image(picture, values) if "A" in picture.getbands() else picture
            path = self._folder / f"{Path(file).stem}-{number}-{name}.png"
            encoded = io.BytesIO()
            drawn.save(encoded, "PNG")
            write_whole(path, encoded.getvalue(), make_folder=True)
            names[name] = as_text(path)
        if names:
            values["pictures"] = names

    def _on_image(self, picture: Image.Image, values: dict[str, object]) -> Image.Image:
        """Draws a picture over its image, if that is given."""
        number = values["image"]
        assert isinstance(number, int)
        if number >= len(self._over):
            return picture
        pixels = decode_image(Path(self._over[number]))
        image = Image.fromarray(pixels.repeat(3 // pixels.shape[2], axis=2)).convert("RGBA")
        if image.size != picture.size:
            given, sent = (f"{one.width} × {one.height}" for one in (image, picture))
            raise DataError(f"{self._over[number]} is {given}, but the image sent was {sent}")
        return Image.alpha_composite(image, picture).convert("RGB")
