"""Runs the frozen head over a training's examples: by parts for the cache, or over a sample."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxsplit import data
from jaxsplit.data.pipeline import ImageBatch, reader, stream
from jaxsplit.errors import ConfigError
from jaxsplit.io.log import Tell
from jaxsplit.networks import Backbone, Features
from jaxsplit.networks.inference import batch_size, head_program, pad_rows
from jaxsplit.tasks import Outputs, Targets
from jaxsplit.train.batches import FeatureCache
from jaxsplit.train.losses import Scale

_SAMPLE_BYTES = 2**28
_SECONDS_BETWEEN_REPORTS = 10


class Rows(NamedTuple):
    """Rows of a cache, arrays [n, …].

    Attributes:
      features: cut → features.
      teacher: outputs of the unsplit network.
      targets: int32 [n].
    """

    features: dict[str, Features]
    teacher: Outputs
    targets: Targets


def run_parts(
    backbone: Backbone,
    cuts: tuple[str, ...],
    source: data.Source,
    views: data.Views,
    dtype: str,
    tell: Tell,
    parts: Sequence[int] | None,
) -> Iterator[tuple[int, int, Rows]]:
    """Computes parts of a cache.

    Args:
      backbone, cuts, source, views, dtype, tell: as in `features.compute`.
      parts: numbers of the parts; None for all. Part `k · V + v` is the k-th run of images in
        view v of V: a run is decoded once for all of its views.

    Yields:
      The part, its first row, and its rows.

    Raises:
      ConfigError: the features are too large for their dtype, or not finite.
    """
    size, count = batch_size(backbone.preprocessing.input_shape), len(source)
    wanted = set(range(-(-count // size) * len(views)) if parts is None else parts)
    runs = sorted({part // len(views) for part in wanted})
    read, threads = reader(source, backbone.preprocessing)

    def fetch(i: int) -> ImageBatch:
        first = runs[i] * size
        return read(np.arange(first, min(first + size, count)))

    where = cuts[0] if len(cuts) == 1 else f"{len(cuts)} cuts"
    tell(f"computing features at {where}: {len(wanted)} parts of up to {size} images")
    program = head_program(
        backbone.network, cuts, backbone.preprocessing, outputs=True, precision=None
    )
    variables = jax.device_put(backbone.variables)  # once: not with every batch
    started = reported = time.monotonic()
    done = 0
    for i, batch in zip(runs, stream(fetch, 0, len(runs), threads), strict=True):
        for view in range(len(views)):
            if (part := i * len(views) + view) not in wanted:
                continue
            index = batch["index"]
            images = views.apply(batch["image"], index, np.full(len(index), view))
            features, outputs = program(variables, pad_rows(images, size))
            rows = len(images)
            stored = {
                cut: jax.tree.map(
                    lambda x, n=rows, cut=cut: _as_dtype(np.asarray(x)[:n], dtype, cut), tree
                )
                for cut, tree in features.items()
            }
            teacher = jax.tree.map(lambda x, n=rows: np.asarray(x)[:n], outputs)
            yield part, view * count + i * size, Rows(stored, teacher, batch["label"])
            done += 1
            if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                left = (reported - started) / done * (len(wanted) - done)
                tell(f"features: {done} of {len(wanted)} parts, {left:.0f} s left")


def _as_dtype(features: np.ndarray, dtype: str, cut: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = features.astype(np.dtype(dtype))
    if not np.isfinite(stored).all():
        raise ConfigError(
            f"features at {cut} as large as {np.abs(features).max():.3g} don't fit {dtype}: "
            "take bfloat16 or float32, or another cut"
            if np.isfinite(features).all()
            else "the head's features are not finite: check the weights"
        )
    return stored


def sample_rows(shape: tuple[int, ...], views: int = 1) -> np.ndarray:
    """Returns about 1000 to 2000 evenly spaced rows, at most 256 MiB in float32.

    Each view starts one image later than the one before, so that views sample different images.
    """
    limit = max(1, _SAMPLE_BYTES // (4 * math.prod(shape[1:])))
    apart, images = max(1, shape[0] // 1000, -(-shape[0] // limit)), shape[0] // views
    spread = [view * images + np.arange(view % apart, images, apart) for view in range(views)]
    return np.concatenate(spread)


def mean_square(sample: Features) -> Scale:
    """Returns the mean square of each array."""
    return jax.tree.map(lambda x: float(np.square(x).mean()), sample)


def sample_of(cache: FeatureCache, views: int) -> Features:
    """Returns float32 features of some of the examples, `views` of each image."""
    shapes = [x.shape[1:] for x in jax.tree.leaves(cache.features)]
    rows = _sampled_rows(len(cache), shapes, views)
    return jax.tree.map(lambda x: np.asarray(x[rows], np.float32), cache.features)


def _sampled_rows(count: int, shapes: Sequence[tuple[int, ...]], views: int) -> np.ndarray:
    """`sample_rows` of the largest of the arrays that cross a cut: the same rows of all."""
    return sample_rows((count, *max(shapes, key=math.prod)), views)


def sampled_features(
    backbone: Backbone, cut: str, source: data.Source, views: data.Views
) -> Features:
    """Returns what `sample_of` returns for a cache of the same examples."""
    shapes = [x.shape for x in jax.tree.leaves(backbone.feature_shapes[cut])]
    examples = _sampled_rows(len(source) * len(views), shapes, len(views))
    numbers, view = examples % len(source), examples // len(source)
    read, _ = reader(source, backbone.preprocessing)
    size = batch_size(backbone.preprocessing.input_shape)
    program = head_program(backbone.network, (cut,), backbone.preprocessing, precision=None)
    variables = jax.device_put(backbone.variables)
    sample = []
    for first in range(0, len(examples), size):
        chosen = slice(first, first + size)
        images = views.apply(read(numbers[chosen])["image"], numbers[chosen], view[chosen])
        features = program(variables, pad_rows(images, size))[0][cut]
        rows = len(images)
        sample.append(jax.tree.map(lambda x, n=rows: np.asarray(x)[:n], features))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *sample)
