"""Import of the units that the paper's authors published, as families.

A folder holds `classification.json`, `segmentation.json` or both, and the weights files that they
name (github.com/IntelLabs/spic, MIT; Datta et al. 2022, arXiv 2208.11596). Each of the 61 units is
a `Bottleneck` with ReLU everywhere, rounding around zero, and one histogram of symbols for all
channels. The hyperprior that the authors used in training is not imported.
"""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import traverse_util

from jaxsplit._moved import renamed_field
from jaxsplit.data import Preprocessing
from jaxsplit.entropy import tables_from_counts
from jaxsplit.errors import ConfigError, WeightsError, choices
from jaxsplit.family import FamilyRate, RateFamily
from jaxsplit.io.files import parse_json
from jaxsplit.io.untrusted import check_tensors, finite_floats, quoted
from jaxsplit.units import BottleneckSpec, Variables
from jaxsplit.weights import defaults, imagenet
from jaxsplit.weights.formats import read_tensors
from jaxsplit.weights.name_maps import TORCH_NAMES


@renamed_field("decoder_forms", "decoder_windows")
@dataclasses.dataclass(frozen=True)
class Site:
    """A cut of the authors, with the geometry of its units.

    `leaf` is the array that the units code, of several that cross; the others bypass them.
    """

    cut: str
    shape: tuple[int, int, int]  # of the features
    padding: int  # zeros around the encoder's input
    decoder_windows: Mapping[int, tuple[int, int]]  # stride → kernel and padding
    leaf: str | None = None


@dataclasses.dataclass(frozen=True)
class PublishedNetwork:
    """A network that units were published for; its sites by the authors' names of cuts.

    S1 and US1 of `deeplabv3_resnet50` code the branch of dilation 12 alone; the tail needs the
    other four too. "US" units were trained without labels.
    """

    backbone: str
    preprocessing: Preprocessing
    sites: Mapping[str, Site]


_RESNET = imagenet.preprocessing("resnet50")

# Exceptions that a malformed entry of the JSON file can raise.
_NONSENSE = (ArithmeticError, AttributeError, ConfigError, KeyError, TypeError, ValueError)

# The authors' name of each of our layers, and the order of its kernel's axes for either direction.
# Kernels are [C, 1, k, k] of depthwise layers, [out, in, 1, 1] of the encoder's pointwise layer,
# and [in, out, 1, 1] of the decoder's, which is a transposed convolution.
_LAYERS = {
    ("encoder", "depthwise"): ("conv2_2", (2, 3, 0, 1)),
    ("encoder", "depthwise_norm"): ("bn2_1", (0,)),
    ("encoder", "pointwise"): ("conv2_3", (1, 0, 2, 3)),
    ("encoder", "pointwise_norm"): ("bn3_1", (0,)),
    ("decoder", "pointwise"): ("conv2_4", (0, 1, 2, 3)),
    ("decoder", "pointwise_norm"): ("bn4_1", (0,)),
    ("decoder", "depthwise"): ("conv2_5", (2, 3, 0, 1)),
    ("decoder", "depthwise_norm"): ("bn5_1", (0,)),
}
_UNUSED = ("priorEncoder.", "priorDecoder.", "bitEstimator_z.")


def _sites(first: Site, second: Site, third: Site) -> dict[str, Site]:
    return {"S1": first, "US1": first, "S2": second, "US2": second, "S3": third}


#: Name of the JSON file → network of its units.
NETWORKS: Mapping[str, PublishedNetwork] = {
    "classification": PublishedNetwork(
        "resnet50",
        _RESNET,
        _sites(
            Site("stage4.block3", (7, 7, 2048), 1, {2: (3, 1), 4: (3, 0)}),
            Site("stage4.block1", (7, 7, 2048), 1, {2: (3, 1), 4: (3, 0)}),
            Site("stage3.block5", (14, 14, 1024), 1, {2: (3, 0), 4: (5, 0)}),
        ),
    ),
    "segmentation": PublishedNetwork(
        "deeplabv3_resnet50",
        defaults.preprocessing("deeplabv3_resnet50"),
        _sites(
            Site("aspp.branches", (65, 65, 256), 0, {6: (5, 0), 8: (9, 0)}, leaf="branch1"),
            Site("stage4.block2", (65, 65, 2048), 0, {4: (5, 0), 6: (5, 0)}),
            Site("stage3.block6", (65, 65, 1024), 0, {4: (5, 0), 6: (5, 0)}),
        ),
    ),
}


