"""A progress bar for people: loss, bits and the time left, on stderr."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """Takes a training's metrics as `loop.Progress` does, and says what else is going on.

    A terminal sees a bar; a file or a pipe gets one line now and then.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[metrics]}"),
            console=self._console,
            transient=True,
        )
        self._task: Any = None
        self._lines = 0

    def __enter__(self) -> ProgressBar:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, step: int, steps: int, metrics: dict[str, np.ndarray]) -> None:
        """Shows the metrics of `step`, as ranges over the rates."""
        text = "  ".join(f"{name} {_show(value)}" for name, value in metrics.items())
        if not self._console.is_terminal:
            if step * 20 // steps > self._lines or step == steps:
                self._lines = step * 20 // steps
                print(f"step {step}/{steps}  {text}", file=self._console.file, flush=True)
            return
        if self._task is None:
            self._task = self._bar.add_task("training", total=steps, metrics=text)
        self._bar.update(self._task, completed=step, total=steps, metrics=text)

    def tell(self, text: str) -> None:
        """Says what begins now."""
        if not self._console.is_terminal:
            print(text, file=self._console.file, flush=True)
        elif self._task is None:
            self._task = self._bar.add_task(text, total=1, metrics="")
        else:
            self._bar.update(self._task, description=text, metrics="")


def _show(value: np.ndarray) -> str:
    if np.ndim(value) == 0 or np.size(value) == 1:
        return f"{float(np.ravel(value)[0]):.3g}"
    return f"{np.min(value):.3g}…{np.max(value):.3g}"
