"""Writers that are killed at any moment leave whole files, nothing for ever, and the user's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    "kind",
    ["encode", "pack", "evaluate", "search", pytest.param("train", marks=pytest.mark.slow)],
)
def test_killed_writers(kind, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    words = [sys.executable, str(TESTS / "kills.py"), kind, str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
