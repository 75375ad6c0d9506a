"""Adapts a network to other images: last layer, unit, measurement and files, in one call."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import features as pillow

from jaxsplit import data, networks
from jaxsplit.cost import SplitCost, find_cut, split_cost
from jaxsplit.data import Augmentation
from jaxsplit.errors import ConfigError, choices, warn_once
from jaxsplit.evaluation.card import with_measured
from jaxsplit.evaluation.class_accuracy import Accuracy, measure_accuracy
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.per_image import FILE, PerImage
from jaxsplit.experiments.recipe import BATCH_SIZE, RATES, default_unit, recipe
from jaxsplit.experiments.run import Measurement, measure
from jaxsplit.family import RateFamily
from jaxsplit.family.files import BACKBONE_FILE
from jaxsplit.io.checkpoint import short_key
from jaxsplit.io.log import Log, no_log
from jaxsplit.io.stages import StageRecord
from jaxsplit.networks import Backbone
from jaxsplit.reports import curve_table
from jaxsplit.split import make_split
from jaxsplit.train import arguments
from jaxsplit.train.backbone import BackboneConfig, train_backbone
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.curve import train_curve
from jaxsplit.train.last_layer import fit_head
from jaxsplit.train.metrics import Progress
from jaxsplit.train.timing import seconds_per_step
from jaxsplit.weights.load import load_backbone

#: What learns of the network: its last layer, that on augmented images too, or all of it.
FINETUNINGS = ("none", "last", "all")
#: Images of a report: with a thousand, image codecs alone take minutes.
TEST_IMAGES = 100

_AUGMENTATION = Augmentation(zoom=0.7, flip=True)
_VIEWS = 4  # augmentations of an image, for the last layer
_EPOCHS, _LEARNING_RATE = 5, 0.01  # of all layers
_UNBALANCED = 2  # images of the largest class, in those of the smallest
_STEPS = (30, 6000)  # fewest and most
_LEAST_SHARE = 0.2  # of the minutes, for the steps
_SAVE_EVERY = 50
# Passes through the network, in time: of a training image beside the steps, for features, their
# Fisher information and tables, and of a measured one, for rates, image codecs and their coding.
_TRAINING_PASSES, _PASSES = 4, 50
_COMPILING = 30  # seconds


class Adapted(NamedTuple):
    """Result of `adapt`.

    Attributes:
      backbone: the network with your classes.
      accuracy: of it, on all held-out images.
      family: with its measurement on its card.
      curve, table: through real bytes, beside image codecs.
      cost: of the device and the server.
    """

    backbone: Backbone
    accuracy: Accuracy
    family: RateFamily
    curve: Curve
    cost: SplitCost
    table: str


def adapt(
    backbone: Backbone | str | Path,
    source: data.AnySource,
    *,
    cut: str = "early",
    out: str | Path | None = None,
    finetune: str = "none",
    minutes: float = 5.0,
    steps: int | None = None,
    class_weights: str = "none",
    labels: float = 0.0,
    test_images: int | None = TEST_IMAGES,
    baselines: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress | bool = True,
    log: Log | None = None,
) -> Adapted:
    """Adapts a network to your images, and trains and measures a variable-rate unit at a cut.

    Fits the last layer to the classes, trains the unit behind the frozen network by distillation,
    and measures it on held-out images through real bytes. Each stage can be called by itself:
    `fit_head`, `train_family` and `evaluate`.

    Args:
      backbone: a network that ends in pooling and a linear layer; or a name for `load_backbone`.
      source: images with labels: a name or a folder, see `open_source`, a `data.Source`, or arrays
        (images, labels). Without splits, a part of every class is held out, see `data.hold_out`.
      cut: one of the network's cuts, or "early", "middle" or "late", see `cost.find_cut`.
      out: folder for `backbone.safetensors`, `family/`, `curve.json`, `report.html` and what a
        stopped call resumes from; None: nothing is written.
      finetune: what is trained before: "none", only the last layer; "last", this on augmented
        images too; "all", the whole network from there.
      minutes: about the time of the whole call, without "all": the steps of the unit follow.
      steps: of the unit's training, in place of `minutes`.
      class_weights: as in `fit_head`.
      labels: weight of the labels in the unit's loss, beside 1 for the distillation.
      test_images: held-out images to measure the curve with; None: all.
      baselines: image codecs to compare with; None: JPEG, WebP, and AVIF where Pillow has it.
      seed: of all random choices.
      progress: True: shown on stderr. False: silence. Or a callable of step, steps and metrics.
      log: log callback; default: shown with the progress.

    Returns:
      Network, family and measurements.

    Raises:
      ConfigError: an argument does not fit, or the network has no such last layer.
      DataError: there are no such images, or too few of a class.

    >>> adapt("fashion_mnist_resnet8", "embedded", finetune="some")
    Traceback (most recent call last):
    jaxsplit.errors.ConfigError: finetune is 'some'; expected one of none, last, all
    """
    begun = time.monotonic()
    if finetune not in FINETUNINGS:
        known = choices(finetune, FINETUNINGS)
        raise ConfigError(f"finetune is {finetune!r}; expected one of {known}")
    if not minutes > 0 or (steps is not None and steps < 0):
        raise ConfigError(f"minutes are {minutes!r} and steps {steps!r}; expected more than 0")
    backbone = arguments.as_backbone(backbone)
    train, test = data.open_parts(source)
    record = StageRecord(None if out is None else Path(out))
    with arguments.shown_progress(progress, log, RATES) as (bar, given):
        say = given or no_log
        say(f"reading {len(train) + len(test)} images")
        train, test = (data.readable(one, backbone.preprocessing) for one in (train, test))
        _say_counts(train, test, class_weights, say)
        fitting = finetune, class_weights, seed
        own = _with_classes(backbone, train, test, record, *fitting, bar=bar, say=say)
        begun = time.monotonic() if finetune == "all" else begun
        accuracy, image_seconds = measure_accuracy(own, test)
        say(f"the network has {accuracy.text}")
        measured = test.take(test_images)
        config = recipe(
            *(own, find_cut(own, cut, default_unit), train.name),
            steps=1,
            split=train.split,
            labels=labels,
            seed=seed,
        )
        if steps is None:
            passes = _TRAINING_PASSES * len(train) + _PASSES * len(measured)
            until = begun + 60 * minutes - _COMPILING - image_seconds * passes
            steps = _planned_steps(config, own, train, until, minutes, record, say)
        (phase,) = config.phases
        phase = dataclasses.replace(phase, steps=steps)
        config = dataclasses.replace(config, phases=(phase,))
        family, result = _trained_and_measured(
            *(own, config, train, measured, _codecs() if baselines is None else baselines),
            about=_described(accuracy, train, config),
            record=record,
            bar=bar,
            say=say,
        )
    cost = split_cost(make_split(own, config.cut, config.unit), own)
    return Adapted(own, accuracy, family, result.curve, cost, result.table)


def _say_counts(train: data.Source, test: data.Source, class_weights: str, say: Log) -> None:
    """Logs how many images there are, and warns of unbalanced classes."""
    counts = np.bincount(train.labels, minlength=len(train.class_names))
    say(
        f"{len(train)} images of {len(counts)} classes to train with ({train.split}), "
        f"{len(test)} held out ({test.split})"
    )
    if counts.max() > _UNBALANCED * counts.min() and class_weights == "none":
        few, many = (train.class_names[int(i)] for i in (counts.argmin(), counts.argmax()))
        warn_once(
            f"unbalanced {train.name}",
            f"the classes of {train.name} are unbalanced: {counts.min()} training images of {few}, "
            f"{counts.max()} of {many}; class weights 'balanced' give all the same weight",
        )


def _with_classes(
    backbone: Backbone,
    train: data.Source,
    test: data.Source,
    record: StageRecord,
    finetune: str,
    class_weights: str,
    seed: int,
    *,
    bar: Progress | None,
    say: Log,
) -> Backbone:
    """Fits the network to the classes of images, or reads it where that is done."""
    key = short_key(
        f"{finetune}-{class_weights}-{seed}", backbone.fingerprint, train.listing, test.listing
    )
    path = record.folder / BACKBONE_FILE if record.folder else None
    if path is not None and path.is_file() and record.get("backbone", key):
        say("the network is fitted already")
        return load_backbone(path)
    views = None
    if finetune == "last":
        views = data.Views(_VIEWS, _AUGMENTATION, seed=seed)
    own = fit_head(*(backbone, train), class_weights=class_weights, views=views, seed=seed, log=say)
    if finetune == "all":
        own = _finetuned(own, train, test, record.folder, seed, bar, say)
    if path is not None:
        own.save(path)
        record.put("backbone", key, fingerprint=own.fingerprint)
    return own


def _finetuned(
    own: Backbone,
    train: data.Source,
    test: data.Source,
    folder: Path | None,
    seed: int,
    bar: Progress | None,
    say: Log,
) -> Backbone:
    """Trains the whole network on augmented images."""
    config = BackboneConfig(
        model=own.name,
        data=train.name,
        preprocessing=own.preprocessing,
        augmentation=_AUGMENTATION,
        epochs=_EPOCHS,
        batch_size=1 << min(len(train), 2 * BATCH_SIZE).bit_length() - 1,
        seed=seed,
        learning_rate=_LEARNING_RATE,
    )
    workdir = folder / "finetuning" if folder else None
    variables, report = train_backbone(config, workdir, bar, own, say, sources=(train, test))
    card = {**own.card, "finetuning": report}
    return networks.make_backbone(
        own.name, own.network, variables, own.preprocessing, own.task, card
    )


def _planned_steps(
    config: CurveConfig,
    own: Backbone,
    train: data.Source,
    until: float,
    minutes: float,
    record: StageRecord,
    say: Log,
) -> int:
    """Returns the steps until a time, or those of the call that is resumed."""
    key = short_key(config.key, own.fingerprint, train.listing, f"{minutes:g}")
    if found := record.get("training", key).get("steps"):
        return int(found)
    say("timing a training step")
    seconds = seconds_per_step(config, own)
    left = max(until - time.monotonic(), _LEAST_SHARE * 60 * minutes)
    steps = int(left / seconds)
    steps = min(max(steps, _STEPS[0]), _STEPS[1])
    say(f"a step takes {seconds:.2f} s: {steps} steps follow")
    record.put("training", key, steps=steps, seconds_per_step=seconds)
    return steps


def _trained_and_measured(
    own: Backbone,
    config: CurveConfig,
    train: data.Source,
    measured: data.Source,
    codecs: Sequence[str],
    *,
    about: Mapping[str, str],
    record: StageRecord,
    bar: Progress | None,
    say: Log,
) -> tuple[RateFamily, Measurement]:
    """Trains and measures a family and writes its files, or reads them where all are there."""
    folder, raw = record.folder, math.prod(own.preprocessing.input_shape)
    images = train.listing, measured.listing
    key = short_key(config.key, own.fingerprint, *images, *codecs)
    if folder is not None and record.get("measured", key):
        say("the unit is trained and measured already")
        curve, seen = Curve.read(folder / "curve.json"), PerImage.read(folder / FILE)
        table = curve_table.render(curve, curve.baselines, raw, None)
        family = RateFamily.load(folder / "family").bind(own)
        return family, Measurement(curve, seen, table)
    workdir = folder / "training" if folder else None
    trained = train_curve(config, own, workdir, bar, say, source=train, save_every=_SAVE_EVERY)
    record.put("measured", "")  # the files are of several runs from here to the end
    result = measure(
        *(trained, own.fold(), measured, folder, say, None, codecs), coarse=True, about=about
    )
    family = with_measured(trained, result.curve, result.seen, measured)
    if folder is not None:
        family.save(folder / "family")
        record.put("measured", key)
        shutil.rmtree(folder / "training" / "features", ignore_errors=True)  # hundreds of MB
    return family, result


def _codecs() -> tuple[str, ...]:
    return ("jpeg", *(codec for codec in ("webp", "avif") if pillow.check(codec)))


def _described(accuracy: Accuracy, train: data.Source, config: CurveConfig) -> dict[str, str]:
    """Returns what the report says of network and training."""
    each = {
        f"top-1 of {name}": f"{100 * right / images:.1f} % ({right} of {images})"
        if images
        else "no held-out image"
        for name, (right, images) in accuracy.classes.items()
    }
    return {
        "training": f"{len(train)} images, {config.steps} steps of {config.batch_size}",
        "network": accuracy.text,
        **each,
    }
