"""`jaxsplit info`: describes a family, a `.jspl` file or weights of a backbone."""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxsplit.cli import arguments as cli
from jaxsplit.cli.files import WEIGHTS, hint
from jaxsplit.errors import DataError, FamilyError, WeightsError, did_you_mean
from jaxsplit.io import hub
from jaxsplit.io.files import read_file
from jaxsplit.io.text_table import text_table

if TYPE_CHECKING:
    from jaxsplit.codec.rates import FamilyRate

_CURVE = "curve.json"


class Description(NamedTuple):
    """Lines for people, and the same for JSON."""

    lines: list[str]
    document: Mapping[str, object]
    has_terms: bool = False


@cli.command(
    "info",
    cli.argument("path", "PATH|NAME", "default: list what is embedded", nargs="?"),
)
def info(options: argparse.Namespace) -> None:
    """Describe a family, a curve, a .jspl file or weights."""
    found = describe(options.path)
    cli.show(options, "\n".join(found.lines), found.document, terms=found.has_terms)


def describe(name: str | None = None) -> Description:
    """Describes a family, curve, `.jspl` file or weights, by path or name; None lists names.

    >>> describe("fashion_mnist_resnet8").lines[0]
    'backbone fashion_mnist_resnet8: resnet8_small, 10 classes'
    """
    from jaxsplit import networks
    from jaxsplit.family.pretrained import pretrained_names
    from jaxsplit.weights.published import PACKAGES

    embedded = networks.embedded_weights()
    if name is None:
        found = {"families": [*pretrained_names()], "backbones": [*embedded]}
        lines = [f"embedded {kind}: {', '.join(names)}" for kind, names in found.items()]
        found["networks"] = [*networks.names()]
        lines.append(
            f"networks, jaxsplit info NAME has their weights: {', '.join(networks.names())}"
        )
        return Description(lines, found)
    path = Path(name)
    if path.suffix == ".jspl":
        return _stream(path)
    if (found_file := _file(path)) is not None:
        return found_file
    if name in networks.names() and (name not in PACKAGES or PACKAGES[name].find() is None):
        return _network(name)
    if path.is_file() or path.suffix in WEIGHTS or name in (*embedded, *PACKAGES):
        return _backbone(name)
    families = pretrained_names()
    if not name.startswith(hub.HUB_PREFIX) and not path.exists() and name not in families:
        near = did_you_mean(name, (*families, *embedded, *networks.names()))
        raise FamilyError(
            f"no family at {name}, nor weights or a network of this name: give a folder, a file, "
            f"hf:owner/name, or a name that jaxsplit info lists{near}"
        )
    return _family(name)


def _file(path: Path) -> Description | None:
    """Describes a family or a curve that a path leads to; refuses files for other commands."""
    from jaxsplit.family.files import INDEX
    from jaxsplit.family.pretrained import is_family

    if path.is_dir():
        curve = path / _CURVE
        return _curve(curve) if curve.exists() and not is_family(path) else None
    if not path.is_file():
        return None
    if path.name == INDEX:
        return _family(str(path.parent))
    if path.name == _CURVE:
        return _curve(path)
    if what := hint(path, *WEIGHTS):
        raise DataError(f"info cannot describe {path}{what}")
    if path.suffix == ".json":
        return _curve(path)
    if path.suffix in WEIGHTS:
        return None
    try:
        return _backbone(str(path))
    except WeightsError as error:
        known = "a family's folder, a curve.json, a .jspl file, or weights"
        raise DataError(f"{path} is nothing that info describes, {known}: {error}") from error


def _curve(path: Path) -> Description:
    from jaxsplit.evaluation.curve import Curve
    from jaxsplit.reports import curve_table

    curve = Curve.read(path)
    lines = [f"curve {path}"]
    if (origin := curve.origin) is not None:
        lines[0] += f": {origin.backbone} cut after {origin.cut}, {origin.data} {origin.split}"
    return Description(
        [*lines, *curve_table.render(curve, curve.baselines).split("\n")],
        json.loads(curve.to_json()),
        has_terms=True,
    )


def _stream(path: Path) -> Description:
    from jaxsplit import bitstream

    content = read_file(path)
    header = bitstream.Reader(io.BytesIO(content)).header
    images, sizes = Counter[int](), Counter[int]()
    for frame, size in bitstream.frame_sizes(content):
        images[frame.rate_index] += 1
        sizes[frame.rate_index] += size
    lines = [f"{path}: {cli.images_text(images.total())}, family {header.family}"]
    rates = []
    index = 0
    for rate in header.rates:
        of_rate = range(index, index + rate.levels)
        index += rate.levels
        count, size = sum(images[i] for i in of_rate), sum(sizes[i] for i in of_rate)
        found = {"latent": list(rate.shape), "images": count, "bytes": size}
        levels = {"levels": rate.levels} if rate.levels > 1 else {}
        rates.append({"rate": rate.rate_id, **levels, **found})
        name = rate.rate_id + (f" 0 to {rate.levels - 1}" if levels else "")
        counts = f"{cli.images_text(count)}, {size} bytes"
        lines.append(f"  {name}: latent {tuple(rate.shape)}, {counts}")
    return Description(lines, {"images": images.total(), "family": header.family, "rates": rates})


