"""Memory that reading weights takes, measured in a fresh process."""

import io
import json
import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from foreign_files import random_network

from jaxsplit.io.untrusted import MAX_HEADER
from jaxsplit.weights import pickle_program

MEGABYTE = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc says what memory was used")

# Not ru_maxrss: in a child process it starts at the parent's value.
_MEASURE = """
import contextlib, sys
import jax
import numpy as np
from jaxsplit.errors import WeightsError
from jaxsplit.weights.load import load_backbone
from jaxsplit.weights.formats import read_tensors
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
path, name = sys.argv[1:]
before = peak()
with contextlib.suppress(WeightsError):
    if name:
        kept = load_backbone(name, path)
    else:
        kept = {name: np.array(array, np.float32) for name, array in read_tensors(path).items()}
print(peak() - before)
"""


def memory(path, network=""):
    """Memory growth in bytes of loading a network, or of reading and converting all tensors."""
    command = [sys.executable, "-c", _MEASURE, path, network]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_torch_takes_itself_and_what_it_is_converted_to(torch_writer, write, legacy):
    arrays = {f"layer{i}": np.full(2**20, i, np.float32) for i in range(16)}
    path = write((torch_writer.legacy_of if legacy else torch_writer.zip_of)(arrays))
    assert path.stat().st_size < memory(path) < 2.5 * path.stat().st_size


def test_the_first_load_of_resnet50(tmp_path):
    """Part of it is for the network's shapes, for any size of file."""
    _, tensors = random_network("resnet50")
    path = tmp_path / "resnet50.safetensors"
    safetensors.numpy.save_file(tensors, path)
    assert path.stat().st_size < memory(path, "resnet50") < 2.4 * path.stat().st_size


def test_the_longest_programs(write):
    half = pickle_program.MAX_OPCODES // 2
    for opcodes in (b"N" + b"\x85" * 900_000, b"](" * half, b"}\x94" * half, b"](" + b"]" * half):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("x/data.pkl", b"\x80\x02" + opcodes + b".")
        assert memory(write(archive.getvalue())) < 300 * MEGABYTE


def test_the_longest_header(write):
    """With as many tensors as the bound allows; larger headers are refused unread."""
    item = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for size, most in ((MAX_HEADER, 500), (4 * MAX_HEADER, 20)):
        count = size // (len(json.dumps({"0" * 7: item})) + 2)
        header = json.dumps({f"{i:07}": item for i in range(count)}).encode()
        assert memory(write(struct.pack("<Q", len(header)) + header)) < most * MEGABYTE


_SHORT_OF_MEMORY = """
import resource, sys
from jaxsplit.errors import WeightsError
from jaxsplit.weights.formats import read_tensors
resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
try:
    read_tensors(sys.argv[1])
except WeightsError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["legacy", "safetensors"])
def test_more_than_the_memory_there_is(torch_writer, write, kind):
    """A sparse file takes no disk space and has the size of its header's claim."""
    n = 2**33
    w = torch_writer
    if kind == "legacy":
        tensor = w.tensor(w.storage("0", "float32", n), 0, (n,), (1,))
        data = w.legacy({"w": tensor}, {"0": (n, b"")})
    else:
        fields = {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]}
        header = json.dumps({"w": fields}).encode()
        data = struct.pack("<Q", len(header)) + header
    path = write(data)
    os.truncate(path, len(data) + 4 * n)
    command = [sys.executable, "-c", _SHORT_OF_MEMORY, path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"{path}: its content exceeds the available memory")
    assert not done.stderr
