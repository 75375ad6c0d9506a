"""Random changes to the images of a training."""

import dataclasses

import numpy as np
from PIL import Image

from jaxsplit.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes to a training batch of uint8 images, drawn for each image by itself.

    Attributes:
      padding: pixels added on every side before a crop at a random place.
      flip: whether half of the images are mirrored left to right.
      cutout: side of a square that is erased around a random point, in pixels; 0: none.
      fill: grey level of the padding and of the erased square.
      zoom: least share of either side, such as 0.7, that is cut out at a random place and scaled
        back to the whole, as if the camera had come nearer; 1: none.

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
        if (
            self.padding < 0
            or self.cutout < 0
            or not 0 <= self.fill <= 255
            or not 0 < self.zoom <= 1
        ):
            raise ConfigError(f"not an augmentation: {self}")

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augments a batch.

        Args:
          images: uint8 [B, H, W, C].
          rng: where the randomness comes from; it moves on.

        Returns:
          A new array, uint8 [B, H, W, C].
        """
        count, height, width, _ = images.shape
        images = self._crop(images, rng) if self.padding else images.copy()
        if self.zoom < 1:
            images = np.stack([self._zoom(image, rng) for image in images])
        if self.flip:
            mirrored = rng.random(count) < 0.5
            images[mirrored] = images[mirrored, :, ::-1]
        if self.cutout:
            top = rng.integers(0, height, (count, 1)) - self.cutout // 2
            left = rng.integers(0, width, (count, 1)) - self.cutout // 2
            rows, columns = np.arange(height), np.arange(width)
            inside_rows = (rows >= top) & (rows < top + self.cutout)
            inside_columns = (columns >= left) & (columns < left + self.cutout)
            images[inside_rows[:, :, None] & inside_columns[:, None, :]] = self.fill
        return images

    def _crop(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        count, height, width, channels = images.shape
        p = self.padding
        padded = np.pad(images, ((0, 0), (p, p), (p, p), (0, 0)), constant_values=self.fill)
        # Rows of pixels and channels as one axis: each window is then a run of bytes per row.
        rows = padded.reshape(count, height + 2 * p, -1)
        windows = np.lib.stride_tricks.sliding_window_view(
            rows, (height, width * channels), axis=(1, 2)
        )[:, :, ::channels]
        top, left = rng.integers(0, 2 * p + 1, (2, count))
        return windows[np.arange(count), top, left].reshape(images.shape)

    def _zoom(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width, channels = image.shape
        share, down, right = rng.uniform(self.zoom, 1), rng.random(), rng.random()
        top, left = (1 - share) * down * height, (1 - share) * right * width
        box = (left, top, left + share * width, top + share * height)
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        zoomed = picture.resize((width, height), Image.Resampling.BICUBIC, box)
        return np.asarray(zoomed).reshape(image.shape)


@dataclasses.dataclass(frozen=True)
class Views:
    """How many examples are made of each image, and which.

    Of N images, example `view · N + i` shows image `i` in view `view`. A view depends on the seed,
    its number and the image's number alone, so that it is the same whenever it is asked for.

    Attributes:
      count: random views of every image, or 1 for the image as it is.
      augmentation: what makes views random; None for the image as it is.
      flip: whether every view is there mirrored too, as `count` further views.
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
        if self.count < 1 or self.seed < 0:
            raise ConfigError(
                f"{self.count} views with seed {self.seed}; expected 1 or more, and 0 or more"
            )
        if self.count > 1 and self.augmentation is None:
            raise ConfigError(
                f"{self.count} views of every image would be equal: "
                "give an augmentation that makes them differ, or take 1 view"
            )

    def __len__(self) -> int:
        return self.count * (2 if self.flip else 1)

    def apply(self, images: np.ndarray, numbers: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The views of some images.

        Args:
          images: uint8 [B, h, w, c].
          numbers: int [B], the images' numbers in their source.
          views: int [B], which view of each.

        Returns:
          uint8 [B, h, w, c]; the images themselves where they are seen as they are.
        """
        numbers, views = np.asarray(numbers), np.asarray(views)
        if self.augmentation is not None:
            images = images.copy()
            for i, (number, view) in enumerate(zip(numbers, views % self.count, strict=True)):
                # One generator an image: a batch of any composition gives each the same view.
                # The last part keeps it off the streams that `batches` draws from its seed.
                rng = np.random.default_rng((self.seed, int(view), int(number), 2))
                images[i] = self.augmentation(images[i : i + 1], rng)[0]
        mirrored = views >= self.count
        if not mirrored.any():
            return images
        return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
