"""Runs experiments from end to end: training, measurement through real bytes, files and reports."""

from __future__ import annotations

import dataclasses
import functools
import math
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxsplit import data, networks
from jaxsplit._moved import renamed_argument
from jaxsplit.cost import SplitCost, split_cost
from jaxsplit.errors import Interrupted
from jaxsplit.evaluation import evaluate, image_codecs
from jaxsplit.evaluation.card import with_measured
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.per_image import FILE, PerImage
from jaxsplit.family import RateFamily
from jaxsplit.io.files import delete_whole, write_json
from jaxsplit.io.log import Log
from jaxsplit.reports import curve_html, curve_plot, curve_table
from jaxsplit.train import distributed
from jaxsplit.train.backbone import BackboneConfig, train_backbone
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.curve import train_curve
from jaxsplit.train.metrics import Progress
from jaxsplit.train.rate_groups import make_groups
from jaxsplit.weights.load import load_backbone

__all__ = ["CurveResult", "Measurement", "measure", "run_backbone", "run_curve"]


class CurveResult(NamedTuple):
    """Result of `run_curve`.

    Attributes:
      family: with its measurement on its card.
      curve, table: as in `Measurement`.
      cost: of the rate with the most expensive encoder.
    """

    family: RateFamily
    curve: Curve
    cost: SplitCost
    table: str


class Measurement(NamedTuple):
    """Result of `measure`.

    Attributes:
      curve: through real bytes, beside image codecs.
      seen: bytes and predictions of each image; the curve has their means.
      table: the curve as text.
    """

    curve: Curve
    seen: PerImage
    table: str


@renamed_argument("tell", "log")
def run_curve(
    config: CurveConfig,
    directory: Path,
    *,
    resume: bool,
    command: str | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
) -> CurveResult | None:
    """Trains a curve, measures it on the test images through real bytes, and writes the results.

    Of several processes all train; only the first measures and writes.

    Args:
      config: the training.
      directory: for `family/`, `curve.json`, `curve.png`, and, with `resume`, checkpoints.
      command: for the family's card.
      resume: keep checkpoints and cached features on disk, and resume from existing ones.
      progress, log: callbacks with the training's metrics, and with the current work.

    Returns:
      The results; None in other processes than the first.

    Raises:
      ConfigError: a baseline is unknown or missing in this Pillow; also as in `train_curve`.
      DataError: there are no such images, or their classes are not the backbone's.
      WeightsError: there is no such backbone.

    >>> from jaxsplit.experiments.config import load
    >>> config = load("fashion_mnist:smoke", {"baselines": "('jpeg2000',)"})
    >>> run_curve(config, Path("mine"), resume=False)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jaxsplit.errors.ConfigError: unknown image codec 'jpeg2000'; choose: jpeg, ...
    """
    for codec in config.baselines:
        image_codecs.check_codec(codec)
    backbone = load_backbone(config.backbone)
    image_codecs.check_goal(config.compare_at, backbone.task.quality)
    groups = make_groups(backbone, config.cut, config.unit, config.rates)
    cost = max((split_cost(group.split, backbone) for group in groups), key=lambda c: c.encoder)
    # Opened before the training, so that missing images are reported at once.
    source = data.open_source(config.data, split=config.test_split, max_samples=config.max_samples)
    family = train_curve(config, backbone, directory if resume else None, progress, log)
    if not distributed.is_first():
        return None
    try:
        curve, seen, table = measure(
            family, backbone, source, directory, log, None, config.baselines, config.compare_at
        )
    except KeyboardInterrupt as stopped:
        number = signal.Signals(getattr(stopped, "signal", signal.SIGINT))
        saved = "which is saved: the same command resumes from there" if resume else "unsaved"
        raise Interrupted(f"stopped by {number.name} after the training, {saved}", number) from None
    if command is not None:
        family = dataclasses.replace(family, card={"command": command, **family.card})
    family = with_measured(family, curve, seen, source)
    family.save(directory / "family")
    return CurveResult(family, curve, cost, table)


