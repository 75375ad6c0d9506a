"""Accuracy and size through real bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxsplit import __version__, data, networks
from jaxsplit.codec import Receiver, Sender
from jaxsplit.cost import SplitCost, split_cost
from jaxsplit.errors import BitstreamError
from jaxsplit.evaluation.curve import Curve, Origin
from jaxsplit.evaluation.per_image import PerImage
from jaxsplit.evaluation.points import RatePoint, wilson_interval
from jaxsplit.family import FamilyRate, RateFamily
from jaxsplit.io.log import Tell, tell_nobody
from jaxsplit.networks.inference import batch_size, in_batches
from jaxsplit.split import Split, make_split
from jaxsplit.train import losses

# Bytes of a frame beside its information: the payload's end, and the longest label.
_MOST_OVERHEAD = 1 + 6
# Bytes a symbol that the coder's own divisions may cost, if each escaped.
_ROUNDING = 4 * 0.0057 / 8
_TOP = 5


def evaluate(
    family: RateFamily,
    backbone: networks.Backbone,
    source: data.Source,
    tell: Tell | None = None,
    rate_ids: Iterable[str] | None = None,
) -> Curve:
    """The curve of a family through real bytes: what `jaxsplit evaluate` prints.

    Args:
      family: the rates.
      backbone: what the family was trained on.
      source: labelled test images.
      tell: told of each rate, and how many images went through it.
      rate_ids: the rates to measure; None for all.

    Returns:
      A point for each rate, in bytes of real frames that were decoded again, as of
      `evaluate_images`, whose errors these are too.

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
    tell: Tell | None = None,
    rate_ids: Iterable[str] | None = None,
) -> tuple[Curve, PerImage]:
    """Sends every image at every rate and asks the server what it saw.

    Each image becomes a frame, the frame is decoded again, and its tail runs on what came out.
    `bytes_per_image` is the mean length of those frames, their fixed part included;
    `estimated_bits_per_image` is what the prior charges for the same rounded latents, or the tables
    where an imported unit has no prior; `table_bits_per_image` what an ideal coder would need under
    the integer tables. Usually the three rise in this order, the prior below the tables by what
    integers cost. Only the last step is held for any images whatever: the bytes are at most those
    of the tables, one for the payload's end and those of the frame. (They can be fewer: the
    payload of a blank image may be empty.)

    Each point also has what the rate costs on either side and in storage, and how often its answer
    is the uncut network's; shares of images come with Wilson's 95 % intervals.

    Args:
      family: the rates.
      backbone: what the family was trained on.
      source: labelled test images.
      tell: told of each rate, and how many images went through it.
      rate_ids: the rates to measure, in the order of the curve's points; None for all. Which ones
        changes nothing in a frame: it is the whole family's.

    Returns:
      The curve, and what it is the mean of.

    Raises:
      FamilyError: there is no such rate, or the family belongs to another backbone.
      BitstreamError: a frame did not decode to the symbols that were sent, or is too long.
      DataError: the images are of other classes than the backbone's.
    """
    tell = tell or tell_nobody
    backbone.task.check_source(source)
    rates = family.rates if rate_ids is None else [family[rate_id] for rate_id in rate_ids]
    tell(f"reading {len(source)} images")
    images, labels = data.load_arrays(source, backbone.preprocessing)
    size = batch_size(backbone.preprocessing.input_shape)
    sender, receiver = Sender(family, backbone, size), Receiver(family, backbone, size)
    tell("running the uncut network")
    uncut = predictor(backbone)(images)
    pixels = images.shape[1] * images.shape[2]
    specs = {rate.spec for rate in rates}
    costs = {spec: split_cost(make_split(backbone, family.cut, spec), backbone) for spec in specs}
    points, all_lengths, answers = [], [], []
    for number, rate in enumerate(rates, 1):
        what = f"evaluating {rate.rate_id}, {number} of {len(rates)}"
        parts = []
        for start in range(0, len(images), size):
            tell(what, start, len(images))
            parts.append(_send(sender, receiver, images[start : start + size], rate.rate_id))
        lengths, decoded, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
        all_lengths.append(lengths)
        answers.append(logits.argmax(-1))
        sizes = _sizes(rate, lengths, decoded)
        bits = _estimated_bits(family, backbone, rate.rate_id, decoded)
        points.append(
            RatePoint(
                rate_id=rate.rate_id,
                lmbda=rate.lmbda,
                estimated_bits_per_image=bits,
                bits_per_pixel=8 * sizes["bytes_per_image"] / pixels,
                n_images=len(labels),
                **sizes,
                **_answers(logits, labels, uncut),
                **_cost(rate, costs[rate.spec], backbone),
            )
        )
    curve = Curve(
        n_images=len(labels),
        points=tuple(points),
        origin=_origin(backbone, family.cut, source),
        **{f"uncompressed_{name}": value for name, value in _accuracy(uncut, labels).items()},
    )
    seen = PerImage(
        tuple(point.rate_id for point in points),
        np.array(all_lengths),
        np.array(answers),
        labels,
        uncut.argmax(-1),
    )
    return curve, seen


def _sizes(rate: FamilyRate, lengths: np.ndarray, decoded: np.ndarray) -> dict[str, Any]:
    """What the frames took, and what the tables explain of it."""
    length = float(np.mean(lengths))
    # Lengths of real frames, not between two of them.
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
    """Lengths of the frames [n], the symbols that came out of them, and logits [n, K]."""
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


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Top-1 and top-5 of logits [N, K] with intervals; of equal logits the first counts."""
    answers = {"top1": logits.argmax(-1) == labels}
    if logits.shape[1] > _TOP:
        likeliest = np.argsort(-logits, axis=-1, kind="stable")[:, :_TOP]
        answers["top5"] = (likeliest == labels[:, None]).any(-1)
    found: dict[str, Any] = {"top5": None}
    for name, right in answers.items():
        count = int(right.sum())
        found[name] = count / len(labels)
        found[f"{name}_interval"] = wilson_interval(count, len(labels))
    return found


def _answers(logits: np.ndarray, labels: np.ndarray, uncut: np.ndarray) -> dict[str, Any]:
    """What a point says about the logits [N, K] of a rate, beside those of the uncut network."""
    agreeing = _accuracy(logits, uncut.argmax(-1))
    return _accuracy(logits, labels) | {
        "agreement": agreeing["top1"],
        "agreement_interval": agreeing["top1_interval"],
    }


def _cost(rate: FamilyRate, cost: SplitCost, backbone: networks.Backbone) -> dict[str, Any]:
    """What a point says about the rate's cost, whatever the images."""
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(backbone.variables))
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
def _bits_program(split: Split) -> Callable[[Any, Any, np.ndarray], jax.Array]:
    """Jitted (unit, offsets, symbols) → bits of each image; rates of one unit share it."""

    @jax.jit
    def run(unit: Any, offsets: Any, symbols: jax.Array) -> jax.Array:
        return losses.rate(split.bits(unit, split.dequantize(symbols, offsets)))

    return run
