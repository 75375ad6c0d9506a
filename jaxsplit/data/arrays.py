"""Images and labels, or masks, in memory as a source."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from jaxsplit.data.sources import Source, open_source
from jaxsplit.data.targets import Example
from jaxsplit.errors import DataError

__all__ = ["AnySource", "as_source", "from_arrays"]

ImagesLike = ArrayLike | Sequence[ArrayLike]
#: Images: a name as `open_source` takes it, a folder, a source, (images, labels or masks), or
#: images alone.
AnySource = str | Path | Source | tuple[ImagesLike, ImagesLike | None] | ImagesLike


#: Name of a source of arrays.
ARRAYS = "arrays"


class ArrayRecords:
    """Images in memory, see `sources.Records`."""

    def __init__(
        self,
        images: Sequence[np.ndarray],
        labels: np.ndarray,
        class_names: tuple[str, ...],
        masks: Sequence[np.ndarray] = (),
    ) -> None:
        self._images, self.labels, self._masks = images, labels, masks
        self.class_names = () if masks else class_names
        self.mask_classes = class_names if masks else ()

    def __len__(self) -> int:
        return len(self._images)

    @functools.cached_property
    def identity(self) -> str:
        """A digest of all images and labels."""
        digest = hashlib.sha256(self.labels.astype("<i4").tobytes())
        for image in (*self._images, *self._masks):
            digest.update(f"{image.shape}".encode())
            digest.update(np.ascontiguousarray(image).data)
        return f"arrays {digest.hexdigest()}"

    @property
    def listing(self) -> str:
        """The same: arrays have no place."""
        return self.identity

    def examples(self, indices: Sequence[int]) -> Iterable[Example]:
        """Yields the example of each index."""
        for i in indices:
            example = Example(image=self._images[i], label=int(self.labels[i]))
            if self._masks:
                example["mask"] = self._masks[i]
            yield example


def from_arrays(
    images: ImagesLike,
    labels: ImagesLike | None = None,
    class_names: Sequence[str] = (),
) -> Source:
    """Makes a source of images in memory, to train on or to evaluate with.

    Args:
      images: uint8 [N, H, W, 1 or 3] or, of grey images, [N, H, W]; or N arrays of other sizes.
        One array [H, W, 1, 3 or 4] without a label for each row is refused: it is one image.
      labels: int [N], indices into class_names; or segmentation masks, uint8 [N, H, W] or N arrays
        [H, W] of such indices, 255 for pixels that count nowhere. None: the images have neither.
      class_names: of the indices, as the network has them; default: their numbers, and of masks
        none.

    Returns:
      The source. It reads the arrays themselves: don't change them.

    Raises:
      DataError: arrays of another kind, or of different lengths.

    >>> images = np.zeros((3, 28, 28), np.uint8)
    >>> source = from_arrays(images, [0, 1, 1], ["cat", "dog"])
    >>> source, source[2]["image"].shape, source.class_names[source[2]["label"]]
    (Source('arrays', split='all', 3 images), (28, 28, 1), 'dog')
    """
    several = images if isinstance(images, Sequence) else np.atleast_1d(np.asarray(images))
    if isinstance(several, np.ndarray) and _is_one(several.shape, labels):
        raise DataError(
            f"images are {several.dtype} {several.shape}: one image: give images[None]; or, of "
            "narrow grey images, images[..., None]"
        )
    each = [_image(image) for image in several]
    if not each:
        raise DataError("there are no images; expected at least one")
    if labels is None:
        return Source(ARRAYS, "all", ArrayRecords(each, np.full(len(each), -1, np.int32), ()))
    if (masks := _masks(labels, each)) is not None:
        nowhere = np.zeros(len(each), np.int32)
        return Source(ARRAYS, "all", ArrayRecords(each, nowhere, tuple(class_names), masks))
    known = np.asarray(labels)
    if known.shape != (len(each),) or not np.issubdtype(known.dtype, np.integer):
        raise DataError(
            f"labels are {known.dtype} {known.shape}; expected an integer for each of the "
            f"{len(each)} images: the index of its class; or a mask uint8 [H, W] for each"
        )
    names = tuple(class_names) or tuple(map(str, range(int(known.max()) + 1)))
    if known.min() < 0 or known.max() >= len(names):
        raise DataError(
            f"labels are {known.min()} … {known.max()}; expected 0 … {len(names) - 1}, as there "
            f"are {len(names)} classes"
        )
    return Source(ARRAYS, "all", ArrayRecords(each, known.astype(np.int32), names))


def as_source(data: AnySource, class_names: Sequence[str] = ()) -> Source:
    """Returns a source as it is, and opens or makes one of what is none.

    Args:
      data: a source; a name or a folder, see `open_source`; or arrays (images, labels) or images
        alone, see `from_arrays`.
      class_names: of labels in arrays.

    Returns:
      The source; a DataError if there is none.

    >>> as_source("embedded"), as_source((np.zeros((2, 4, 4), np.uint8), [0, 1]))
    (Source('embedded', split='test', 2000 images), Source('arrays', split='all', 2 images))
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, str | Path):
        return open_source(data)
    images, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    if not (isinstance(images, Sequence) or hasattr(images, "__array__")):
        raise DataError(
            f"data is a {type(data).__name__}; expected a name such as folder:PATH, a source of "
            "jaxsplit.open_source, or arrays (images, labels)"
        )
    known = cast("tuple[ImagesLike, ImagesLike | None]", (images, labels))
    return from_arrays(*known, class_names)


def _is_one(shape: tuple[int, ...], labels: ImagesLike | None) -> bool:
    """Returns whether an array of this shape is one image: its last axis looks like channels."""
    if len(shape) != 3 or shape[2] not in (1, 3, 4):
        return False
    if labels is None:
        return True
    first = [np.ndim(one) for one in labels] if isinstance(labels, Sequence | np.ndarray) else []
    return first != [0] * shape[0]  # a label for each: grey images


def _masks(labels: ImagesLike, images: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Returns segmentation masks [H, W] of the images' sizes; None where labels are none."""
    several = labels if isinstance(labels, Sequence | np.ndarray) else ()
    masks = [np.asarray(one) for one in several]
    if not masks or masks[0].ndim != 2:
        return None
    sizes = [image.shape[:2] for image in images]
    if [one.shape for one in masks] != sizes or any(one.dtype != np.uint8 for one in masks):
        raise DataError(
            f"masks are {len(masks)} arrays, the first {masks[0].dtype} {masks[0].shape}; expected "
            f"uint8 [H, W] of the size of each of the {len(images)} images, the first {sizes[0]}"
        )
    return masks


def _image(image: ArrayLike) -> np.ndarray:
    pixels = np.asarray(image)
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        floats = pixels.dtype.kind == "f"
        advice = "; from 0 to 1: (255 * images).round().astype(np.uint8)" if floats else ""
        raise DataError(
            f"an image is {pixels.dtype} {pixels.shape}; expected uint8 [H, W, 1 or 3], or for a "
            f"grey one [H, W]{advice}"
        )
    return pixels
