"""The one input pipeline: decode, preprocess, shuffle, batch, augment, on grain.

Grain runs here with threads and without worker processes (those want absl's flags parsed). Its
elements are whole batches: per image it would cost more than the images of small networks do.
"""

import functools
import math
import os
import weakref
from collections.abc import Callable, Iterator

import numpy as np

from jaxsplit.data.augmentation import Augmentation
from jaxsplit.data.preprocessing import Preprocessing
from jaxsplit.data.sources import Source
from jaxsplit.errors import ConfigError

Batch = dict[str, np.ndarray]

ENDLESS = 2**40  # steps

_DECODED: weakref.WeakKeyDictionary[Source, dict] = weakref.WeakKeyDictionary()


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
) -> Iterator[Batch]:
    """Iterates over batches; the same arguments give the same batches, to the bit.

    Args:
      source: where the examples come from.
      preprocessing: the backbone's; only its geometry is applied, see `normalise` for the rest.
      batch_size: examples in a batch, over all devices.
      seed: of the order, another one each epoch, and of the augmentation; None: in order.
      epochs: how many times every example is seen; None: endless.
      augment: random changes to the images; needs a seed.
      drop_remainder: leave out each epoch's last, incomplete batch instead of padding it.
      start_step: begin at this step, counted over epochs: what an iteration from 0 gives there.
      memory_limit: bytes of decoded images that may be kept in memory and shared by all
        iterations over the source; larger sources are decoded anew as they stream.

    Returns:
      An iterator over dictionaries, all of one shape: `image` uint8 [B, h, w, c], `label` int32
      [B], `index` int64 [B] (the example's number in the source) and `mask` bool [B], False for
      padding, where the image is black and label and index are -1.

    Raises:
      ConfigError: an argument doesn't fit.
      DataError: an image can't be read, perhaps only in the middle of an iteration.

    >>> from jaxsplit.data.sources import open_source
    >>> small = open_source("embedded", limit=10)
    >>> batch = next(batches(small, Preprocessing((28, 28), 1), 4, seed=0))
    >>> {key: (value.dtype.name, value.shape) for key, value in batch.items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'image': ('uint8', (4, 28, 28, 1)), 'label': ('int32', (4,)),
     'index': ('int64', (4,)), 'mask': ('bool', (4,))}
    """
    if batch_size < 1 or start_step < 0 or (epochs is not None and epochs < 0):
        raise ConfigError(
            "expected batch_size ≥ 1, start_step ≥ 0 and epochs ≥ 0 or None; "
            f"got {batch_size}, {start_step} and {epochs}"
        )
    if seed is None and augment is not None:
        raise ConfigError("augmentation is random: it needs a seed")
    if seed is not None and seed < 0:
        raise ConfigError(f"a seed must be ≥ 0, not {seed}")
    per_epoch = num_batches(len(source), batch_size, drop_remainder)
    if not per_epoch:
        raise ConfigError(f"{source!r} doesn't fill one batch of {batch_size}")
    read, threads = reader(source, preprocessing, memory_limit)

    def fetch(step: int) -> Batch:
        batch = read(step_indices(len(source), batch_size, per_epoch, seed, step))
        if augment is not None and seed is not None:
            # Seeded by the step alone, so that an iteration can begin anywhere.
            batch["image"] = augment(batch["image"], np.random.default_rng((seed, step, 1)))
        return batch

    stop = ENDLESS if epochs is None else epochs * per_epoch
    return stream(fetch, min(start_step, stop), stop, threads)


def reader(
    source: Source, preprocessing: Preprocessing, memory_limit: int = 2**30
) -> tuple[Callable[[np.ndarray], Batch], int]:
    """How any examples of a source are read, as one batch without augmentation.

    Args:
      source, preprocessing, memory_limit: as of `batches`.

    Returns:
      From int64 [B] (an example's number, or -1 for padding) to the batch, and the number of
      threads in which to call it.
    """
    if len(source) * math.prod(preprocessing.input_shape) <= memory_limit:
        return functools.partial(_from_memory, *load_arrays(source, preprocessing)), 1
    return functools.partial(_from_source, source, preprocessing), _threads()


