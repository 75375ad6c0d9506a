"""The training loop: steps, metrics, checkpoints and stop requests."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TypeVar

import jax
import numpy as np

from jaxsplit.errors import Interrupted
from jaxsplit.io import checkpoint
from jaxsplit.train import distributed, parallel
from jaxsplit.train.metrics import Metrics, Outcome, Reports, check_state
from jaxsplit.train.state import CurveState, TrainState
from jaxsplit.train.step import StepMetrics

#: Steps between checkpoints.
SAVE_EVERY = 1000

_State = TypeVar("_State", bound=TrainState | CurveState)
_Batch = TypeVar("_Batch")
_Constants = TypeVar("_Constants")


def resume(state: _State, directory: Path | None) -> _State:
    """Returns the newest checkpoint in `directory`, or `state`; the first process reads it."""
    if directory is not None and distributed.is_first():
        state = checkpoint.restore_latest(directory, state)
    # Computing the features may have taken one of them much longer.
    distributed.wait_for_all("the training begins")
    return state if directory is None else distributed.from_first(state)


def fit(
    state: _State,
    step: Callable[[_State, _Batch, _Constants], tuple[_State, StepMetrics]],
    batches: Callable[[int], Iterator[_Batch]],
    steps: int,
    *,
    batch_size: int,
    constants: _Constants,
    reports: Reports | None = None,
    groups: Sequence[Sequence[str]] = (),
    evaluate: Callable[[_State], Metrics] | None = None,
    evaluate_every: int = 0,
    directory: Path | None = None,
    save_every: int = SAVE_EVERY,
) -> _State:
    """Runs `step` from `state.step` to `steps` and returns the final state, on the host.

    Args:
      state: not replicated, such as from `resume`.
      step: mapped over devices here; metrics are means over the whole batch, scalars or [R].
      batches: maps the number of finished steps to the batches that follow; with several
        processes, to the part of each batch that is this process's.
      steps, batch_size: number of the last step, and examples over all devices of all processes.
      constants: a tree that no step changes, such as a frozen network's variables.
      reports: of metrics of the steps, and of evaluations.
      groups: names of the rates along the leading axis of each of `state.groups`, for errors.
      evaluate: from the state on the host to metrics, which are reported as `eval_…`.
      evaluate_every: steps between evaluations, one more after the last step; 0: none.
      directory: of the checkpoints, written every `save_every` steps; None: none are written.

    Raises:
      ConfigError: the devices can't share a batch equally.
      ProcessError: another process is lost.
      NonFiniteError: a metric or the state is not finite; checkpoints are of earlier steps.
      Interrupted: by Ctrl-C or SIGTERM; the state after the last step is saved.
    """
    first = int(state.step)
    if first >= steps:
        return state
    reports = reports or Reports()
    devices = parallel.devices_for(batch_size)
    reports.begin(first, steps, batch_size)
    run = parallel.parallel_step(_with_stop(step), devices)
    with stop_request() as request, distributed.process_errors():
        # Replicated once: with every step, a large backbone would be copied to every device again.
        replicated = parallel.replicate(state, devices)
        constants = parallel.replicate(constants, devices)
        for done, batch in zip(range(first + 1, steps + 1), batches(first), strict=False):
            signals = np.full(jax.local_device_count(), request.signal, np.int32)
            sent = parallel.shard((batch, signals), devices)
            replicated, outcome = run(replicated, sent, constants)
            reports.add(done, outcome)
            # Several processes stop at the same step, where all have read the signal.
            stop = reports.stop if jax.process_count() > 1 else request.signal
            saves = directory is not None and (done % save_every == 0 or done == steps or stop)
            ends = done == (reports.total or steps)
            evaluates = evaluate_every > 0 and (done % evaluate_every == 0 or ends)
            if not (saves or evaluates or stop or done == steps):
                continue
            reports.drain()
            state = parallel.unreplicate(replicated)
            check_state(done, state, groups)
            if saves and stop:
                _save(directory, done, state)  # first: a resumed run skips this step
            if evaluate is not None and evaluates:
                reports.evaluated(done, evaluate(state))
            if saves and not stop:
                _save(directory, done, state)
            if done == steps:  # a later signal would be lost with this request
                stop = stop or distributed.largest(request.signal)
            if stop:
                saved = "which is saved: the same command resumes from there"
                name, saved = signal.Signals(stop).name, saved if directory else "unsaved"
                raise Interrupted(f"stopped by {name} after step {done}, {saved}", stop)
    return state


def _with_stop(
    step: Callable[[_State, _Batch, _Constants], tuple[_State, StepMetrics]],
) -> Callable[..., tuple[_State, Outcome]]:
    """The step with a signal's number beside the batch, and the largest one beside the metrics."""

    def with_stop(
        state: _State, sent: tuple[_Batch, jax.Array], constants: _Constants
    ) -> tuple[_State, Outcome]:
        batch, signals = sent
        state, metrics = step(state, batch, constants)
        return state, (metrics, jax.lax.pmax(signals.max(), parallel.AXIS))

    return with_stop


def _save(directory: Path | None, done: int, state: object) -> None:
    if directory is not None and distributed.is_first():
        checkpoint.save_step(directory, done, state)
    distributed.wait_for_all(f"step {done} is saved")


@dataclasses.dataclass
class StopRequest:
    """A request to stop: `signal` is the number of a received signal, or 0."""

    signal: int = 0


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Records the first SIGINT or SIGTERM; a second one can end a long save.

    Other threads than the main one record no signal.

    >>> with stop_request() as request:
    ...     signal.raise_signal(signal.SIGTERM)
    >>> request.signal == signal.SIGTERM
    True
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    with contextlib.ExitStack() as before:

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            request.signal = number
            before.close()  # restores the handlers

        for number in (signal.SIGINT, signal.SIGTERM):
            # None is a handler that Python didn't install and can't restore.
            before.callback(signal.signal, number, signal.getsignal(number) or signal.SIG_DFL)
            signal.signal(number, note)
        yield request
