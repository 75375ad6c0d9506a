"""Batches of a training: cached features, or images where features fit neither disk nor memory.

Both give the same examples in the same order.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Callable, Iterator

import jax
import numpy as np

from jaxsplit import data
from jaxsplit.data.pipeline import endless_steps, reader
from jaxsplit.data.targets import in_views
from jaxsplit.networks import Backbone, Features
from jaxsplit.networks.inference import batch_size, head_program, in_batches
from jaxsplit.tasks import Outputs, Targets
from jaxsplit.tasks.task import reader_of
from jaxsplit.train.losses import Scale
from jaxsplit.train.state import Batch

_AHEAD_BYTES = 2**28
_SAMPLE_BYTES = 2**28


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureCache:
    """Features at a cut, teacher outputs and targets of M examples.

    Attributes:
      features: arrays [M, …], in memory or mapped from a file.
      teacher: outputs of the unsplit network, such as logits float32 [M, K].
      targets: of the images, such as labels int32 [M]; None where they have none.
      scale: mean square of the features.
      images: the same examples, which batches then hold too, for training heads.
    """

    features: Features
    teacher: Outputs
    targets: Targets | None
    scale: Scale
    images: ImageBatches | None = None

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.features)[0])

    def batch(self, index: np.ndarray) -> Batch:
        """Returns the examples of an index, int [B]: features, teacher and targets."""
        for array in jax.tree.leaves((self.features, self.teacher, self.targets)):
            _prefetch(array, index)
        features, teacher, targets = jax.tree.map(
            lambda x: x[index], (self.features, self.teacher, self.targets)
        )
        return Batch(index.astype(np.int32), targets, features=features, teacher=teacher)

    def batches(
        self, batch_size: int, seed: int, start_step: int = 0, **process: int
    ) -> Iterator[Batch]:
        """Yields shuffled batches endlessly: features, teacher, targets and index.

        Args:
          batch_size: examples in a batch, over all processes.
          seed: of the order.
          start_step: first step; an iteration from 0 gives the same batch there.
          **process: process_index and process_count: this process, which has all features, gets
            its share of each batch.

        Raises:
          ConfigError: there are fewer examples than a batch takes, or no equal shares.
        """
        show, threads = self.images.fetcher() if self.images else (None, 1)

        def fetch(index: np.ndarray) -> Batch:
            batch = self.batch(index)
            return dataclasses.replace(batch, images=show(index).images) if show else batch

        row_bytes = sum(array[:1].nbytes for array in jax.tree.leaves(self.features))
        batch_bytes = max(1, row_bytes * batch_size // process.get("process_count", 1))
        return endless_steps(
            fetch,
            len(self),
            batch_size,
            seed,
            start_step,
            threads=max(2, threads),  # one reads while the other waits for the disk
            ahead=min(4, max(1, _AHEAD_BYTES // batch_bytes)),
            **process,
        )

    def in_turn(self, size: int) -> Iterator[Batch]:
        """Yields every example once, without the teacher, in batches of `size`."""
        whole = Batch(np.arange(len(self), dtype=np.int32), self.targets, features=self.features)
        for start in range(0, len(self), size):
            yield jax.tree.map(lambda x, rows=slice(start, start + size): x[rows], whole)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageBatches:
    """The examples of a `FeatureCache` as images, for steps that run the head.

    Attributes:
      backbone: has the images' preprocessing and the task whose targets are read.
      source, views: of the images.
      scale: mean square of the features of a sample.
    """

    backbone: Backbone
    source: data.Source
    views: data.Views
    scale: Scale

    def batches(
        self, batch_size: int, seed: int, start_step: int = 0, **process: int
    ) -> Iterator[Batch]:
        """Yields shuffled batches: images, targets and index; see `FeatureCache.batches`."""
        fetch, threads = self.fetcher()
        total = len(self.source) * len(self.views)
        return endless_steps(fetch, total, batch_size, seed, start_step, threads=threads, **process)

    def fetcher(self) -> tuple[Callable[[np.ndarray], Batch], int]:
        """Returns a function from the examples' indices to their batch, and threads to call it."""
        preprocessing, targets = self.backbone.preprocessing, self._reader
        read, threads = reader(self.source, preprocessing, targets=targets)
        count = len(self.source)

        def fetch(index: np.ndarray) -> Batch:
            batch = read(index % count)
            which = index % count, index // count
            images = self.views.apply(batch["image"], *which)
            moved = in_views(batch["label"], targets, preprocessing, self.views, *which)
            return Batch(index.astype(np.int32), self._targets(moved), images)

        return fetch, threads

    def in_turn(self, size: int) -> Iterator[Batch]:
        """Yields every image once, without augmentation, in batches of `size`."""
        preprocessing, targets = self.backbone.preprocessing, self._reader
        for batch in data.batches(self.source, preprocessing, size, targets=targets):
            kept = batch["mask"]
            found = self._targets(batch["label"][kept])
            yield Batch(batch["index"][kept], found, images=batch["image"][kept])

    @property
    def _reader(self) -> data.TargetReader:
        return reader_of(self.backbone.task, self.source)

    def _targets(self, read: np.ndarray) -> Targets | None:
        return read if self.backbone.task.has_targets(self.source) else None


def _prefetch(array: np.ndarray, rows: np.ndarray) -> None:
    """Reads rows of a mapped file ahead, instead of by page faults.

    It took a sixth of the time for 32 rows of 200 KB each on a cold disk.
    """
    mapping = array.base
    if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise"):
        size = array[:1].nbytes
        for begin in rows * size:
            aligned = int(begin) // mmap.PAGESIZE * mmap.PAGESIZE
            mapping.madvise(mmap.MADV_WILLNEED, aligned, int(begin) + size - aligned)


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


def sample_of(features: Features, views: int) -> Features:
    """Returns some of the rows of features, as float32, of `views` views of each image."""
    largest = max((x.shape for x in jax.tree.leaves(features)), key=math.prod)
    rows = sample_rows(largest, views)  # the same of all arrays
    return jax.tree.map(lambda x: np.asarray(x[rows], np.float32), features)


def sampled_features(
    backbone: Backbone, cut: str, source: data.Source, views: data.Views
) -> Features:
    """Computes the rows that `sample_of` returns of cached features of the same examples."""
    shapes = [x.shape for x in jax.tree.leaves(backbone.feature_shapes[cut])]
    largest = max(shapes, key=math.prod)
    examples = sample_rows((len(source) * len(views), *largest), len(views))
    fetch, _ = ImageBatches(backbone, source, views, ()).fetcher()
    program = head_program(backbone.network, (cut,), backbone.preprocessing, precision=None)
    variables = jax.device_put(backbone.variables)
    return in_batches(
        lambda index: program(variables, fetch(index).images)[0][cut],
        examples,
        batch_size(backbone.preprocessing.input_shape),
    )
