"""One loop for every training: steps, checkpoints, metrics."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsplit import checkpoint
from jaxsplit.train import parallel

#: Called with the number of finished steps, of all steps, and the metrics of the last one.
Progress = Callable[[int, int, dict[str, np.ndarray]], None]

# Steps that may be under way at once. XLA's CPU client gives every step beyond 32 a thread to wait
# in, of a pool as large as the number of cores: a step that the others wait for may then find none,
# and all devices hang in its first sum.
_AHEAD = 8


def resume(state: Any, directory: Path | None) -> Any:
    """The newest checkpoint in `directory`, or `state` where there is none."""
    return state if directory is None else checkpoint.restore_latest(directory, state)


def fit(
    state: Any,
    step: Callable[..., tuple[Any, Any]],
    batches: Callable[[int], Iterator[Any]],
    steps: int,
    *,
    batch_size: int,
    constants: Any = None,
    total_steps: int | None = None,
    progress: Progress | None = None,
    report_every: int = 10,
    directory: Path | None = None,
    save_every: int = 1000,
) -> Any:
    """Runs `step` until `state.step` is `steps`; what `resume` found goes on from there.

    Args:
      state: a value with an integer `step`; not replicated.
      step: `(state, batch, constants) -> (state, metrics)`, mapped over devices here.
      batches: from a step number to the batches from that step on.
      steps: number of the step to stop at.
      batch_size: examples in a batch; divided over as many devices as divide it.
      constants: a tree that no step changes, such as a frozen network's variables.
      total_steps: what progress counts towards, where this is only a part; default `steps`.
      progress: told of the metrics every `report_every` steps.
      directory: where checkpoints are written; None: nowhere.
      save_every: steps between checkpoints.

    Returns:
      The final state, on the host.
    """
    first = int(state.step)
    if first >= steps:
        return state
    devices = parallel.devices_for(batch_size)
    run = parallel.parallel_step(step, devices)
    replicated = parallel.replicate(state, devices)
    # Once, not with every step: a large backbone would be copied to every device again.
    constants = parallel.replicate(constants, devices)
    source = batches(first)
    under_way: collections.deque[Any] = collections.deque()
    for done in range(first + 1, steps + 1):
        replicated, metrics = run(replicated, parallel.shard(next(source), devices), constants)
        under_way.append(metrics)
        if len(under_way) > _AHEAD:
            jax.block_until_ready(under_way.popleft())
        if progress is not None and (done % report_every == 0 or done == steps):
            progress(done, total_steps or steps, jax.tree.map(lambda x: np.asarray(x[0]), metrics))
        if directory is not None and (done % save_every == 0 or done == steps):
            checkpoint.save_step(directory, done, parallel.unreplicate(replicated))
    return parallel.unreplicate(replicated)