def load_arrays(source: Source, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """All examples at once, preprocessed but not normalised; decoded only the first time.

    Args:
      source: where the examples come from.
      preprocessing: the backbone's.

    Returns:
      Read-only images, uint8 [N, h, w, c], and labels, int32 [N].

    Raises:
      DataError: an image can't be read.

    >>> from jaxsplit.data.sources import open_source
    >>> images, labels = load_arrays(open_source("embedded", limit=20), Preprocessing((14, 14), 1))
    >>> images.shape, images.dtype.name, labels.shape
    ((20, 14, 14, 1), 'uint8', (20,))
    """
    decoded = _DECODED.setdefault(source, {})
    key = (*preprocessing.input_shape, preprocessing.resize, preprocessing.interpolation)
    if key not in decoded:
        images = np.empty((len(source), *preprocessing.input_shape), np.uint8)
        labels = np.empty(len(source), np.int32)
        size, count = 128, len(source)
        steps = num_batches(count, size)

        def fetch(step: int) -> Batch:
            return _from_source(source, preprocessing, step_indices(count, size, steps, None, step))

        for batch in stream(fetch, 0, steps, _threads()):
            kept = batch["index"][batch["mask"]]
            images[kept] = batch["image"][: len(kept)]
            labels[kept] = batch["label"][: len(kept)]
        images.flags.writeable = labels.flags.writeable = False
        decoded[key] = images, labels
    return decoded[key]


def _from_memory(images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Batch:
    mask = index >= 0
    batch = images[index], labels[index]
    if not mask.all():
        batch[0][~mask] = 0
        batch[1][~mask] = -1
    return {"image": batch[0], "label": batch[1], "index": index, "mask": mask}


def _from_source(source: Source, preprocessing: Preprocessing, index: np.ndarray) -> Batch:
    images = np.zeros((len(index), *preprocessing.input_shape), np.uint8)
    labels = np.full(len(index), -1, np.int32)
    mask = index >= 0
    for position, example in enumerate(source.__getitems__(index[mask].tolist())):
        images[position] = preprocessing.apply(example["image"])
        labels[position] = example["label"]
    return {"image": images, "label": labels, "index": index, "mask": mask}


def _threads() -> int:
    """Pillow decodes outside the interpreter's lock, so a thread per core is worth it."""
    return min(os.cpu_count() or 1, 16)


def num_batches(examples: int, batch_size: int, drop_remainder: bool = False) -> int:
    """How many batches of batch_size an epoch of so many examples has.

    Args:
      examples, batch_size: numbers of images.
      drop_remainder: a last batch that would be smaller is none.

    Returns:
      The number of batches.

    >>> num_batches(10, 4), num_batches(10, 4, drop_remainder=True)
    (3, 2)
    """
    return examples // batch_size if drop_remainder else math.ceil(examples / batch_size)


def step_indices(
    examples: int, batch_size: int, per_epoch: int, seed: int | None, step: int
) -> np.ndarray:
    """The examples of one step, int64 [B], -1 where there are none left: a pure function."""
    epoch, position = divmod(step, per_epoch)
    begin = position * batch_size
    end = min(begin + batch_size, examples)
    chosen = np.full(batch_size, -1, np.int64)
    order = np.arange(begin, end) if seed is None else _order(examples, seed, epoch)[begin:end]
    chosen[: len(order)] = order
    return chosen


@functools.lru_cache(maxsize=4)
def _order(examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples)


def stream(
    fetch: Callable[[int], Batch], start: int, stop: int, threads: int, ahead: int | None = None
) -> Iterator[Batch]:
    """fetch(start), …, fetch(stop - 1), in order, prefetched by grain's threads.

    Args:
      fetch: from a step to its batch; called in several threads.
      start, stop: the steps.
      threads: how many call it.
      ahead: how many batches may wait to be taken; None: two a thread.
    """
    from grain import python as grain  # costs most of a second, and only who iterates needs it

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead or 2 * threads)
    return iter(grain.MapDataset.range(start, stop).map(fetch).to_iter_dataset(options))


def endless_steps(
    fetch: Callable[[np.ndarray], Batch],
    examples: int,
    batch_size: int,
    seed: int,
    start_step: int,
    *,
    threads: int,
    ahead: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Endless shuffled batches without remainders, or one process's share of each.

    The shares of all processes, one after the other, are the batch of one process alone.

    Args:
      fetch: from examples, int64 [B / process_count], to their batch.
      examples: how many there are.
      batch_size: examples in a batch, over all processes.
      seed, start_step: as of `batches`.
      threads, ahead: as of `stream`.
      process_index, process_count: which of the processes this is.

    Raises:
      ConfigError: the examples don't fill a batch, or the processes can't share one evenly.
    """
    per_epoch = num_batches(examples, batch_size, drop_remainder=True) if batch_size > 0 else 0
    if not per_epoch:
        raise ConfigError(
            f"{examples} training examples don't fill one batch of {batch_size}: "
            "raise the limit or make the batches smaller"
        )
    share, rest = divmod(batch_size, process_count)
    if rest or not 0 <= process_index < process_count:
        near = max(1, round(batch_size / process_count)) * process_count
        raise ConfigError(
            f"process {process_index} of {process_count} has no even share of a batch of "
            f"{batch_size}: the nearest that can be divided is {near}"
        )
    mine = slice(process_index * share, (process_index + 1) * share)
    return stream(
        lambda step: fetch(step_indices(examples, batch_size, per_epoch, seed, step)[mine]),
        start_step,
        ENDLESS,
        threads,
        ahead,
    )