def _backbone(name: str) -> Description:
    from jaxsplit import networks
    from jaxsplit.weights.load import load_backbone

    backbone = load_backbone(name)
    cuts = networks.cuts(backbone.name, backbone.preprocessing.input_shape)
    lines = [
        f"backbone {name}: {backbone.name}, {len(backbone.class_names)} classes",
        f"  fingerprint: {backbone.fingerprint}",
        *(f"  {_shown(key)}: {_shown(value)}" for key, value in backbone.card.items()),
        f"  cuts: {', '.join(f'{cut} {shape}' for cut, shape in cuts.items())}",
    ]
    document = {
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "classes": list(backbone.class_names),
        "preprocessing": backbone.preprocessing.to_dict(),
        "cuts": cuts,
        "card": backbone.card,
    }
    return Description(lines, document)


def _network(name: str) -> Description:
    """Describes an included network whose weights are not here."""
    from jaxsplit import networks
    from jaxsplit.weights.load import abstract_backbone, not_included

    shape, missing = (
        abstract_backbone(name).preprocessing.input_shape,
        not_included(name, shell=True),
    )
    cuts = networks.cuts(name, shape)
    lines = [
        f"network {name}: images {shape}",
        f"  weights: {missing}",
        f"  cuts: {', '.join(f'{cut} {shape}' for cut, shape in cuts.items())}",
    ]
    return Description(lines, {"network": name, "weights": missing, "cuts": cuts})


def _family(name: str) -> Description:
    from jaxsplit.family.pretrained import load_pretrained

    found = load_pretrained(name)
    evaluation = found.card.get("evaluation")
    evaluation = evaluation if isinstance(evaluation, dict) else {}
    card = {**found.card, "evaluation": None}
    card |= {f"evaluation {key}": value for key, value in evaluation.items() if key != "check"}
    lines = [
        f"family {name}: {_shown(found.backbone)} cut after {_shown(found.cut)}",
        f"  fingerprint: {found.fingerprint}",
        *(f"  {_shown(key)}: {_shown(value)}" for key, value in card.items() if value is not None),
    ]
    rates = [
        {"rate": rate.rate_id, "lambda": rate.lmbda, "measured": rate.measured}
        for rate in found.rates
    ]
    document = {name: getattr(found, name) for name in ("backbone", "cut", "fingerprint", "card")}
    if found.levels is not None:
        document["levels"] = len(found.levels)
        lines.append(f"  one tree for all rates: {len(found.levels)} levels")
    lines += _rates(found.rates)
    return Description(lines, {**document, "rates": rates}, has_terms=True)


def _rates(rates: Sequence[FamilyRate]) -> list[str]:
    """Returns what all rates have in common, and a table of the rest."""
    names = dict.fromkeys(name for rate in rates for name in rate.measured)
    values = {name: [rate.measured.get(name) for rate in rates] for name in names}
    common = {
        name: x[0]
        for name, x in values.items()
        if name.startswith(("n_", "uncompressed_")) and all(one == x[0] for one in x)
    }
    columns = [[_shown(name), *map(_cell, x)] for name, x in values.items() if name not in common]
    ids, lambdas = ["rate"], ["lambda"]
    ids += [rate.rate_id for rate in rates]
    lambdas += ["unknown" if rate.lmbda is None else f"{rate.lmbda:.3g}" for rate in rates]
    table = text_table(list(zip(ids, lambdas, *columns, strict=True)))
    lines = [f"  {_shown(name)}: {_shown(x)}" for name, x in common.items() if x is not None]
    return [*lines, *([] if values else ["  not measured"]), *table.split("\n")]


def _cell(value: object) -> str:
    """Formats a measured value, or both limits of an interval."""
    if isinstance(value, list):
        return "-".join(map(_cell, value))
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else _shown(value)


def _shown(value: object, depth: int = 0) -> str:
    """Formats a value of a card on one line, also one from an untrusted file."""
    if depth > 8:
        return "…"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(_shown(one, depth + 1) for one in value)}]"
    if isinstance(value, dict):
        return ", ".join(f"{_shown(key)} {_shown(one, depth + 1)}" for key, one in value.items())
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)
