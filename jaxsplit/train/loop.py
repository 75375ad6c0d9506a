"""One loop for every training: steps, metrics, checkpoints, and a clean end when asked to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from jaxsplit.errors import Interrupted
from jaxsplit.io import checkpoint
from jaxsplit.train import distributed, parallel
from jaxsplit.train.metrics import Metrics, MetricsWriter, Progress, Reports, check_state


def resume(state: Any, directory: Path | None) -> Any:
    """The newest checkpoint in `directory`, or `state` where there is none.

    Of several processes the first one reads, and the others get what it found.
    """
    if directory is not None and distributed.is_first():
        state = checkpoint.restore_latest(directory, state)
    # What came before, such as the features, may have taken one of them much longer.
    distributed.wait_for_all("the training begins")
    return state if directory is None else distributed.from_first(state)


def fit(
    state: Any,
    step: Callable[..., tuple[Any, Any]],
    batches: Callable[[int], Iterator[Any]],
    steps: int,
    *,
    batch_size: int,
    constants: Any = None,
    total_steps: int | None = None,
    names: Sequence[str] = (),
    groups: Sequence[Sequence[str]] = (),
    progress: Progress | None = None,
    writer: MetricsWriter | None = None,
    report_every: int = 10,
    evaluate: Callable[[Any], Metrics] | None = None,
    evaluate_every: int = 0,
    directory: Path | None = None,
    save_every: int = 1000,
) -> Any:
    """Runs `step` until `state.step` is `steps`; what `resume` found goes on from there.

    Args:
      state: a value with an integer `step`; not replicated.
      step: `(state, batch, constants) -> (state, metrics)`, mapped over devices here; metrics are
        means over the whole batch, scalars or, over the rates, [R].
      batches: from a step number to the batches from that step on: this process's part of each,
        or all of it, of which the part is taken here.
      steps: number of the step to stop at.
      batch_size: examples in a batch, over all devices of all processes.
      constants: a tree that no step changes, such as a frozen network's variables.
      total_steps: what progress counts towards, where this is only a part; default `steps`.
      names: of the rates, for errors.
      groups: names of the rates along the leading axis of each of `state.groups`, for errors.
      progress: told of the metrics every `report_every` steps, and of those of evaluations.
      writer: writes down what progress is told; stays open.
      evaluate: from the state on the host to metrics, which are reported as `eval_…`.
      evaluate_every: steps between evaluations, one more at the very end; 0: none.
      directory: where checkpoints are written; None: nowhere.
      save_every: steps between checkpoints.

    Returns:
      The final state, on the host.

    Raises:
      ConfigError: the devices can't share a batch equally.
      ProcessError: another process is lost.
      NonFiniteError: a metric or the state is no longer finite; checkpoints are of steps before.
      Interrupted: Ctrl-C or SIGTERM came; the state after the last step is saved.
    """
    first, total = int(state.step), total_steps or steps
    if first >= steps:
        return state
    devices = parallel.devices_for(batch_size)
    run = parallel.parallel_step(_with_stop(step), devices)
    replicated = parallel.replicate(state, devices)
    # Once, not with every step: a large backbone would be copied to every device again.
    constants = parallel.replicate(constants, devices)
    source = batches(first)
    reports = Reports(first, steps, total, batch_size, report_every, names, progress, writer)
    with stop_request() as request, distributed.together():
        for done in range(first + 1, steps + 1):
            part = _part(next(source), batch_size)
            sent = {
                "batch": part,
                "stop": np.full(jax.local_device_count(), request.signal, np.int32),
            }
            replicated, metrics = run(replicated, parallel.shard(sent, devices), constants)
            reports.add(done, metrics)
            # Several processes must stop at one step: they do at the one where all know.
            stop = reports.stop if jax.process_count() > 1 else request.signal
            saves = directory is not None and (done % save_every == 0 or done == steps or stop)
            evaluates = evaluate_every > 0 and (done % evaluate_every == 0 or done == total)
            if not (saves or evaluates or stop or done == steps):
                continue
            reports.drain()
            state = parallel.unreplicate(replicated)
            check_state(done, state, groups)
            if evaluate is not None and evaluates and not stop:
                reports.evaluated(done, evaluate(state))
            if directory is not None and saves:
                _save(directory, done, state)
            # Whoever asks to stop may not wait for long, but nobody comes back to this step.
            if evaluate is not None and evaluates and stop:
                reports.evaluated(done, evaluate(state))
            if done == steps:  # what came since then would be forgotten with this request
                stop = stop or distributed.largest(request.signal)
            if stop:
                raise Interrupted(_farewell(stop, done, directory), stop)
    return state


def _with_stop(step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """The step, which also tells every process of the signal that any of them has seen."""

    def run(state: Any, sent: Any, constants: Any) -> tuple[Any, Any]:
        state, metrics = step(state, sent["batch"], constants)
        return state, (metrics, jax.lax.pmax(sent["stop"].max(), parallel.AXIS))

    return run


def _part(batch: Any, batch_size: int) -> Any:
    whole = jax.process_count() > 1 and len(jax.tree.leaves(batch)[0]) == batch_size
    return distributed.share(batch) if whole else batch


def _save(directory: Path, done: int, state: Any) -> None:
    if distributed.is_first():
        checkpoint.save_step(directory, done, state)
    distributed.wait_for_all(f"step {done} is saved")


def _farewell(number: int, done: int, directory: Path | None) -> str:
    saved = "which is saved: the same command goes on from there" if directory else "unsaved"
    return f"stopped by {signal.Signals(number).name} after step {done}, {saved}"


class StopRequest:
    """Whether to stop: `signal` is the number of the signal that came, 0 until one does."""

    def __init__(self) -> None:
        self.signal = 0


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Notes the first SIGINT or SIGTERM instead of obeying it; the handlers are put back after.

    A second signal meets the handlers of before, so that it ends a save that takes too long.
    Outside the main thread nothing can be handled, and nothing is noted.

    >>> with stop_request() as request:
    ...     signal.raise_signal(signal.SIGTERM)
    >>> request.signal == signal.SIGTERM
    True
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            # None is a handler that Python didn't install and can't put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        request.signal = number
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.getsignal(number)
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
