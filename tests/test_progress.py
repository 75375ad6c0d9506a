"""Progress: a bar for a terminal, a line now and then for anything else."""

import re

import numpy as np
import pytest

from jaxsplit.progress import ProgressBar

METRICS = {"bits": np.array([400.0, 80.0]), "loss": np.float32(0.25)}


@pytest.fixture
def plain(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_a_pipe_gets_a_line_now_and_then(plain, capsys):
    with ProgressBar() as progress:
        for step in range(1, 1001):
            progress(step, 1000, METRICS)
        progress.tell("evaluating r1")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) <= 22
    assert lines[-2] == "step 1000/1000  bits 80…400  loss 0.25"
    assert lines[-1] == "evaluating r1"
    assert "\x1b" not in err


def test_a_terminal_gets_a_bar_with_the_time_left(plain, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressBar() as progress:
        for step in range(1, 11):
            progress(step, 10, METRICS)
        progress.tell("evaluating r1")
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("training", "10/10", "bits 80…400  loss 0.25", "evaluating r1"):
        assert text in err
    assert "━" in err
    assert re.search(r"(\d\d|--):(\d\d|--)", err)


def test_a_terminal_may_have_no_training(plain, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressBar() as progress:
        progress.tell("evaluating r1")
        progress.tell("evaluating r2")
    assert "evaluating r2" in capsys.readouterr().err
