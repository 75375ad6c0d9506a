"""A real search in a process of its own: killed and resumed."""

import itertools
import json
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow


def command(workdir, minutes):
    words = ("design", "--config", "resnet20_design:smoke", "--workdir", str(workdir))
    return [
        sys.executable,
        "-m",
        "jaxsplit",
        *words,
        f"--config.minutes={minutes}",
        "--config.rungs=3",
    ]


def test_a_search_that_is_killed_goes_on(tmp_path):
    """Earlier comparisons are kept exactly, and the time that was spent counts."""
    journal = tmp_path / "search.json"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(tmp_path, 0.6), **pipes) as process:
        try:
            while not (journal.exists() and json.loads(journal.read_text())["rungs"]):
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
        finally:
            process.kill()
    assert not (tmp_path / "design.json").exists()
    before = json.loads(journal.read_text())
    done_before = len(before["rungs"])
    assert 1 <= done_before < 3
    cached = {path: path.stat().st_mtime_ns for path in tmp_path.glob("features/*/*.bin")}
    assert cached
    done = subprocess.run(command(tmp_path, 0.02), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = json.loads(journal.read_text())
    assert after["rungs"][:done_before] == before["rungs"]
    assert len(after["rungs"]) == 3
    assert after["rungs"][-1]["steps"] > int(before["kept"]["states"].split("_")[1])
    assert after["seconds"] > before["seconds"]
    assert {path: path.stat().st_mtime_ns for path in cached} == cached  # computed once
    design = json.loads((tmp_path / "design.json").read_text())
    assert design["minutes"] == pytest.approx(after["seconds"] / 60, abs=0.05)
    for rung, following in itertools.pairwise(after["rungs"]):
        assert {one["name"] for one in following["results"]} == set(rung["kept"])
