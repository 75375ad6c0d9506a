"""Metrics and estimated bits of rates on validation images, during a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import data, networks
from jaxsplit.data import Preprocessing
from jaxsplit.networks.inference import batch_size
from jaxsplit.split import Split
from jaxsplit.train import losses, parallel
from jaxsplit.train.batches import FeatureCache, ImageBatches
from jaxsplit.train.metrics import Metrics
from jaxsplit.train.rate_groups import Group, in_order
from jaxsplit.train.records import Batch, CurveState
from jaxsplit.train.step import StepMetrics, over_rates
from jaxsplit.units import Variables
from jaxsplit.units.quantization import Offsets

# The network's variables, and a unit and offsets for each group.
_Evaluated = tuple[networks.Variables, tuple[tuple[Variables, Offsets], ...]]


def evaluation_step(
    groups: Sequence[Group], preprocessing: Preprocessing, batching: str = "vmap"
) -> Callable[[_Evaluated, Batch], StepMetrics]:
    """Returns a function that measures bits and the task's metrics of rounded latents.

    Args:
      groups: the rates.
      preprocessing: the backbone's, for batches of images.
      batching: as in `over_rates`.

    Returns:
      A pure function (variables, batch) → {"bits": float [B, R], metric: [B, R]}. variables: the
      network's, and a unit and offsets for each group; the batch has targets, and features or
      images. No tables are needed: the bits are the prior's.
    """

    def run(variables: _Evaluated, batch: Batch) -> StepMetrics:
        backbone, units = variables
        if batch.images is not None:
            pixels = preprocessing.normalise(batch.images)
            features = groups[0].split.head(backbone, pixels)
        else:
            features = jax.tree.map(lambda x: x.astype(jnp.float32), batch.features)
        measured = []
        for group, own in zip(groups, units, strict=True):
            split = group.split

            def one_rate(unit: Variables, offsets: Offsets, split: Split = split) -> StepMetrics:
                latents = split.round(split.encode(unit, features), offsets)
                outputs = split.tail(backbone, split.decode(unit, latents))
                bits = losses.rate(split.bits(unit, latents))
                return {"bits": bits, **split.task.measure(outputs, batch.targets)}

            measured.append(over_rates(one_rate, batching)(*own))
        return {
            name: jnp.stack(in_order(groups, [one[name] for one in measured]), axis=1)
            for name in measured[0]
        }

    return run


def make_evaluate(
    groups: Sequence[Group],
    backbone: networks.Backbone,
    batches: Callable[[], Iterable[Batch]],
    batching: str = "vmap",
) -> Callable[[CurveState], Metrics]:
    """Returns the mean of `evaluation_step` over all images, mapped over this process's devices.

    Args:
      groups, batching: as in `evaluation_step`.
      backbone: the frozen network.
      batches: called for each evaluation; yields every image once.

    Returns:
      evaluate(state) → {"bits": [R], metric: [R]}, of the units' running means where there are
      some, with the state's offsets.
    """
    sums = parallel.make_sums(evaluation_step(groups, backbone.preprocessing, batching))

    def evaluate(state: CurveState) -> Metrics:
        units = tuple((group.result, group.offsets) for group in state.groups)
        totals = sums((backbone.variables, units), batches())
        count = totals.pop("examples")
        return groups[0].split.task.values({name: x / count for name, x in totals.items()})

    return evaluate


def in_turn(examples: FeatureCache | ImageBatches, backbone: networks.Backbone) -> Iterator[Batch]:
    """Yields every example once, in batches for `evaluation_step`."""
    size = batch_size(backbone.preprocessing.input_shape)
    if isinstance(examples, ImageBatches):
        for batch in data.batches(examples.source, backbone.preprocessing, size):
            kept = batch["mask"]
            yield Batch(batch["index"][kept], batch["label"][kept], images=batch["image"][kept])
        return
    for start in range(0, len(examples), size):
        index = np.arange(start, min(start + size, len(examples)), dtype=np.int32)
        part = slice(start, start + size)
        features, targets = jax.tree.map(
            lambda x, part=part: x[part], (examples.features, examples.targets)
        )
        yield Batch(index, targets, features=features)
