"""Metrics of a training: JSON lines, TensorBoard events, and checks that they are finite."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import glob
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.errors import ConfigError, NonFiniteError, warn_once
from jaxsplit.io.files import only_run, write_whole
from jaxsplit.io.log import Log, no_log
from jaxsplit.train import distributed, parallel


class MetricsWriter:
    """Writes a training's metrics into a folder, as `metrics.jsonl` and TensorBoard events.

    A line is `{"step": 20, "images_per_second": 812.5, "loss": {"r1": 1.5, "r2": 0.75}, …}`; the
    tags of the events are `images_per_second`, `loss/r1`, `loss/r2`. Files of another training are
    moved to `metrics-KEY`, with that training's key, and back when it is resumed. One writer at a
    time has the folder.

    Args:
      directory: the folder, made where it is missing; None: nothing is written.
      names: of the rates, in the order of the metrics' axis; default: their numbers.
      key: name of the training; "": files in the folder are its own.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with MetricsWriter(folder, ["r1", "r2"]) as writer:
    ...     writer.begin(0)
    ...     writer.write(10, {"loss": np.array([1.5, 0.75]), "norm": np.float32(2)})
    >>> print((folder / "metrics.jsonl").read_text(), end="")
    {"step": 10, "loss": {"r1": 1.5, "r2": 0.75}, "norm": 2.0}
    """

    def __init__(self, directory: Path | None, names: Sequence[str] = (), key: str = "") -> None:
        self._directory, self._names, self._key = directory, tuple(names), key
        self._lines: Any = None
        self._events: Any = None
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> MetricsWriter:
        """Takes the folder; a ConfigError if another process writes there."""
        if self._directory is not None and distributed.is_first():
            self._directory.mkdir(parents=True, exist_ok=True)
            self._opened.enter_context(only_run(self._directory))
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def begin(self, step: int) -> None:
        """Opens the files at the first call, and drops their entries of steps after `step`.

        Raises a ConfigError if `metrics.jsonl` is something else.
        """
        if self._directory is None or self._lines is not None:
            return
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if self._key:
            _take_over(self._directory, self._key, step)
        path = self._directory / "metrics.jsonl"
        path.touch()
        os.truncate(path, _length_until(path, step))
        self._lines = self._opened.enter_context(path.open("a", encoding="utf-8"))
        # One file a run: names have seconds, and two runs may start within one.
        suffix = f".{os.getpid()}.{step}.{self._key}".rstrip(".")
        self._events = EventsWriter(str(self._directory / "events"), suffix)
        self._opened.callback(self._events.close)
        start = SessionLog(status=SessionLog.START)  # drops this and later steps of earlier files
        self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))
        self._events.flush()

    def write(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Writes metrics: arrays [R], over the rates, or scalars."""
        if self._lines is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        line: dict[str, Any] = {"step": step}
        scalars = {}
        for name, array in metrics.items():
            if np.ndim(array) == 0:
                line[name], scalars[name] = _finite(array), array
                continue
            values = dict(zip(self._names or range(len(array)), array, strict=True))
            line[name] = {str(rate): _finite(x) for rate, x in values.items()}
            scalars |= {f"{name}/{rate}": x for rate, x in values.items()}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        shown = [Summary.Value(tag=tag, simple_value=float(x)) for tag, x in scalars.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=shown))
        self._events.write_event(event)
        self._events.flush()


def _take_over(directory: Path, key: str, step: int) -> None:
    """Moves another training's files aside and this one's back; may be interrupted and repeated."""
    note, lines = directory / "metrics.key", directory / "metrics.jsonl"
    other = note.read_text(errors="replace") if note.is_file() else key
    if (lines.exists() and not note.is_file()) or not re.fullmatch(r"[\w-]+", other):
        raise ConfigError(f"{lines} is of no training here: move it away, or take another folder")
    if other != key:
        aside = directory / f"metrics-{other}"
        _move(directory, aside, other)
        begins = f"resumes from step {step}" if step else "begins anew"
        text = (
            f"{directory} was last of a training with other values or images, whose metrics are "
            f"now in {aside.name}: this one {begins}"
        )
        warn_once(text, text)
    write_whole(note, key.encode())  # the owner of the files here
    ours = directory / f"metrics-{key}"
    if ours.is_dir():
        _move(ours, directory, key)
        with contextlib.suppress(OSError):  # something else is there too
            ours.rmdir()


def _move(source: Path, target: Path, key: str) -> None:
    """Moves a training's lines and events; other programs write events with other endings."""
    target.mkdir(exist_ok=True)
    for pattern in ("metrics.jsonl", f"events.out.tfevents.*.{glob.escape(key)}"):
        for path in source.glob(pattern):
            os.replace(path, target / path.name)


def _finite(value: np.ndarray) -> float | None:
    """A number with the digits of float32; None, as JSON has no nan or inf."""
    return float(f"{float(value):.9g}") if math.isfinite(value) else None


def _length_until(path: Path, step: int) -> int:
    """Bytes of the lines up to `step`, or to an incomplete line of a killed run."""
    length = 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        length += len(line)
    return length


