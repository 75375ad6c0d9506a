"""What the frozen parts of a cut say about the training images, computed once and cached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import data
from jaxsplit.data.pipeline import step_indices
from jaxsplit.errors import ConfigError
from jaxsplit.models import Backbone
from jaxsplit.models.inference import batch_size
from jaxsplit.split import Split


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureCache:
    """Features at the cut and what a loss compares with.

    Attributes:
      features: [N, H, W, Cin], in memory or mapped from a file.
      teacher: logits of the uncut network, float32 [N, K].
      labels: int32 [N].
      scale: mean square of the features.
    """

    features: np.ndarray
    teacher: np.ndarray
    labels: np.ndarray
    scale: float

    def batches(
        self, batch_size: int, seed: int, start_step: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """Endless shuffled batches: features [B, …], teacher [B, K], label [B], index [B].

        Raises:
          ConfigError: there are fewer examples than a batch takes.
        """
        count = len(self.labels)
        per_epoch = data.num_batches(count, batch_size, drop_remainder=True)
        if not per_epoch:
            raise ConfigError(
                f"{count} training examples don't fill one batch of {batch_size}: "
                "raise the limit or make the batches smaller"
            )
        step = start_step
        while True:
            index = step_indices(count, batch_size, per_epoch, seed, step)
            yield {
                "features": self.features[index],
                "teacher": self.teacher[index],
                "label": self.labels[index],
                "index": index.astype(np.int32),
            }
            step += 1


def compute(
    split: Split,
    backbone: Backbone,
    source: data.Source,
    *,
    flip: bool = False,
    dtype: str = "float32",
    directory: Path | None = None,
) -> FeatureCache:
    """Runs the head over every image once.

    Args:
      split: the cut.
      backbone: the frozen network.
      source: training images.
      flip: also every image mirrored left to right, as N further examples.
      dtype: of the stored features; float16 halves the memory.
      directory: where the features are kept as a file and found again, under a key of all that
        they depend on; None keeps them in memory.
    """
    images, labels = data.load_arrays(source, backbone.preprocessing)
    count = len(images) * (2 if flip else 1)
    shape = (count, *split.shape)
    folder = None if directory is None else directory / _key(split, backbone, source, flip, dtype)
    stored = folder and _stored(folder, shape, (count, len(backbone.class_names)), dtype)
    features: Any
    if stored:
        features, teacher = stored
    else:
        if folder is None:
            features = np.empty(shape, dtype)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "teacher.npy").unlink(missing_ok=True)
            features = np.lib.format.open_memmap(
                folder / "features.npy", mode="w+", dtype=dtype, shape=shape
            )
        teacher = _fill(features, split, backbone, images)
        if folder is not None:
            features.flush()
            # Last, and whole: its presence says that the features are complete.
            np.save(folder / "partial.npy", teacher)
            (folder / "partial.npy").rename(folder / "teacher.npy")
    sample = np.asarray(features[:: max(1, count // 1000)], np.float32)
    labels = np.concatenate([labels, labels]) if flip else labels
    return FeatureCache(features, teacher, labels, float(np.square(sample).mean()))


def _stored(
    folder: Path, shape: tuple[int, ...], teacher_shape: tuple[int, ...], dtype: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """(features, teacher) of an earlier run; None where they are missing, partial or damaged."""
    if not (folder / "teacher.npy").exists():
        return None
    try:
        features = np.load(folder / "features.npy", mmap_mode="r")
        teacher = np.load(folder / "teacher.npy")
        whole = (features.shape, features.dtype, teacher.shape) == (shape, dtype, teacher_shape)
    except Exception:  # whatever numpy says of damaged bytes; they are computed again
        return None
    return (features, teacher) if whole else None


def _fill(features: np.ndarray, split: Split, backbone: Backbone, images: np.ndarray) -> np.ndarray:
    @jax.jit
    def head_and_teacher(variables: Any, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = split.head(variables, backbone.preprocessing.normalise(batch))
        return x, split.tail(variables, x)

    teacher = []
    size = batch_size(images.shape[1:])
    for start in range(0, len(features), size):
        index = np.arange(start, min(start + size, len(features)))
        batch = images[index % len(images)]
        batch = np.where((index < len(images))[:, None, None, None], batch, batch[:, :, ::-1])
        padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
        padded[: len(batch)] = batch
        x, logits = head_and_teacher(backbone.variables, jnp.asarray(padded))
        features[index] = np.asarray(x)[: len(batch)]
        teacher.append(np.asarray(logits)[: len(batch)])
    return np.concatenate(teacher)


def _key(split: Split, backbone: Backbone, source: data.Source, flip: bool, dtype: str) -> str:
    parts = {
        "backbone": backbone.fingerprint,
        "preprocessing": backbone.preprocessing.to_dict(),
        "cut": split.cut,
        "source": source.fingerprint,
        "flip": flip,
        "dtype": dtype,
        "precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
        "platform": jax.default_backend(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
