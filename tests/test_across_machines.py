"""The script that takes frames to another machine; here the other one is another process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.optimized

SCRIPT = Path(__file__).parent / "benchmarks" / "across_machines.py"


def _run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments), "--max-samples", "40"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        timeout=300,
    )


@pytest.mark.slow
def test_frames_travel(tmp_path):
    file = tmp_path / "sent.npz"
    done = _run("encode", file)
    assert done.returncode == 0, done.stderr
    done = _run("decode", file)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^r\d +40 +(\d+) +\d+ +(\d+) \(.*\) (\S+) %$", done.stdout, re.MULTILINE)
    assert rows == [("40", "0", "100.00")] * 5
    sent = dict(np.load(file))
    sent["symbols r2"][7, 0, 0, 0] += 1  # as if the frame decoded to something else
    np.savez(file, **sent)
    done = _run("decode", file)
    assert done.returncode == 1
    assert re.search(r"^r2 +40 +39 +\d+ +1 ", done.stdout, re.MULTILINE)
