"""Evaluation of a family: bytes of real frames, and accuracy after decoding them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from jaxsplit import __version__, data, networks
from jaxsplit._moved import renamed_argument
from jaxsplit.codec import Receiver, Sender
from jaxsplit.cost import SplitCost, split_cost
from jaxsplit.errors import BitstreamError, escaped
from jaxsplit.evaluation.curve import Curve, Origin
from jaxsplit.evaluation.drawn import draw
from jaxsplit.evaluation.image_codecs import check_codec, check_goal, sweep_to
from jaxsplit.evaluation.intervals import Predictions, measure_outputs
from jaxsplit.evaluation.per_image import PerImage, Statistics, checksums
from jaxsplit.evaluation.points import RatePoint, Values
from jaxsplit.family import FamilyRate, RateFamily
from jaxsplit.io.log import Log, no_log, shown
from jaxsplit.networks.backbone import check_backbone
from jaxsplit.networks.inference import batch_size, in_batches
from jaxsplit.networks.network import Features
from jaxsplit.split import Split, make_split
from jaxsplit.tasks import AGREEMENT, Classification, Outputs, Task
from jaxsplit.tasks.task import check_targets, reader_of
from jaxsplit.train import losses
from jaxsplit.units import UnitSpec, Variables
from jaxsplit.units.quantization import Offsets

_MAX_OVERHEAD = 1 + 6  # bytes of a frame: the end of the payload, and the longest label
# Bytes per symbol that the coder's integer divisions may cost, if each symbol escapes.
_ROUNDING = 4 * 0.0057 / 8
_FEATURE_BYTES = 2**31  # kept for the other rates


@renamed_argument("tell", "log")
def evaluate(
    family: RateFamily,
    backbone: networks.Backbone,
    source: data.AnySource,
    log: Log | None = None,
    rate_ids: Iterable[str] | None = None,
    *,
    progress: bool | None = True,
) -> Curve:
    """Measures the rate–accuracy curve of a family through real bytes.

    Every image is encoded to a frame, which is decoded before the tail runs. Records of each image
    come from `evaluate_images`, and `evaluation.card.with_measured` puts the figures on the
    family's card, for requests of a `quality`.

    Args:
      family: the rates.
      backbone: what the family was trained on, such as `family.backbone_of()`.
      source: test images: a `data.Source`, a name as `open_source` takes it, or arrays (images
        uint8 [N, H, W, 1 or 3], labels int [N]). Without labels the agreement with the unsplit
        network is measured, and no other metric.
      log: log callback with the current work, in place of `progress`.
      rate_ids: names of the rates to measure, in the order of the curve's points; None: all.
      progress: True: shown on stderr. False or None: silence.

    Returns:
      The curve, for `write`, `Curve.read` and the reports. `curve["r1"]` has bytes_per_image, the
      mean length of the frames; metrics such as `metrics["top1"].mean`, a share 0 … 1, with an
      interval of 95 %; and device_macs, of one image. `curve.unsplit` has the metrics of the
      unsplit network.

    Raises:
      FamilyError: there is no such rate, or the family belongs to another backbone.
      BitstreamError: a frame did not decode to the symbols that were sent, or is too long.
      DataError: the images have other classes than the backbone.

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    >>> source = data.open_source("embedded", max_samples=20)
    >>> curve = evaluate(family, family.backbone_of(), source, rate_ids=["r5"], progress=False)
    >>> [(point.rate_id, point.n_images) for point in curve.points]
    [('r5', 20)]
    >>> 0 <= curve["r5"].metrics["top1"].mean <= 1
    True
    """
    with shown(progress, log) as callback:
        return evaluate_images(family, backbone, source, callback, rate_ids)[0]


@renamed_argument("tell", "log")
def evaluate_images(
    family: RateFamily,
    backbone: networks.Backbone,
    source: data.AnySource,
    log: Log | None = None,
    rate_ids: Iterable[str] | None = None,
    baselines: Iterable[str] = (),
    compare_at: str | None = None,
    *,
    coarse: bool = False,
) -> tuple[Curve, PerImage]:
    """Measures the curve, and keeps the frame length and prediction of every image.

    Every image is encoded to a frame, which is decoded before the tail runs. Usually estimated
    bits, table bits and bytes (see `RatePoint`) rise in this order. One relation is checked: a
    frame has at most the bytes of its table bits, one more for the end of the payload, and its
    label. It may have fewer: the payload of a blank image can be empty. Metrics have intervals of
    95 %.

    Args:
      family: the rates.
      backbone: what the family was trained on.
      source: test images, as `data.as_source` takes them; without labels the agreement is measured,
        and no other metric.
      log: log callback, called with each rate and its progress in images.
      rate_ids: the rates to measure, in the order of the curve's points; None for all. The choice
        doesn't change frames, which are those of the whole family.
      baselines: image codecs to measure too, see `image_codecs.sweep_to`.
      compare_at: the metric at which image codecs are compared with the rates; None: the task's
        quality, or the agreement without labels.
      coarse: measure fewer qualities of the image codecs, see `image_codecs.sweep_to`.

    Returns:
      The curve, and the per-image records that it averages.

    Raises:
      FamilyError: there is no such rate, or the family belongs to another backbone.
      BitstreamError: a frame did not decode to the symbols that were sent, or is too long.
      DataError: the images have other classes than the backbone, or no labels for `compare_at`.
    """
    log = log or no_log
    check_backbone(backbone)
    task, source = backbone.task, data.as_source(source, backbone.class_names)
    check_targets(task, source)
    rates = family.rates if rate_ids is None else family.select(rate_ids).rates
    known = task.has_targets(source)
    goal = compare_at or (None if known else AGREEMENT)
    name, baselines = check_goal(goal, task.quality), tuple(baselines)
    if name != AGREEMENT:
        check_targets(task, source, needed=True)
    for codec in baselines:
        check_codec(codec)
    log(f"reading {len(source)} images")
    images, read = data.load_arrays(source, backbone.preprocessing, reader_of(task, source))
    targets = read if known else None
    count = len(images)
    size = batch_size(backbone.preprocessing.input_shape, count)
    sender, receiver = Sender(family, backbone, size), Receiver(family, backbone, size)
    log("compiling and running the unsplit network")
    predict = predictor(backbone, size)
    windows = data.windows(source, backbone.preprocessing) if task.has_maps else None
    measure = functools.partial(measure_outputs, task, windows=windows)
    unsplit = measure(lambda part: predict(images[part]), targets, count, size)
    features = _once(sender, images)
    cost_of = functools.cache(lambda split: split_cost(split, backbone))
    points, all_lengths, all_measured = [], [], []
    compiled: list[UnitSpec] = []
    for number, rate in enumerate(rates, 1):
        say = functools.partial(log, f"evaluating {rate.rate_id}, {number} of {len(rates)}")
        if rate.spec not in compiled:
            log(f"compiling the unit of {rate.rate_id}")
            compiled.append(rate.spec)
        measured, lengths, symbols = _measure_rate(
            sender, receiver, rate.rate_id, features, targets, unsplit.predicted, measure, say
        )
        split = make_split(backbone, family.cut, rate.spec)
        metrics = measured.values(task)
        stored = rate.stored_bytes if family.levels is None else family.levels.stored_bytes
        cost = cost_of(split)
        points.append(_point(rate, split, cost, backbone, lengths, symbols, metrics, stored))
        all_lengths.append(lengths)
        all_measured.append(measured)
    values = unsplit.values(task)
    goals = [metrics[name].mean for metrics in (*(point.metrics for point in points), values)]
    swept = {}
    for codec in baselines:
        log(f"comparing with {codec}")
        predicted = unsplit.predicted
        swept[codec] = sweep_to(
            images, targets, predicted, predict, codec, goals, name, task, coarse=coarse
        )
    del values[AGREEMENT]  # with itself
    origin = _origin(backbone, family.cut, source)
    curve = Curve(values, count, tuple(points), swept, origin, task.metrics)
    ids = tuple(rate.rate_id for rate in rates)
    seen = _per_image(task, ids, all_lengths, all_measured, targets, unsplit)
    predictions = [one.predicted for one in all_measured]
    drawn = draw(task, images, unsplit.predicted, ids, all_lengths, predictions)
    return curve, dataclasses.replace(seen, drawn=drawn)


def _origin(backbone: networks.Backbone, cut: str, source: data.Source) -> Origin:
    return Origin(
        backbone=escaped(backbone.name),
        backbone_fingerprint=backbone.fingerprint,
        cut=escaped(cut),
        data=escaped(data.portable_name(source.name)),
        split=escaped(source.split),
        data_fingerprint=source.listing,
        classes=len(source.class_names or backbone.class_names),
        jaxsplit=__version__,
        jax=jax.__version__,
    )


def _per_image(
    task: Task,
    rate_ids: tuple[str, ...],
    lengths: Sequence[Sequence[int]],
    rates: Sequence[Predictions],
    targets: np.ndarray | None,
    unsplit: Predictions,
) -> PerImage:
    names = [name for name in (task.quality, AGREEMENT) if name in unsplit.statistics]
    if type(task) is Classification:  # its metrics follow from the predictions
        names = []
    kept = {name: np.array([one.statistics[name] for one in rates]) for name in names}
    return PerImage(
        rate_ids,
        np.array(lengths),
        np.array([checksums(one.predicted) for one in rates]),
        None if targets is None else checksums(targets),
        checksums(unsplit.predicted),
        {name: Statistics(x, unsplit.statistics[name]) for name, x in kept.items()},
    )


def _measure_rate(
    sender: Sender,
    receiver: Receiver,
    rate_id: str,
    features: Callable[[slice], Features],
    targets: np.ndarray | None,
    unsplit: np.ndarray,
    measure: Callable[..., Predictions],
    log: Callable[[int, int], None],
) -> tuple[Predictions, list[int], np.ndarray]:
    """Sends all images; returns their predictions, and the lengths and symbols of the frames."""
    lengths: list[int] = []
    symbols: list[np.ndarray] = []

    def run(part: slice) -> Outputs:
        sent = sender.quantize(features(part), rate_id)
        frames = sender.frames(sent, rate_id)
        decoded = receiver.symbols(frames, rate_id)
        if not np.array_equal(sent, decoded):
            raise BitstreamError(f"rate {rate_id}: a frame decoded to other symbols")
        lengths.extend(len(frame) for frame in frames)
        symbols.append(decoded)
        outputs = receiver.predict(decoded, rate_id)
        log(len(lengths), len(unsplit))
        return outputs

    measured = measure(run, targets, len(unsplit), sender.batch_size, unsplit)
    return measured, lengths, np.concatenate(symbols)


def _once(sender: Sender, images: np.ndarray) -> Callable[[slice], Features]:
    """Returns a function from a part of the images to its features, kept where memory allows."""
    kept: dict[int, Features] = {}
    left = _FEATURE_BYTES

    def run(part: slice) -> Features:
        nonlocal left
        found = kept.get(part.start)
        if found is None:
            found = sender.features(images[part])
            left -= sum(leaf.nbytes for leaf in jax.tree.leaves(found))
            if left >= 0:
                kept[part.start] = found
        return found

    return run


def _point(
    rate: FamilyRate,
    split: Split,
    cost: SplitCost,
    backbone: networks.Backbone,
    lengths: Sequence[int],
    symbols: np.ndarray,
    metrics: Values,
    stored: int,
) -> RatePoint:
    """Returns a rate's point; a BitstreamError where the coder wastes bytes."""
    length = float(np.mean(lengths))
    table_bits = rate.tables.information_bits(symbols) / len(symbols)
    if length > table_bits / 8 + _MAX_OVERHEAD + _ROUNDING * symbols[0].size:
        raise BitstreamError(
            f"rate {rate.rate_id}: {length:.1f} bytes an image, but its tables explain "
            f"{table_bits / 8:.1f}: the coder wastes bytes"
        )
    # Lengths of real frames, without interpolation.
    p5, p95 = np.percentile(lengths, (5, 95), method="inverted_cdf")
    shape = backbone.preprocessing.input_shape
    size = batch_size(shape, len(lengths))
    whole = max(4 * sum(leaf.size for leaf in jax.tree.leaves(backbone.variables)), 1)
    return RatePoint(
        rate_id=rate.rate_id,
        lmbda=rate.lmbda,
        bytes_per_image=length,
        estimated_bits_per_image=_estimated_bits(split, rate, symbols, size),
        bits_per_pixel=8 * length / (shape[0] * shape[1]),
        metrics=metrics,
        n_images=len(lengths),
        table_bits_per_image=table_bits,
        bytes_p5=p5,
        bytes_p95=p95,
        device_macs=cost.device_macs,
        device_share=cost.device_share,
        device_params=cost.device_params,
        server_macs=cost.server_macs,
        server_params=cost.server_params,
        unit_bytes=stored,
        unit_share=stored / whole,
    )


