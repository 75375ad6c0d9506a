"""Steps: which examples each one shows, as a pure function, and their batches read ahead."""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

from jaxsplit.errors import ConfigError

Batch = dict[str, np.ndarray]

ENDLESS = 2**40  # steps


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
