"""`jaxsplit info`: describes a family, a `.jspl` file or weights of a backbone."""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxsplit.cli.arguments import Commands
from jaxsplit.cli.output import show
from jaxsplit.io.files import read_file

if TYPE_CHECKING:
    from jaxsplit.family import FamilyRate

Document = dict[str, Any]  # as JSON has it

_DEEPEST = 8  # levels of a card's values that are shown


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add("info", "Describe a family, a .jspl file or weights.", run)
    command.add_argument(
        "path", nargs="?", metavar="PATH|NAME", help="default: list what is embedded"
    )


def run(options: argparse.Namespace) -> None:
    """Describes a family, a .jspl file or weights."""
    if options.json:
        show(options, "", document(options.path))
    else:
        show(options, describe(options.path), None)


def describe(name: str | None = None) -> str:
    """Describes a family, a `.jspl` file or weights, in lines of text.

    Args:
      name: folder of a family, `.jspl` file, file of weights, or name of known weights or of an
        embedded family; None lists embedded families and weights.

    Raises:
      JaxsplitError: it doesn't exist or is damaged.

    >>> describe("fashion_mnist_resnet8").splitlines()[0]
    'backbone fashion_mnist_resnet8: resnet8_small, 10 classes'
    """
    from jaxsplit import networks
    from jaxsplit.family.pretrained import pretrained_names

    if name is None:
        return (
            f"embedded families: {', '.join(pretrained_names())}\n"
            f"embedded backbones: {', '.join(networks.embedded_weights())}"
        )
    match _kind(name):
        case "container":
            found = _container(Path(name))
            lines = [f"{name}: {_images(found['images'])}, family {found['family']}"]
            lines += [
                f"  {rate['rate']}: latent {tuple(rate['latent'])}, {_images(rate['images'])}, "
                f"{rate['bytes']} bytes"
                for rate in found["rates"]
            ]
            return "\n".join(lines)
        case "backbone":
            return _backbone(name)
    return _family(name)


def document(name: str | None = None) -> Document:
    """Describes the same as `describe` for JSON: lists, strings and numbers.

    >>> [rate["rate"] for rate in document("resnet8_small-fashion_mnist/stage1.block1")["rates"]]
    ['r1', 'r2', 'r3', 'r4', 'r5']
    """
    from jaxsplit import networks
    from jaxsplit.family.pretrained import load_pretrained, pretrained_names
    from jaxsplit.weights.load import load_backbone

    if name is None:
        return {"families": [*pretrained_names()], "backbones": [*networks.embedded_weights()]}
    match _kind(name):
        case "container":
            return _container(Path(name))
        case "backbone":
            backbone = load_backbone(name)
            shapes = networks.cuts(backbone.name, backbone.preprocessing.input_shape)
            return {
                "backbone": backbone.name,
                "fingerprint": backbone.fingerprint,
                "classes": list(backbone.class_names),
                "preprocessing": backbone.preprocessing.to_dict(),
                "cuts": {cut: list(shape) for cut, shape in shapes.items()},
                "card": backbone.card,
            }
    found = load_pretrained(name)
    return {
        "backbone": found.backbone,
        "cut": found.cut,
        "fingerprint": found.fingerprint,
        "card": found.card,
        "rates": [
            {"rate": rate.rate_id, "lambda": rate.lmbda, "measured": rate.measured}
            for rate in found.rates
        ],
    }


def _kind(name: str) -> str:
    from jaxsplit import networks
    from jaxsplit.weights.load import PACKAGES

    path = Path(name)
    if path.suffix == ".jspl":
        return "container"
    known = (*networks.embedded_weights(), *PACKAGES)
    weights = (networks.SUFFIX, ".pth", ".pt", ".npz")
    if path.is_file() or path.suffix in weights or name in known:
        return "backbone"
    return "family"


def _container(path: Path) -> Document:
    from jaxsplit import bitstream

    content = read_file(path)
    header = bitstream.Reader(io.BytesIO(content)).header
    images, sizes = Counter[int](), Counter[int]()
    for frame, size in bitstream.frame_sizes(content):
        images[frame.rate_index] += 1
        sizes[frame.rate_index] += size
    rates = [
        {
            "rate": rate.rate_id,
            "latent": list(rate.shape),
            "images": images[index],
            "bytes": sizes[index],
        }
        for index, rate in enumerate(header.rates)
    ]
    return {"images": images.total(), "family": header.family, "rates": rates}


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _backbone(name: str) -> str:
    from jaxsplit import networks
    from jaxsplit.weights.load import load_backbone

    backbone = load_backbone(name)
    shapes = networks.cuts(backbone.name, backbone.preprocessing.input_shape)
    return "\n".join(
        (
            f"backbone {name}: {backbone.name}, {len(backbone.class_names)} classes",
            f"  fingerprint: {backbone.fingerprint}",
            *(f"  {key}: {value}" for key, value in backbone.card.items()),
            f"  cuts: {', '.join(f'{cut} {shape}' for cut, shape in shapes.items())}",
        )
    )


def _family(name: str) -> str:
    from jaxsplit.family.pretrained import load_pretrained

    found = load_pretrained(name)
    evaluation = found.card.get("evaluation")
    evaluation = evaluation if isinstance(evaluation, dict) else {}
    described = {**found.card, "evaluation": None}
    described |= {f"evaluation {key}": value for key, value in evaluation.items() if key != "check"}
    return "\n".join(
        (
            f"family {name}: {_shown(found.backbone)} cut after {_shown(found.cut)}",
            f"  fingerprint: {found.fingerprint}",
            *(
                f"  {_shown(key)}: {_shown(value)}"
                for key, value in described.items()
                if value is not None
            ),
            *(_rate(rate) for rate in found.rates),
        )
    )


def _rate(rate: FamilyRate) -> str:
    measured = ", ".join(f"{_shown(key)} {_shown(value)}" for key, value in rate.measured.items())
    lmbda = "unknown" if rate.lmbda is None else rate.lmbda
    return f"  {rate.rate_id}: lambda {lmbda}, {measured or 'not measured'}"


def _shown(value: object, depth: int = 0) -> str:
    """Formats a value of a card on one line, also one from an untrusted file."""
    if depth > _DEEPEST:
        return "…"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(_shown(one, depth + 1) for one in value)}]"
    if isinstance(value, dict):
        return ", ".join(f"{_shown(key)} {_shown(one, depth + 1)}" for key, one in value.items())
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)
