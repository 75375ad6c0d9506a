"""Segmentation masks: PNG files of class indices, folders of images and masks, their reader.

    images/SPLIT/NAME.jpg    masks/SPLIT/NAME.png    classes.txt (optional)

Without splits the files lie in `images/` and `masks/` themselves. Masks are grey or paletted
images of the size of their image, whose values are class indices. `classes.txt` has a class name a
line, in the order of the indices.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jaxsplit.data.folder import choose_part, list_images, read_classes, subfolders
from jaxsplit.data.images import decode_image
from jaxsplit.data.preprocessing import Preprocessing
from jaxsplit.data.splits import choose_split, part_of
from jaxsplit.data.targets import Example, TargetReader
from jaxsplit.errors import DataError
from jaxsplit.io.files import as_text

#: Value of pixels that count nowhere, in masks as they are read.
IGNORED = 255
IMAGES, MASKS = "images", "masks"
_INDEXED = ("L", "P", "1")  # Pillow's modes whose values are indices
_STEPS = {"L;2": 85, "L;4": 17}  # Pillow scales grey of fewer bits to 0 … 255
_MOST_PIXELS = 2**27


@dataclasses.dataclass(frozen=True)
class MaskReader(TargetReader):
    """Reads masks uint8 [h, w], in the geometry of the network's input; `IGNORED` is 255.

    Attributes:
      classes: number of classes; masks have the indices 0 … classes - 1.
      ignored: another index in masks whose pixels count nowhere, beside 255.

    >>> example = {"image": np.zeros((2, 2, 3), np.uint8), "mask": np.array([[0, 1], [11, 255]])}
    >>> MaskReader(classes=11, ignored=11).read(example, Preprocessing((2, 2))).tolist()
    [[0, 1], [255, 255]]
    """

    classes: int
    ignored: int = IGNORED

    def blank(self, preprocessing: Preprocessing) -> np.ndarray:
        """Returns a mask of ignored pixels, see `TargetReader.blank`."""
        return np.full(preprocessing.size, IGNORED, np.uint8)

    def read(self, example: Example, preprocessing: Preprocessing) -> np.ndarray:
        """Returns the mask of an example, see `TargetReader.read`.

        Args:
          example: its mask is an array [H, W], or a file of `decode_mask`.
          preprocessing: of the network.

        Returns:
          uint8 [h, w]; a DataError if the mask is of another size than the image, or has an index
          beyond the classes.
        """
        found = example["mask"]
        name = str(found) if isinstance(found, Path) else "a mask"
        mask = decode_mask(found) if isinstance(found, Path | bytes) else np.asarray(found)
        size = example["image"].shape[:2]
        if mask.shape != size:
            shapes = f"{'×'.join(map(str, mask.shape))}, expected {'×'.join(map(str, size))}"
            raise DataError(f"{name} is {shapes} (height × width), the size of its image")
        known = _known_indices(self.classes, self.ignored)
        if unknown := sorted(set(np.unique(mask).tolist()) - known.keys()):
            raise DataError(
                f"{name} has the index {unknown[0]}, expected 0 … {self.classes - 1} for "
                f"{self.classes} classes, or {self.ignored} for pixels that are ignored"
            )
        table = np.full(256, IGNORED, np.uint8)
        table[list(known)] = list(known.values())
        return preprocessing.placement(size).apply(table[mask], IGNORED)


@functools.lru_cache
def _known_indices(classes: int, ignored: int) -> dict[int, int]:
    """Returns index in a file → index of a target."""
    return {**{i: i for i in range(classes)}, ignored: IGNORED, IGNORED: IGNORED}


def decode_mask(encoded: bytes | Path) -> np.ndarray:
    """Decodes an image file of class indices.

    Args:
      encoded: the file's bytes, or its path: PNG, grey or paletted, of 1 to 8 bits.

    Returns:
      uint8 [H, W]: the grey values, or the indices into the palette.

    Raises:
      DataError: the file is missing, damaged, or of another kind, such as colours.

    >>> file = io.BytesIO()
    >>> Image.fromarray(np.array([[0, 7]], np.uint8)).save(file, "PNG")
    >>> decode_mask(file.getvalue()).tolist()
    [[0, 7]]
    """
    name = str(encoded) if isinstance(encoded, Path) else "a mask"
    try:
        file = encoded if isinstance(encoded, Path) else io.BytesIO(encoded)
        with Image.open(file, formats=["PNG"]) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width} × {image.height} pixels are too many")
            if image.mode not in _INDEXED:
                raise ValueError(
                    f"its pixels are {image.mode}, expected indices: a grey or paletted PNG of 8 "
                    "bits"
                )
            step = _STEPS.get(str(image.tile[0].args) if image.tile else "", 1)
            return np.asarray(image).astype(np.uint8) // np.uint8(step)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name} has too many pixels to decode safely; make it smaller") from error
    except Exception as error:  # Pillow's plugins raise errors of any kind on damaged files
        reason = " ".join(str(error).split()) or repr(error)
        if isinstance(error, FileNotFoundError):
            reason = "no such file"
        raise DataError(f"cannot read {name} as a mask: {reason}") from error


def has_masks(root: Path) -> bool:
    """Returns whether a folder has the two folders of images and masks."""
    return (root / IMAGES).is_dir() and (root / MASKS).is_dir()


def open_records(root: Path, name: str, split: str | None) -> tuple[MaskRecords, str]:
    """Opens one split of a folder with `has_masks`, and returns its name; `all` without splits.

    Raises a DataError: no such split, no images, or an image without a mask.
    """
    below = [folder.name for folder in subfolders(root / IMAGES)]
    if below:
        split = choose_split(split, below, name)
        return MaskRecords(name, root, split), split
    split, part = choose_part(split, root, name)
    return MaskRecords(name, root, ".", part), split


class MaskRecords:
    """Records of images and masks by file name, see `sources.Records`.

    Masks are decoded by `MaskReader`: who needs none doesn't wait for them.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, name: str, root: Path, below: str, part: tuple[int, int] = (0, 100)):
        images, masks = root / IMAGES / below, root / MASKS / below
        listing = root / "classes.txt"
        names = read_classes(listing, set()) if listing.is_file() else []
        self.mask_classes = tuple(map(as_text, names))
        files, _ = list_images(images)
        found = list_images(masks)[0] if masks.is_dir() else []
        present = {Path(one[0]).stem: one for one in found if one[0].lower().endswith(".png")}
        digest, listed = hashlib.sha256(), hashlib.sha256()
        self._pairs: list[tuple[Path, Path]] = []
        for i in part_of(np.zeros(len(files), int), *part):
            file, size, modified = files[i]
            mask = present.get(Path(file).stem)
            if mask is None:
                where = masks / Path(file).with_suffix(".png").name
                raise DataError(f"{name}: {images / file} has no mask: expected {where}")
            text = f"{below}/{file}\0{size}\0{mask[0]}\0{mask[1]}"
            listed.update(f"{text}\n".encode("utf-8", "surrogateescape"))
            digest.update(f"{text}\0{modified}\0{mask[2]}\n".encode("utf-8", "surrogateescape"))
            self._pairs.append((images / file, masks / mask[0]))
        self.labels = np.zeros(len(self._pairs), np.int32)
        self.identity = f"masks {digest.hexdigest()} {names}"
        self.listing = f"masks {listed.hexdigest()} {names}"

    def __len__(self) -> int:
        return len(self._pairs)

    def examples(self, indices: Sequence[int]) -> Iterator[Example]:
        """Yields the example of each index; images are uint8 [H, W, C], masks paths."""
        for i in indices:
            image, mask = self._pairs[i]
            yield Example(image=decode_image(image), mask=mask)
