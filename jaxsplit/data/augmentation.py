"""Random augmentation of training images."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from jaxsplit.data.images import to_pillow
from jaxsplit.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Augments a batch of uint8 images, independently for each image.

    Attributes:
      padding: pixels added on every side before a random crop to the original size.
      flip: mirror each image horizontally with probability 1/2.
      cutout: side of the square that is erased around a random point, in pixels; 0: none.
      fill: grey level of the padding and of the erased square.
      zoom: smallest fraction of either side, such as 0.7, of a random crop that is scaled back to
        the full size; 1: none.

    >>> images = np.arange(2 * 4 * 4 * 1, dtype=np.uint8).reshape(2, 4, 4, 1)
    >>> Augmentation(padding=1)(images, np.random.default_rng(0)).shape
    (2, 4, 4, 1)
    """

    padding: int = 0
    flip: bool = False
    cutout: int = 0
    fill: int = 0
    zoom: float = 1.0

    def __post_init__(self):
        counts_fit = self.padding >= 0 and self.cutout >= 0
        if not (counts_fit and 0 <= self.fill <= 255 and 0 < self.zoom <= 1):
            raise ConfigError(
                f"got {self}, expected padding and cutout >= 0, fill 0 … 255 and 0 < zoom <= 1"
            )

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augments a batch.

        Args:
          images: uint8 [B, H, W, C].
          rng: random generator; its state advances.

        Returns:
          A new array, uint8 [B, H, W, C].
        """
        count, height, width, _ = images.shape
        images = self._moved(images, self.fill, _zoomed_image, rng)
        if self.cutout:
            top = rng.integers(0, height, (count, 1)) - self.cutout // 2
            left = rng.integers(0, width, (count, 1)) - self.cutout // 2
            rows, columns = np.arange(height), np.arange(width)
            inside_rows = (rows >= top) & (rows < top + self.cutout)
            inside_columns = (columns >= left) & (columns < left + self.cutout)
            images[inside_rows[:, :, None] & inside_columns[:, None, :]] = self.fill
        return images

    def apply_to_maps(
        self, maps: np.ndarray, fill: np.generic, rng: np.random.Generator
    ) -> np.ndarray:
        """Moves maps, such as masks, as `__call__` moves images with an equal generator.

        Values are not interpolated. The square that is erased in the image stays in the map.

        Args:
          maps: [B, H, W, …].
          fill: value beyond the border.
          rng: random generator; its state advances.

        Returns:
          A new array, [B, H, W, …].

        >>> maps, seed = np.arange(4).reshape(1, 2, 2), 1
        >>> Augmentation(padding=1).apply_to_maps(maps, -1, np.random.default_rng(seed)).tolist()
        [[[0, 1], [2, 3]]]
        """
        return self._moved(maps, fill, _zoomed_map, rng)

    def _moved(
        self,
        arrays: np.ndarray,
        fill: int | np.generic,
        zoomed: Callable[[np.ndarray, float, float, float], np.ndarray],
        rng: np.random.Generator,
    ) -> np.ndarray:
        arrays = self._crop(arrays, fill, rng) if self.padding else arrays.copy()
        if self.zoom < 1:
            # A share of the image, and where it lies between top and bottom, left and right.
            arrays = np.stack(
                [
                    zoomed(one, rng.uniform(self.zoom, 1), rng.random(), rng.random())
                    for one in arrays
                ]
            )
        if self.flip:
            mirrored = rng.random(len(arrays)) < 0.5
            arrays[mirrored] = arrays[mirrored, :, ::-1]
        return arrays

    def _crop(
        self, arrays: np.ndarray, fill: int | np.generic, rng: np.random.Generator
    ) -> np.ndarray:
        count, height, width = arrays.shape[:3]
        channels, p = math.prod(arrays.shape[3:]), self.padding
        beside = ((0, 0), (p, p), (p, p), *((0, 0) for _ in arrays.shape[3:]))
        padded = np.pad(arrays, beside, constant_values=fill)
        # Width and channels as one axis: each row of a window is then a contiguous run of bytes.
        rows = padded.reshape(count, height + 2 * p, -1)
        windows = np.lib.stride_tricks.sliding_window_view(
            rows, (height, width * channels), axis=(1, 2)
        )[:, :, ::channels]
        top, left = rng.integers(0, 2 * p + 1, (2, count))
        return windows[np.arange(count), top, left].reshape(arrays.shape)


def _zoomed_image(image: np.ndarray, share: float, down: float, right: float) -> np.ndarray:
    height, width, _ = image.shape
    top, left = (1 - share) * down * height, (1 - share) * right * width
    box = (left, top, left + share * width, top + share * height)
    zoomed = to_pillow(image).resize((width, height), Image.Resampling.BICUBIC, box)
    return np.asarray(zoomed).reshape(image.shape)


def _zoomed_map(array: np.ndarray, share: float, down: float, right: float) -> np.ndarray:
    rows, columns = (
        (((1 - share) * begin * side) + share * (np.arange(side) + 0.5)).astype(int)
        for begin, side in zip((down, right), array.shape, strict=False)
    )
    return array[rows[:, None], columns]


@dataclasses.dataclass(frozen=True)
class Views:
    """Fixed set of augmented examples per image, for a frozen network that sees each once.

    Of N images, example `view · N + i` is image `i` in view `view`. A view depends only on the
    seed, its number and the image's number, so it can be recomputed at any time.

    Attributes:
      count: augmentations per image; 1 without `augmentation`.
      augmentation: makes the random views; None for the unchanged image.
      flip: add a mirrored copy of every view, as `count` further views.
      seed: of the random views.

    >>> views = Views(flip=True)
    >>> image = np.arange(3, dtype=np.uint8).reshape(1, 1, 3, 1)
    >>> [views.apply(image, [0], [view]).ravel().tolist() for view in range(len(views))]
    [[0, 1, 2], [2, 1, 0]]
    """

    count: int = 1
    augmentation: Augmentation | None = None
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        equal = self.count > 1 and self.augmentation is None
        if self.count < 1 or self.seed < 0 or equal:
            raise ConfigError(
                f"augmentations_per_image = {self.count}, seed {self.seed} and augmentation "
                f"{self.augmentation}; expected 1 or more augmentations of an image, only 1 "
                "without one, and a seed >= 0"
            )

    def __len__(self) -> int:
        return self.count * (2 if self.flip else 1)

    def apply(self, images: np.ndarray, numbers: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Computes views of images.

        Args:
          images: uint8 [B, h, w, c].
          numbers: int [B], index of each image in its source.
          views: int [B], view of each image.

        Returns:
          uint8 [B, h, w, c]; `images` itself if nothing changes.
        """
        augment = self.augmentation or Augmentation()
        return self._applied(images, numbers, views, augment)

    def apply_to_maps(
        self, maps: np.ndarray, fill: np.generic, numbers: np.ndarray, views: np.ndarray
    ) -> np.ndarray:
        """Moves maps, such as masks, as `apply` moves their images; values aren't interpolated.

        Args:
          maps: [B, h, w, …].
          fill: value beyond the border.
          numbers, views: as in `apply`.

        Returns:
          [B, h, w, …]; `maps` itself if nothing changes.

        >>> mask = np.array([[[0, 1, 2]]])
        >>> Views(flip=True).apply_to_maps(mask, -1, [0], [1]).tolist()
        [[[2, 1, 0]]]
        """
        augmentation = self.augmentation or Augmentation()

        def augment(part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return augmentation.apply_to_maps(part, fill, rng)

        return self._applied(maps, numbers, views, augment)

    def _applied(
        self,
        arrays: np.ndarray,
        numbers: np.ndarray,
        views: np.ndarray,
        augment: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    ) -> np.ndarray:
        numbers, views = np.asarray(numbers), np.asarray(views)
        if self.augmentation is not None:
            arrays = arrays.copy()
            for i, (number, view) in enumerate(zip(numbers, views % self.count, strict=True)):
                # One generator per image, so that a view does not depend on the batch. The 2 keeps
                # its stream apart from those that `batches` draws from the same seed.
                rng = np.random.default_rng((self.seed, int(view), int(number), 2))
                arrays[i] = augment(arrays[i : i + 1], rng)[0]
        mirrored = views >= self.count
        if not mirrored.any():
            return arrays
        return np.where(mirrored.reshape(-1, *[1] * (arrays.ndim - 1)), arrays[:, :, ::-1], arrays)
