"""The examples of a training, in batches: as cached features, or as images.

Both forms show the same examples in the same order, so where features don't fit on disk or in
memory only the time of a step changes.
"""

from __future__ import annotations

import dataclasses
import mmap
from collections.abc import Iterator

import numpy as np

from jaxsplit import data
from jaxsplit.data.pipeline import Batch, endless_steps, reader

_AHEAD_BYTES = 2**28


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureCache:
    """Features at the cut and what a loss compares with, of M examples.

    Attributes:
      features: [M, H, W, Cin], in memory or mapped from a file.
      teacher: logits of the uncut network, float32 [M, K].
      labels: int32 [M].
      scale: mean square of the features.
    """

    features: np.ndarray
    teacher: np.ndarray
    labels: np.ndarray
    scale: float

    def batches(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[Batch]:
        """Endless shuffled batches: features [B, …], teacher [B, K], label [B], index [B].

        Args:
          batch_size: examples in a batch, over all processes.
          seed: of the order.
          start_step: begin at this step: what an iteration from 0 gives there.
          process_index, process_count: of several processes, each gets its share of the batch;
            every one of them has all features.

        Raises:
          ConfigError: there are fewer examples than a batch takes, or no even shares.
        """

        def fetch(index: np.ndarray) -> Batch:
            _ask_for(self.features, index)
            _ask_for(self.teacher, index)
            return {
                "features": self.features[index],
                "teacher": self.teacher[index],
                "label": self.labels[index],
                "index": index.astype(np.int32),
            }

        batch_bytes = max(1, self.features[:1].nbytes * batch_size // process_count)
        return endless_steps(
            fetch,
            len(self.labels),
            batch_size,
            seed,
            start_step,
            threads=2,  # a second one has read while the first waits for a disk
            ahead=min(4, max(1, _AHEAD_BYTES // batch_bytes)),
            process_index=process_index,
            process_count=process_count,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ImageBatches:
    """The examples of a `FeatureCache` as images, for a step that runs the head itself.

    Attributes:
      source, preprocessing, views: which images, and what is shown of them.
      scale: mean square of the features of a sample.
    """

    source: data.Source
    preprocessing: data.Preprocessing
    views: data.Views
    scale: float

    def batches(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[Batch]:
        """As of `FeatureCache`: image uint8 [B, h, w, c], label [B], index [B]."""
        read, threads = reader(self.source, self.preprocessing)
        count = len(self.source)

        def fetch(index: np.ndarray) -> Batch:
            batch = read(index % count)
            image = self.views.apply(batch["image"], index % count, index // count)
            return {"image": image, "label": batch["label"], "index": index.astype(np.int32)}

        return endless_steps(
            fetch,
            count * len(self.views),
            batch_size,
            seed,
            start_step,
            threads=threads,
            process_index=process_index,
            process_count=process_count,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class WithImages:
    """The examples of a `FeatureCache` with their images, for heads that learn.

    Attributes:
      cache, images: of the same examples.
    """

    cache: FeatureCache
    images: ImageBatches

    @property
    def scale(self) -> float:
        """Mean square of the frozen head's features."""
        return self.cache.scale

    def batches(self, *args: int, **place: int) -> Iterator[Batch]:
        """What both have, as of `FeatureCache.batches`."""
        both = self.cache.batches(*args, **place), self.images.batches(*args, **place)
        for seen, shown in zip(*both, strict=True):
            yield {**shown, **seen}


def _ask_for(array: np.ndarray, rows: np.ndarray) -> None:
    """Has the system read rows of a mapped file, all at once instead of page by page.

    On a cold disk 32 rows of 200 KB each came in a sixth of the time that page faults took.
    """
    mapping = array.base
    if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise"):
        size = array[:1].nbytes
        for begin in rows * size:
            aligned = int(begin) // mmap.PAGESIZE * mmap.PAGESIZE
            mapping.madvise(mmap.MADV_WILLNEED, aligned, int(begin) + size - aligned)
