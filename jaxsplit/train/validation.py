"""Accuracy and estimated bits of rates that are still in training, on images they don't see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import data, networks
from jaxsplit.data import Preprocessing
from jaxsplit.networks.inference import batch_size
from jaxsplit.train import losses, parallel
from jaxsplit.train.examples import FeatureCache, ImageBatches
from jaxsplit.train.groups import Group, in_order
from jaxsplit.train.state import CurveState
from jaxsplit.train.step import over_rates


def evaluation_step(
    groups: Sequence[Group], preprocessing: Preprocessing, batching: str = "vmap"
) -> Callable[[Any, Any], dict[str, jax.Array]]:
    """What a rounded latent costs and what the tail sees behind it, for every image and rate.

    Args:
      groups: the rates.
      preprocessing: the backbone's, for batches of images.
      batching: as of `over_rates`.

    Returns:
      A pure function (variables, batch) → {"bits": float [B, R], "top1": bool [B, R]}. variables:
      backbone, and groups with the units' variables and offsets; batch: label [B] and features
      [B, H, W, Cin] or image uint8 [B, h, w, c]. No tables are needed: the bits are the prior's.
    """

    def run(variables: Any, batch: Any) -> dict[str, jax.Array]:
        backbone = variables["backbone"]
        if "image" in batch:
            pixels = preprocessing.normalise(batch["image"])
            features = groups[0].split.head(backbone, pixels)
        else:
            features = batch["features"].astype(jnp.float32)
        said = []
        for group, own in zip(groups, variables["groups"], strict=True):
            split = group.split

            def one_rate(unit: Any, offsets: jax.Array, split: Any = split) -> Any:
                shift = offsets.reshape(1, 1, 1, -1)
                latent = jnp.round(split.encode(unit, features) - shift) + shift
                logits = split.tail(backbone, split.decode(unit, latent))
                bits = losses.rate(split.bits(unit, latent))
                return {"bits": bits, "top1": jnp.argmax(logits, -1) == batch["label"]}

            said.append(over_rates(one_rate, batching)(own["unit"], own["offsets"]))
        return {
            name: jnp.stack(in_order(groups, [one[name] for one in said]), axis=1)
            for name in said[0]
        }

    return run


def make_evaluate(
    groups: Sequence[Group],
    backbone: networks.Backbone,
    batches: Callable[[], Any],
    batching: str = "vmap",
) -> Callable[[CurveState], dict[str, np.ndarray]]:
    """Means over all images of `evaluation_step`, mapped over this process's devices.

    Args:
      groups, batching: as of `evaluation_step`.
      backbone: the frozen network.
      batches: called for each evaluation; gives every image once.

    Returns:
      evaluate(state) → {"bits": [R], "top1": [R]}, of the units' running means where there are
      some, rounded around the state's offsets.
    """
    sums = parallel.make_sums(evaluation_step(groups, backbone.preprocessing, batching))

    def evaluate(state: CurveState) -> dict[str, np.ndarray]:
        units = tuple({"unit": group.result, "offsets": group.offsets} for group in state.groups)
        totals = sums({"backbone": backbone.variables, "groups": units}, batches())
        count = totals.pop("examples")
        return {name: value / count for name, value in totals.items()}

    return evaluate


def in_turn(examples: FeatureCache | ImageBatches, backbone: networks.Backbone) -> Iterator[Any]:
    """Every example once, in batches as of `evaluation_step`."""
    size = batch_size(backbone.preprocessing.input_shape)
    if isinstance(examples, ImageBatches):
        yield from data.batches(examples.source, backbone.preprocessing, size)
        return
    for start in range(0, len(examples.labels), size):
        part = slice(start, start + size)
        yield {"features": examples.features[part], "label": examples.labels[part]}
