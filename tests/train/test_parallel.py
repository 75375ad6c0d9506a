"""Devices: all of them share a batch, and sums over examples count each example once."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.errors import ConfigError
from jaxsplit.train import parallel


@pytest.mark.parametrize(
    ("batch_size", "nearest"), [(30, "28 or 32"), (7, "4 or 8"), (3, "4"), (1, "4")]
)
def test_a_batch_that_devices_cannot_share_is_refused_with_those_that_they_can(batch_size, nearest):
    with pytest.raises(ConfigError, match=rf"4 devices .* a batch of {batch_size} .*, {nearest}$"):
        parallel.devices_for(batch_size)
    assert len(parallel.devices_for(8)) == 4


@pytest.mark.parametrize(
    ("cores", "batch_size", "devices"), [(3, 32, 2), (4, 32, 4), (3, 30, 3), (12, 32, 8), (5, 7, 1)]
)
def test_as_many_cpu_cores_are_devices_as_divide_the_batch(monkeypatch, cores, batch_size, devices):
    options = {}
    monkeypatch.setattr(jax.config, "update", options.__setitem__)
    monkeypatch.setattr(parallel, "_cores", lambda: cores)
    parallel.use_cpu_cores(batch_size)
    assert not options  # the tests' own environment says how many devices there are
    monkeypatch.delenv("XLA_FLAGS")
    parallel.use_cpu_cores(batch_size)
    assert options == {"jax_num_cpu_devices": devices}


def test_jax_in_use_keeps_its_devices(monkeypatch):
    """A cell of a notebook that is run again."""
    before = jax.devices()
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(parallel, "_cores", lambda: len(before) - 1)
    parallel.use_cpu_cores(len(before) - 1)
    assert jax.devices() == before


def per_example(weights, batch):
    """Something of every dtype and rank; what fills a batch up would give NaN."""
    x = batch["x"]
    score = x @ weights["w"] / jnp.abs(x).sum(axis=1, keepdims=True)
    right = score.argmax(1) == batch["label"]
    half = jnp.full_like(batch["label"], 1.01, jnp.bfloat16)
    return {"right": right, "score": score, "label": batch["label"], "half": half}


def examples(count=13):
    x = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    return {"x": x, "label": np.arange(count, dtype=np.int32) % 4}


WEIGHTS = {"w": np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)}


def batches(size, count=13):
    all_ = examples(count)
    for start in range(0, count, size):
        yield {name: array[start : start + size] for name, array in all_.items()}


def assert_exact(sums):
    whole = examples()
    expected = jax.device_get(per_example(WEIGHTS, whole))
    assert sums["examples"] == len(whole["x"])
    assert sums["right"] == expected["right"].sum()
    assert sums["label"] == expected["label"].sum()
    assert sums["half"] == len(whole["x"]) * float(jnp.bfloat16(1.01))
    np.testing.assert_allclose(sums["score"], expected["score"].sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 3, 4])
@pytest.mark.parametrize("size", [13, 8, 5, 2])
def test_sums_over_examples_drop_none_and_count_no_filling(devices, size):
    sums = parallel.make_sums(per_example, jax.local_devices()[:devices])
    assert_exact(sums(WEIGHTS, batches(size)))


def test_short_batches_compile_nothing_and_no_batches_give_nothing(compiles):
    sums = parallel.make_sums(per_example)
    assert sums(WEIGHTS, []) == {}
    sums(WEIGHTS, batches(8, 8))
    with compiles() as programs:
        assert_exact(sums(WEIGHTS, batches(8)))
    assert not programs


def test_eight_devices_sum_thirteen_examples():
    program = (
        "import test_parallel as t, jax\n"
        "assert len(jax.local_devices()) == 8\n"
        "t.assert_exact(t.parallel.make_sums(t.per_example)(t.WEIGHTS, t.batches(13)))\n"
        "t.assert_exact(t.parallel.make_sums(t.per_example)(t.WEIGHTS, t.batches(10)))\n"
    )
    here = os.path.dirname(__file__)
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "NPROC": "16",
        "PYTHONPATH": os.pathsep.join([here, os.path.dirname(os.path.dirname(here))]),
    }
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
