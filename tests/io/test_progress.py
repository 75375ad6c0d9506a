"""Progress: a bar for a terminal, a line now and then for anything else."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from jaxsplit.io.progress import ProgressBar

METRICS = {"bits": np.array([400.0, 80.0]), "loss": np.float32(0.25)}
MEANS = "bits 240  loss 0.25  (mean of 2 rates)"


@pytest.fixture
def plain(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def plain_text(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture
def clock(monkeypatch):
    """The clock of the progress alone: it stands until a test moves `now`, in seconds."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("jaxsplit.io.progress.time", clock)
    return clock


def test_a_pipe_gets_a_line_now_and_then(plain, capsys):
    with ProgressBar() as progress:
        for step in range(1, 1001):
            progress(step, 1000, METRICS)
        progress.log("evaluating r1")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) <= 22
    assert lines[-2] == f"step 1000/1000  {MEANS}"
    assert lines[-1] == "evaluating r1"
    assert "\x1b" not in err


def test_a_terminal_gets_a_bar_with_the_time_left(plain, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressBar() as progress:
        for step in range(1, 11):
            progress(step, 10, METRICS)
        progress.log("evaluating r1")
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("training", "10/10", "bits 240  loss 0.25", "evaluating r1"):
        assert text in err
    assert "━" in err
    assert re.search(r"(\d\d|--):(\d\d|--)", err)


def test_a_terminal_may_have_no_training(plain, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressBar() as progress:
        progress.log("evaluating r1")
        progress.log("evaluating r2")
    assert "evaluating r2" in capsys.readouterr().err


@pytest.mark.parametrize("count", [5, 9])
def test_a_line_has_means_and_the_last_step_a_line_for_each_of_a_few_rates(plain, capsys, count):
    names = [f"r{i}" for i in range(count)]
    metrics = {name: np.linspace(1000, 1555.5, count) for name in ("bits", "loss", "top1", "norm")}
    with ProgressBar(names) as progress:
        for step in (5, 10):
            progress(step, 10, {"images_per_second": np.float64(1234.5), **metrics})
    lines = capsys.readouterr().err.splitlines()
    means = "1234 images/s  bits 1278  loss 1278  top1 1278  norm 1278"
    assert lines[0] == f"step 5/10  {means}  (mean of {count} rates)"
    assert max(map(len, lines)) < 100
    if count == 5:
        assert lines[1:3] == [
            "step 10/10  1234 images/s",
            "  r0  bits 1000  loss 1000  top1 1000  norm 1000",
        ]
        assert len(lines) == 7
    else:
        assert lines[1] == f"step 10/10  {means}  (mean of 9 rates)"


def test_the_time_left_counts_neither_what_was_compiled_nor_a_faster_phase(plain, capsys, clock):
    with ProgressBar() as progress:
        for done in range(11):
            clock.now += 30 if done == 1 else 1  # the first step is compiled
            progress.log("evaluating r1", done, 100)
            clock.now += 10  # a line is due
        for done in range(11, 21):  # as another phase, slower
            clock.now += 100
            progress.log("evaluating r1", done, 100)
    left = [line.partition("images  ")[2] for line in capsys.readouterr().err.splitlines()]
    # 11 seconds for each of 95 and of 90 images; at the end 101 for each of 80.
    assert left[1:3] == ["17:25 left", "16:30 left"]
    assert left[-1] == "2:14:40 left"


@pytest.mark.parametrize("tick", [1e-4, 4.0])
def test_of_many_calls_few_times_are_kept_and_the_time_left_is_right(plain, capsys, clock, tick):
    calls = 20_000
    with ProgressBar() as progress:
        for done in range(calls):
            clock.now += tick
            progress.log("decoding", done, 2 * calls)
            assert len(progress._since) < 3000
        left = progress._left()
    hours, minutes, seconds = ([0, 0] + [int(x) for x in left.split()[0].split(":")])[-3:]
    found = 3600 * hours + 60 * minutes + seconds
    assert found == pytest.approx((calls + 1) * tick, rel=0.01, abs=0.5)


def test_a_line_says_the_time_left(plain, capsys, clock):
    with ProgressBar() as progress:
        for clock.now, step in ((1, 50), (11, 100), (91, 1000)):  # 50 steps in 10 s
            progress(step, 1000, METRICS)
    lines = capsys.readouterr().err.splitlines()
    assert [line.endswith("3:00 left") for line in lines] == [False, True, False]


def test_an_evaluation_is_a_line_of_its_own_and_stays_in_the_table(plain, capsys, monkeypatch):
    evaluation = {"eval_top1": np.array([0.91, 0.87])}
    with ProgressBar() as progress:
        progress(3, 1000, METRICS)
        progress(4, 1000, evaluation)
    assert capsys.readouterr().err.splitlines()[-1].startswith("step 4/1000  eval_top1 0.89")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressBar(["high", "low"]) as progress:
        progress(1, 10, METRICS)
        progress(2, 10, evaluation)
        progress(3, 10, METRICS)
    text = plain_text(capsys.readouterr().err)
    assert re.search(r"rate +bits +eval_top1", text)
    assert re.search(r"high +400 +0.91", text)
    assert re.search(r"low +80 +0.87", text)
    assert "loss 0.25" in text  # a scalar is of no rate: beside the bar


def test_quiet_says_nothing_anywhere(plain, capsys, monkeypatch):
    for colour in ("", "1"):
        monkeypatch.setenv("FORCE_COLOR", colour)
        with ProgressBar(quiet=True) as progress:
            progress(1, 1, METRICS)
            progress.log("evaluating r1")
    assert capsys.readouterr() == ("", "")


def test_what_a_notebook_starts_gets_lines(plain, capsys, monkeypatch):
    """`!jaxsplit` has what looks like a terminal, but the page can't go up a line."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    with ProgressBar(["high", "low"]) as progress:
        for step in range(1, 101):
            progress(step, 100, METRICS)
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert len(err.splitlines()) <= 23


@pytest.fixture
def cell(monkeypatch):
    """The output of a notebook's cell, and its shell."""
    shown = []

    class Handle:
        def update(self, data, raw):
            assert raw
            shown[-1] = data

    def display(data, raw, display_id):
        assert raw
        assert display_id
        shown.append(data)
        return Handle()

    shell = SimpleNamespace(kernel=object())
    for name, module in (
        ("IPython", SimpleNamespace(get_ipython=lambda: shell)),
        ("IPython.display", SimpleNamespace(display=display)),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(shown=shown, shell=shell)


def test_a_cell_has_one_output_that_changes(plain, capsys, clock, cell):
    with ProgressBar() as progress:
        progress.log("computing features")
        for step in range(1, 1001):
            clock.now = step / 64
            progress(step, 1000, METRICS)
            shown = 1 + 32 * ((step - 1) // 32)  # every half second, and at the end
            assert f"step {1000 if step == 1000 else shown}/1000" in str(cell.shown)
    assert cell.shown == [{"text/plain": f"step 1000/1000  {MEANS}"}]
    del cell.shell.kernel  # IPython in a terminal
    with ProgressBar() as progress:
        progress(1, 1, METRICS)
    assert len(cell.shown) == 1
    assert capsys.readouterr() == ("", f"step 1/1  {MEANS}\n")


def test_what_stays_in_a_cell_is_no_longer_going_on(plain, clock, cell):
    with ProgressBar() as progress:
        progress.log("evaluating r1", 0, 10)
        clock.now = 15
        progress.log("evaluating r1", 5, 10)
        assert cell.shown == [{"text/plain": "evaluating r1: 5/10 images  0:15 left"}]
        progress.log("comparing with webp")
        clock.now = 60
    assert cell.shown == [{"text/plain": "done in 1:00"}]
    with ProgressBar() as progress:
        progress(10, 10, METRICS)
        progress.log("comparing with webp")
        clock.now += 45
    assert cell.shown[1] == {"text/plain": f"step 10/10  {MEANS}  done in 0:45"}
    progress = ProgressBar()
    progress.log("comparing with webp")
    progress.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)  # it says where
    assert cell.shown[2] == {"text/plain": "comparing with webp"}


def test_a_terminal_counts_what_is_told_and_spins_beside_what_cannot_be_counted(
    plain, capsys, monkeypatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressBar() as progress:
        progress.log("evaluating r1", 0, 1000)
        progress.log("evaluating r1", 1000, 1000)
        progress.log("comparing with jpeg")
        progress.log("rung 1 of 3", 2.25, 15.0, "minutes")
    out, err = capsys.readouterr()
    assert out == ""
    err = plain_text(err)
    for text in (r"━+ 0/1000 images +0:00:00 --:--", "1000/1000 images", r"━+ 2\.2/15 minutes"):
        assert re.search(text, err), text
    assert re.search(r"[⠋-⠿] comparing with jpeg ━+ +0:00:00", err)
    assert "0/1 " not in err


def test_results_stay_on_stdout_while_a_bar_is_shown(plain, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressBar() as progress:
        progress.log("decoding", 0, 2)
        print("0  boot")
    assert capsys.readouterr().out == "0  boot\n"


@pytest.mark.parametrize(("seconds", "lines"), [(0.1, 11), (0.5, 21)])
def test_a_pipe_gets_a_line_now_and_then_of_what_is_told(plain, capsys, clock, seconds, lines):
    with ProgressBar() as progress:
        for done in range(1001):
            clock.now += seconds
            progress.log("evaluating r1", done, 1000)
    found = capsys.readouterr().err.splitlines()
    assert found[0] == "evaluating r1"
    assert len(found) in (lines - 1, lines)
    assert all(
        re.fullmatch(r"evaluating r1: \d+/1000 images  \d:\d\d left", x) for x in found[1:-1]
    )


def test_what_is_over_at_once_shows_nothing(plain, capsys, monkeypatch, clock):
    for colour in ("", "1"):
        monkeypatch.setenv("FORCE_COLOR", colour)
        with ProgressBar(after=2.0) as progress:
            for done in range(3):
                clock.now += 0.5
                progress.log("encoding", done, 100)
        assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "")
    with ProgressBar(after=2.0) as progress:
        for done in range(9):
            clock.now += 0.5
            progress.log("encoding", done, 100)
    assert capsys.readouterr().err == "encoding\n"
