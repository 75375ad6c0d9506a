"""Progress on stderr: a bar in a terminal, a changing line in a notebook cell, lines in a log."""

from __future__ import annotations

import collections
import datetime
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich import progress as rich_progress
from rich.console import Console, RenderableType
from rich.table import Table

from jaxsplit import _moved
from jaxsplit.errors import escaped

if TYPE_CHECKING:
    from IPython.core.display_functions import DisplayHandle

__all__ = ["ProgressBar"]

# More rates than this have no table and no lines of their own.
_FEW = 8
_OFTEN = 0.5  # seconds between two lines of a cell
_KEPT = 0.1  # seconds, at least, between two times that are kept
_SELDOM = 10.0  # seconds between two lines of a log, outside of the training steps


class _Bar(rich_progress.Progress):
    """A bar above tables."""

    tables: Sequence[Table] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        return (*super().get_renderables(), *self.tables)


class ProgressBar:
    """Shows the metrics of a training, and other work that is logged.

    A terminal has a bar above the table of the rates, a notebook cell one line that changes. A
    file, a pipe and `!jaxsplit` in a notebook get a line now and then, with means over the rates,
    and a line for each rate of an evaluation and of the last step.

    Args:
      names: of the rates, in the order of the metrics' axis.
      quiet: show nothing.
      after: seconds before logged work is shown.

    >>> with ProgressBar(["r1", "r2"], quiet=True) as bar:  # as `progress=bar, log=bar.log`
    ...     bar.log("computing features")
    ...     bar(10, 100, {"loss": np.array([0.5, 0.25])})  # step 10 of 100
    """

    def __init__(
        self, names: Sequence[str] = (), *, quiet: bool = False, after: float = 0.0
    ) -> None:
        console = Console(stderr=True, quiet=quiet)
        # `!` in a notebook looks like a terminal, but its cursor can't move up.
        fixed = console.is_dumb_terminal or "JPY_PARENT_PID" in os.environ
        self._bar = _Bar(
            rich_progress.SpinnerColumn(),
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(bar_width=24),
            rich_progress.TextColumn("{task.fields[count]}"),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(compact=True),
            rich_progress.TextColumn("{task.fields[metrics]}"),
            console=console,
            transient=True,
            redirect_stdout=False,  # results are printed meanwhile, and go to stdout
            get_time=time.monotonic,
            disable=quiet or fixed or not console.is_terminal,
        )
        self._text, self._first = "", 0.0  # current work, and how much was done before
        # Times and what was done then, from about the middle of the current work's part so far: a
        # few thousand at most. And those of now.
        self._since: collections.deque[tuple[float, float]] = collections.deque()
        self._now = (0.0, 0.0)
        self._has_cell = not quiet and _is_in_cell()
        self._cell: DisplayHandle | None = None
        self._names = tuple(names)
        self._metrics: dict[str, np.ndarray] = {}
        self._step = ""  # last line of a training
        self._twentieths, self._shown = 0, -math.inf  # at the last line
        self._begun, self._after = time.monotonic(), after
        self._is_inside = False

    def __enter__(self) -> ProgressBar:
        self._is_inside = True
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self._is_inside = False
        if not self._bar.disable:
            self._bar.stop()
        # The last line of a cell stays: it must not name unfinished work after the end.
        if self._has_cell and self._text not in ("", "training") and kind is None:
            done = f"done in {_duration(time.monotonic() - self._begun)}"
            self._print("  ".join(filter(None, (self._step, done))))

    def __call__(self, step: int, steps: int, metrics: dict[str, np.ndarray]) -> None:
        """Shows the metrics of a step; those of an evaluation stay beside later steps.

        Args:
          step, steps: number of the step, and of all steps.
          metrics: by name, one number or one for each rate.
        """
        self._metrics |= metrics
        shape = (len(self._names),) if 1 < len(self._names) <= _FEW else None
        rows = {name: x for name, x in self._metrics.items() if np.shape(x) == shape}
        others = {name: x for name, x in self._metrics.items() if name not in rows}
        self._bar.tables = [_table(self._names, rows)] if rows else []
        self._show("training", step, steps, f"{step}/{steps}", _line(others))
        evaluation = all(name.startswith("eval_") for name in metrics)
        if self._is_due(step, steps) or step == steps or evaluation:
            self._step = f"step {step}/{steps}  {_line(metrics)}"
            lines: Iterable[str] = [self._step + self._left()]
            if shape and not self._has_cell and (step == steps or evaluation):
                lines = self._lines(step, steps, metrics)
            for line in lines:
                self._print(line)

    def _lines(self, step: int, steps: int, metrics: Mapping[str, np.ndarray]) -> Iterator[str]:
        """Yields a line of the step, and one for each rate."""
        each = {name: x for name, x in metrics.items() if np.shape(x) == (len(self._names),)}
        others = {name: x for name, x in metrics.items() if name not in each}
        yield f"step {step}/{steps}  {_line(others)}".rstrip()
        for i, name in enumerate(self._names):
            if each:
                yield f"  {name}  {_line({key: x[i] for key, x in each.items()})}"

    def log(
        self, text: str, done: float = 0, total: float | None = None, unit: str = "images"
    ) -> None:
        """Shows work other than training steps, and its progress if it can be counted.

        Args:
          text: describes the work; another text begins new work.
          done, total, unit: finished and whole amount of work (None: unknown), and their unit.
        """
        if time.monotonic() - self._begun < self._after:
            return
        count = "" if total is None else f"{round(done, 1):.12g}/{round(total, 1):.12g} {unit}"
        self._bar.tables = []
        if self._show(text, done, total, count):
            self._print(text)
        elif total is not None and self._is_due(done, total, pause=_SELDOM):
            self._print(f"{text}: {count}{self._left()}")

    tell = _moved.renamed_method("ProgressBar.tell", log)

    def _show(
        self, text: str, done: float, total: float | None, count: str, metrics: str = ""
    ) -> bool:
        """Updates the bar; returns whether the work is new."""
        if is_new := text != self._text:
            self._twentieths, self._shown = 0, -math.inf
            self._text, self._first = text, done
            self._since.clear()
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(text, total=total, count="", metrics="")
        now = time.monotonic()
        self._now = now, done
        if not self._since or now - self._since[-1][0] >= self._pause(now):
            self._since.append(self._now)
        while len(self._since) > 1 and self._since[1][1] <= (self._first + done) / 2:
            self._since.popleft()
        [task] = self._bar.task_ids
        self._bar.update(task, completed=done, total=total, count=count, metrics=metrics)
        if self._is_inside:
            self._bar.start()  # with the first work, not with the `with` statement
            if is_new or done == total:
                self._bar.refresh()
        return is_new

    def _pause(self, now: float) -> float:
        """Seconds between two kept times; they grow with what is kept, so its length is bounded."""
        return max(_KEPT, (now - self._since[0][0]) / 500)

    def _is_due(self, done: float, total: float, pause: float = 0.0) -> bool:
        """Decides about another line: lines of a cell are replaced, so they may be frequent."""
        twentieths, waited = int(done * 20 // total), time.monotonic() - self._shown
        if self._has_cell:
            return waited >= _OFTEN
        if due := twentieths > self._twentieths and waited >= pause:
            self._twentieths = twentieths
        return due

    def _left(self) -> str:
        """The time left at the speed of the later half of what is done; "" if it is unknown.

        So neither what was compiled at the beginning nor a faster phase before counts.
        """
        [task] = self._bar.tasks
        (then, before), (now, done) = self._since[0], self._now
        if task.total is None or now == then or not before < done < task.total:
            return ""
        return f"  {_duration((now - then) / (done - before) * (task.total - done))} left"

    def _print(self, text: str) -> None:
        """Prints a line where there is no bar; in a notebook cell in place of the one before."""
        self._shown = time.monotonic()
        data, console = {"text/plain": text}, self._bar.console
        if self._cell is not None:
            self._cell.update(data, raw=True)
        elif self._has_cell:
            from IPython.display import display

            self._cell = display(data, raw=True, display_id=True)
        elif self._bar.disable and not console.quiet:
            print(escaped(text), file=console.file, flush=True)


def _is_in_cell() -> bool:
    """Returns whether a notebook cell is running; imports nothing."""
    found = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(found, "kernel")  # IPython in a terminal has none


def _table(names: Sequence[str], metrics: Mapping[str, np.ndarray]) -> Table:
    table = Table("rate", *metrics, box=None, padding=(0, 2, 0, 0))
    for i, name in enumerate(names):
        table.add_row(name, *(_number(float(value[i])) for value in metrics.values()))
    return table


def _line(metrics: Mapping[str, np.ndarray]) -> str:
    """Formats numbers, and the means of those of several rates."""
    parts = [
        f"{float(value):.0f} images/s"
        if name == "images_per_second"
        else f"{name} {_number(float(np.mean(value)))}"
        for name, value in metrics.items()
    ]
    rates = max((np.size(value) for value in metrics.values()), default=1)
    if rates > 1:
        parts.append(f"(mean of {rates} rates)")
    return "  ".join(parts)


def _number(value: float) -> str:
    """Formats three digits, and whole numbers above.

    >>> _number(0.12345), _number(1330.4)
    ('0.123', '1330')
    """
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _duration(seconds: float) -> str:
    """Formats minutes and seconds, and hours if there are any.

    >>> _duration(75), _duration(7275)
    ('1:15', '2:01:15')
    """
    text = str(datetime.timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0")
