"""Input pipeline on grain: decode, preprocess, shuffle, batch, augment.

Grain runs with threads, since its worker processes require parsed absl flags. Its elements are
whole batches: per image its overhead would exceed the decoding of small images.
"""

import functools
import math
import os
import weakref
from collections.abc import Callable, Iterator
from typing import TypedDict, TypeVar

import numpy as np

from jaxsplit.data.augmentation import Augmentation
from jaxsplit.data.preprocessing import Preprocessing
from jaxsplit.data.sources import Source
from jaxsplit.data.targets import LABELS, TargetReader, blank_rows, read_row
from jaxsplit.errors import ConfigError

ENDLESS = 2**40  # steps
_CHUNK = 128  # images that a thread decodes at a time
_THREADS = min(os.cpu_count() or 1, 16)  # Pillow decodes outside the GIL

_BatchT = TypeVar("_BatchT")


class ImageBatch(TypedDict):
    """A batch of examples; padding has a black image, a blank target, index -1 and mask False."""

    image: np.ndarray  # uint8 [B, h, w, c]
    label: np.ndarray  # int32 [B], -1 for padding; or other targets [B, …], see `TargetReader`
    index: np.ndarray  # int64 [B], in the source
    mask: np.ndarray  # bool [B]


# Images and targets of each source, by the geometry of their preprocessing and the targets' reader.
_Arrays = tuple[np.ndarray, np.ndarray]
_DECODED = weakref.WeakKeyDictionary[Source, dict[tuple[object, ...], _Arrays]]()


def batches(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    seed: int | None = None,
    epochs: int | None = 1,
    augment: Augmentation | None = None,
    drop_remainder: bool = False,
    start_step: int = 0,
    memory_limit: int = 2**30,
    targets: TargetReader = LABELS,
) -> Iterator[ImageBatch]:
    """Iterates over batches, bit-identically for the same arguments.

    Args:
      source: the examples.
      preprocessing: the backbone's; only its geometry is applied. See `Preprocessing.normalize`.
      batch_size: examples per batch, over all devices.
      seed: of the order, which differs between epochs, and of the augmentation; None: in order.
      epochs: number of passes over the source; None: endless.
      augment: random augmentation; requires a seed.
      drop_remainder: drop each epoch's incomplete last batch instead of padding it.
      start_step: first step, counted over epochs; the data continue as if started at 0.
      memory_limit: decoded images of at most so many bytes are kept in memory for all iterations
        over the source, with their targets. Larger sources are decoded on the fly.
      targets: reads the examples' targets, by default their labels.

    Returns:
      An iterator over batches of constant shapes, see `ImageBatch`.

    Raises:
      ConfigError: an argument is out of range.
      DataError: an image cannot be read; also while iterating.

    >>> from jaxsplit.data.sources import open_source
    >>> small = open_source("embedded", max_samples=10)
    >>> next(batches(small, Preprocessing((28, 28), 1), 4, seed=0))["image"].shape
    (4, 28, 28, 1)
    """
    if batch_size < 1 or min(start_step, epochs or 0, seed or 0) < 0:
        raise ConfigError(
            f"got batch_size {batch_size}, start_step {start_step}, epochs {epochs}, seed {seed}; "
            "expected batch_size ≥ 1 and the others ≥ 0"
        )
    if seed is None and augment is not None:
        raise ConfigError("got an augmentation without a seed; give a seed")
    per_epoch = num_batches(len(source), batch_size, drop_remainder)
    if not per_epoch:
        raise ConfigError(f"{source!r} doesn't fill one batch of {batch_size}; use smaller batches")
    read, threads = reader(source, preprocessing, memory_limit, targets)

    def fetch(step: int) -> ImageBatch:
        batch = read(step_indices(len(source), batch_size, per_epoch, seed, step))
        if augment is not None and seed is not None:
            # Seeded by the step, so that an iteration can start anywhere.
            batch["image"] = augment(batch["image"], np.random.default_rng((seed, step, 1)))
            if (maps := batch["label"]).shape[1:3] == preprocessing.size:
                fill = targets.blank(preprocessing).flat[0]
                rng = np.random.default_rng((seed, step, 1))  # an equal one: the same movement
                batch["label"] = augment.apply_to_maps(maps, fill, rng)
        return batch

    stop = ENDLESS if epochs is None else epochs * per_epoch
    return stream(fetch, min(start_step, stop), stop, threads)


