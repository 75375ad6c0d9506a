"""`jaxsplit import`: weights and units of other packages."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jaxsplit.cli import arguments as cli
from jaxsplit.errors import ConfigError
from jaxsplit.io.files import as_text, read_file

if TYPE_CHECKING:
    from jaxsplit.tasks import Classification, Segmentation

_CLASSES = "names of the classes, one a line (default: those of ImageNet, or numbers)"
_SIDE = "shorter side of an image before the crop (default: that of the published weights)"
_TASKS = ("classification", "segmentation")
_TASK = "of the published units (default: classification)"
_PUBLISHED = "with classification.json, segmentation.json and the weights they name"


@cli.command(
    "import backbone",
    cli.argument("name", "NAME", "a network, such as resnet50"),
    cli.argument("file", "FILE", "safetensors, torch, npz or tflite", Path),
    cli.output_option("OUT.safetensors"),
    cli.argument("--classes", "FILE", _CLASSES, Path),
    cli.argument("--resize", "N", _SIDE, int),
)
def import_backbone(options: argparse.Namespace) -> None:
    """Convert weights to safetensors."""
    from jaxsplit import networks
    from jaxsplit.weights.load import load_backbone

    cli.check_suffix(options.output, networks.SUFFIX)
    backbone = load_backbone(options.name, options.file)
    if options.classes is not None:
        lines = read_file(options.classes).decode("utf-8-sig", "surrogateescape").split("\n")
        names = tuple(filter(None, (as_text(line.strip()) for line in lines)))
        if len(names) != len(backbone.class_names):
            raise ConfigError(
                f"{options.classes} names {len(names)} classes, but {options.file} has "
                f"{len(backbone.class_names)}"
            )
        # Weights of other packages have no other tasks.
        known = cast("Classification | Segmentation", backbone.task)
        task = dataclasses.replace(known, class_names=names)
        backbone = dataclasses.replace(backbone, task=task)
    if options.resize is not None:
        preprocessing = dataclasses.replace(backbone.preprocessing, resize=options.resize)
        backbone = dataclasses.replace(backbone, preprocessing=preprocessing)
    backbone.save(options.output)
    count = len(backbone.class_names)
    facts = {"backbone": backbone.name, "classes": count, "fingerprint": backbone.fingerprint}
    summary = f"{backbone.name}, {count} classes: {options.output}\n"
    summary += f"fingerprint {backbone.fingerprint}"
    cli.show(options, "", {"file": as_text(options.output), **facts}, summary)


@cli.command(
    "import spic",
    cli.argument("folder", "FOLDER", _PUBLISHED, Path),
    cli.output_option(
        "FAMILY", "folder to write: the family with --cut, else one folder for each cut"
    ),
    cli.argument("--task", None, _TASK, choices=_TASKS, default=_TASKS[0]),
    cli.argument("--cut", "S1", "S1, S2, S3, US1 or US2 (default: all)"),
    cli.argument("--fit-on", "SOURCE", "images to fit tables on (default: published tables)"),
    *cli.image_options(),
    cli.argument("--weights", "FILE", "of the network, for --fit-on", Path),
)
def import_spic(options: argparse.Namespace) -> None:
    """Convert the units of the paper's authors."""
    from jaxsplit import data
    from jaxsplit.family.spic import NETWORKS, import_families
    from jaxsplit.family.table_fitting import fit_tables
    from jaxsplit.weights.load import load_backbone

    if (options.fit_on is None) != (options.weights is None):
        raise ConfigError("--fit-on SOURCE and --weights FILE go together: give both or neither")
    cli.check_images(options, "fit_on")
    families = import_families(options.folder, options.task, options.cut)
    if options.fit_on is not None:
        network = NETWORKS[options.task]
        source = data.open_source(options.fit_on, options.split, max_samples=options.max_samples)
        backbone = load_backbone(network.backbone, options.weights)
        backbone = dataclasses.replace(backbone, preprocessing=network.preprocessing)
        with cli.progress_bar(options, after=cli.SOON) as progress:
            for cut, family in families.items():
                families[cut] = fit_tables(family, backbone, source, log=progress.log)
    listed, lines = [], []
    for cut, family in families.items():
        folder = options.output if options.cut else options.output / cut
        family.save(folder)
        names = [rate.rate_id for rate in family.rates]
        listed.append({"cut": cut, "family": as_text(folder), "rates": names})
        lines.append(f"{cut}: {len(names)} rates at {family.cut} of {family.backbone}: {folder}")
    cli.show(options, "", listed, "\n".join(lines))
