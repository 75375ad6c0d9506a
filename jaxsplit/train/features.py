"""Computes and caches head features and teacher outputs: the one cache, keyed by cuts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxsplit import _moved, data
from jaxsplit.errors import ConfigError
from jaxsplit.io.array_cache import ArrayCache, Shapes, array_bytes
from jaxsplit.io.identity import identity
from jaxsplit.io.log import Tell, tell_nobody
from jaxsplit.networks import Backbone, Features, LinenNetwork
from jaxsplit.networks.inference import batch_size
from jaxsplit.tasks import Outputs, Targets
from jaxsplit.train.batches import FeatureCache, ImageBatches
from jaxsplit.train.frozen_head import mean_square, run_parts, sample_of, sampled_features

DTYPES = ("float32", "float16", "bfloat16")
CACHES = ("auto", "disk", "memory", "none")
#: Default limit of cached features.
MAX_BYTES = 64 * 2**30

_RESERVE = 2**30  # bytes that a cache leaves free on its disk

# Of one image: cut → features, the teacher's outputs, the target.
_Layout = tuple[dict[str, Features], Outputs, Targets]
# Parts (None: all) → (part, its first row, its arrays by name) of each.
_Run = Callable[[Sequence[int] | None], Iterator[tuple[int, int, dict[str, np.ndarray]]]]


def compute(
    backbone: Backbone,
    cut: str,
    source: data.Source,
    *,
    views: data.Views | None = None,
    dtype: str = "float32",
    directory: Path | None = None,
    cache: str = "auto",
    max_bytes: int = MAX_BYTES,
    tell: Tell | None = None,
) -> FeatureCache | ImageBatches:
    """Runs the head over every view of every image once, or resumes a stopped computation.

    Several processes may share a directory: one computes, the others wait.

    Args:
      backbone: the frozen network.
      cut: where it is cut.
      source: training images, decoded on demand.
      views: augmentations per image; None: the image itself.
      dtype: of the stored features; float16 and bfloat16 halve the space.
      directory: of the cache on disk, in a folder named after all that the features depend on.
      cache: "disk", "memory", "none" (the head runs in every step), or "auto": on disk if there
        is a directory, else in memory, and none where they don't fit.
      max_bytes: largest size of the cache.
      tell: log callback.

    Returns:
      The features, or the images where they are not cached.

    Raises:
      ConfigError: an argument doesn't fit, or features fit neither the chosen cache nor their
        dtype, or can't be written.
    """
    shown = views or data.Views()
    if shown.augmentation is None:  # the seed changes nothing: one cache serves all seeds
        shown = dataclasses.replace(shown, seed=0)
    found = _compute(
        backbone, (cut,), source, shown, dtype, directory, cache, max_bytes, tell or tell_nobody
    )
    if found is None:
        scale = mean_square(sampled_features(backbone, cut, source, shown))
        return ImageBatches(source, backbone.preprocessing, shown, scale)
    return found[cut]


def compute_at_cuts(
    backbone: Backbone,
    cuts: Sequence[str],
    source: data.Source,
    *,
    dtype: str = "float16",
    directory: Path,
    max_bytes: int = MAX_BYTES,
    tell: Tell | None = None,
) -> dict[str, FeatureCache]:
    """Runs the network once over every image and caches the features at several cuts on disk.

    Args:
      backbone, source, dtype, directory, max_bytes, tell: as in `compute`.
      cuts: in the network's order.

    Returns:
      Cut → features; teacher and targets are the same arrays at all cuts.

    Raises:
      ConfigError: as in `compute`.
    """
    found = _compute(
        backbone,
        tuple(cuts),
        source,
        data.Views(),
        dtype,
        directory,
        "disk",
        max_bytes,
        tell or tell_nobody,
    )
    assert found is not None  # features that don't fit on the disk were refused
    return found


def _compute(
    backbone: Backbone,
    cuts: tuple[str, ...],
    source: data.Source,
    views: data.Views,
    dtype: str,
    directory: Path | None,
    cache: str,
    max_bytes: int,
    tell: Tell,
) -> dict[str, FeatureCache] | None:
    """Cut → features, from the cache as far as it is complete; None without a cache."""
    if dtype not in DTYPES:
        raise ConfigError(f"feature dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    layout = _layout(backbone, cuts)
    forms = _forms(layout, len(source) * len(views), dtype)
    if cache not in CACHES or (cache == "disk" and directory is None):
        raise ConfigError(
            f"cache is {cache!r} and its directory {directory}; expected one of "
            f"{', '.join(CACHES)}, and a directory for 'disk'"
        )
    files = None
    if directory is not None and cache in ("auto", "disk"):
        about = describe(backbone, cuts, source, views, dtype)
        files = ArrayCache(
            directory / key(about),
            about,
            forms,
            images=len(source),
            views=len(views),
            part_images=batch_size(backbone.preprocessing.input_shape),
        )
    if cache == "none" or not _fits(forms, files, max_bytes, cache, tell):
        return None

    def run(parts: Sequence[int] | None) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        for part, first, rows in run_parts(backbone, cuts, source, views, dtype, tell, parts):
            yield part, first, dict(zip(forms, jax.tree.leaves(rows), strict=True))

    arrays = _in_memory(forms, run) if files is None else _on_disk(files, run, tell)
    stored = jax.tree.unflatten(jax.tree.structure(layout), list(arrays.values()))
    features, teacher, targets = stored
    found = {}
    for cut in cuts:
        cached = FeatureCache(features[cut], teacher, targets, None)
        scale = mean_square(sample_of(cached, len(views)))
        found[cut] = dataclasses.replace(cached, scale=scale)
    return found


def _layout(backbone: Backbone, cuts: tuple[str, ...]) -> _Layout:
    """Shapes and dtypes of an image's cached arrays."""
    shapes = backbone.feature_shapes
    label = jax.ShapeDtypeStruct((), np.dtype(np.int32))
    return {cut: shapes[cut] for cut in cuts}, backbone.output_shapes, label


