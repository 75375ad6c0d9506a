"""The units that the paper's authors published, as families of this library.

A folder holds `classification.json`, `segmentation.json` or both, and the weights files that they
name (github.com/IntelLabs/spic, MIT). Each of its 61 units is a `Bottleneck` with ReLU everywhere,
latents ≥ 0, rounding around zero, and one histogram of symbols for all channels; the hyperprior
that the authors used in training is left out.

Source: Datta, Ahuja, Somayazulu, Tickoo 2022, arXiv 2208.11596.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsplit.data import Preprocessing
from jaxsplit.entropy import tables_from_counts
from jaxsplit.errors import ConfigError, WeightsError
from jaxsplit.family import FamilyRate, RateFamily
from jaxsplit.family.spic_unit import unit_variables
from jaxsplit.io.untrusted import shown
from jaxsplit.units.bottleneck import BottleneckSpec
from jaxsplit.weights import imagenet


@dataclasses.dataclass(frozen=True)
class Site:
    """Where the authors put units, and what their convolutions look like there.

    Attributes:
      cut: our name of the endpoint after which the network is cut.
      shape: (H, W, Cin) of the features.
      padding: zeros around the encoder's input.
      decoder_forms: stride → (kernel, padding) of the transposed convolution.
    """

    cut: str
    shape: tuple[int, int, int]
    padding: int
    decoder_forms: Mapping[int, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Task:
    """One of the two networks that units were published for.

    Attributes:
      backbone: its name; `deeplabv3_resnet50` is DeepLabV3 on a ResNet-50 with output stride 8,
        and `aspp.branch1` its branch of dilation 12, which the other four bypass.
      preprocessing: of the images.
      sites: the authors' name of a cut → what is there. "US" units were trained without labels.
    """

    backbone: str
    preprocessing: Preprocessing
    sites: Mapping[str, Site]


_RESNET = imagenet.preprocessing("resnet50")
_LAST, _FIRST = (
    Site(cut, (7, 7, 2048), 1, {2: (3, 1), 4: (3, 0)}) for cut in ("stage4.block3", "stage4.block1")
)
_BRANCH = Site("aspp.branch1", (65, 65, 256), 0, {6: (5, 0), 8: (9, 0)})
_SECOND = Site("stage4.block2", (65, 65, 2048), 0, {4: (5, 0), 6: (5, 0)})

# What an entry of the JSON file may end in.
_NONSENSE = (ArithmeticError, AttributeError, ConfigError, KeyError, TypeError, ValueError)

#: The published units' networks, by the name of their JSON file.
TASKS: Mapping[str, Task] = {
    "classification": Task(
        "resnet50",
        _RESNET,
        {
            "S1": _LAST,
            "US1": _LAST,
            "S2": _FIRST,
            "US2": _FIRST,
            "S3": Site("stage3.block5", (14, 14, 1024), 1, {2: (3, 0), 4: (5, 0)}),
        },
    ),
    "segmentation": Task(
        "deeplabv3_resnet50",
        dataclasses.replace(_RESNET, size=(513, 513), resize=513),
        {
            "S1": _BRANCH,
            "US1": _BRANCH,
            "S2": _SECOND,
            "US2": _SECOND,
            "S3": Site("stage3.block6", (65, 65, 1024), 0, {4: (5, 0), 6: (5, 0)}),
        },
    ),
}


def import_families(
    folder: str | os.PathLike[str], task: str = "classification", cut: str | None = None
) -> dict[str, RateFamily]:
    """The published units as families: the authors' name of a cut → its family.

    Args:
      folder: with `<task>.json` and the weights files that it names.
      task: "classification" or "segmentation".
      cut: "S1", "S2", "S3", "US1" or "US2"; None: all that the folder has.

    Returns:
      Families with tables from the published symbol counts, bound to no weights yet.

    Raises:
      ConfigError: no such task or cut.
      WeightsError: as of `read_units`.
    """
    units = read_units(folder, task, cut)
    network = TASKS[task]
    return {
        name: RateFamily(
            backbone=network.backbone,
            backbone_fingerprint=None,
            weights=None,
            preprocessing=network.preprocessing,
            cut=network.sites[name].cut,
            rates=tuple(rates),
        )
        for name, rates in units.items()
    }


def read_units(
    folder: str | os.PathLike[str], task: str = "classification", cut: str | None = None
) -> dict[str, list[FamilyRate]]:
    """Reads published units: the authors' name of a cut → its units in the JSON file's order.

    `Bottleneck(unit.spec, TASKS[task].sites[cut].shape)` runs one.

    Args: as of `import_families`.

    Raises:
      ConfigError: no such task or cut.
      WeightsError: a file is missing or damaged, or its tensors are not those of the unit that
        the JSON file describes; all that are missing, unknown or of another shape are listed.
    """
    if task not in TASKS:
        raise ConfigError(f"no units were published for {task!r}, only for {', '.join(TASKS)}")
    sites = TASKS[task].sites
    if cut is not None and cut not in sites:
        raise ConfigError(f"{task} has no cut {cut!r}; it has {', '.join(sites)}")
    index = Path(folder) / f"{task}.json"
    if not index.is_file():
        raise WeightsError(f"no published units at {folder}: {index.name} is missing")
    try:
        entries = json.loads(index.read_text())
    except (OSError, RecursionError, ValueError) as error:
        raise WeightsError(f"cannot read {index}: {shown(str(error), 200)}") from error
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
        if stride not in site.decoder_forms:
            raise ConfigError(f"stride {stride} is none of {list(site.decoder_forms)}")
        kernel, padding = site.decoder_forms[stride]
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
        file, counts = entry["weights"], entry["symbol_counts"]
        counts = {int(symbol): float(n) for symbol, n in counts.items()}
        if file != Path(file).name or not file.isprintable():
            raise ConfigError(f"{file!r} is not the name of a file in the folder")
        # Before the tables: the tensors bound the number of channels.
        variables = unit_variables(index.parent / file, spec, site.shape[-1])
        return FamilyRate(name, None, spec, variables, tables_from_counts(counts, spec.channels))
    except _NONSENSE as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise WeightsError(
            f"{index} doesn't describe {shown(name)} as a published unit: {shown(reason, 200)}"
        ) from error
