"""Progress in a terminal: a bar for what is counted, a spinner beside what is not."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Terminal:
    """The lines at the end of a terminal that change; between `start` and `stop`."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[metrics]}"),
        )
        self._spinner = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        )
        # What is printed meanwhile is a result: it goes to stdout, not here.
        self._live = Live(
            console=console, transient=True, refresh_per_second=4, redirect_stdout=False
        )
        self._begun = False

    def start(self) -> None:
        """Begins with the first thing that is shown."""
        self._begun = True

    def stop(self) -> None:
        """Takes away what was shown."""
        self._begun = False
        self._live.stop()

    def count(
        self,
        text: str,
        done: float,
        total: float,
        *,
        count: str,
        new: bool,
        metrics: str = "",
        below: RenderableType | None = None,
    ) -> None:
        """Shows a bar.

        Args:
          text: what goes on.
          done: how much of `total` is done.
          total: when the bar is full.
          count: both, for people.
          new: whether the bar begins here: what is done already is no part of its speed then.
          metrics: what stands beside it.
          below: what stands under it.
        """
        if new:
            _clear(self._bar)
            self._bar.add_task(text, total=total, completed=done, count="", metrics="")  # type: ignore[arg-type]
        (task,) = self._bar.task_ids
        self._bar.update(task, completed=done, total=total, count=count, metrics=metrics)
        shown = self._bar if below is None else Group(self._bar, below)
        self._show(shown, refresh=new or done == total)

    def spin(self, text: str, *, new: bool) -> None:
        """Shows a spinner and the time since it began; a `new` one begins here."""
        if new:
            _clear(self._spinner)
            self._spinner.add_task(text, total=None)
        self._show(self._spinner, refresh=new)

    def _show(self, shown: RenderableType, *, refresh: bool) -> None:
        if self._begun:
            self._live.start()
        self._live.update(shown, refresh=refresh)


def _clear(progress: Progress) -> None:
    for task in progress.task_ids:
        progress.remove_task(task)
