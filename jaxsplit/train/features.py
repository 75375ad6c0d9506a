"""Computes and caches head features and teacher outputs: the one cache, keyed by cuts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxsplit import _moved, data
from jaxsplit._moved import renamed_argument
from jaxsplit.data.pipeline import ImageBatch, reader, stream
from jaxsplit.data.targets import in_views, reader_identity
from jaxsplit.errors import ConfigError, choices
from jaxsplit.io.array_cache import ArrayCache, Shapes, array_bytes
from jaxsplit.io.identity import identity
from jaxsplit.io.log import Log, no_log
from jaxsplit.networks import Backbone, LinenNetwork
from jaxsplit.networks.inference import batch_size, head_program, in_batches
from jaxsplit.tasks.task import reader_of
from jaxsplit.train import batches
from jaxsplit.train.batches import FeatureCache, ImageBatches
from jaxsplit.trees import Structs

DTYPES = ("float32", "float16", "bfloat16")
CACHES = ("auto", "disk", "memory", "none")
#: Default limit of cached features.
MAX_BYTES = 64 * 2**30

_RESERVE = 2**30  # bytes that a cache leaves free on its disk
_SECONDS_BETWEEN_REPORTS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class HeadRun:
    """The run of a frozen head, up to some cuts in its order, over the examples of a training.

    `dtype` is that of the stored features.
    """

    backbone: Backbone
    cuts: tuple[str, ...]
    source: data.Source
    views: data.Views
    dtype: str = "float32"
    log: Log = no_log

    @property
    def size(self) -> int:
        """Images of one run of the head."""
        return batch_size(self.backbone.preprocessing.input_shape)

    @property
    def target_reader(self) -> data.TargetReader:
        """Reads the targets of the source."""
        return reader_of(self.backbone.task, self.source)

    @property
    def layout(self) -> tuple[dict[str, Structs], Structs, Structs]:
        """Shapes of an image's arrays: cut → features, the teacher's outputs, the target."""
        shapes = self.backbone.feature_shapes
        blank = self.target_reader.blank(self.backbone.preprocessing)
        target = jax.ShapeDtypeStruct(blank.shape, blank.dtype)
        return {cut: shapes[cut] for cut in self.cuts}, self.backbone.output_shapes, target

    @functools.cached_property
    def shapes(self) -> Shapes:
        """Name → shape and dtype of the cached arrays, in the order of the layout's leaves."""
        rows = len(self.source) * len(self.views)
        if rows >= 2**31:
            less = "take fewer augmentations_per_image"
            raise ConfigError(f"{rows} examples can't be numbered in 32 bits: {less}")
        found = {}
        for path, leaf in jax.tree.leaves_with_path(self.layout):
            kind = ("features", "teacher", "label")[path[0].idx]
            # One cut, one array and one output have plain names.
            inside = path[1:] if kind != "features" or len(self.cuts) > 1 else path[2:]
            keys = (jax.tree_util.keystr((part,), simple=True) for part in inside)
            name = "-".join((kind, *(re.sub(r"[^\w.]", "_", key) for key in keys)))
            dtype = str(leaf.dtype) if kind != "features" else self.dtype
            found[name] = ((rows, *leaf.shape), dtype)
        return found

    @property
    def about(self) -> dict[str, object]:
        """All that cached features depend on, ready for JSON."""
        backbone, network = self.backbone, self.backbone.network
        targets = self.target_reader
        kinds = {str(np.dtype(x.dtype)) for x in jax.tree.leaves(backbone.variables)}
        return {
            "backbone": backbone.fingerprint,
            "network": backbone.name,
            "folded": network.folded,
            "variables": sorted(kinds),
            "preprocessing": backbone.preprocessing.to_dict(),
            "cut": self.cuts[0] if len(self.cuts) == 1 else list(self.cuts),
            **({} if isinstance(network, LinenNetwork) else {"functions": identity(network)}),
            **({} if targets is data.LABELS else {"targets": reader_identity(targets)}),
            "source": self.source.fingerprint,
            "views": dataclasses.asdict(self.views),
            "dtype": self.dtype,
            "precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
            "platform": jax.default_backend(),
        }


