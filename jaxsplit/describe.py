"""What a family, a `.jspl` file or a backbone's weights are, in words: `jaxsplit info`."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

from jaxsplit import coding, family, models
from jaxsplit.errors import DataError
from jaxsplit.importers.pretrained import PACKAGES, load_backbone


def describe(name: str | None = None) -> str:
    """Lines about a folder or a file, or about what comes with the package under that name.

    Args:
      name: folder of a family, `.jspl` file, file of weights; the name of known weights or of an
        embedded family; None lists what is embedded.

    Raises:
      JaxsplitError: there is nothing, or it is damaged.

    >>> describe("fashion_mnist_resnet8").splitlines()[0]
    'backbone fashion_mnist_resnet8: resnet8_small, 10 classes'
    """
    if name is None:
        return (
            f"embedded families: {', '.join(family.embedded_families())}\n"
            f"embedded backbones: {', '.join(models.embedded_weights())}"
        )
    path = Path(name)
    if path.suffix == ".jspl":
        return _container(path)
    known = (*models.embedded_weights(), *PACKAGES)
    if path.is_file() or path.suffix == models.SUFFIX or name in known:
        return _backbone(name)
    return _family(name)


def _container(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    header = coding.Reader(io.BytesIO(content)).header
    images, sizes = Counter[int](), Counter[int]()
    for frame, size in coding.frame_sizes(content):
        images[frame.rate_index] += 1
        sizes[frame.rate_index] += size
    lines = [f"{path}: {images.total()} images, family {header.family}"]
    lines += [
        f"  {rate.rate_id}: latent {rate.shape}, {images[index]} images, {sizes[index]} bytes"
        for index, rate in enumerate(header.rates)
    ]
    return "\n".join(lines)


def _backbone(name: str) -> str:
    backbone = load_backbone(name)
    shapes = models.cuts(backbone.name, backbone.preprocessing.input_shape)
    return "\n".join(
        (
            f"backbone {name}: {backbone.name}, {len(backbone.class_names)} classes",
            f"  fingerprint: {backbone.fingerprint}",
            *(f"  {key}: {value}" for key, value in backbone.card.items()),
            f"  cuts: {', '.join(f'{cut} {shape}' for cut, shape in shapes.items())}",
        )
    )


def _family(name: str) -> str:
    found = family.open_family(name)
    lines = [
        f"family {name}: {found.backbone} cut after {found.cut}",
        f"  fingerprint: {found.fingerprint}",
    ]
    for rate in found.rates:
        measured = ", ".join(f"{key} {value:g}" for key, value in rate.measured.items())
        lmbda = "unknown" if rate.lmbda is None else rate.lmbda
        lines.append(f"  {rate.rate_id}: lambda {lmbda}, {measured or 'not measured'}")
    return "\n".join(lines)
