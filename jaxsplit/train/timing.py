"""Times the training step of a curve on this machine."""

from __future__ import annotations

import time

import jax
import numpy as np

from jaxsplit.networks import Backbone
from jaxsplit.train import parallel, rate_groups
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.state import Batch

_STEPS = 3


def seconds_per_step(config: CurveConfig, backbone: Backbone) -> float:
    """Measures the step of a training whose features are cached, on random features.

    Args:
      config: the training, at a cut that one array crosses.
      backbone: the frozen network.

    Returns:
      Seconds of a step, without its compilation.

    >>> from jaxsplit import CurveConfig, Distortion, Phase, Rate, load_backbone
    >>> from jaxsplit.units import BottleneckSpec
    >>> phases = (Phase(1, Distortion()),)
    >>> parts = "stage3.block1", BottleneckSpec(4), (Rate("r1", 1e-3),), phases
    >>> config = CurveConfig("fashion_mnist_resnet8", *parts, batch_size=16)
    >>> 0 < seconds_per_step(config, load_backbone("fashion_mnist_resnet8")) < 60
    True
    """
    frozen = backbone.fold()
    groups = rate_groups.make_groups(frozen, config.cut, config.unit, config.rates, parallel.AXIS)
    devices = parallel.devices_for(config.batch_size)
    phase = config.phases[-1]
    step = rate_groups.make_curve_step(config, groups, phase, backbone.preprocessing)
    run = parallel.parallel_step(step, devices)
    state = parallel.replicate(rate_groups.first_state(config, backbone, groups), devices)
    constants = rate_groups.make_constants(config, backbone, 1.0)
    constants = parallel.replicate(constants, devices)
    sent = parallel.shard(_random_batch(config, frozen), devices)
    seconds = []
    for _ in range(1 + _STEPS):
        start = time.monotonic()
        state, metrics = run(state, sent, constants)
        jax.block_until_ready((state, metrics))
        seconds.append(time.monotonic() - start)
    return min(seconds[1:])


def _random_batch(config: CurveConfig, frozen: Backbone) -> Batch:
    """Returns a batch of this process, of the shapes and types of a `FeatureCache`'s."""
    count = config.batch_size // jax.process_count()
    rng = np.random.default_rng(0)

    def drawn(leaf: jax.ShapeDtypeStruct, dtype: str) -> np.ndarray:
        return rng.normal(size=(count, *leaf.shape)).astype(np.dtype(dtype))

    shapes = frozen.features_at(config.cut), frozen.output_shapes
    features = jax.tree.map(lambda leaf: drawn(leaf, config.feature_dtype), shapes[0])
    teacher = jax.tree.map(lambda leaf: drawn(leaf, str(leaf.dtype)), shapes[1])
    index = np.arange(count, dtype=np.int32)
    return Batch(index, np.zeros(count, np.int32), features=features, teacher=teacher)