@renamed_argument("tell", "log")
def compute(
    backbone: Backbone,
    cut: str,
    source: data.Source,
    *,
    views: data.Views | None = None,
    dtype: str = "float32",
    directory: Path | None = None,
    cache: str = "auto",
    max_bytes: float = MAX_BYTES,
    log: Log | None = None,
) -> FeatureCache | ImageBatches:
    """Runs the head over every view of every image once, or resumes a stopped computation.

    Several processes may share a directory: one computes, the others wait.

    Args:
      backbone, cut: the frozen network, and where it is cut.
      source: training images, decoded on demand.
      views: augmentations per image; None: the image itself.
      dtype: of the stored features; float16 and bfloat16 halve the space.
      directory: of the cache on disk, in a folder named after all that the features depend on.
      cache: "disk", "memory", "none" (the head runs in every step), or "auto": on disk if there
        is a directory, else in memory, and none where they don't fit.
      max_bytes: largest size of the cache.
      log: log callback.

    Returns:
      The features, or the images where they are not cached.

    Raises:
      ConfigError: a wrong argument, or features that fit no cache or dtype or can't be written.
    """
    views = views or data.Views()
    if views.augmentation is None:  # the seed changes nothing: one cache serves all seeds
        views = dataclasses.replace(views, seed=0)
    run = HeadRun(backbone, (cut,), source, views, dtype, log or no_log)
    if found := cached(run, directory, cache, max_bytes):
        return found[cut]
    scale = batches.mean_square(batches.sampled_features(backbone, cut, source, views))
    return ImageBatches(backbone, source, views, scale)


def cached(
    run: HeadRun, directory: Path | None, cache: str, max_bytes: float
) -> dict[str, FeatureCache]:
    """Maps each cut to its features, computed as far as they are not cached; {} without a cache.

    Arguments and errors are those of `compute`. All cuts share the arrays of teacher and targets.
    """
    if run.dtype not in DTYPES:
        raise ConfigError(
            f"feature dtype is {run.dtype!r}; expected one of {choices(run.dtype, DTYPES)}"
        )
    if cache not in CACHES or (cache == "disk" and directory is None):
        raise ConfigError(
            f"cache is {cache!r} and its directory {directory}; expected one of "
            f"{', '.join(CACHES)}, and a directory for 'disk'"
        )
    files = None
    if directory is not None and cache in ("auto", "disk"):
        folder, images, views = directory / key(run.about), len(run.source), len(run.views)
        files = ArrayCache(folder, run.about, run.shapes, images, views, part_images=run.size)
    if cache == "none" or not _fits(run, files, max_bytes, cache):
        return {}
    arrays = (_in_memory(run) if files is None else _on_disk(files, run)).values()
    features, teacher, targets = jax.tree.unflatten(jax.tree.structure(run.layout), arrays)
    found = {}
    for cut in run.cuts:
        scale = batches.mean_square(batches.sample_of(features[cut], len(run.views)))
        known = targets if run.backbone.task.has_targets(run.source) else None
        found[cut] = FeatureCache(features[cut], teacher, known, scale)
    return found


