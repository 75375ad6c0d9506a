"""The frozen head run over the examples of a training: part by part, or over a sample."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import data
from jaxsplit.data.pipeline import Batch, reader, stream
from jaxsplit.errors import ConfigError
from jaxsplit.io.array_cache import Tell
from jaxsplit.networks import Backbone
from jaxsplit.networks.inference import batch_size
from jaxsplit.split import Split

_SAMPLE_BYTES = 2**28
_SECONDS_BETWEEN_REPORTS = 10


def run_parts(
    split: Split,
    backbone: Backbone,
    source: data.Source,
    views: data.Views,
    dtype: str,
    tell: Tell,
    parts: Sequence[int] | None,
) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
    """Computes parts of a cache.

    Args:
      split, backbone, source, views, dtype, tell: as of `features.compute`.
      parts: which; None for all. Part `k · V + v` is the k-th run of images in view v of V: a run
        is decoded once for all of its views.

    Yields:
      The part, its first row, and its rows: features [n, H, W, Cin], teacher [n, K], label [n].

    Raises:
      ConfigError: the features are too large for their dtype, or not finite.
    """
    size, count = batch_size(backbone.preprocessing.input_shape), len(source)
    wanted = set(range(-(-count // size) * len(views)) if parts is None else parts)
    runs = sorted({part // len(views) for part in wanted})
    read, threads = reader(source, backbone.preprocessing)

    def fetch(i: int) -> Batch:
        first = runs[i] * size
        return read(np.arange(first, min(first + size, count)))

    tell(f"computing features at {split.cut}: {len(wanted)} parts of up to {size} images")
    program = _program(split, backbone.preprocessing, teacher=True)
    variables = jax.device_put(backbone.variables)  # once: not with every batch
    begun = reported = time.monotonic()
    done = 0
    for i, batch in zip(runs, stream(fetch, 0, len(runs), threads), strict=True):
        for view in range(len(views)):
            if (part := i * len(views) + view) not in wanted:
                continue
            images = views.apply(batch["image"], batch["index"], np.full(len(batch["index"]), view))
            x, logits = program(variables, _padded(images, size))
            values = {
                "features": _as_dtype(np.asarray(x)[: len(images)], dtype),
                "teacher": np.asarray(logits)[: len(images)],
                "label": batch["label"],
            }
            yield part, view * count + i * size, values
            done += 1
            if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                left = (reported - begun) / done * (len(wanted) - done)
                tell(f"features: {done} of {len(wanted)} parts, {left:.0f} s left")


@functools.lru_cache(maxsize=8)
def _program(split: Split, preprocessing: data.Preprocessing, *, teacher: bool) -> Any:
    @jax.jit
    def run(variables: Any, images: jax.Array) -> Any:
        x = split.head(variables, preprocessing.normalise(images))
        return (x, split.tail(variables, x)) if teacher else x

    return run


def _padded(images: np.ndarray, size: int) -> jax.Array:
    padded = np.zeros((size, *images.shape[1:]), images.dtype)
    padded[: len(images)] = images
    return jnp.asarray(padded)


def _as_dtype(features: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = features.astype(np.dtype(dtype))
    if not np.isfinite(stored).all():
        raise ConfigError(
            f"features as large as {np.abs(features).max():.3g} don't fit {dtype}: "
            "take bfloat16 or float32"
            if np.isfinite(features).all()
            else "the head gives features that are not finite: are these the right weights?"
        )
    return stored


def sample_rows(shape: tuple[int, ...], views: int = 1) -> np.ndarray:
    """Evenly spread rows: some 1000 to 2000, of 256 MiB in float32 at most.

    Of several views, one after the other, each begins one image later than the one before it: with
    the same images of all of them, most would be in none.
    """
    limit = max(1, _SAMPLE_BYTES // (4 * math.prod(shape[1:])))
    apart, images = max(1, shape[0] // 1000, -(-shape[0] // limit)), shape[0] // views
    spread = [view * images + np.arange(view % apart, images, apart) for view in range(views)]
    return np.concatenate(spread)


def mean_square(sample: np.ndarray) -> float:
    """The scale that squared errors of features are measured in."""
    return float(np.square(sample).mean())


def sampled_features(
    split: Split, backbone: Backbone, source: data.Source, views: data.Views
) -> np.ndarray:
    """The rows that `sample_rows` would take of a cache of the same examples, float32."""
    examples = sample_rows((len(source) * len(views), *split.shape), len(views))
    numbers, view = examples % len(source), examples // len(source)
    read, _ = reader(source, backbone.preprocessing)
    size = batch_size(backbone.preprocessing.input_shape)
    program = _program(split, backbone.preprocessing, teacher=False)
    variables = jax.device_put(backbone.variables)
    sample = []
    for first in range(0, len(examples), size):
        chosen = slice(first, first + size)
        images = views.apply(read(numbers[chosen])["image"], numbers[chosen], view[chosen])
        sample.append(np.asarray(program(variables, _padded(images, size)))[: len(images)])
    return np.concatenate(sample)
