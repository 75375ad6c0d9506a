"""The card of a family: origin, measured figures, limits and licence.

A part of `family.json`: training writes command, data, split, seed and versions, an evaluation its
figures (`with_measured`), and a person limits and licence, with `jaxsplit pack --card`.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from jaxsplit import data
from jaxsplit.data.arrays import ARRAYS
from jaxsplit.errors import ConfigError, FamilyError
from jaxsplit.evaluation.curve import Curve, described_metrics
from jaxsplit.evaluation.intervals import Value
from jaxsplit.evaluation.per_image import PerImage
from jaxsplit.evaluation.points import RatePoint
from jaxsplit.family import RateFamily
from jaxsplit.io.versions import versions
from jaxsplit.tasks import AGREEMENT, CLASSIFICATION_METRICS, Metric

Family = TypeVar("Family", bound=RateFamily)

#: Entries of a complete card.
KEYS = ("command", "data", "split", "seed", "evaluation", "limits", "license")
#: Images whose frame lengths and predictions are stored, to verify the family later.
CHECKED_IMAGES = 50


def with_measured(family: Family, curve: Curve, seen: PerImage, source: data.Source) -> Family:
    """Returns the family with the figures of an evaluation, in place of any that it had.

    Each rate gets `measured`: sizes in bytes; the task's quality and agreement, such as top1 and
    top1_interval; the unsplit network's quality as uncompressed_top1; n_images. Images without
    labels give the agreement alone. The card gets
    `evaluation`: the images, the unsplit network's quality, versions, and as `check` the length of
    each frame and the prediction (a class, or a checksum) for some images of every class.

    Args:
      family: the rates.
      curve, seen: of all its rates in their order, see `evaluate_images`.
      source: the images.

    Raises:
      ConfigError: the curve has other rates.

    >>> from jaxsplit.evaluation.evaluate import evaluate_images
    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").select(["r1", "r5"])
    >>> family = family.with_rates(family.rates)  # as after a training: not measured
    >>> test = data.open_source("embedded", max_samples=20)
    >>> measured = with_measured(family, *evaluate_images(family, family.backbone_of(), test), test)
    >>> sender, _ = measured.codec()
    >>> len(sender(test, quality=0.5))
    20
    """
    ours = [rate.rate_id for rate in family.rates]
    if list(seen.rate_ids) != ours or [point.rate_id for point in curve.points] != ours:
        raise ConfigError(f"the curve's rates are not {', '.join(ours)}, in this order")
    rates = tuple(
        dataclasses.replace(rate, measured=_figures(curve, point))
        for rate, point in zip(family.rates, curve.points, strict=True)
    )
    name, count = data.portable_name(source.name), curve.n_images
    unsplit = curve.unsplit.get(curve.quality)
    images = f"--data {shlex.quote(name)}"
    if source.split != "all":
        images += f" --split {shlex.quote(source.split)}"
    command = f"jaxsplit evaluate --family FAMILY {images} --max-samples {count}"
    metrics = {one: dataclasses.asdict(metric) for one, metric in curve.metrics.items()}
    evaluation = {
        **({} if source.name == ARRAYS else {"command": command}),  # no command reads arrays
        "data": name,
        "split": source.split,
        "n_images": count,
        **(_metric(f"uncompressed_{curve.quality}", unsplit) if unsplit else {}),
        **({} if curve.metrics == CLASSIFICATION_METRICS else {"metrics": metrics}),
        "versions": versions(),
        "check": _check(seen),
    }
    return dataclasses.replace(family, rates=rates, card={**family.card, "evaluation": evaluation})


def measured_curve(family: RateFamily, name: str) -> Curve:
    """Returns the curve of a family's measured figures, which `with_measured` wrote.

    A card has no estimated bits: the curve has those of the frames.

    Args:
      family: the rates, measured.
      name: of the family, for errors.

    Raises:
      FamilyError: a rate has no figures.
      ConfigError: a figure is out of its range.

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    >>> measured_curve(family, "ours").rate_quality()[0]
    (18.0575, 0.883)
    """
    pixels = math.prod(family.preprocessing.size)
    metrics_of = _stored_metrics(family)
    quality = next(iter(metrics_of))
    unsplit, points = {}, []
    for rate in family.rates:
        found = rate.measured
        size = found.get("bytes_per_image")
        names = [one for one in (quality, AGREEMENT) if found.get(one) is not None]
        if not isinstance(size, int | float) or not names or not found.get("n_images"):
            raise FamilyError(
                f"rate {rate.rate_id} of {name} carries no figures: measure the family with "
                "jaxsplit evaluate --out DIR, and compare DIR"
            )
        if quality in names:
            unsplit = {quality: Value(found.get(f"uncompressed_{quality}", math.nan))}
        metrics = {one: Value(found[one], found.get(f"{one}_interval")) for one in names}
        bits, count = 8.0 * size, found["n_images"]
        points.append(
            RatePoint(rate.rate_id, rate.lmbda, size, bits, bits / pixels, metrics, count)
        )
    return Curve(unsplit, points[0].n_images, tuple(points), metrics=metrics_of)


def _stored_metrics(family: RateFamily) -> Mapping[str, Metric]:
    """Returns the metrics of a family's figures; those of a classification where none are named."""
    evaluation = family.card.get("evaluation")
    found = evaluation.get("metrics") if isinstance(evaluation, dict) else None
    return CLASSIFICATION_METRICS if found is None else described_metrics(found)


def measured_data(family: RateFamily) -> str | None:
    """Returns the data of a family's measured figures, None where its card doesn't say.

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> measured_data(load_pretrained("resnet8_small-fashion_mnist/stage1.block1"))
    'embedded'
    """
    evaluation = family.card.get("evaluation")
    found = evaluation.get("data") if isinstance(evaluation, dict) else None
    return found if isinstance(found, str) else None


def missing(card: Mapping[str, object]) -> list[str]:
    """Returns those of `KEYS` that a card lacks.

    >>> missing({"command": "jaxsplit train …", "data": "embedded", "split": "train", "seed": 0})
    ['evaluation', 'limits', 'license']
    """
    return [key for key in KEYS if card.get(key) in (None, "", {})]


def _figures(curve: Curve, point: RatePoint) -> dict[str, object]:
    figures = {name: getattr(point, name) for name in ("bytes_per_image", "bytes_p5", "bytes_p95")}
    for name in (curve.quality, AGREEMENT):
        figures |= _metric(name, point.metrics.get(name))
    figures["n_images"] = point.n_images
    if curve.labelled:
        figures[f"uncompressed_{curve.quality}"] = curve.unsplit[curve.quality].mean
    return figures


def _metric(name: str, value: Value | None) -> dict[str, object]:
    """Returns a metric's entries as JSON reads them back."""
    mean, interval = value or (None, None)
    return {name: mean, f"{name}_interval": interval and list(interval)}


def _check(seen: PerImage) -> dict[str, object]:
    classes = seen.unsplit if seen.labels is None else seen.labels
    chosen = data.spread(classes, min(CHECKED_IMAGES, seen.n_images))

    def by_rate(array: np.ndarray) -> dict[str, list[int]]:
        return {name: row[chosen].tolist() for name, row in zip(seen.rate_ids, array, strict=True)}

    return {
        "images": len(chosen),
        **({} if seen.labels is None else {"labels": seen.labels[chosen].tolist()}),
        "uncut": seen.unsplit[chosen].tolist(),
        "bytes": by_rate(seen.bytes),
        "predicted": by_rate(seen.predicted),
    }