def predictor(
    backbone: networks.Backbone, size: int | None = None
) -> Callable[[np.ndarray], Outputs]:
    """Returns a function from images uint8 [N, h, w, c] to outputs of the unsplit network.

    `size` is as in `predict`.
    """
    variables = jax.device_put(backbone.variables)
    run = functools.partial(networks.predict, backbone.network, variables, backbone.preprocessing)
    return functools.partial(run, size=size)


def _estimated_bits(split: Split, rate: FamilyRate, symbols: np.ndarray, size: int) -> float:
    """Returns the mean code length under the prior; under the tables where there is none."""
    if not split.has_prior(rate.variables):
        return rate.tables.information_bits(symbols) / len(symbols)
    offsets = split.stored_offsets(rate.tables)
    run = functools.partial(_bits_program(split), rate.variables, offsets)
    return float(np.mean(in_batches(run, symbols, size), dtype=np.float64))


@functools.lru_cache
def _bits_program(split: Split) -> Callable[[Variables, Offsets, np.ndarray], jax.Array]:
    """Jitted (unit, offsets, symbols) → bits of each image; rates of one unit share it."""

    @jax.jit
    def run(unit: Variables, offsets: Offsets, symbols: jax.Array) -> jax.Array:
        return losses.rate(split.bits(unit, split.dequantize(symbols, offsets)))

    return run