def key(about: dict[str, object]) -> str:
    """Returns the folder name of features that depend on this."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def run_parts(
    run: HeadRun, parts: Sequence[int] | None
) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
    """Computes parts of a cache, by their numbers; None: all.

    Part `k · V + v` is the k-th run of images in view v of V: a run is decoded once for all of its
    views. Raises a ConfigError if features are too large for their dtype, or not finite.

    Yields:
      The part, its first row, and its rows by the names of `run.shapes`.
    """
    size, count, views = run.size, len(run.source), run.views
    width = batch_size(run.backbone.preprocessing.input_shape, count)  # of few images, fewer
    wanted = set(range(-(-count // size) * len(views)) if parts is None else parts)
    runs = sorted({part // len(views) for part in wanted})
    network, cuts, preprocessing = run.backbone.network, run.cuts, run.backbone.preprocessing
    targets = run.target_reader
    read, threads = reader(run.source, preprocessing, targets=targets)

    def fetch(i: int) -> ImageBatch:
        return read(np.arange(runs[i] * size, min((runs[i] + 1) * size, count)))

    where = cuts[0] if len(cuts) == 1 else f"{len(cuts)} cuts"
    parts_of = "1 part" if len(wanted) == 1 else f"{len(wanted)} parts"
    run.log(f"computing features at {where}: {parts_of} of up to {size} images")
    program = head_program(network, cuts, preprocessing, outputs=True, precision=None)
    variables = jax.device_put(run.backbone.variables)  # once: not with every batch
    started = reported = time.monotonic()
    done = 0
    for i, batch in zip(runs, stream(fetch, 0, len(runs), threads), strict=True):
        for view in range(len(views)):
            if (part := i * len(views) + view) not in wanted:
                continue
            index = batch["index"]
            which = index, np.full(len(index), view)
            images = views.apply(batch["image"], *which)
            moved = in_views(batch["label"], targets, preprocessing, views, *which)
            features, outputs = in_batches(functools.partial(program, variables), images, width)
            for cut, tree in features.items():
                features[cut] = jax.tree.map(lambda x, cut=cut: _as_dtype(x, run.dtype, cut), tree)
            leaves = jax.tree.leaves((features, outputs, moved))
            yield part, view * count + i * size, dict(zip(run.shapes, leaves, strict=True))
            done += 1
            if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                left = (reported - started) / done * (len(wanted) - done)
                run.log(f"features: {done} of {len(wanted)} parts, {left:.0f} s left")


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


def _fits(run: HeadRun, files: ArrayCache | None, max_bytes: float, cache: str) -> bool:
    """Returns whether the features fit the cache; raises a ConfigError unless it is "auto"."""
    lacking = size = sum(map(array_bytes, run.shapes.values()))
    limits = [(f"the limit is {_gib(max_bytes)}", max_bytes)]
    if files is None:
        if hasattr(os, "sysconf"):  # Windows doesn't say
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            limits.append((f"half of the memory is {_gib(memory // 2)}", memory // 2))
    else:
        folder = files.folder.absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            raise ConfigError(
                f"cannot keep features in {files.folder}: {there} is a file; move it away, "
                "take another directory, or use no cache"
            )
        lacking = files.lacking_bytes()
        free = shutil.disk_usage(there).free
        kept = f"{_gib(free)} are free in {there} and {_gib(_RESERVE)} must stay free"
        limits.append((kept, free - _RESERVE))
    exceeded = [text for text, limit in limits if lacking > max(limit, 0)]
    if not exceeded:
        return True
    shape, dtype = next(iter(run.shapes.values()))
    problem = (
        f"the features of {shape[0]} examples, {'×'.join(map(str, shape[1:]))} in {dtype}, take "
        f"{_gib(size)}{f' ({_gib(lacking)} more than is there)' if lacking < size else ''}, but "
        f"{' and '.join(exceeded)}"
    )
    if cache != "auto":
        smaller = "float16 halves them" if dtype == "float32" else f"{dtype} is the smallest form"
        raise ConfigError(
            f"{problem}; {smaller}; take fewer images (max_samples) or augmentations_per_image, "
            "raise cache_gib, or use no cache: the head then runs in every step"
        )
    run.log(f"{problem}: the head will run in every step")
    return False


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"


def _in_memory(run: HeadRun) -> dict[str, np.ndarray]:
    arrays = {name: np.empty(shape, np.dtype(dtype)) for name, (shape, dtype) in run.shapes.items()}
    for _, first, values in run_parts(run, None):
        for name, rows in values.items():
            arrays[name][first : first + len(rows)] = rows
    return arrays


def _on_disk(files: ArrayCache, run: HeadRun) -> dict[str, np.ndarray]:
    try:
        with files.locked(run.log):
            if missing := files.missing(run.log):
                _log_others(files.folder, run.log)
                for part, first, values in run_parts(run, missing):
                    files.write(part, first, values)
            return files.arrays()
    except OSError as error:
        size = sum(map(array_bytes, files.shapes.values()))
        raise ConfigError(
            f"cannot keep {_gib(size)} of features in {files.folder}: {error.strerror or error}; "
            "make room (what is done is kept), take another directory, or use no cache"
        ) from error


def _log_others(folder: Path, log: Log) -> None:
    """Logs the size of features of other settings, which are never deleted."""
    others = [other for other in folder.parent.iterdir() if other.is_dir() and other != folder]
    size = sum(path.stat().st_size for other in others for path in other.glob("*.bin"))
    if size >= 2**30:
        log(f"{folder.parent} holds {_gib(size)} of features of other settings too")


__getattr__ = _moved.renamed(__name__)
