"""Evaluation of a family: bytes of real frames, and accuracy after decoding them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxsplit import __version__, data, networks
from jaxsplit.codec import Receiver, Sender
from jaxsplit.cost import SplitCost, split_cost
from jaxsplit.errors import BitstreamError
from jaxsplit.evaluation.curve import Curve, Origin
from jaxsplit.evaluation.intervals import Value, metric_value
from jaxsplit.evaluation.per_image import PerImage, Statistics, checksums
from jaxsplit.evaluation.points import RatePoint
from jaxsplit.family import FamilyRate, RateFamily
from jaxsplit.io.log import Log, no_log
from jaxsplit.networks.inference import batch_size, in_batches
from jaxsplit.split import Split, make_split
from jaxsplit.tasks import AGREEMENT, Classification, Outputs, Task
from jaxsplit.train import losses
from jaxsplit.units import Variables
from jaxsplit.units.quantization import Offsets

# Bytes of a frame beyond its information: the end of the payload, and the longest label.
_MOST_OVERHEAD = 1 + 6
# Bytes per symbol that the coder's integer divisions may cost, if each symbol escapes.
_ROUNDING = 4 * 0.0057 / 8


def evaluate(
    family: RateFamily,
    backbone: networks.Backbone,
    source: data.Source,
    tell: Log | None = None,
    rate_ids: Iterable[str] | None = None,
) -> Curve:
    """Measures the rate–accuracy curve of a family through real bytes.

    Args:
      family: the rates.
      backbone: what the family was trained on.
      source: labelled test images.
      tell: log callback, called with each rate and its progress in images.
      rate_ids: the rates to measure; None for all.

    Returns:
      The curve: a point for each rate, with the bytes of real frames, which were decoded.

    Raises:
      FamilyError, BitstreamError, DataError: as in `evaluate_images`.

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    >>> source = data.open_source("embedded", limit=20)
    >>> curve = evaluate(family, family.backbone_of(), source, rate_ids=["r5"])
    >>> [(point.rate_id, point.n_images) for point in curve.points]
    [('r5', 20)]
    """
    return evaluate_images(family, backbone, source, tell, rate_ids)[0]


def evaluate_images(
    family: RateFamily,
    backbone: networks.Backbone,
    source: data.Source,
    tell: Log | None = None,
    rate_ids: Iterable[str] | None = None,
) -> tuple[Curve, PerImage]:
    """Measures the curve, and keeps the frame length and prediction of every image.

    Every image is encoded to a frame, which is decoded before the tail runs. `bytes_per_image` is
    the mean length of the frames, headers included. `estimated_bits_per_image` is the code length
    of the same symbols under the prior (under the tables, where an imported unit has no prior).
    `table_bits_per_image` is their information content under the integer tables. Usually the three
    rise in this order. Only the last step is guaranteed, and checked: the bytes are at most those
    of the tables, one for the end of the payload and those of the frame. (They can be fewer: the
    payload of a blank image may be empty.)

    Each point also has the task's metrics with 95 % intervals, the agreement with the unsplit
    network among them, the rate's cost on device and server, and its stored size.

    Args:
      family: the rates.
      backbone: what the family was trained on.
      source: labelled test images.
      tell: log callback, called with each rate and its progress in images.
      rate_ids: the rates to measure, in the order of the curve's points; None for all. The choice
        doesn't change frames, which are those of the whole family.

    Returns:
      The curve, and the per-image records that it averages.

    Raises:
      FamilyError: there is no such rate, or the family belongs to another backbone.
      BitstreamError: a frame did not decode to the symbols that were sent, or is too long.
      DataError: the images have other classes than the backbone.
    """
    tell = tell or no_log
    task = backbone.task
    task.check_source(source)
    rates = family.rates if rate_ids is None else [family[rate_id] for rate_id in rate_ids]
    tell(f"reading {len(source)} images")
    images, targets = data.load_arrays(source, backbone.preprocessing)
    size = batch_size(backbone.preprocessing.input_shape)
    parts = [slice(start, start + size) for start in range(0, len(images), size)]
    sender, receiver = Sender(family, backbone, size), Receiver(family, backbone, size)
    tell("running the unsplit network")
    unsplit = measure_unsplit(task, predictor(backbone), images, targets, size)
    pixels = images.shape[1] * images.shape[2]
    specs = {rate.spec for rate in rates}
    costs = {spec: split_cost(make_split(backbone, family.cut, spec), backbone) for spec in specs}
    points, all_lengths, all_measured = [], [], []
    for number, rate in enumerate(rates, 1):
        what = f"evaluating {rate.rate_id}, {number} of {len(rates)}"
        sent, measured = [], []
        for part in parts:
            tell(what, part.start, len(images))
            lengths, decoded, outputs = _send(sender, receiver, images[part], rate.rate_id)
            sent.append((lengths, decoded))
            measured.append(_measured(task, outputs, targets[part], unsplit.predicted[part]))
        lengths, decoded = (np.concatenate(some) for some in zip(*sent, strict=True))
        all_lengths.append(lengths)
        all_measured.append(_joined(measured))
        sizes = _sizes(rate, lengths, decoded)
        points.append(
            RatePoint(
                rate_id=rate.rate_id,
                lmbda=rate.lmbda,
                estimated_bits_per_image=_estimated_bits(family, backbone, rate.rate_id, decoded),
                bits_per_pixel=8 * sizes["bytes_per_image"] / pixels,
                metrics=all_measured[-1].values(task),
                n_images=len(images),
                **sizes,
                **_cost(rate, costs[rate.spec], backbone),
            )
        )
    values = unsplit.values(task)
    curve = Curve(
        unsplit={name: value for name, value in values.items() if name != AGREEMENT},
        n_images=len(images),
        points=tuple(points),
        origin=_origin(backbone, family.cut, source),
        metrics=task.metrics,
    )
    seen = PerImage(
        tuple(point.rate_id for point in points),
        np.array(all_lengths),
        np.array([checksums(measured.predicted) for measured in all_measured]),
        checksums(targets),
        checksums(unsplit.predicted),
        _statistics(task, all_measured, unsplit),
    )
    return curve, seen


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for N images and their metrics.

    Attributes:
      predicted: integers [N, …], see `Task.predict`.
      statistics: metric → statistics of each image, [N, …], agreement among them.
    """

    predicted: np.ndarray
    statistics: Mapping[str, np.ndarray]

    def values(self, task: Task) -> dict[str, Value]:
        """Returns the metrics of the images together, with 95 % intervals."""
        return {
            name: metric_value(images, task.metric(name))
            for name, images in self.statistics.items()
        }


