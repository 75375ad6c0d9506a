"""The features at all cuts in one pass over the backbone, kept in files."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import data, networks
from jaxsplit.errors import ConfigError, DataError, reason
from jaxsplit.networks.inference import batch_size
from jaxsplit.train.features import key

_DTYPE = "float16"
_FORMAT = 2  # of the files; another one where they or the arithmetic change


@dataclasses.dataclass(frozen=True, eq=False)
class CutFeatures:
    """What the heads of all cuts say of some images.

    Attributes:
      features: cut → float16 [N, H, W, Cin], mapped from files.
      labels: int32 [N].
      scales: cut → mean square of its features.
      teacher: logits of the whole network, float32 [N, K].
    """

    features: dict[str, np.ndarray]
    labels: np.ndarray
    scales: dict[str, float]
    teacher: np.ndarray


def compute(
    backbone: networks.Backbone,
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
      ConfigError: they don't fit, don't fit float16, or can't be written.
      DataError: something else damages the files.
    """
    about = describe(backbone, cuts, source)
    folder = directory / key(about)
    found = _read(folder, cuts, tell)
    if found is None:
        shapes = networks.endpoint_shapes(backbone.module, backbone.preprocessing.input_shape)
        size = 2 * len(source) * sum(math.prod(shapes[cut]) for cut in cuts)
        if size > max_bytes:
            raise ConfigError(
                f"the features of {len(source)} images at {len(cuts)} cuts take "
                f"{size / 2**30:.3g} GiB, but cache_gib is {max_bytes / 2**30:.3g}: lower the "
                "limit, name fewer cuts, or raise cache_gib"
            )
        where = cuts[0] if len(cuts) == 1 else f"{len(cuts)} cuts"
        tell(f"features of {len(source)} images at {where}, {size / 1e6:.0f} MB")
        partial = directory / f"{folder.name}.partial"
        try:
            for old in (partial, folder):
                shutil.rmtree(old, ignore_errors=True)
            partial.mkdir(parents=True)
            _write(backbone, {cut: shapes[cut] for cut in cuts}, source, partial)
            os.replace(partial, folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)  # what a full disk could not take
            raise ConfigError(f"cannot keep features in {partial}: {reason(error)}") from error
        found = _read(folder, cuts, tell)
    if found is None:
        raise DataError(f"the features in {folder} are damaged: is anything else writing there?")
    return found


def describe(
    backbone: networks.Backbone, cuts: Sequence[str], source: data.Source
) -> dict[str, Any]:
    """All that the features depend on, ready for JSON; as of `jaxsplit.train.features`."""
    return {
        "format": _FORMAT,
        "backbone": backbone.fingerprint,
        "network": backbone.name,
        "folded": getattr(backbone.module, "folded", False),
        "variables": sorted({str(np.dtype(x.dtype)) for x in jax.tree.leaves(backbone.variables)}),
        "preprocessing": backbone.preprocessing.to_dict(),
        "cuts": list(cuts),
        "source": source.fingerprint,
        "dtype": _DTYPE,
        "precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
        "platform": jax.default_backend(),
    }


def _read(folder: Path, cuts: Sequence[str], tell: Callable[[str], None]) -> CutFeatures | None:
    """What is kept in a folder; None where nothing is, or something damaged."""
    if not folder.exists():
        return None
    try:
        done = json.loads((folder / "done.json").read_text())
        arrays = {cut: np.load(folder / f"{cut}.npy", mmap_mode="r") for cut in cuts}
        labels, teacher = (np.load(folder / f"{name}.npy") for name in ("labels", "teacher"))
        scales = {cut: float(done["scales"][cut]) for cut in cuts}
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        arrays = {}
    if not arrays or any(len(array) != len(labels) for array in (*arrays.values(), teacher)):
        tell(f"the features in {folder} are damaged: they are computed again")
        return None
    return CutFeatures(arrays, labels, scales, teacher)


def _write(
    backbone: networks.Backbone,
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
    for file in files.values():
        _reserve(Path(str(file.filename)), file.nbytes)
    run, variables = _program(backbone, tuple(shapes)), jax.device_put(backbone.variables)
    squares, teacher = dict.fromkeys(shapes, 0.0), []
    for first in range(0, count, size):
        batch = images[first : first + size]
        n = len(batch)
        padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
        padded[:n] = batch
        seen, logits = run(variables, padded)
        teacher.append(np.asarray(logits)[:n])
        for cut, file in files.items():
            features = np.asarray(seen[cut])[:n]
            if not np.isfinite(features).all():
                raise ConfigError(f"the features at {cut} don't fit {_DTYPE}: leave out this cut")
            file[first : first + n] = features
            squares[cut] += float(np.square(features.astype(np.float32)).mean(axis=(1, 2, 3)).sum())
    for file in files.values():
        file.flush()
    np.save(folder / "labels.npy", labels)
    np.save(folder / "teacher.npy", np.concatenate(teacher))
    scales = {cut: total / count for cut, total in squares.items()}
    (folder / "done.json").write_text(json.dumps({"scales": scales}))


def _reserve(path: Path, size: int) -> None:
    """Takes a file's space at once: writing to a mapped one kills the process on a full disk.

    Raises:
      OSError: there is too little.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not on this file system
                raise
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _program(backbone: networks.Backbone, cuts: tuple[str, ...]) -> Any:
    """Jitted (variables, images uint8) → (cut → features float16, logits [B, K])."""
    module, preprocessing = backbone.module, backbone.preprocessing

    @jax.jit
    def run(variables: Any, images: jax.Array) -> Any:
        x, start, seen = preprocessing.normalise(images), None, {}
        for stop in module.endpoints():
            x = module.apply(variables, x, start=start, stop=stop)
            start = stop
            if stop in cuts:
                seen[stop] = x.astype(_DTYPE)
        return seen, x.astype(jnp.float32)

    return run
