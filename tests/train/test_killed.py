"""Trainings in processes of their own: stopped, killed, several at once, and resumed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxsplit.experiments import config
from jaxsplit.io import checkpoint
from jaxsplit.train.curve import train_curve
from jaxsplit.weights.load import load_backbone

CONFIG = Path(__file__).parent / "tiny_curve.py"
ROOT = Path(__file__).parent.parent.parent
DEVICES = "--xla_force_host_platform_device_count"
LAST = 200  # step of the long training

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("meeting")]


@pytest.fixture
def launch(tmp_path):
    """Starts `jaxsplit train` on some CPU devices; what still runs at the end is killed."""
    started = []

    def start(variant, workdir, *arguments, devices=4):
        environment = {
            **os.environ,
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {DEVICES}={devices}",  # the last one counts
            "PYTHONPATH": str(ROOT),
        }
        words = ["train", "--config", f"{CONFIG}:{variant}", "--workdir", str(workdir), *arguments]
        log = (tmp_path / f"log{len(started)}").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-m", "jaxsplit", *words], env=environment, stdout=log, stderr=log
        )
        started.append((process, log))
        return process, Path(log.name)

    yield start
    for process, log in started:
        process.kill()
        process.wait()
        log.close()


def reported(workdir):
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line)["step"] for line in text.splitlines(keepends=True) if line[-1] == "\n"]


def wait_for_step(workdir, step, process, log):
    """Until a step is reported; a process that ends before fails with what it said."""
    deadline = time.monotonic() + 300
    while max(reported(workdir), default=0) < step:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def train_here(variant, workdir, progress=None):
    """The same training in this process, on its four devices: the state that it ends in."""
    loaded = config.load(f"{CONFIG}:{variant}")
    train_curve(loaded, load_backbone(loaded.backbone), workdir, progress)
    return final_state(workdir)


def final_state(workdir):
    """The newest checkpoint: parameters, statistics, the optimizer's state, offsets and step."""
    folder = max(workdir.glob("checkpoints-*/step_*"), key=lambda path: int(path.name[5:]))
    return checkpoint.load_tree(folder)


def test_a_training_that_is_stopped_and_killed_ends_in_the_same_state_to_the_bit(launch, tmp_path):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    process, log = launch("long", stopped)
    wait_for_step(stopped, 30, process, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    last = log.read_text().splitlines()[-1]
    assert last.startswith("jaxsplit: stopped by SIGTERM after step ")
    assert last.endswith("which is saved: the same command resumes from there")
    saved = int(last.split("after step ")[1].split(",")[0])
    assert 30 <= saved < LAST

    process, log = launch("long", stopped)
    wait_for_step(stopped, saved + 30, process, log)
    process.kill()
    process.wait()

    process, log = launch("long", stopped)
    assert process.wait(300) == 0, log.read_text()
    assert f"step {LAST}/{LAST}" in log.read_text()
    # Every report once, the one after the first stop among them.
    assert [step for step in reported(stopped) if step % 10 == 0] == list(range(10, LAST + 1, 10))
    assert len(set(reported(stopped))) == len(reported(stopped))
    expected = train_here("long", whole)
    (group,) = expected["groups"]
    assert group["opt_state"]
    assert int(group["step"]) == LAST
    jax.tree.map(np.testing.assert_array_equal, final_state(stopped), expected)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(launch, variant, workdirs, devices):
    """Starts a training of several processes on this machine."""
    address = "--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(len(workdirs))
    return [
        launch(variant, workdir, *address, "--process-id", str(i), devices=devices)
        for i, workdir in enumerate(workdirs)
    ]


def test_two_processes_of_two_devices_train_what_one_of_four_does(launch, tmp_path):
    workdirs = tmp_path / "first", tmp_path / "second"
    running = together(launch, "short", workdirs, devices=2)
    for process, log in running:
        assert process.wait(300) == 0, log.read_text()
    assert "step 12/12" in running[0][1].read_text()
    assert "step" not in running[1][1].read_text()
    assert not list(workdirs[1].glob("checkpoints-*"))
    assert (workdirs[0] / "curve.json").is_file()
    ours, expected = final_state(workdirs[0]), train_here("short", tmp_path / "alone")
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, 1e-4, 1e-5, err_msg=jax.tree_util.keystr(path))