def import_families(
    folder: str | os.PathLike[str], task: str = "classification", cut: str | None = None
) -> dict[str, RateFamily]:
    """Imports published units as families, with the arguments and errors of `read_units`.

    S1 and US1 of the segmentation are left out, and refused if they are asked for: they code one of
    five arrays that cross, and a family codes all.

    Returns:
      The authors' name of a cut → its family, not bound to weights.
    """
    units, network = read_units(folder, task, cut), NETWORKS[task]
    partial = [name for name in units if network.sites[name].leaf is not None]
    if partial and (cut is not None or len(partial) == len(units)):
        site = network.sites[partial[0]]
        raise ConfigError(
            f"{partial[0]} codes {site.leaf} alone; what else crosses {site.cut} bypasses it, and "
            "a family codes all: take read_units, and units.per_tensor with units for the others",
            shell=f"{partial[0]} codes {site.leaf} alone, but a family codes all that crosses "
            f"{site.cut}: import S2, US2 or S3",
        )
    units = {name: rates for name, rates in units.items() if name not in partial}
    unbound = network.backbone, None, None, network.preprocessing  # no fingerprint, no weights
    return {
        name: RateFamily(*unbound, network.sites[name].cut, tuple(rates))
        for name, rates in units.items()
    }


def read_units(
    folder: str | os.PathLike[str], task: str = "classification", cut: str | None = None
) -> dict[str, list[FamilyRate]]:
    """Reads published units, with tables from the published symbol counts.

    Args:
      folder: with `<task>.json` and the weights files that it names.
      task: "classification" or "segmentation".
      cut: "S1", "S2", "S3", "US1" or "US2"; None: all in the folder.

    Returns:
      The authors' name of a cut → its units, in the order of the JSON file.

    Raises:
      ConfigError: no such task or cut.
      WeightsError: a file is missing or damaged, or its tensors don't match the JSON file.
    """
    if task not in NETWORKS:
        raise ConfigError(
            f"no units were published for {task!r}, only for {choices(task, NETWORKS)}"
        )
    sites = NETWORKS[task].sites
    if cut is not None and cut not in sites:
        raise ConfigError(f"{task} has no cut {cut!r}; it has {choices(cut, sites)}")
    index = Path(folder) / f"{task}.json"
    if not index.is_file():
        raise WeightsError(f"no published units at {folder}: {index.name} is missing")
    try:
        entries = parse_json(index.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read {index}: {quoted(str(error), 200)}") from error
    units: dict[str, list[FamilyRate]] = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        its_cut = name.partition("-")[0]
        if cut in (None, its_cut):
            units.setdefault(its_cut, []).append(_read_unit(index, name, entry, sites.get(its_cut)))
    if not units:
        raise WeightsError(f"{index} describes no units{f' of {cut}' if cut else ''}")
    return units


def _read_unit(index: Path, name: str, entry: Any, site: Site | None) -> FamilyRate:
    try:
        if site is None:
            raise ConfigError("there is no such cut")
        stride = operator.index(entry["stride"])
        if stride not in site.decoder_windows:
            raise ConfigError(f"stride {stride} is none of {list(site.decoder_windows)}")
        kernel, padding = site.decoder_windows[stride]
        spec = BottleneckSpec(
            channels=operator.index(entry["channels"]),
            stride=stride,
            padding=site.padding,
            decoder_kernel=kernel,
            decoder_padding=padding,
            step=float(entry["step"]),
            latent_activation="relu",
            crop=False,
        )
        file = entry["weights"]
        counts = {int(symbol): float(n) for symbol, n in entry["symbol_counts"].items()}
        if file != Path(file).name or not file.isprintable():
            raise ConfigError(f"{file!r} is not the name of a file in the folder")
        # Read before the tables are made: the tensors bound the number of channels.
        variables = _unit_variables(index.parent / file, spec, site.shape[-1])
        return FamilyRate(name, None, spec, variables, tables_from_counts(counts, spec.channels))
    except _NONSENSE as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise WeightsError(
            f"{index} doesn't describe {quoted(name)} as a published unit: {quoted(reason, 200)}"
        ) from error


def _unit_variables(file: Path, spec: BottleneckSpec, width: int) -> Variables:
    """Reads and checks the tensors of a unit for features of `width` channels, as its variables."""
    tensors = {
        name: tensor
        for name, tensor in read_tensors(file).items()
        if not name.startswith(_UNUSED) and not name.endswith(".num_batches_tracked")
    }
    sources, shapes = {}, {}
    for path, shape in traverse_util.flatten_dict(spec.variable_shapes((1, 1, width))).items():
        layer, axes = _LAYERS[path[1:3]]
        name = f"{layer}.{TORCH_NAMES.get(path[-1], 'weight')}"
        sources[path] = name, axes, shape
        shapes[name] = tuple((*shape, 1, 1)[axis] for axis in axes)
    check_tensors(tensors, shapes, f"{file} does not hold the unit's tensors")
    floats = finite_floats(tensors, str(file))
    flat = {
        path: floats[name].transpose(axes).reshape(shape)
        for path, (name, axes, shape) in sources.items()
    }
    return traverse_util.unflatten_dict(flat)
