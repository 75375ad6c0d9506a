"""Views: the variants of every image that a frozen network is asked about once and for all."""

import dataclasses

import numpy as np

from jaxsplit.data.augmentation import Augmentation
from jaxsplit.errors import ConfigError


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
