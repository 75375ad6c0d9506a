"""Progress for people, on stderr: what goes on, how much of it is done and the time left."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxsplit.io.terminal import Terminal

__all__ = ["ProgressBar"]

# More rates than this are shown as ranges.
_FEW = 8
_OFTEN = 0.5  # seconds between two lines of a cell
_SELDOM = 10.0  # the same of a file, for what is counted beside a training


class ProgressBar:
    """Takes a training's metrics as `loop.Progress` does, and says what else is going on.

    A terminal sees a bar and a table of the rates under it, or a spinner beside what can't be
    counted; a cell of a notebook shows one line that changes; a file, a pipe or a notebook's
    `!jaxsplit` gets a line now and then.

    Args:
      names: of the rates, in the order of the metrics' axis.
      quiet: show nothing at all.
      after: seconds of which nothing is shown: what is over by then needs no progress.

    >>> with ProgressBar(["r1", "r2"], quiet=True) as bar:  # as `progress=bar, tell=bar.tell`
    ...     bar.tell("computing features")
    ...     bar(10, 100, {"loss": np.array([0.5, 0.25])})  # step 10 of 100
    """

    def __init__(
        self, names: Sequence[str] = (), *, quiet: bool = False, after: float = 0.0
    ) -> None:
        self._names = tuple(names)
        self._quiet = quiet
        self._console = Console(stderr=True, quiet=quiet)
        self._cell = None if quiet else _Cell.here()
        # `!` in a notebook offers what looks like a terminal, but can't go up a line.
        moves = self._console.is_terminal and not (
            quiet or self._console.is_dumb_terminal or "JPY_PARENT_PID" in os.environ
        )
        self._terminal = Terminal(self._console) if moves else None
        self._metrics: dict[str, np.ndarray] = {}
        self._what, self._told = "", False  # what goes on, and whether it is beside a training
        self._step = ""  # a training's last line
        self._first = (0.0, 0.0)  # what was done of it when it began, and when it did
        self._lines, self._shown = 0, -math.inf
        self._begun, self._after = time.monotonic(), after

    def __enter__(self) -> ProgressBar:
        if self._terminal is not None:
            self._terminal.start()
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if self._terminal is not None:
            self._terminal.stop()
        # What a cell shows stays: not what has just begun.
        if self._cell is not None and self._told and kind is None:
            now = time.monotonic()
            done = f"done in {_duration(now - self._begun)}"
            self._say("  ".join(filter(None, (self._step, done))), now)

    def __call__(self, step: int, steps: int, metrics: dict[str, np.ndarray]) -> None:
        """Shows the metrics of a step; an evaluation's stay beside those of later steps.

        Args:
          step: of `steps`.
          steps: of the training.
          metrics: by name, one number or one for each rate.
        """
        now = time.monotonic()
        new, self._told = self._begins("training", step, now), False
        if self._terminal is None:
            evaluation = all(name.startswith("eval_") for name in metrics)
            if self._due(step, steps, now) or step == steps or evaluation:
                self._step = f"step {step}/{steps}  {_line(metrics)}"
                self._say(self._step + self._left(step, steps, now), now)
            return
        self._metrics |= metrics
        rows = {name: value for name, value in self._metrics.items() if self._in_table(value)}
        text = _line({k: v for k, v in self._metrics.items() if k not in rows})
        below = self._table(rows) if rows else None
        count = f"{step}/{steps}"
        self._terminal.count(
            "training", step, steps, count=count, new=new, metrics=text, below=below
        )

    def tell(
        self, text: str, done: float = 0, total: float | None = None, unit: str = "images"
    ) -> None:
        """Says what goes on, and how much of it is done where that can be counted.

        Args:
          text: what goes on; another one begins something new.
          done: how much of `total` is done.
          total: None where nobody knows.
          unit: of both.
        """
        now = time.monotonic()
        if now - self._begun < self._after:
            return
        new, self._told = self._begins(text, done, now), True
        count = "" if total is None else f"{_amount(done)}/{_amount(total)} {unit}"
        if self._terminal is not None and total is not None:
            self._terminal.count(text, done, total, count=count, new=new)
        elif self._terminal is not None:
            self._terminal.spin(text, new=new)
        elif new:
            self._say(text, now)
        elif total is not None and self._due(done, total, now, pause=_SELDOM):
            self._say(f"{text}: {count}{self._left(done, total, now)}", now)

    def _begins(self, what: str, done: float, now: float) -> bool:
        """Whether this is something new."""
        if what == self._what:
            return False
        self._what, self._first = what, (done, now)
        self._lines, self._shown = 0, -math.inf
        return True

    def _due(self, done: float, total: float, now: float, pause: float = 0.0) -> bool:
        """Whether it is time for another line: a cell's is replaced, so it may come often."""
        twentieth = int(done * 20 // total)
        if self._cell is not None:
            due = now - self._shown >= _OFTEN
        else:
            due = twentieth > self._lines and now - self._shown >= pause
        if due:
            self._lines = twentieth
        return due

    def _left(self, done: float, total: float, now: float) -> str:
        first, then = self._first
        if not first < done < total:
            return ""
        return f"  {_duration((now - then) / (done - first) * (total - done))} left"

    def _say(self, text: str, now: float) -> None:
        self._shown = now
        if self._cell is not None:
            self._cell.show(text)
        elif not self._quiet:
            print(text, file=self._console.file, flush=True)

    def _in_table(self, value: np.ndarray) -> bool:
        return 1 < len(self._names) <= _FEW and np.shape(value) == (len(self._names),)

    def _table(self, rows: dict[str, np.ndarray]) -> Table:
        table = Table("rate", *rows, box=None, padding=(0, 2, 0, 0))
        for i, name in enumerate(self._names):
            table.add_row(name, *(f"{value[i]:.3g}" for value in rows.values()))
        return table


class _Cell:
    """One line of a notebook's output, replaced by the next: what stays is the last one."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._handle: Any = None

    @classmethod
    def here(cls) -> _Cell | None:
        """The output of the running cell, None where this is no notebook; imports nothing."""
        found = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if found is None or not hasattr(found, "kernel"):  # IPython in a terminal has none
            return None
        from IPython.display import display

        return cls(display)

    def show(self, text: str) -> None:
        data = {"text/plain": text}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def _line(metrics: dict[str, np.ndarray]) -> str:
    return "  ".join(
        f"{float(value):.0f} images/s" if name == "images_per_second" else f"{name} {_show(value)}"
        for name, value in metrics.items()
    )


def _show(value: np.ndarray) -> str:
    """A number, few of them, or the range of many.

    >>> _show(np.array([400.0, 80.0])), _show(np.arange(20.0))
    ('400/80', '0…19')
    """
    if np.size(value) <= _FEW:
        return "/".join(f"{x:.3g}" for x in np.ravel(value))
    return f"{np.min(value):.3g}…{np.max(value):.3g}"


def _amount(number: float) -> str:
    """One digit after the point where there is any.

    >>> _amount(250), _amount(6.04), _amount(15.0)
    ('250', '6', '15')
    """
    return f"{number:.1f}".removesuffix(".0")


def _duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any.

    >>> _duration(75), _duration(7275)
    ('1:15', '2:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
