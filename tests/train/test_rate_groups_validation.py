"""Evaluations in the middle of a training say what the family of that moment would do."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxsplit import data
from jaxsplit.evaluation import evaluate
from jaxsplit.train.freeze import freeze
from jaxsplit.train.rate_groups import (
    first_state,
    make_evaluate,
    make_groups,
    with_best_offsets,
)
from jaxsplit.train.state import Batch
from jaxsplit.train.step import Rate


@pytest.mark.slow
def test_an_evaluation_agrees_with_real_bytes(problem, tiny_config, tiny_backbone):
    """Of rates of two forms, over images that no number of devices divides."""
    other = dataclasses.replace(tiny_config.spec, channels=2, stride=1)
    config = dataclasses.replace(
        tiny_config, rates=(Rate("a", 1.0), Rate("b", 1.0, other), Rate("c", 1.0)), ema=0.9
    )
    groups = make_groups(tiny_backbone, config.cut, config.spec, config.rates)
    state = jax.device_get(first_state(config, tiny_backbone, groups))
    rng = np.random.default_rng(0)

    def moved(x):
        return x + rng.normal(0, 0.1, x.shape).astype(x.dtype)

    # Only the running mean moves: it is what counts. Variances must stay positive.
    means = [
        dataclasses.replace(one, ema={**one.ema, "params": jax.tree.map(moved, one.ema["params"])})
        for one in state.groups
    ]
    state = with_best_offsets(groups, dataclasses.replace(state, groups=tuple(means)))
    source = data.open_source("embedded", split="test", max_samples=30)
    images, labels = data.load_arrays(source, tiny_backbone.preprocessing)

    def batches():
        for start in (0, 13, 26):
            index = np.arange(start, min(start + 13, 30), dtype=np.int32)
            yield Batch(index, labels[index], images=images[index])

    said = make_evaluate(groups, tiny_backbone, batches)(state)
    curve = evaluate.evaluate(freeze(config, tiny_backbone, groups, state), tiny_backbone, source)
    bits = [point.estimated_bits_per_image for point in curve.points]
    assert len({round(value) for value in bits}) == 3
    np.testing.assert_allclose(said["bits"], bits, rtol=1e-3)
    np.testing.assert_allclose(said["top1"], [point.top1 for point in curve.points], atol=1 / 30)