def _forms(layout: _Layout, rows: int, dtype: str) -> Shapes:
    """Name → shape and dtype of the cached arrays, in the order of the layout's leaves."""
    if rows >= 2**31:
        raise ConfigError(f"{rows} examples can't be numbered in 32 bits: take fewer views")
    forms = {}
    kinds = ("features", "teacher", "label")
    several = len(layout[0]) > 1
    for path, leaf in jax.tree.leaves_with_path(layout):
        kind = kinds[path[0].idx]
        # One cut, one array and one output have plain names.
        inside = path[1:] if kind != "features" or several else path[2:]
        name = "-".join((kind, *(re.sub(r"[^\w.]", "_", _key(part)) for part in inside)))
        kept = str(leaf.dtype) if kind != "features" else dtype
        forms[name] = ((rows, *leaf.shape), kept)
    return forms


def _key(part: object) -> str:
    return jax.tree_util.keystr((part,), simple=True)


def describe(
    backbone: Backbone,
    cuts: tuple[str, ...],
    source: data.Source,
    views: data.Views,
    dtype: str,
) -> dict[str, object]:
    """Returns all that cached features depend on, ready for JSON."""
    network = backbone.network
    return {
        "backbone": backbone.fingerprint,
        "network": backbone.name,
        "folded": backbone.network.folded,
        "variables": sorted({str(np.dtype(x.dtype)) for x in jax.tree.leaves(backbone.variables)}),
        "preprocessing": backbone.preprocessing.to_dict(),
        "cut": cuts[0] if len(cuts) == 1 else list(cuts),
        **({} if isinstance(network, LinenNetwork) else {"functions": identity(network)}),
        "source": source.fingerprint,
        "views": dataclasses.asdict(views),
        "dtype": dtype,
        "precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
        "platform": jax.default_backend(),
    }


def key(about: dict[str, object]) -> str:
    """Returns the folder name of features that depend on this."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _fits(forms: Shapes, files: ArrayCache | None, max_bytes: int, cache: str, tell: Tell) -> bool:
    """Returns whether the features fit the cache; raises a ConfigError unless it is "auto"."""
    size = sum(map(array_bytes, forms.values()))
    lacking = size
    limits = [("the limit", max_bytes)]
    if files is None:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limits.append(("half of the memory", memory // 2))
    else:
        folder = files.folder.absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            raise ConfigError(
                f"cannot keep features in {files.folder}: {there} is a file; move it away, "
                "take another directory, or use no cache"
            )
        lacking = files.lacking_bytes()
        limits.append((f"free in {there}", shutil.disk_usage(there).free - _RESERVE))
    exceeded = [f"{name} is {_gib(limit)}" for name, limit in limits if lacking > max(limit, 0)]
    if not exceeded:
        return True
    shape, dtype = next(iter(forms.values()))
    problem = (
        f"the features of {shape[0]} examples, {'×'.join(map(str, shape[1:]))} in {dtype}, take "
        f"{_gib(size)}, but {' and '.join(exceeded)}"
    )
    if cache != "auto":
        smaller = "float16 halves them" if dtype == "float32" else f"{dtype} is the smallest form"
        raise ConfigError(
            f"{problem}; {smaller}; take fewer views, limit the images, raise the limit, or "
            "use no cache: the head then runs in every step"
        )
    tell(f"{problem}: the head will run in every step")
    return False


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"


def _in_memory(forms: Shapes, run: _Run) -> dict[str, np.ndarray]:
    arrays = {name: np.empty(shape, np.dtype(dtype)) for name, (shape, dtype) in forms.items()}
    for _, first, values in run(None):
        for name, rows in values.items():
            arrays[name][first : first + len(rows)] = rows
    return arrays


def _on_disk(files: ArrayCache, run: _Run, tell: Tell) -> dict[str, np.ndarray]:
    try:
        with files.locked(tell):
            if missing := files.missing(tell):
                _tell_of_others(files.folder, tell)
                for part, first, values in run(missing):
                    files.write(part, first, values)
            return files.arrays()
    except OSError as error:
        size = sum(map(array_bytes, files.shapes.values()))
        raise ConfigError(
            f"cannot keep {_gib(size)} of features in {files.folder}: {error.strerror or error}; "
            "make room (what is done is kept), take another directory, or use no cache"
        ) from error


def _tell_of_others(folder: Path, tell: Tell) -> None:
    """Logs the size of features of other settings, which are never deleted."""
    others = [other for other in folder.parent.iterdir() if other.is_dir() and other != folder]
    size = sum(path.stat().st_size for other in others for path in other.glob("*.bin"))
    if size >= 2**30:
        tell(f"{folder.parent} holds {_gib(size)} of features of other settings too")


__getattr__ = _moved.renamed(__name__)
