"""What a training's steps say: read when they are surely done, checked, and passed on."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.errors import NonFiniteError
from jaxsplit.train import distributed, parallel
from jaxsplit.train.metrics import MetricsWriter

#: Name → means over a batch, scalars or, over the rates, [R].
Metrics = dict[str, np.ndarray]

#: Called with the number of finished steps, of all steps, and the metrics of the last one; an
#: evaluation's, named `eval_…`, come in a call of their own.
Progress = Callable[[int, int, Metrics], None]


class Reports:
    """Follows steps that are still under way, without waiting for the newest.

    Args:
      first, last, total: the steps before these, up to the last of these, and of the whole
        training.
      batch_size: examples of a step.
      every: steps between reports; the last step is reported too.
      names: of the rates, for errors.
      progress, writer: are told, in the first process alone.

    Attributes:
      stop: number of the signal that some process has seen, of the steps that were read; or 0.
    """

    def __init__(
        self,
        first: int,
        last: int,
        total: int,
        batch_size: int,
        every: int,
        names: Sequence[str] = (),
        progress: Progress | None = None,
        writer: MetricsWriter | None = None,
    ) -> None:
        self._last, self._total, self._batch_size = last, total, batch_size
        self._every, self._names = every, names
        speaks = distributed.is_first()
        self._progress = progress if speaks else None
        self._writer = writer if speaks else None
        if self._writer is not None:
            self._writer.begin(first)
        self._under_way: collections.deque[tuple[int, Any]] = collections.deque()
        self._since: tuple[int, float] | None = None  # a step and when it was done
        self._speed: Metrics = {}
        self.stop = 0

    def add(self, step: int, outcome: Any) -> None:
        """Takes (metrics, stop) of a step just begun, and reads that of an older one."""
        self._under_way.append((step, outcome))
        if len(self._under_way) > parallel.AHEAD:
            self._read()

    def drain(self) -> None:
        """Waits for all steps that are under way."""
        while self._under_way:
            self._read()
        self._since = None  # what follows, such as a save, is no step's time

    def evaluated(self, step: int, metrics: Metrics) -> None:
        """Passes an evaluation's metrics on."""
        self._tell(step, {f"eval_{name}": value for name, value in metrics.items()})

    def _read(self) -> None:
        step, outcome = self._under_way.popleft()
        metrics, stop = parallel.unreplicate(outcome)
        self.stop = self.stop or int(stop)
        check_metrics(step, metrics, self._names)
        now = time.monotonic()
        due = step % self._every == 0 or step == self._last
        if due and self._since is not None:
            done, then = self._since
            speed = (step - done) * self._batch_size / max(now - then, 1e-9)
            self._speed = {"images_per_second": np.asarray(speed)}
        if due or self._since is None:
            self._since = step, now
        if due:
            self._tell(step, {**self._speed, **metrics})

    def _tell(self, step: int, metrics: Metrics) -> None:
        # Written first: progress is the caller's, and may raise.
        if self._writer is not None:
            self._writer.write(step, metrics)
        if self._progress is not None:
            self._progress(step, self._total, metrics)


def check_metrics(step: int, metrics: Metrics, names: Sequence[str] = ()) -> None:
    """Refuses metrics of a step that are not finite.

    Raises:
      NonFiniteError: names the step, the metrics and the rates.
    """
    wrong = {name: ~np.isfinite(value) for name, value in metrics.items()}
    wrong = {name: mask for name, mask in wrong.items() if mask.any()}
    if not wrong:
        return
    rates = {int(i) for mask in wrong.values() if mask.ndim for i in np.flatnonzero(mask)}
    known = [names[i] if i < len(names) else f"number {i}" for i in sorted(rates)]
    whose = f" for the rates {', '.join(known)}" if known else ""
    raise NonFiniteError(
        f"step {step}: {' and '.join(wrong)} not finite{whose}; checkpoints are of steps before: "
        "lower the learning rate or the bound on the gradient's norm"
    )


def check_state(step: int, state: Any, groups: Sequence[Sequence[str]] = ()) -> None:
    """Refuses a state that is not finite, before it is saved.

    Args:
      step: its number.
      state: on the host.
      groups: names of the rates along the leading axis of each of `state.groups`.

    Raises:
      NonFiniteError: names the step, the first array, and its rates.
    """
    for path, leaf in jax.tree.leaves_with_path(state):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact) or np.isfinite(leaf).all():
            continue
        whose = ""
        if groups:
            finite = np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
            names = groups[path[1].idx]  # .groups[…] begins the path
            wrong = [name for name, good in zip(names, finite, strict=True) if not good]
            whose = f" for the rates {', '.join(wrong)}"
        raise NonFiniteError(
            f"step {step}: the state's {jax.tree_util.keystr(path)} is not finite{whose} and "
            "isn't saved: lower the learning rate or the bound on the gradient's norm"
        )
