"""One small training problem, whose compiled steps the tests share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsplit import data
from jaxsplit.split import make_split
from jaxsplit.train import features, parallel
from jaxsplit.train.state import Constants
from jaxsplit.train.step import init_state, make_step, rate_constants


class Problem:
    """Runs training steps of the tiny unit; each kind of step is compiled once in a session."""

    def __init__(self, backbone, config):
        self.backbone = backbone
        self.split = make_split(backbone, config.cut, config.spec, parallel.AXIS)
        source = data.open_source("embedded", split="train", max_samples=64)
        self.cache = features.compute(backbone, config.cut, source)
        # A step of SGD at rate 1 is the gradient itself.
        self.optimizers = {"sgd": optax.sgd(1.0), "adam": config.make_optimizer()}
        self._programs = {}

    def batch(self, step=0, size=8):
        return next(self.cache.batches(size, 0, step))

    def constants(self, rates, seed=0):
        scale = jnp.asarray(self.cache.scale, jnp.float32)
        return Constants(self.backbone.variables, scale, rate_constants(rates, seed))

    def state(self, rates, optimizer="sgd"):
        return jax.device_get(init_state(self.split, rates, self.optimizers[optimizer], 0))

    def program(self, phase, devices=1, optimizer="sgd", **options):
        key = phase, devices, optimizer, *options.items()
        if key not in self._programs:
            step = make_step(self.split, phase, self.optimizers[optimizer], **options)
            self._programs[key] = parallel.parallel_step(step, jax.devices()[:devices])
        return self._programs[key]

    def run(self, phase, state, batches, constants, devices=1, optimizer="sgd", **options):
        """(state after the batches, metrics of every step), on the host."""
        used = jax.devices()[:devices]
        run = self.program(phase, devices, optimizer, **options)
        state, constants = (parallel.replicate(tree, used) for tree in (state, constants))
        metrics = []
        for batch in batches:
            state, one = run(state, parallel.shard(batch, used), constants)
            metrics.append(parallel.unreplicate(one))
        return parallel.unreplicate(state), metrics

    def gradient(self, phase, state, batch, constants, devices=1, **options):
        """(gradient, batch statistics after the step, metrics)."""
        after, (metrics,) = self.run(phase, state, [batch], constants, devices, **options)
        gradient = jax.tree.map(np.subtract, state.params, after.params)
        return gradient, after.batch_stats, metrics


@pytest.fixture(scope="session")
def problem(tiny_backbone, tiny_config):
    return Problem(tiny_backbone, tiny_config)
