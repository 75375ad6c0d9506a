"""The same image gives the same bytes: in any process, on any number of devices, in any company."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from jaxsplit import data
from jaxsplit.codec import Sender
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.weights.load import load_backbone

pytestmark = pytest.mark.optimized

FAMILY, BACKBONE, RATES, COUNT = (
    "resnet8_small-fashion_mnist/stage1.block1",
    "fashion_mnist_resnet8",
    "r1 r5",
    24,
)

PROGRAM = f"""
import json, jax
from jaxsplit import data
from jaxsplit.codec import Sender
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.weights.load import load_backbone
backbone = load_backbone("{BACKBONE}")
source = data.open_source("embedded", max_samples={COUNT})
images = data.load_arrays(source, backbone.preprocessing)[0]
sender = Sender(load_pretrained("{FAMILY}"), backbone, 8)
frames = {{r: [f.hex() for f in sender.encode(images, r)] for r in "{RATES}".split()}}
print(json.dumps([jax.device_count(), frames]))
"""


@pytest.fixture(scope="module")
def images():
    source = data.open_source("embedded", max_samples=COUNT)
    return data.load_arrays(source, load_backbone(BACKBONE).preprocessing)[0]


@pytest.fixture(scope="module")
def make_sender():
    return lambda size: Sender(load_pretrained(FAMILY), load_backbone(BACKBONE), size)


@pytest.fixture(scope="module")
def expected(images, make_sender):
    sender = make_sender(8)
    return {rate: sender.encode(images, rate) for rate in RATES.split()}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_another_process_on_other_devices_gives_the_same_bytes(expected, devices):
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    flags += f" --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    count, frames = json.loads(done.stdout)
    assert count == devices
    assert frames == {rate: [one.hex() for one in ours] for rate, ours in expected.items()}


def test_another_position_and_other_neighbours_give_the_same_bytes(images, make_sender, expected):
    sender = make_sender(8)
    order = np.random.default_rng(0).permutation(COUNT)
    for rate, frames in expected.items():
        assert sender.encode(images[order], rate) == [frames[i] for i in order]
        assert sender.encode(images[3:4], rate) == frames[3:4]
        assert sender.encode(np.repeat(images[5:6], 11, axis=0), rate) == frames[5:6] * 11


@pytest.mark.parametrize("size", [1, 3, 24])
def test_another_batch_size_moves_hardly_a_symbol(images, make_sender, size):
    # None did where this was measured (see Sender), but XLA promises no order of its sums.
    for rate in RATES.split():
        ours, theirs = (make_sender(n).symbols(images, rate) for n in (8, size))
        assert np.abs(ours - theirs).max() <= 1
        assert (ours != theirs).mean() <= 1e-4
