"""A progress bar for people: steps, images/s, what each rate does and the time left, on stderr."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["ProgressBar"]

# More rates than this are shown as ranges.
_FEW = 8
_OFTEN = 0.5  # seconds between two lines of a cell


class ProgressBar:
    """Takes a training's metrics as `loop.Progress` does, and says what else is going on.

    A terminal sees a bar and a table of the rates under it; a cell of a notebook shows one line
    that changes; a file, a pipe or a notebook's `!jaxsplit` gets a line now and then.

    Args:
      names: of the rates, in the order of the metrics' axis.
      quiet: show nothing at all.

    >>> with ProgressBar(["r1", "r2"], quiet=True) as bar:  # as `progress=bar, tell=bar.tell`
    ...     bar.tell("computing features")
    ...     bar(10, 100, {"loss": np.array([0.5, 0.25])})  # step 10 of 100
    """

    def __init__(self, names: Sequence[str] = (), *, quiet: bool = False) -> None:
        self._names = tuple(names)
        self._console = Console(stderr=True, quiet=quiet)
        self._quiet = quiet
        self._cell = None if quiet else _Cell.here()
        # `!` in a notebook offers what looks like a terminal, but can't go up a line.
        self._moves = self._console.is_terminal and not (
            quiet or self._console.is_dumb_terminal or "JPY_PARENT_PID" in os.environ
        )
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[metrics]}"),
            console=self._console,
        )
        self._live = Live(console=self._console, transient=True, refresh_per_second=4)
        self._live.update(self._bar)
        self._task: Any = None
        self._metrics: dict[str, np.ndarray] = {}
        self._lines, self._shown = 0, -math.inf
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> ProgressBar:
        if self._moves:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._moves:
            self._live.stop()

    def __call__(self, step: int, steps: int, metrics: dict[str, np.ndarray]) -> None:
        """Shows the metrics of `step`; an evaluation's stay beside those of later steps."""
        if not self._moves:
            self._print(step, steps, metrics)
            return
        self._metrics |= metrics
        rows = {name: value for name, value in self._metrics.items() if self._in_table(value)}
        text = _line({k: v for k, v in self._metrics.items() if k not in rows})
        new = self._task is None
        if new:
            # Where a resumed training goes on is no part of its speed.
            self._task = self._bar.add_task("training", total=steps, completed=step, metrics=text)
        self._bar.update(self._task, completed=step, total=steps, metrics=text)
        shown = Group(self._bar, self._table(rows)) if rows else self._bar
        self._live.update(shown, refresh=new)

    def tell(self, text: str) -> None:
        """Says what begins now."""
        if not self._moves:
            self._say(text)
            return
        if self._task is None:
            self._task = self._bar.add_task(text, total=1, metrics="")
        else:
            self._bar.update(self._task, description=text, metrics="")
        self._live.update(self._bar, refresh=True)

    def _print(self, step: int, steps: int, metrics: dict[str, np.ndarray]) -> None:
        now = time.monotonic()
        first, then = self._first = self._first or (step, now)
        twentieth = step * 20 // steps
        evaluation = all(name.startswith("eval_") for name in metrics)
        due = twentieth > self._lines if self._cell is None else now - self._shown >= _OFTEN
        if not (due or step == steps or evaluation):
            return
        self._lines, self._shown = twentieth, now
        left = ""
        if first < step < steps:
            left = f"  {_duration((now - then) / (step - first) * (steps - step))} left"
        self._say(f"step {step}/{steps}  {_line(metrics)}{left}")

    def _say(self, text: str) -> None:
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


def _duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any.

    >>> _duration(75), _duration(7275)
    ('1:15', '2:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