#: Name → means over a batch, scalars or, over the rates, [R].
Metrics = dict[str, np.ndarray]

#: Of a step on devices: metrics, and the number of a signal or 0.
Outcome = tuple[dict[str, jax.Array], jax.Array]

#: Progress callback: number of finished steps, of all steps, and metrics of the last step; those of
#: an evaluation, named `eval_…`, come in a call of their own.
Progress = Callable[[int, int, Metrics], None]


@dataclasses.dataclass(kw_only=True)
class Reports:
    """Reports metrics of steps in flight, without waiting for the newest.

    Attributes:
      total: steps of the whole training; None: up to the last one of `begin`.
      every: steps between reports; the last step is reported too.
      names: of the rates, for errors.
      progress, writer: get the metrics, in the first process only.
      log: log callback, also in the first process only.
      stop: number of a signal that a process received before a step that was read, or 0.
    """

    total: int | None = None
    every: int = 10
    names: Sequence[str] = ()
    progress: Progress | None = None
    writer: MetricsWriter | None = None
    log: Log = no_log
    stop: int = dataclasses.field(default=0, init=False)

    def begin(self, first: int, last: int, batch_size: int) -> None:
        """Begins with steps from `first` to `last`, of so many examples."""
        self._last, self._batch_size = last, batch_size
        if not distributed.is_first():
            self.progress, self.writer, self.log = None, None, no_log
        if self.writer is not None:
            self.writer.begin(first)
        self.log("compiling the training step")
        self._in_flight: collections.deque[tuple[int, Outcome]] = collections.deque()
        self._since: tuple[int, float] | None = None  # a step and the time of its end
        self._speed: Metrics = {}

    def add(self, step: int, outcome: Outcome) -> None:
        """Adds (metrics, stop) of a dispatched step, and reads those of an older one."""
        self._in_flight.append((step, outcome))
        # The clock starts at the end of a step that was compiled, with no other in flight.
        if self._since is None or len(self._in_flight) > parallel.AHEAD:
            self._read()

    def drain(self) -> None:
        """Waits for all steps in flight."""
        while self._in_flight:
            self._read()
        self._since = None  # a save or evaluation follows, which is not a step's time

    def evaluated(self, step: int, metrics: Metrics) -> None:
        """Reports an evaluation's metrics."""
        self._report(step, {f"eval_{name}": value for name, value in metrics.items()})

    def _read(self) -> None:
        step, outcome = self._in_flight.popleft()
        values, stop = parallel.unreplicate(outcome)
        metrics = {name: np.asarray(value) for name, value in values.items()}
        self.stop = self.stop or int(stop)
        check_metrics(step, metrics, self.names)
        now = time.monotonic()
        due = step % self.every == 0 or step == self._last
        if due and self._since is not None:
            done, then = self._since
            # The last steps are read together: of few, the time is that of the reading.
            if step - done >= self.every or not self._speed:
                speed = (step - done) * self._batch_size / max(now - then, 1e-9)
                self._speed = {"images_per_second": np.asarray(speed)}
        if due or self._since is None:
            self._since = step, now
        if due:
            self._report(step, {**self._speed, **metrics})

    def _report(self, step: int, metrics: Metrics) -> None:
        # Written first: the progress callback may raise.
        if self.writer is not None:
            self.writer.write(step, metrics)
        if self.progress is not None:
            self.progress(step, self.total or self._last, metrics)


def check_metrics(step: int, metrics: Metrics, names: Sequence[str] = ()) -> None:
    """Raises a NonFiniteError with step, metrics and rates if metrics are not finite."""
    wrong = {name: ~np.isfinite(x) for name, x in metrics.items() if not np.isfinite(x).all()}
    if not wrong:
        return
    rates = {int(i) for mask in wrong.values() if mask.ndim for i in np.flatnonzero(mask)}
    known = [names[i] if i < len(names) else f"number {i}" for i in sorted(rates)]
    raise _not_finite(step, " and ".join(wrong), known, "checkpoints are of earlier steps")


def check_state(step: int, state: object, groups: Sequence[Sequence[str]] = ()) -> None:
    """Raises a NonFiniteError with step, array and rates if a state on the host is not finite.

    `groups` names the rates along the leading axis of each of `state.groups`.
    """
    for path, leaf in jax.tree.leaves_with_path(state):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact) or np.isfinite(leaf).all():
            continue
        rates: Sequence[str] = ()
        if groups:
            finite = np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
            names = np.asarray(groups[path[1].idx])  # .groups[…] begins the path
            rates = names[~finite].tolist()
        array = f"the state's {jax.tree_util.keystr(path)} is"
        raise _not_finite(step, array, rates, "the state isn't saved")


def _not_finite(step: int, what: str, rates: Sequence[str], saved: str) -> NonFiniteError:
    whose = f" for the rates {', '.join(rates)}" if len(rates) else ""
    return NonFiniteError(
        f"step {step}: {what} not finite{whose}; {saved}: lower the learning rate or the bound on "
        "the gradient's norm"
    )