def reader(
    source: Source,
    preprocessing: Preprocessing,
    memory_limit: int = 2**30,
    targets: TargetReader = LABELS,
) -> tuple[Callable[[np.ndarray], ImageBatch], int]:
    """Makes a function from indices, int64 [B], -1 for padding, to a batch; and its threads."""
    blank = targets.blank(preprocessing)
    if fits_memory(source, preprocessing, memory_limit, targets):
        arrays = load_arrays(source, preprocessing, targets)
        return functools.partial(_from_memory, *arrays, blank), 1
    return functools.partial(_from_source, source, preprocessing, targets), _THREADS


def fits_memory(
    source: Source,
    preprocessing: Preprocessing,
    memory_limit: int = 2**30,
    targets: TargetReader = LABELS,
) -> bool:
    """Returns whether decoded images and targets take at most so many bytes, see `batches`."""
    each = math.prod(preprocessing.input_shape) + targets.blank(preprocessing).nbytes
    return len(source) * each <= memory_limit


def load_arrays(
    source: Source, preprocessing: Preprocessing, targets: TargetReader = LABELS
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all examples, resized and cropped but not normalized; decoded on the first call.

    Args:
      source: the examples; a DataError if an image cannot be read.
      preprocessing: the backbone's.
      targets: reads the examples' targets, by default their labels.

    Returns:
      Read-only images, uint8 [N, h, w, c], and targets [N, …]: labels int32 [N].

    >>> from jaxsplit.data.sources import open_source
    >>> load_arrays(open_source("embedded", max_samples=20), Preprocessing((14, 14), 1))[0].shape
    (20, 14, 14, 1)
    """
    decoded = _DECODED.setdefault(source, {})
    geometry = preprocessing.input_shape, preprocessing.resize, preprocessing.fit
    padding = preprocessing.mean if preprocessing.fit == "letterbox" else None
    key = (*geometry, preprocessing.interpolation, padding, targets)
    if key not in decoded:
        images = np.empty((len(source), *preprocessing.input_shape), np.uint8)
        labels = blank_rows(targets, len(source), preprocessing)
        chunks = np.split(np.arange(len(source)), range(_CHUNK, len(source), _CHUNK))
        read = functools.partial(_from_source, source, preprocessing, targets)
        for batch in stream(lambda step: read(chunks[step]), 0, len(chunks), _THREADS):
            images[batch["index"]] = batch["image"]
            labels[batch["index"]] = batch["label"]
        images.flags.writeable = labels.flags.writeable = False
        decoded[key] = images, labels
    return decoded[key]


def windows(source: Source, preprocessing: Preprocessing) -> np.ndarray | None:
    """Computes which pixels of the network's inputs show the images, and are no padding.

    Args:
      source: the images; they are decoded again for their sizes.
      preprocessing: the backbone's.

    Returns:
      bool [N, h, w]; None where the preprocessing never pads.

    >>> from jaxsplit.data.sources import open_source
    >>> source = open_source("embedded", max_samples=20)
    >>> windows(source, Preprocessing((28, 56), 1, fit="letterbox")).mean()  # half is padding
    np.float64(0.5)
    """
    if preprocessing.fit != "letterbox":
        return None
    found = np.empty((len(source), *preprocessing.size), bool)
    for row, example in zip(found, source.examples(range(len(source))), strict=True):
        size = example["image"].shape[:2]
        row[:] = preprocessing.placement(size).apply(np.ones(size, bool), np.False_)
    return found


def _from_memory(
    images: np.ndarray, labels: np.ndarray, blank: np.ndarray, index: np.ndarray
) -> ImageBatch:
    image, label, mask = images[index], labels[index], index >= 0
    image[~mask], label[~mask] = 0, blank
    return ImageBatch(image=image, label=label, index=index, mask=mask)


def _from_source(
    source: Source, preprocessing: Preprocessing, targets: TargetReader, index: np.ndarray
) -> ImageBatch:
    images = np.zeros((len(index), *preprocessing.input_shape), np.uint8)
    labels = blank_rows(targets, len(index), preprocessing)
    mask = index >= 0
    for position, example in enumerate(source.examples(index[mask].tolist())):
        images[position] = preprocessing.apply(example["image"])
        read_row(targets, labels, position, example, preprocessing)
    return ImageBatch(image=images, label=labels, index=index, mask=mask)


def num_batches(examples: int, batch_size: int, drop_remainder: bool = False) -> int:
    """Computes the number of batches in an epoch.

    Args:
      examples, batch_size: numbers of examples, in all and per batch.
      drop_remainder: drop an incomplete last batch.

    Returns:
      The number of batches.

    >>> num_batches(10, 4), num_batches(10, 4, drop_remainder=True)
    (3, 2)
    """
    return examples // batch_size if drop_remainder else math.ceil(examples / batch_size)


def step_indices(
    examples: int, batch_size: int, per_epoch: int, seed: int | None, step: int
) -> np.ndarray:
    """Returns the example indices of one step, int64 [B], padded with -1; a pure function."""
    epoch, position = divmod(step, per_epoch)
    begin, end = position * batch_size, min((position + 1) * batch_size, examples)
    order = np.arange(begin, end) if seed is None else _order(examples, seed, epoch)[begin:end]
    return np.pad(order, (0, batch_size - len(order)), constant_values=-1)


@functools.lru_cache(maxsize=4)
def _order(examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples)


def stream(
    fetch: Callable[[int], _BatchT], start: int, stop: int, threads: int, ahead: int | None = None
) -> Iterator[_BatchT]:
    """Iterates over fetch(start), …, fetch(stop - 1) in order, prefetched by grain's threads.

    They are `ahead` batches ahead of the iteration, by default two each.
    """
    from grain import python as grain  # importing takes most of a second

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead or 2 * threads)
    return iter(grain.MapDataset.range(start, stop).map(fetch).to_iter_dataset(options))


def check_batch(examples: int, batch_size: int) -> None:
    """Raises a ConfigError unless there are enough training examples for a batch."""
    if not 0 < batch_size <= examples:
        raise ConfigError(
            f"{examples} training examples don't fill one batch of {batch_size}; "
            "raise max_samples or make the batches smaller"
        )


def endless_steps(
    fetch: Callable[[np.ndarray], _BatchT],
    examples: int,
    batch_size: int,
    seed: int,
    start_step: int,
    *,
    threads: int,
    ahead: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[_BatchT]:
    """Iterates endlessly over one process's shard of shuffled, complete batches.

    The shards of all processes, concatenated, are the batch of a single-process run. `fetch` maps
    example indices, int64 [batch_size / process_count], to their batch. See `batches` and `stream`.
    Raises a ConfigError if there are fewer examples than a batch, it does not divide evenly, or
    there is no such process.
    """
    check_batch(examples, batch_size)
    if not 0 <= process_index < process_count:
        raise ConfigError(
            f"process {process_index} of {process_count}; expected 0 … {process_count - 1}"
        )
    share, rest = divmod(batch_size, process_count)
    if rest:
        near = max(1, round(batch_size / process_count)) * process_count
        raise ConfigError(
            f"a batch of {batch_size} does not divide evenly over {process_count} processes; "
            f"the nearest size that does is {near}"
        )
    mine = slice(process_index * share, (process_index + 1) * share)
    per_epoch = num_batches(examples, batch_size, drop_remainder=True)

    def fetch_mine(step: int) -> _BatchT:
        return fetch(step_indices(examples, batch_size, per_epoch, seed, step)[mine])

    return stream(fetch_mine, start_step, ENDLESS, threads, ahead)
