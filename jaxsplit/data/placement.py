"""Placement of images in a network's input: masks and other maps follow them there and back."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Placement:
    """Geometry of one image: it is scaled, and the network's input is a window of the result.

    All sizes are (height, width) in pixels. Pixels have their centres at halves, as in Pillow.

    Attributes:
      image: size of the image.
      scaled: its size after scaling.
      corner: (top, left) of the window in the scaled image; negative where the window is padded.
      window: size of the network's input.

    >>> cropped = Placement(image=(2, 4), scaled=(4, 8), corner=(0, 2), window=(4, 4))
    >>> mask = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.uint8)
    >>> cropped.apply(mask, 255)[0].tolist()
    [1, 1, 2, 2]
    >>> cropped.restore(cropped.apply(mask, 255), 255).tolist()  # of the rest nothing is known
    [[255, 1, 2, 255], [255, 5, 6, 255]]
    """

    image: tuple[int, int]
    scaled: tuple[int, int]
    corner: tuple[int, int]
    window: tuple[int, int]

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Placement:
        """Returns the placement of an image that is a network's input, as it is.

        Args:
          size: (height, width).

        Returns:
          The placement, which moves nothing.

        >>> Placement.whole((4, 6)).corner
        (0, 0)
        """
        return cls(size, size, (0, 0), size)

    def apply(self, array: np.ndarray, fill: int | np.generic) -> np.ndarray:
        """Moves a map of the image into the window, by nearest neighbour.

        Args:
          array: [H, W, …], of the image's size.
          fill: value of the padding.

        Returns:
          [h, w, …], of the window's size, in the same type.
        """
        places = [
            (np.arange(size) + corner + 0.5) * whole / scaled
            for whole, scaled, corner, size in zip(
                self.image, self.scaled, self.corner, self.window, strict=True
            )
        ]
        return _picked(array, places, fill)

    def restore(self, array: np.ndarray, fill: int | np.generic) -> np.ndarray:
        """Moves a map of the window back to the image, by nearest neighbour.

        Args:
          array: [h, w, …], of the window's size.
          fill: value of what lies outside of the window.

        Returns:
          [H, W, …], of the image's size, in the same type.
        """
        return _picked(array, self._in_window(), fill)

    def interpolate(self, array: np.ndarray, align_corners: bool = False) -> np.ndarray:
        """Computes the values of a coarser or finer map of the window at the image's pixels.

        Args:
          array: float [a, b, K], which covers the window at any resolution, such as logits.
          align_corners: see `bilinear_weights`.

        Returns:
          float32 [H, W, K], by bilinear interpolation, constant beyond the outer centres. Outside
          of the window all values are NaN.

        >>> Placement.whole((1, 4)).interpolate(np.array([[[0.0], [4.0]]]))[0, :, 0].tolist()
        [0.0, 1.0, 3.0, 4.0]
        """
        rows, columns = (
            bilinear_weights(places, size, count, align_corners)
            for places, size, count in zip(
                self._in_window(), self.window, array.shape[:2], strict=True
            )
        )
        across = np.einsum("xb,abk->axk", columns, array.astype(np.float32), optimize=True)
        return np.tensordot(rows, across, 1)

    def _in_window(self) -> list[np.ndarray]:
        """Returns where the image's rows and columns lie in the window, in its pixels."""
        return [
            (np.arange(whole) + 0.5) * scaled / whole - corner
            for whole, scaled, corner in zip(self.image, self.scaled, self.corner, strict=True)
        ]


def _picked(array: np.ndarray, places: list[np.ndarray], fill: int | np.generic) -> np.ndarray:
    """Returns the entries at rows × columns, and `fill` at those beyond the array."""
    indices = [np.floor(one).astype(int) for one in places]
    inside = [
        (index >= 0) & (index < side) for index, side in zip(indices, array.shape, strict=False)
    ]
    rows, columns = (
        index.clip(0, side - 1) for index, side in zip(indices, array.shape, strict=False)
    )
    found = array[rows[:, None], columns]
    found[~(inside[0][:, None] & inside[1])] = fill
    return found


def bilinear_weights(
    places: np.ndarray, size: int, count: int, align_corners: bool = False
) -> np.ndarray:
    """Computes the weights of a map's rows at places of a window, for linear interpolation.

    Args:
      places: float [N], in pixels of the window, whose first centre is 0.5.
      size: rows of the window.
      count: rows of the map, which covers the window.
      align_corners: the centres of the map's first and last row are those of the window's, as in
        TensorFlow's DeepLab; else the borders coincide, as in torchvision and `jax.image.resize`.

    Returns:
      float32 [N, count], rows of sum 1; NaN for places outside of the window.

    >>> bilinear_weights(np.arange(3) + 0.5, size=3, count=2, align_corners=True).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    if align_corners:
        position = (places - 0.5) * (count - 1) / max(size - 1, 1)
    else:
        position = places * count / size - 0.5
    position = position.clip(0, count - 1)
    below = np.floor(position).astype(int).clip(0, max(count - 2, 0))
    weights = np.zeros((len(places), count), np.float32)
    share, each = position - below, np.arange(len(places))
    weights[each, below] = 1 - share
    weights[each, np.minimum(below + 1, count - 1)] += share
    weights[(places < 0) | (places >= size)] = np.nan
    return weights