def test_processes_stop_together_end_when_any_is_lost_and_other_devices_go_on(launch, tmp_path):
    workdir = tmp_path / "shared"
    running = together(launch, "long", (workdir, workdir), devices=1)
    wait_for_step(workdir, 30, *running[0])
    running[1][0].send_signal(signal.SIGTERM)  # only one of them hears of it
    assert [process.wait(60) for process, _ in running] == [128 + signal.SIGTERM] * 2
    farewells = {log.read_text().splitlines()[-1] for _, log in running}
    (saved,) = (int(line.split("after step ")[1].split(",")[0]) for line in farewells)

    (first, log), (second, _) = together(launch, "long", (workdir, workdir), devices=1)
    wait_for_step(workdir, saved + 30, first, log)
    second.kill()
    assert first.wait(60) != 0
    assert "one of 2 processes is lost" in log.read_text()

    seen = max(reported(workdir))
    (first, log), (second, _) = together(launch, "long", (workdir, workdir), devices=1)
    wait_for_step(workdir, seen + 10, first, log)
    first.kill()
    assert second.wait(120) != 0  # jax aborts it: the coordinator is gone
    assert max(reported(workdir)) < LAST
    steps = []
    state = train_here("long", workdir, lambda done, *_: steps.append(done))
    assert steps[0] == saved // 10 * 10 + 10  # the first report after the checkpoint
    (group,) = state["groups"]
    assert int(group["step"]) == LAST


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_in_one_process_ends_all(launch, tmp_path, broken):
    workdirs = tmp_path / "first", tmp_path / "second"
    if broken == 0:  # it alone saves, at the end of the first phase
        train_here("short", workdirs[0])
        (checkpoints,) = workdirs[0].glob("checkpoints-*")
        shutil.rmtree(checkpoints)
        checkpoints.write_text("")
    else:
        workdirs[1].mkdir()
        (workdirs[1] / "features").write_text("")
    running = together(launch, "short", workdirs, devices=2)
    process, log = running[broken]
    assert process.wait(120) == 2, log.read_text()
    words = f"jaxsplit: {workdirs[0]}", "jaxsplit: cannot keep features in"
    assert log.read_text().splitlines()[-1].startswith(words[broken])
    process, log = running[1 - broken]
    assert process.wait(60) not in (0, None), log.read_text()


MEETING = """
import sys, time
from jaxsplit.train import distributed
distributed.join(sys.argv[1], int(sys.argv[2]), 2)
time.sleep(40 * int(sys.argv[2]))  # Gloo would wait for half a minute
print(distributed.from_first(int(sys.argv[2]) + 5), distributed.largest(int(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def meeting():
    """Two processes, one of them late: most of a minute that other tests fill."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MEETING, f"127.0.0.1:{port}", str(i)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for port in [free_port()]
        for i in range(2)
    ]
    yield running
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_processes_wait_for_one_that_takes_much_longer(meeting):
    assert [process.communicate(timeout=150)[0].splitlines()[-1] for process in meeting] == [
        "5 1",
        "5 1",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--coordinator", "localhost:1"), "give all three"),
        (("--process-id", "0", "--processes", "2"), "give all three"),
        (("--coordinator", "here", "--process-id", "0", "--processes", "2"), "HOST:PORT"),
        (("--coordinator", "here:1", "--process-id", "2", "--processes", "2"), "expected 0 … 1"),
    ],
)
def test_processes_that_cannot_find_each_other_are_refused(arguments, words, tmp_path, capsys):
    from jaxsplit import cli

    command = ["train", "--config", f"{CONFIG}", "--workdir", str(tmp_path), *arguments]
    assert cli.main(command) == 2
    assert words in capsys.readouterr().err
