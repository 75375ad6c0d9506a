"""Metrics on disk: one JSON object a line, and events that TensorBoard shows."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsplit.io.files import write_whole


class MetricsWriter:
    """Writes what a training reports into a folder, as `metrics.jsonl` and TensorBoard events.

    A line is `{"step": 20, "images_per_second": 812.5, "loss": {"r1": 1.5, "r2": 0.75}, …}`; the
    tags of the events are `images_per_second`, `loss/r1`, `loss/r2`. Nothing is written before
    `begin`, which a training calls with the step that it goes on from.

    What another training has written there is moved to `metrics-KEY` beside it, after that
    training's key, and comes back when that one goes on.

    Args:
      directory: the folder, made where it is missing; None: nothing is written.
      names: of the rates, in the order of the metrics' axis.
      key: name of the training; "": whatever is there is its own.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with MetricsWriter(folder, ["r1", "r2"]) as writer:
    ...     writer.begin(0)
    ...     writer.write(10, {"loss": np.array([1.5, 0.75]), "norm": np.float32(2)})
    >>> print((folder / "metrics.jsonl").read_text(), end="")
    {"step": 10, "loss": {"r1": 1.5, "r2": 0.75}, "norm": 2.0}
    """

    def __init__(self, directory: Path | None, names: Sequence[str] = (), key: str = "") -> None:
        self._directory = directory
        self._key = key
        self._names = tuple(names)
        self._lines: Any = None
        self._events: Any = None

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self, step: int) -> None:
        """Opens the files where they aren't yet; what they say of steps after `step` is dropped."""
        if self._directory is None or self._lines is not None:
            return
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._directory.mkdir(parents=True, exist_ok=True)
        if self._key:
            _take_over(self._directory, self._key)
        path = self._directory / "metrics.jsonl"
        path.touch()
        os.truncate(path, _length_until(path, step))
        self._lines = path.open("a", encoding="utf-8")
        # A file of its own for every run: two runs may begin within the second of its name.
        self._events = EventsWriter(str(self._directory / "events"), f".{os.getpid()}.{step}")
        start = SessionLog(status=SessionLog.START)
        # From here TensorBoard forgets what earlier files say of this step and later ones.
        self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))
        self._events.flush()

    def write(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Adds one report: arrays [R], over the rates, or scalars."""
        if self._directory is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        line: dict[str, Any] = {"step": step}
        values = []
        for name, array in metrics.items():
            if np.ndim(array) == 0:
                line[name] = _finite(array)
                values.append(Summary.Value(tag=name, simple_value=float(array)))
                continue
            # Without as many names the rates are known by their place.
            names = self._names if len(self._names) == len(array) else range(len(array))
            line[name] = {str(rate): _finite(x) for rate, x in zip(names, array, strict=True)}
            for rate, x in zip(names, array, strict=True):
                values.append(Summary.Value(tag=f"{name}/{rate}", simple_value=float(x)))
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._events.write_event(event)
        self._events.flush()

    def close(self) -> None:
        """Closes the files; `begin` opens them again."""
        if self._lines is not None:
            self._lines.close()
            self._events.close()
            self._lines = self._events = None


def _take_over(directory: Path, key: str) -> None:
    """Moves another training's files aside and this one's back, in steps that can be repeated."""
    note = directory / "metrics.key"
    other = note.read_text() if note.is_file() else key
    if other != key:
        _move(directory, directory / f"metrics-{other}")
    write_whole(note, key.encode())  # whose the files here are, from now on
    ours = directory / f"metrics-{key}"
    if ours.is_dir():
        _move(ours, directory)
        ours.rmdir()


def _move(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for pattern in ("metrics.jsonl", "events.out.tfevents.*"):
        for path in source.glob(pattern):
            os.replace(path, target / path.name)


def _finite(value: Any) -> float | None:
    """A number that JSON has, of as many digits as float32 needs."""
    return float(f"{float(value):.9g}") if math.isfinite(value) else None


def _length_until(path: Path, step: int) -> int:
    """Bytes of the lines up to `step`; a line that a killed run left in halves ends them too."""
    length = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            length += len(line)
    return length
