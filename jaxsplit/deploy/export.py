"""Exports the device's half of a family as a folder that runs without JAX."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import jaxsplit
from jaxsplit import bitstream
from jaxsplit.codec import Sender
from jaxsplit.codec.rate_control import rates_for
from jaxsplit.deploy.export_model import IR_VERSION, OPSET, SYMBOLS, device_model
from jaxsplit.deploy.export_samples import sample_image, sample_vectors
from jaxsplit.deploy.runtime import bundle as files
from jaxsplit.deploy.runtime.device import DeviceSender
from jaxsplit.errors import ConfigError, FamilyError
from jaxsplit.family import RateFamily
from jaxsplit.units.variable_rate import ANALYSIS

_PACKAGE = Path(jaxsplit.__file__).parent
_RUNTIME = _PACKAGE / "deploy" / "runtime"
# Modules of the package that a bundle's runtime consists of; the others' `__init__` is empty there.
_MODULES = (
    *("errors.py", "_moved.py", "old_names.toml", "data/images.py"),
    *("data/placement.py", "data/preprocessing.py"),
    *("io/fields.py", "deploy/runtime/__init__.py", "deploy/runtime/bundle.py"),
    *("deploy/runtime/device.py", "bitstream/FORMAT.md"),
)
_EMPTY = ("data/__init__.py", "io/__init__.py", "deploy/__init__.py")
# More symbols than these round differently only where the model is wrong.
_MOST_DIFFERENT = 1e-3
_SAMPLED_LEVELS = 4


@dataclasses.dataclass(frozen=True)
class Exported:
    """A written bundle.

    Attributes:
      folder: the bundle.
      model_bytes: of the ONNX model.
      bytes: of all files.
      symbols, different: of the samples, and how many of them the bundle rounds otherwise than
        `jaxsplit.Sender`; None where onnxruntime is not installed, so that nothing was compared.
    """

    folder: Path
    model_bytes: int
    bytes: int
    symbols: int
    different: int | None


def export_bundle(
    family: RateFamily,
    directory: str | os.PathLike[str],
    rates: Sequence[str] | None = None,
    name: str = "FAMILY",
) -> Exported:
    """Writes the device's half of a family: model, tables, samples and a runtime without JAX.

    The folder's own README.md says how to use it. Receivers need the whole family, also where the
    bundle has some of its rates.

    Args:
      family: bound to its network, or one whose weights are found by name.
      directory: to write; an earlier bundle is replaced, any other folder that is not empty is a
        ConfigError.
      rates: names of the rates to be included; default: all. Levels share their encoder: a
        ConfigError where they are named.
      name: of the family, as the server finds it, for the bundle's README.

    Returns:
      Sizes, and the comparison with `jaxsplit.Sender` where onnxruntime is installed.

    Raises:
      ConfigError: onnx is not installed, the folder cannot be written, or the network has an
        operation that cannot be written in ONNX.
      FamilyError: no such rate; or the model's symbols are not those of the family.

    >>> import tempfile
    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_bundle(family, f"{folder}/device", ["r1", "r3"]).different
    0
    """
    backbone = family.backbone_of()
    family = family.bind(backbone)
    directory = Path(directory)
    _check_target(directory)
    indices = _indices(family, rates)
    sender = Sender(family, backbone)
    model = device_model(family, backbone, indices)
    parent = directory.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{directory.name}.") as made:
            folder = Path(made) / "bundle"
            _copy_runtime(folder)
            (folder / files.MODEL).write_bytes(model)
            _write_tables(folder, sender, indices)
            sampled = _write_samples(folder, sender, indices)
            manifest = _manifest(sender, indices)
            _write_readme(folder, manifest, name, _budget(folder))
            _write_manifest(folder, manifest)
            symbols, different = _compare(folder, sender, sampled)
            if directory.exists():
                shutil.rmtree(directory)
            os.replace(folder, directory)
    except OSError as error:
        raise ConfigError(f"cannot write {directory}: {error.strerror or error}") from error
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return Exported(directory, len(model), sum(sizes), symbols, different)


def _check_target(directory: Path) -> None:
    if directory.is_dir():
        if any(directory.iterdir()) and not _is_bundle(directory):
            raise ConfigError(f"{directory} is neither empty nor a bundle: name another folder")
    elif directory.exists():
        raise ConfigError(f"{directory} is a file: name a folder to write")


def _is_bundle(directory: Path) -> bool:
    try:
        manifest = json.loads((directory / files.MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == files.FORMAT


def _budget(folder: Path) -> int:
    """Returns a budget of bytes that the sample's frames need about."""
    content = (folder / files.SAMPLE_FRAMES).read_bytes()
    sizes = sorted(size for _, size in bitstream.frame_sizes(content))
    return sizes[len(sizes) // 2]


def _indices(family: RateFamily, rates: Sequence[str] | None) -> list[int]:
    """Returns the indices of the rates to be included; of levels, those that are sampled."""
    if family.levels is not None:
        if rates:
            raise ConfigError("levels share one encoder: all are exported, name none of them")
        spread = np.linspace(0, len(family.levels) - 1, _SAMPLED_LEVELS)
        return [round(level) for level in spread.tolist()]
    if not rates:
        return list(range(len(family.rates)))
    return sorted({family.index(name) for name in rates})


def _copy_runtime(folder: Path) -> None:
    """Copies the runtime: `run.py`, and the modules that it imports."""
    names = [*_MODULES, *(f"bitstream/{x.name}" for x in (_PACKAGE / "bitstream").glob("*.py"))]
    for name in sorted(names):
        path = folder / "jaxsplit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((_PACKAGE / name).read_bytes())
    for name in _EMPTY:
        (folder / "jaxsplit" / name).write_text("")
    version = (
        f'"""A part of jaxsplit: see README.md."""\n\n__version__ = "{jaxsplit.__version__}"\n'
    )
    (folder / "jaxsplit/__init__.py").write_text(version)
    for name in ("run.py", "requirements.txt", "LICENSE"):
        (folder / name).write_bytes((_RUNTIME / name).read_bytes())


def _write_tables(folder: Path, sender: Sender, indices: Sequence[int]) -> None:
    family = sender.family
    levels, gains, tables = family.levels, None, {}
    if levels is None:
        tables = {index: family.rates[index].tables for index in indices}
    arrays = files.pack_tables(
        tables,
        None if levels is None else levels.tables,
        gains if levels is None else levels.gains[ANALYSIS],
    )
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # of names to arrays
    (folder / files.TABLES).write_bytes(content.getvalue())
    (folder / files.HEADER).write_bytes(bitstream.pack_header(sender.header))


def _write_samples(
    folder: Path, sender: Sender, indices: Sequence[int]
) -> Mapping[int, np.ndarray]:
    """Writes an image with its frames, and vectors for decoders; returns rate → symbols."""
    picture = sample_image(sender.backbone.preprocessing)
    (folder / files.SAMPLE_IMAGE).parent.mkdir()
    Image.fromarray(picture.squeeze()).save(folder / files.SAMPLE_IMAGE)
    pixels = sender.backbone.preprocessing.apply(picture)[np.newaxis]
    names = {index: sender.family.name(index) for index in indices}
    symbols = {index: sender.symbols(pixels, name)[0] for index, name in names.items()}
    coders = {
        index: bitstream.EntropyCoder(sender.family[names[index]].tables) for index in indices
    }
    frames = [bitstream.Frame(index, coders[index].encode(symbols[index])) for index in indices]
    content = bitstream.write_container(sender.header, frames)
    (folder / files.SAMPLE_FRAMES).write_bytes(content)
    vectors = sample_vectors(names, coders, symbols)
    (folder / files.VECTORS).write_text(json.dumps(vectors, separators=(",", ":")) + "\n")
    return symbols


def _manifest(sender: Sender, indices: Sequence[int]) -> dict[str, Any]:
    family = sender.family
    identity = {
        "fingerprint": family.fingerprint,
        "backbone": sender.backbone.name,
        "backbone_fingerprint": sender.backbone.fingerprint,
        "cut": family.cut,
    }
    rates, levels = [], None
    if family.levels is None:
        for index in indices:
            rate = sender.header.rates[index]
            output = f"{SYMBOLS}_{rate.rate_id}"
            one = {"index": index, "name": rate.rate_id, "latent_shape": rate.shape}
            rates.append({**one, "output": output})
    else:
        named = {rate.rate_id: rate.level for rate in family.rates}
        shape = sender.header.rates[0].shape
        levels = {"count": len(family.levels), "latent_shape": shape, "names": named}
    packages = ("jax", "flax", "numpy", "onnx", "constriction")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "format": files.FORMAT,
        "versions": {
            "jaxsplit": jaxsplit.__version__,
            "python": platform.python_version(),
            **versions,
        },
        "family": identity,
        "preprocessing": sender.backbone.preprocessing.to_dict(),
        "model": {"file": files.MODEL, "opset": OPSET, "ir_version": IR_VERSION},
        "rates": rates,
        "levels": levels,
        "by_accuracy": _by_accuracy(sender, indices),
    }


