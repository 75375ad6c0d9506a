"""Semantic segmentation: one of K classes a pixel, from logits [B, h, w, K] of any resolution."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxsplit.data import Preprocessing, Source, TargetReader
from jaxsplit.data.masks import IGNORED, MaskReader
from jaxsplit.data.placement import Placement
from jaxsplit.data.sources import check_class_names
from jaxsplit.errors import ConfigError, DataError, choices
from jaxsplit.tasks.class_tables import CLASS_TABLES, Colour, default_colours
from jaxsplit.tasks.metric import AGREEMENT, Metric
from jaxsplit.tasks.pixelwise import (
    Size,
    confusion,
    cross_entropy,
    distillation,
    mask_statistics,
    predicted_masks,
    resize,
    sampled,
)
from jaxsplit.tasks.task import Outputs, Shown, Targets, TargetsAre, Task

__all__ = ["Segmentation"]

_MOST_CLASSES = 255  # index 255 is ignored
_OPACITY = 0.5  # of an overlay


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """One of K classes a pixel; outputs are logits [B, h, w, K], targets masks uint8 [B, H, W].

    Logits of a network's own, lower resolution are interpolated to the input's size before the
    largest is taken. Masks have 255 for pixels that count nowhere.

    Attributes:
      class_names: in the order of the logits, at most 255.
      colours: (red, green, blue) of each class; default: those of Pascal VOC's development kit.
      ignored: index in the data's masks that counts nowhere, beside 255.
      align_corners: how logits are interpolated, see `data.placement.bilinear_weights`.
      size: (H, W) of masks, the network's input; None: that of the logits. A backbone sets it.

    >>> task = Segmentation(("ground", "tree"))
    >>> logits = jnp.array([[[[2.0, 1.0], [0.0, 3.0]]]])
    >>> values = {name: np.asarray(x)[0].tolist() for name, x in
    ...     task.evaluate(logits, np.array([[[0, 0]]], np.uint8)).items()}
    >>> values  # intersections and unions of both classes; right and known pixels
    {'miou': [[1, 0], [2, 1]], 'pixel_accuracy': [[1], [2]]}
    >>> task.predict(logits).tolist(), task.describe(logits)
    ([[[0, 1]]], [{'shares': {'ground': 0.5, 'tree': 0.5}}])
    """

    class_names: tuple[str, ...]
    colours: tuple[Colour, ...] = ()
    ignored: int = IGNORED
    align_corners: bool = False
    size: Size | None = None

    name: ClassVar[str] = "segmentation"
    quality: ClassVar[str] = "miou"
    metrics: ClassVar[Mapping[str, Metric]] = MappingProxyType(
        {
            "miou": Metric("mIoU", "%", name="mean intersection over union", ratios=True),
            "pixel_accuracy": Metric("pixel accuracy", "%", ratios=True),
        }
    )
    targets_are: ClassVar[TargetsAre] = TargetsAre(
        "masks", "images in images/SPLIT and masks in masks/SPLIT", "(images, masks)"
    )
    has_maps: ClassVar[bool] = True
    target_reader: TargetReader = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        count = len(self.class_names)
        if not 1 <= count <= _MOST_CLASSES:
            raise ConfigError(f"got {count} classes, expected 1 … {_MOST_CLASSES}")
        colours = tuple(map(tuple, self.colours)) or default_colours(count)
        valid = all(len(one) == 3 and all(0 <= x <= 255 for x in one) for one in colours)
        if len(colours) != count or not valid:
            raise ConfigError(
                f"got {len(colours)} colours for {count} classes, expected (red, green, blue) of "
                "each, 0 … 255"
            )
        if type(self.ignored) is not int or not 0 <= self.ignored <= IGNORED:
            raise ConfigError(f"ignored is {self.ignored!r}, expected an index from 0 to 255")
        object.__setattr__(self, "colours", colours)
        object.__setattr__(self, "target_reader", MaskReader(count, self.ignored))

    @classmethod
    def of(cls, table: str) -> Self:
        """Makes the task of a data set whose classes are known.

        Args:
          table: one of `class_tables.CLASS_TABLES`; a ConfigError otherwise.

        Returns:
          The task.

        >>> Segmentation.of("camvid")
        Segmentation(11 classes: sky, building, …)
        """
        if table not in CLASS_TABLES:
            listed = choices(table, CLASS_TABLES)
            raise ConfigError(f"no class table is called {table!r}; there are {listed}")
        return cls(*CLASS_TABLES[table])

    def __repr__(self) -> str:
        shown = [*self.class_names[:2], "…"] if len(self.class_names) > 3 else self.class_names
        return f"{type(self).__name__}({len(self.class_names)} classes: {', '.join(shown)})"

    def fitted(self, preprocessing: Preprocessing) -> Self:
        """Returns the task with masks of the network's input size; see `Task.fitted`."""
        return dataclasses.replace(self, size=preprocessing.size)

    def _resized(self, outputs: Outputs) -> jax.Array:
        logits = _array(outputs)
        return resize(logits, self._size(logits), self.align_corners)

    def _size(self, logits: jax.Array) -> Size:
        return self.size or (logits.shape[1], logits.shape[2])

    def loss(self, outputs: Outputs, targets: Targets) -> jax.Array:
        """Computes `cross_entropy` at the input's size, in nats [B]."""
        return cross_entropy(self._resized(outputs), jnp.asarray(targets))

    def smoothed_loss(
        self, outputs: Outputs, targets: Targets, label_smoothing: float
    ) -> jax.Array:
        """Computes `cross_entropy` with label smoothing; see `Task.smoothed_loss`."""
        return cross_entropy(self._resized(outputs), jnp.asarray(targets), label_smoothing)

    def distillation(
        self, outputs: Outputs, teacher: Outputs, temperature: float = 1.0
    ) -> jax.Array:
        """Computes `distillation` at the logits' resolution, in nats [B]."""
        return distillation(_array(outputs), _array(teacher), temperature)

    def measure(self, outputs: Outputs, targets: Targets) -> dict[str, jax.Array]:
        """Computes mIoU and pixel accuracy at the logits' resolution, as estimates for a training.

        Args:
          outputs, targets: as in `Task.measure`; masks are read at the centres of the logits.

        Returns:
          "miou": intersections and unions int [B, 2, K]; "pixel_accuracy": right and known pixels
          int [B, 2, 1].
        """
        found = _array(outputs).argmax(-1)
        true = sampled(jnp.asarray(targets), found.shape[1:])
        return mask_statistics(found, true, len(self.class_names))

    def measure_with(
        self, outputs: Outputs, targets: Targets | None, teacher: Outputs | None
    ) -> dict[str, jax.Array]:
        """Computes `measure`, or the agreement, at the logits' resolution; see `Task`."""
        if targets is not None:
            return self.measure(outputs, targets)
        if teacher is None:
            return {}
        return {AGREEMENT: self.measure(outputs, _array(teacher).argmax(-1))[self.quality]}

    def evaluate(self, outputs: Outputs, targets: Targets) -> dict[str, np.ndarray]:
        """Computes mIoU and pixel accuracy at the input's size, with NumPy; see `Task.evaluate`."""
        predicted, count = np.asarray(self.predict(outputs)), len(self.class_names)
        pairs = zip(predicted, np.asarray(targets), strict=True)
        confused = np.array([confusion(*pair, count) for pair in pairs])
        right = np.einsum("bkk->bk", confused)
        union = confused.sum(axis=1) + confused.sum(axis=2) - right
        pixels = np.stack([right.sum(axis=1), confused.sum(axis=(1, 2))], axis=1)
        return {"miou": np.stack([right, union], axis=1), "pixel_accuracy": pixels[..., None]}

    def agreement(self, outputs: Outputs, predicted: Targets) -> np.ndarray:
        """Computes the mIoU against the unsplit network's masks; see `Task.agreement`."""
        return self.evaluate(outputs, predicted)[self.quality]

    def predict(self, outputs: Outputs) -> jax.Array:
        """Returns the class of the largest logit at every pixel of the input, uint8 [B, H, W]."""
        logits = _array(outputs)
        return predicted_masks(logits, self._size(logits), self.align_corners)

    def sampled_log_likelihood(
        self, outputs: Outputs, key: jax.Array, temperature: float = 1.0
    ) -> jax.Array:
        """Draws a class for each pixel; returns Σ log p / √(pixels), float [B].

        Draws are independent, so the squared gradient is the mean of the pixels' Fisher
        information, as `distillation` is the mean of their divergences.
        """
        log_p = jax.nn.log_softmax(_array(outputs) / temperature)
        drawn = jax.random.categorical(key, jax.lax.stop_gradient(log_p))
        total = jnp.take_along_axis(log_p, drawn[..., None], axis=-1).sum(axis=(1, 2, 3))
        return total / math.prod(log_p.shape[1:3]) ** 0.5

    def has_targets(self, source: Source) -> bool:
        """Returns whether images have masks; those that have classes alone count as unlabelled."""
        return source.has_masks

    def check_source(self, source: Source) -> None:
        """Checks that images have masks, with the network's classes where they are named."""
        if not source.has_masks:
            raise DataError(
                f"{source.name} has no masks, which are needed here: put images in images/SPLIT "
                "and masks of the same names in masks/SPLIT, PNG files of class indices"
            )
        ours, theirs = self.class_names, source.mask_classes
        if theirs and theirs != ours:
            pairs = enumerate(zip(ours, theirs, strict=False))
            other = next((f"; number {i} is {b}, but {a}" for i, (a, b) in pairs if a != b), "")
            raise DataError(
                f"the masks of {source.name} have {len(theirs)} classes{other} of the network's "
                f"{len(ours)}: list the network's in classes.txt, in their order"
            )

    def describe(self, outputs: Outputs, top: int = 1) -> list[dict[str, object]]:
        """Returns the shares of classes in each image, of all that occur, the largest first.

        `top` has no part in it; see `Task.describe`.
        """
        return [self._shares(mask) for mask in np.asarray(self.predict(outputs))]

    def _shares(self, mask: np.ndarray) -> dict[str, object]:
        counts = np.bincount(mask[mask != IGNORED], minlength=len(self.class_names))
        largest = np.argsort(-counts, kind="stable")
        total = max(int(counts.sum()), 1)
        named = {self.class_names[i]: round(int(counts[i]) / total, 4) for i in largest}
        return {"shares": {name: share for name, share in named.items() if share > 0}}

    def draw(self, predicted: Targets) -> list[Image.Image]:
        """Draws masks as paletted images, 255 in black; see `Task.draw`."""
        return [self._paletted(mask) for mask in np.asarray(predicted).astype(np.uint8)]

    @property
    def legend(self) -> Mapping[str, Colour]:
        """Class name → its colour."""
        return dict(zip(self.class_names, self.colours, strict=True))

    def _paletted(self, mask: np.ndarray) -> Image.Image:
        picture = Image.fromarray(np.ascontiguousarray(mask), "L")
        picture.putpalette(np.array(self.colours, np.uint8).tobytes().ljust(768, b"\0"))
        return picture

    def show(self, outputs: Outputs, placements: Sequence[Placement]) -> list[Shown]:
        """Returns shares of classes, and pictures at the images' own sizes.

        Args:
          outputs, placements: as in `Task.show`.

        Returns:
          For each image the shares of its classes, a "mask" of indices with the classes' colours as
          palette, and an "overlay" of these colours, half transparent. Logits are interpolated to
          the image's pixels; what the network did not see has the index 255.
        """
        shown = []
        for logits, placement in zip(np.asarray(_array(outputs)), placements, strict=True):
            values = placement.interpolate(logits, self.align_corners)
            mask = values.argmax(axis=-1).astype(np.uint8)
            mask[np.isnan(values[..., 0])] = IGNORED
            picture = self._paletted(mask)
            overlay = picture.convert("RGB").convert("RGBA")
            opacity = np.where(mask == IGNORED, 0, round(255 * _OPACITY)).astype(np.uint8)
            overlay.putalpha(Image.fromarray(opacity))
            shown.append(Shown(self._shares(mask), {"mask": picture, "overlay": overlay}))
        return shown


def _array(outputs: Outputs) -> jax.Array:
    return cast("jax.Array", outputs)  # a segmentation's outputs are one array
