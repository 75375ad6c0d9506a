"""Metrics on disk: lines and events that say the same, once for every step."""

import contextlib
import json
import math
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from jaxsplit.errors import ConfigError, JaxsplitWarning
from jaxsplit.train import metrics
from jaxsplit.train.metrics import MetricsWriter, Reports

NAMES = ("r1", "r2")
# A folder of two trainings is said, which one test checks.
pytestmark = pytest.mark.filterwarnings("ignore:.* was last of a training:UserWarning")


def loss(step):
    return {"loss": np.float32([step, step / 2]), "images_per_second": np.asarray(10.0 * step)}


def run(directory, first, steps):
    with MetricsWriter(directory, NAMES) as writer:
        writer.begin(first)
        for step in steps:
            writer.write(step, loss(step))


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def events(directory):
    """Reads scalars as TensorBoard does, {tag: {step: value}}: framing, checksums, order."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    def unmask(data):
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    shown = {}
    for path in sorted(directory.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            assert int.from_bytes(data[8:12], "little") == unmask(data[:8])
            record, checksum = data[12 : 12 + size], data[12 + size : 16 + size]
            assert int.from_bytes(checksum, "little") == unmask(record)
            data = data[16 + size :]
            event = Event.FromString(record)
            if event.session_log.status == SessionLog.START:
                for steps in shown.values():
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                steps = shown.setdefault(value.tag, {})
                assert event.step not in steps
                steps[event.step] = value.simple_value
    return shown


def test_lines_and_events_say_the_same(tmp_path):
    run(tmp_path, 0, (10, 20))
    assert lines(tmp_path) == [
        {"step": 10, "loss": {"r1": 10.0, "r2": 5.0}, "images_per_second": 100.0},
        {"step": 20, "loss": {"r1": 20.0, "r2": 10.0}, "images_per_second": 200.0},
    ]
    assert events(tmp_path) == {
        "loss/r1": {10: 10, 20: 20},
        "loss/r2": {10: 5, 20: 10},
        "images_per_second": {10: 100, 20: 200},
    }


@pytest.mark.parametrize("ending", [b"", b'{"step": 40, "lo', b"\0\0\0\n"])
def test_steps_that_are_run_again_are_written_once(tmp_path, ending):
    run(tmp_path, 0, (10, 20, 30))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + ending)  # what a killed run may leave
    run(tmp_path, 20, (30, 40))
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40]
    assert list(events(tmp_path)["loss/r1"]) == [10, 20, 30, 40]
    run(tmp_path, 0, (10,))  # from the beginning again
    assert [line["step"] for line in lines(tmp_path)] == [10]
    assert events(tmp_path)["loss/r2"] == {10: 5}


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with MetricsWriter(tmp_path, NAMES) as writer:
        writer.begin(0)
        writer.write(10, loss(10))
        writer.begin(10)  # the next part of the same training
        writer.write(20, loss(20))
        assert [line["step"] for line in lines(tmp_path)] == [10, 20]
        assert list(events(tmp_path)["loss/r1"]) == [10, 20]


def test_each_training_of_a_folder_keeps_its_own_metrics(tmp_path):
    def go(key, first, steps):
        with MetricsWriter(tmp_path, NAMES, key) as writer:
            writer.begin(first)
            for step in steps:
                writer.write(step, loss(step))

    go("one", 0, (10, 20))
    go("two", 0, (5,))
    aside = tmp_path / "metrics-one"
    assert [[line["step"] for line in lines(place)] for place in (tmp_path, aside)] == [
        [5],
        [10, 20],
    ]
    assert list(events(tmp_path)["loss/r1"]) == [5]
    assert list(events(aside)["loss/r1"]) == [10, 20]
    go("one", 20, (30,))
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    assert list(events(tmp_path)["loss/r1"]) == [10, 20, 30]
    assert [line["step"] for line in lines(tmp_path / "metrics-two")] == [5]
    assert not aside.exists()


def test_another_training_in_its_place_is_said(tmp_path):
    def begin(key, step=0):
        with MetricsWriter(tmp_path, NAMES, key) as writer:
            writer.begin(step)

    begin("one")
    with warnings.catch_warnings(action="error"):
        begin("one")
    was = re.escape(f"{tmp_path} was last of a training with other values or images")
    with pytest.warns(JaxsplitWarning, match=f"{was}.* metrics-one: this one begins anew"):
        begin("two")
    with pytest.warns(JaxsplitWarning, match="in metrics-two: this one resumes from step 20"):
        begin("one", step=20)


def test_two_trainings_at_once_are_refused(tmp_path):
    with MetricsWriter(tmp_path, NAMES, "one") as first:
        first.begin(0)
        first.write(10, loss(10))
        for key in ("one", "two", ""):
            busy = pytest.raises(ConfigError, match="another process is training in")
            with busy, MetricsWriter(tmp_path, NAMES, key):
                raise AssertionError("it was opened")
        first.write(20, loss(20))
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]
    run(tmp_path, 20, (30,))
    assert not (tmp_path / ".jaxsplit.lock").exists()


def test_metrics_of_other_programs_stay(tmp_path):
    events = tmp_path / "events.out.tfevents.1700000000.host.1.0"
    events.write_bytes(b"a user's")
    for key in ("one", "two"):
        with MetricsWriter(tmp_path, NAMES, key) as writer:
            writer.begin(0)
    assert events.read_bytes() == b"a user's"
    text = '{"step": 7, "theirs": 1}\n'
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "metrics.jsonl").write_text(text)
    with (
        MetricsWriter(tmp_path / "new", NAMES, "one") as writer,
        pytest.raises(ConfigError, match="is of no training here"),
    ):
        writer.begin(0)
    assert (tmp_path / "new" / "metrics.jsonl").read_text() == text
    (tmp_path / "metrics.key").write_text("../../elsewhere")
    with (
        MetricsWriter(tmp_path, NAMES, "one") as writer,
        pytest.raises(ConfigError, match="is of no training here"),
    ):
        writer.begin(0)


@pytest.mark.parametrize("moves", range(6))
def test_a_killed_move_of_metrics_goes_on(tmp_path, monkeypatch, moves):
    def go(key, step):
        with MetricsWriter(tmp_path, NAMES, key) as writer:
            writer.begin(0 if step < 20 else 10)
            writer.write(step, loss(step))

    go("one", 10)
    go("two", 10)
    replace, left = metrics.os.replace, [moves]

    def killed(*args):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(metrics.os, "replace", killed)
        with contextlib.suppress(KeyboardInterrupt):
            go("one", 20)
    go("two", 20)
    go("one", 20)
    for place in (tmp_path, tmp_path / "metrics-two"):
        assert [line["step"] for line in lines(place)] == [10, 20]
        assert list(events(place)["loss/r1"]) == [10, 20]


def test_lines_are_json_whatever_the_values(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.begin(0)
        writer.write(1, {"loss": np.array([math.nan, 1]), "norm": np.float32(math.inf)})
    assert lines(tmp_path) == [{"step": 1, "loss": {"0": None, "1": 1.0}, "norm": None}]


def test_nothing_is_written_nowhere_or_before_the_beginning(tmp_path):
    with MetricsWriter(None) as writer:
        writer.begin(0)
        writer.write(1, loss(1))
    with MetricsWriter(tmp_path / "folder"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.parametrize("steps", [3, 10, 23])
def test_the_first_images_per_second_are_those_of_later_ones(monkeypatch, steps):
    """Even if the host is slower than the device, and reads what ended long ago."""
    clock, heard = SimpleNamespace(now=0.0), []
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("jaxsplit.train.metrics.time", clock)
    monkeypatch.setattr("jaxsplit.train.parallel.unreplicate", lambda outcome: outcome)
    reports = Reports(progress=lambda step, total, metrics: heard.append((step, metrics)))
    reports.begin(0, steps, batch_size=8)
    for step in range(1, steps + 1):
        clock.now += 40 if step == 1 else 1  # the first one is compiled
        reports.add(step, ({"loss": np.float32(1)}, 0))
    reports.drain()
    speeds = [metrics["images_per_second"] for _, metrics in heard]
    assert heard[-1][0] == steps
    assert all(5 <= speed <= 13 for speed in speeds), speeds  # 8 a second