def _by_accuracy(sender: Sender, indices: Sequence[int]) -> list[int]:
    """Returns the exported rates by falling accuracy, as `Sender` tries them; or none."""
    if sender.family.levels is not None:
        return []
    try:
        names = rates_for(sender.family, max_bytes=1, task=sender.backbone.task)
    except FamilyError:
        return []
    ordered = [sender.family.index(name) for name in names]
    return [index for index in ordered if index in indices]


def _write_readme(folder: Path, manifest: Mapping[str, Any], name: str, budget: int) -> None:
    family, levels = manifest["family"], manifest["levels"]
    cut = f"{family['backbone']} cut after {family['cut']}"
    rates = [rate["name"] for rate in manifest["rates"]]
    if levels is None:
        what = f"Rates {', '.join(rates)} of {cut}."
        inputs = "`image` uint8 [batch, h, w, c] and `rate`, an index or -1 for all, in; "
        inputs += "`symbols_NAME` int32 out, empty for rates that were not asked for"
    else:
        what = f"The {levels['count']} rate levels of {cut}."
        inputs = "`image` uint8 [batch, h, w, c] and `rate`, the level of each, in; `symbols` "
        inputs += "int32, and `latents` before gain and rounding, out"
    has_budget = manifest["by_accuracy"] or levels is not None
    line = f"python run.py encode photo.jpg -o photo.jspl --max-bytes {budget}\n"
    text = (_RUNTIME / "README.md").read_text()
    values = {
        "title": cut,
        "family": name,
        "what": what,
        "rate": "0.5" if levels else rates[len(rates) // 2],
        "budget": line if has_budget else "",
        "opset": OPSET,
        "inputs": inputs,
        "which": "all levels" if levels else "these rates",
        "sampled": f"{_SAMPLED_LEVELS} levels" if levels else "these rates",
    }
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", str(value))
    (folder / "README.md").write_text(text)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest with the checksum of every file."""
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    (folder / files.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _compare(
    folder: Path, sender: Sender, sampled: Mapping[int, np.ndarray]
) -> tuple[int, int | None]:
    """Runs the bundle on its sample; counts the symbols, and those that it rounds otherwise."""
    symbols = sum(one.size for one in sampled.values())
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return symbols, None
    device = DeviceSender(folder, threads=1)
    pixels = device.inputs(folder / files.SAMPLE_IMAGE)
    different = sum(
        int((device.encode_at(pixels, index)[0] != ours).sum()) for index, ours in sampled.items()
    )
    if different > _MOST_DIFFERENT * symbols:
        raise FamilyError(
            f"the exported model gives {different} other symbols of {symbols} than the family: "
            "onnxruntime computes otherwise; report it, and export with format='stablehlo'"
        )
    device.header.check(sender.header)
    return symbols, different
