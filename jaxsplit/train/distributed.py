"""Several processes that train together, usually one a host: joining, barriers, lost ones.

A lost process is a `ProcessError` of the others, except the first, in which the coordinator runs:
without it jax's client ends the others itself, by an abort with a C++ stack. A checkpoint remains.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from jaxsplit.errors import (
    ConfigError,
    Interrupted,
    NonFiniteError,
    ProcessError,
    escaped,
    one_line,
    out_of_memory,
)

# A process without a heartbeat for this long is lost, and jax ends all others.
_HEARTBEAT_S = 30
# At exit the others wait for the first process, which evaluates and writes alone.
_SHUTDOWN_S = 7 * 24 * 3600
# Barriers need names: all processes pass the same ones in the same order.
_BARRIERS = itertools.count()
_LOST = (jax.errors.JaxRuntimeError, ValueError)  # errors of a collective without all processes

_Tree = TypeVar("_Tree")


def join(
    coordinator: str | None = None, process_id: int | None = None, processes: int | None = None
) -> None:
    """Makes this process one of several that train together; call it before jax is used.

    Args:
      coordinator: "HOST:PORT" of process 0, or "auto": jax asks the cluster (a TPU pod, Slurm,
        Open MPI, Kubernetes). None does so only where `launched_together`.
      process_id, processes: number of this process, from 0, and how many there are.

    Raises:
      ConfigError: the arguments don't fit.
      ProcessError: the other processes are not found.
    """
    given = coordinator, process_id, processes
    if given == (None, None, None) and not launched_together(os.environ):
        return
    known = coordinator not in (None, "auto")
    if known or (process_id, processes) != (None, None):
        if not known or process_id is None or processes is None:
            raise ConfigError(
                "--coordinator HOST:PORT, --process-id I and --processes N go together: give all "
                "three"
            )
        host, _, port = str(coordinator).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ConfigError(f"the coordinator is {coordinator!r}; expected HOST:PORT or auto")
        if not 0 <= process_id < processes:
            raise ConfigError(
                f"the process's number is {process_id} of {processes}; expected 0 … {processes - 1}"
            )
    # Its SIGTERM handler would replace that of the training loop.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator if known else None,
            processes,
            process_id,
            cluster_detection_method="deactivate" if known else None,
            heartbeat_timeout_seconds=_HEARTBEAT_S,
            shutdown_timeout_seconds=_SHUTDOWN_S,
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"cannot join the other processes: {_reason(error)}; give each "
            "--coordinator HOST:PORT, --process-id I and --processes N"
        ) from error


def launched_together(environment: Mapping[str, str]) -> bool:
    """Returns whether environment variables of a launcher count more than one process.

    >>> launched_together({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"})
    True
    >>> launched_together({"SLURM_NTASKS": "2"})  # an allocation, without `srun`
    False
    """
    if "," in environment.get("TPU_WORKER_HOSTNAMES", environment.get("TPU_PROCESS_ADDRESSES", "")):
        return True
    slurm = ["SLURM_NTASKS"] if "SLURM_STEP_NODELIST" in environment else []
    counts = (environment.get(name, "") for name in ("OMPI_COMM_WORLD_SIZE", *slurm))
    return any(count.isdigit() and int(count) > 1 for count in counts)


def is_first() -> bool:
    """Returns whether this is the process that writes files and logs."""
    return jax.process_index() == 0


def share(batch: _Tree) -> _Tree:
    """Returns this process's part of a global batch of arrays [B, …]."""
    count, index = jax.process_count(), jax.process_index()
    return jax.tree.map(lambda x: x[len(x) // count * index : len(x) // count * (index + 1)], batch)


def from_first(tree: _Tree) -> _Tree:
    """Broadcasts the first process's tree; the others' trees give structure and shapes."""
    return jax.tree.map(np.asarray, _collective("broadcast_one_to_all", tree))


def largest(number: int) -> int:
    """Returns the maximum of a number over processes."""
    return int(np.max(_collective("process_allgather", np.int32(number))))


def _collective(name: str, tree: _Tree) -> _Tree:
    from jax.experimental import multihost_utils

    wait_for_all(name)
    with process_errors(_LOST):
        return getattr(multihost_utils, name)(tree)


def wait_for_all(reason: str) -> None:
    """Waits for all processes, up to a week; raises `ProcessError` if one is lost.

    The barrier is the coordinator's: Gloo waits only half a minute in the first of each collective.
    """
    if not _several():
        return
    with process_errors(_LOST):
        barrier = f"{reason}, {next(_BARRIERS)}"
        _state().client.wait_at_barrier(barrier, timeout_in_ms=1000 * _SHUTDOWN_S)


def _state() -> Any:
    """State of jax's client, which has no public barrier with a timeout."""
    from jax._src import distributed

    return distributed.global_state


def _several() -> bool:
    # `jax.process_count` would start the backend, which waits for the others.
    return jax.distributed.is_initialized() and _state().num_processes > 1


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Ends one of several processes at once on an error that the others do not have.

    A normal exit would wait for the others; without this one's heartbeats jax ends them too. All
    processes see stop requests and non-finite losses, and exit normally.
    """
    try:
        yield
    except (Interrupted, NonFiniteError):
        raise
    except BaseException as error:
        if not _several():
            raise
        stopped = isinstance(error, KeyboardInterrupt)
        code = 128 + getattr(error, "signal", signal.SIGINT) if stopped else 2
        line = str(error) or "interrupted" if stopped else one_line(error)
        if line is None:
            code = 1
            traceback.print_exc()
        else:
            print(f"jaxsplit: {escaped(line)}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def process_errors(
    kinds: tuple[type[Exception], ...] = (jax.errors.JaxRuntimeError,),
) -> Iterator[None]:
    """Raises a `ProcessError` in place of errors of jax where there are several processes."""
    try:
        yield
    except kinds as error:
        if jax.process_count() == 1 or out_of_memory(error):
            raise
        raise ProcessError(
            f"one of {jax.process_count()} processes is lost ({_reason(error)}): start all of them "
            "again, on any number of devices; they resume from the last checkpoint"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