@renamed_argument("tell", "log")
def measure(
    family: RateFamily,
    backbone: networks.Backbone,
    source: data.Source,
    directory: Path | None,
    log: Log | None = None,
    rate_ids: Sequence[str] | None = None,
    baselines: Sequence[str] = ("jpeg", "webp"),
    compare_at: str | None = None,
    *,
    coarse: bool = False,
    about: Mapping[str, str] | None = None,
) -> Measurement:
    """Measures the curve of a family through real bytes, beside image codecs.

    Args:
      family, backbone, source: as in `evaluate.evaluate`.
      directory: for `curve.json`, `curve.png`, `report.html` and `images.npz` with bytes and
        predictions of each image; None writes nothing.
      log: callback with the current work.
      rate_ids: the rates to measure; None: all.
      baselines: image codecs of `image_codecs.QUALITIES`.
      compare_at: metric at which codecs are compared: "agreement", or None for the task's.
      coarse: measure fewer qualities of the codecs, see `image_codecs.sweep_to`.
      about: further names and values for the report's configuration.

    Returns:
      The curve with the codecs' points, the results of each image, and the table.

    Raises:
      ConfigError: a codec is unknown or missing in this Pillow, or `compare_at` is unknown.
      FamilyError, BitstreamError, DataError: as in `evaluate.evaluate_images`.

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    >>> source = data.open_source("embedded", max_samples=20)
    >>> measured = measure(
    ...     family, family.backbone_of(), source, None, rate_ids=["r5"], baselines=()
    ... )
    >>> [point.rate_id for point in measured.curve.points], measured.seen.labels.shape
    (['r5'], (20,))
    """
    curve, seen = evaluate.evaluate_images(
        family, backbone, source, log, rate_ids, baselines, compare_at, coarse=coarse
    )
    raw = math.prod(backbone.preprocessing.input_shape)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        # A killed run leaves some of its files, and none of another run beside them.
        for name in ("report.html", "curve.png", FILE):
            delete_whole(directory / name)
        curve.write(directory / "curve.json")
        seen.write(directory / FILE)
        title = f"{backbone.name} cut after {family.cut}, {curve.n_images} images of {source.name}"
        curve_plot.plot_curve(directory / "curve.png", curve, curve.baselines, title, raw_bytes=raw)
        described = {
            "backbone": f"{backbone.name}, weights {backbone.weights or backbone.fingerprint[:12]}",
            "data": f"{source.name}, split {source.split}",
            "cut": family.cut,
            "family": family.fingerprint,
            **curve_html.describe_units({rate.rate_id: rate.spec for rate in family.rates}),
            **(about or {}),
        }
        curve_html.write_report(directory / "report.html", curve, title, described, seen.drawn)
    return Measurement(curve, seen, curve_table.render(curve, curve.baselines, raw, compare_at))


def run_backbone(
    config: BackboneConfig,
    directory: Path,
    command: str,
    progress: Progress | None = None,
    log: Log | None = None,
) -> dict[str, Any]:
    """Trains a backbone and writes `weights.safetensors` and `report.json` into `directory`.

    Of several processes only the first writes.

    Args:
      config: the training.
      directory: also for checkpoints; the training resumes from existing ones.
      command: for the weights' card.
      progress, log: callbacks with the metrics, and with the current work.

    Returns:
      The card: command, data, seed and measured values; in other processes only the last.

    Raises:
      ConfigError, DataError, WeightsError: as in `run_curve`.

    >>> preprocessing = data.Preprocessing((28, 28), 1, mean=(0.286,), std=(0.353,))
    >>> config = BackboneConfig("resnet8_small", "embedded", preprocessing, max_samples=100)
    >>> run_backbone(config, Path("mine"), command="mine.py")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jaxsplit.errors.ConfigError: 100 training examples don't fill one batch of 128; ...
    """
    opened = functools.partial(data.open_source, config.data, max_samples=config.max_samples)
    opened(split=config.test_split)  # refused before the training
    initial = None if config.initial is None else load_backbone(config.initial)
    variables, measured = train_backbone(config, directory, progress, initial, log)
    if not distributed.is_first():
        return measured
    source, name = opened(split=config.train_split), data.portable_name(config.data)
    card = {"command": command, "data": name, "seed": config.seed, **measured}
    delete_whole(directory / "report.json")  # of other weights
    networks.save_backbone(
        directory / "weights.safetensors",
        variables,
        name=config.model,
        preprocessing=config.preprocessing,
        task=config.task_for(source),
        card=card,
    )
    write_json(directory / "report.json", card)
    return card
