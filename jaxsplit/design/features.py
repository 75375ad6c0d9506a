"""The features at all cuts in one pass over the backbone, kept in files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsplit import data, models
from jaxsplit.errors import ConfigError, DataError
from jaxsplit.models.inference import batch_size

_DTYPE = "float16"


@dataclasses.dataclass(frozen=True, eq=False)
class CutFeatures:
    """What the heads of all cuts say of some images.

    Attributes:
      features: cut → float16 [N, H, W, Cin], mapped from files.
      labels: int32 [N].
      scales: cut → mean square of its features.
      uncut_top1: share of the images that the whole network is right about.
    """

    features: dict[str, np.ndarray]
    labels: np.ndarray
    scales: dict[str, float]
    uncut_top1: float


def compute(
    backbone: models.Backbone,
    cuts: Sequence[str],
    source: data.Source,
    directory: Path,
    max_bytes: float,
    tell: Callable[[str], None],
) -> CutFeatures:
    """Runs the network once over every image and keeps what passes the cuts.

    Args:
      backbone: the frozen network.
      cuts: its endpoints.
      source: the images.
      directory: where the files are kept and found again, in a folder named after all that they
        depend on.
      max_bytes: that they may take.
      tell: told what takes long.

    Raises:
      ConfigError: they don't fit, or don't fit float16.
    """
    about = {
        "backbone": backbone.fingerprint,
        "preprocessing": backbone.preprocessing.to_dict(),
        "source": source.fingerprint,
        "cuts": list(cuts),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = directory / key
    if not (folder / "done.json").is_file():
        shapes = models.endpoint_shapes(backbone.module, backbone.preprocessing.input_shape)
        size = 2 * len(source) * sum(math.prod(shapes[cut]) for cut in cuts)
        if size > max_bytes:
            raise ConfigError(
                f"the features of {len(source)} images at {len(cuts)} cuts take "
                f"{size / 2**30:.3g} GiB, but cache_gib is {max_bytes / 2**30:.3g}: lower the "
                "limit, name fewer cuts, or raise cache_gib"
            )
        tell(f"features of {len(source)} images at {len(cuts)} cuts, {size / 1e6:.0f} MB")
        partial = directory / f"{key}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _write(backbone, {cut: shapes[cut] for cut in cuts}, source, partial)
        except OSError as error:
            raise ConfigError(f"cannot keep features in {partial}: {error.strerror}") from error
        os.replace(partial, folder)
    done = json.loads((folder / "done.json").read_text())
    try:
        arrays = [np.load(folder / f"{cut}.npy", mmap_mode="r") for cut in cuts]
        labels = np.load(folder / "labels.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"the features in {folder} are damaged: delete that folder") from error
    return CutFeatures(
        dict(zip(cuts, arrays, strict=True)), labels, done["scales"], done["uncut_top1"]
    )


def _write(
    backbone: models.Backbone,
    shapes: dict[str, tuple[int, int, int]],
    source: data.Source,
    folder: Path,
) -> None:
    images, labels = data.load_arrays(source, backbone.preprocessing)
    count, size = len(images), batch_size(backbone.preprocessing.input_shape)
    files = {
        cut: np.lib.format.open_memmap(folder / f"{cut}.npy", "w+", _DTYPE, (count, *shape))
        for cut, shape in shapes.items()
    }
    run, variables = _program(backbone, tuple(shapes)), jax.device_put(backbone.variables)
    squares, right = dict.fromkeys(shapes, 0.0), 0
    for first in range(0, count, size):
        batch = images[first : first + size]
        n = len(batch)
        padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
        padded[:n] = batch
        seen, answers = run(variables, padded)
        right += int((np.asarray(answers)[:n] == labels[first : first + n]).sum())
        for cut, file in files.items():
            features = np.asarray(seen[cut])[:n]
            if not np.isfinite(features).all():
                raise ConfigError(f"the features at {cut} don't fit {_DTYPE}: leave out this cut")
            file[first : first + n] = features
            squares[cut] += float(np.square(features.astype(np.float32)).mean(axis=(1, 2, 3)).sum())
    for file in files.values():
        file.flush()
    np.save(folder / "labels.npy", labels)
    scales = {cut: total / count for cut, total in squares.items()}
    done = {"scales": scales, "uncut_top1": right / count}
    (folder / "done.json").write_text(json.dumps(done))


def _program(backbone: models.Backbone, cuts: tuple[str, ...]) -> Any:
    """Jitted (variables, images uint8) → (cut → features float16, classes int [B])."""
    module, preprocessing = backbone.module, backbone.preprocessing

    @jax.jit
    def run(variables: Any, images: jax.Array) -> Any:
        x, start, seen = preprocessing.normalise(images), None, {}
        for stop in module.endpoints():
            x = module.apply(variables, x, start=start, stop=stop)
            start = stop
            if stop in cuts:
                seen[stop] = x.astype(_DTYPE)
        return seen, x.argmax(-1)

    return run