def measure_unsplit(
    task: Task,
    predict: Callable[[np.ndarray], Outputs],
    images: np.ndarray,
    targets: np.ndarray,
    size: int = 250,
) -> Predictions:
    """Measures the unsplit network's predictions; the agreement is with themselves.

    Args:
      task: of the network.
      predict: images uint8 [B, h, w, c] → outputs.
      images: uint8 [N, h, w, c].
      targets: of the images.
      size: images at once.
    """
    parts = []
    for start in range(0, len(images), size):
        outputs = predict(images[start : start + size])
        parts.append(_measured(task, outputs, targets[start : start + size], None))
    return _joined(parts)


def _measured(
    task: Task, outputs: Outputs, targets: np.ndarray, unsplit: np.ndarray | None
) -> Predictions:
    predicted = np.asarray(task.predict(outputs))
    agreement = task.agreement(outputs, predicted if unsplit is None else unsplit)
    return Predictions(predicted, {**task.evaluate(outputs, targets), AGREEMENT: agreement})


def _joined(parts: Sequence[Predictions]) -> Predictions:
    statistics = {
        name: np.concatenate([part.statistics[name] for part in parts])
        for name in parts[0].statistics
    }
    return Predictions(np.concatenate([part.predicted for part in parts]), statistics)


def _statistics(
    task: Task, rates: Sequence[Predictions], unsplit: Predictions
) -> dict[str, Statistics]:
    """Returns the statistics that `PerImage` keeps; top-1 follows from the predictions."""
    names = () if type(task) is Classification else (task.quality, AGREEMENT)
    return {
        name: Statistics(
            np.array([measured.statistics[name] for measured in rates]), unsplit.statistics[name]
        )
        for name in names
    }


def _sizes(rate: FamilyRate, lengths: np.ndarray, decoded: np.ndarray) -> dict[str, Any]:
    """Returns the sizes of a point; a BitstreamError where the coder wastes bytes."""
    length = float(np.mean(lengths))
    # Lengths of real frames, without interpolation.
    p5, p95 = np.percentile(lengths, (5, 95), method="inverted_cdf")
    table_bits = rate.tables.information_bits(decoded) / len(decoded)
    if length > table_bits / 8 + _MOST_OVERHEAD + _ROUNDING * decoded[0].size:
        raise BitstreamError(
            f"rate {rate.rate_id}: {length:.1f} bytes an image, but its tables explain "
            f"{table_bits / 8:.1f}: the coder wastes bytes"
        )
    return {
        "bytes_per_image": length,
        "table_bits_per_image": table_bits,
        "bytes_p5": p5,
        "bytes_p95": p95,
    }


def _send(
    sender: Sender, receiver: Receiver, images: np.ndarray, rate_id: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns lengths of frames [n], their decoded symbols, and the network's outputs."""
    symbols = sender.symbols(images, rate_id)
    frames = sender.frames(symbols, rate_id)
    decoded = receiver.symbols(frames, rate_id)
    if not np.array_equal(symbols, decoded):
        raise BitstreamError(f"rate {rate_id}: a frame decoded to other symbols")
    lengths = np.array([len(frame) for frame in frames])
    return lengths, decoded, receiver.predict(decoded, rate_id)


def _origin(backbone: networks.Backbone, cut: str, source: data.Source) -> Origin:
    return Origin(
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        cut=cut,
        data=data.portable_name(source.name),
        split=source.split,
        data_fingerprint=source.listing,
        classes=len(source.class_names),
        jaxsplit=__version__,
        jax=jax.__version__,
    )


def _cost(rate: FamilyRate, cost: SplitCost, backbone: networks.Backbone) -> dict[str, Any]:
    """Returns the fields of a point for the rate's cost."""
    whole = max(4 * sum(leaf.size for leaf in jax.tree.leaves(backbone.variables)), 1)
    return {
        "device_macs": cost.device_macs,
        "device_share": cost.device_share,
        "device_params": cost.device_params,
        "server_macs": cost.server_macs,
        "server_params": cost.server_params,
        "unit_bytes": rate.stored_bytes,
        "unit_share": rate.stored_bytes / whole,
    }


def predictor(backbone: networks.Backbone) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from images uint8 [N, h, w, c] to outputs of the unsplit network."""
    variables = jax.device_put(backbone.variables)
    return functools.partial(networks.predict, backbone.network, variables, backbone.preprocessing)


def _estimated_bits(
    family: RateFamily, backbone: networks.Backbone, rate_id: str, symbols: np.ndarray
) -> float:
    rate = family[rate_id]
    split = make_split(backbone, family.cut, rate.spec)
    if not split.units.has_prior(rate.variables):
        return rate.tables.information_bits(symbols) / len(symbols)
    offsets = split.units.stored_offsets(rate.tables)
    run = functools.partial(_bits_program(split), rate.variables, offsets)
    bits = in_batches(run, symbols, batch_size(backbone.preprocessing.input_shape))
    return float(np.mean(bits, dtype=np.float64))


@functools.lru_cache
def _bits_program(split: Split) -> Callable[[Variables, Offsets, np.ndarray], jax.Array]:
    """Jitted (unit, offsets, symbols) → bits of each image; rates of one unit share it."""

    @jax.jit
    def run(unit: Variables, offsets: Offsets, symbols: jax.Array) -> jax.Array:
        return losses.rate(split.bits(unit, split.dequantize(symbols, offsets)))

    return run
