"""Data parallelism over the devices of all processes, by `pmap`, which only this module uses."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

import jax
import numpy as np

from jaxsplit.errors import ConfigError
from jaxsplit.networks.inference import pad_rows

__all__ = ["use_cpu_cores"]  # the rest is for the trainings of this package

#: Name of the device axis, for `jax.lax.pmean` and batch normalization inside a step.
AXIS = "devices"

#: Steps in flight. XLA's CPU client blocks a thread for every step beyond 32, in a pool as large as
#: the number of cores: all devices may then hang in a sum. A stop request waits for these steps.
AHEAD = 4

_Tree = TypeVar("_Tree")
_Given = ParamSpec("_Given")
_Batch = TypeVar("_Batch")
_Constants = TypeVar("_Constants")


def use_cpu_cores(batch_size: int) -> None:
    """Makes CPU cores (at most 8) devices, as many as divide the batch.

    XLA distributes a training step over cores poorly: on two cores, one device per core took 1/1.3
    of the time of one device over both. Call it before jax is used; later calls change nothing. It
    has no effect on other platforms, where XLA_FLAGS sets the number of devices, or in one of
    several processes, which may share the cores.

    Args:
      batch_size: examples of a step, over all devices.

    >>> use_cpu_cores(batch_size=64)  # first of all; then jax.devices() are the cores
    """
    fixed = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if fixed or jax.distributed.is_initialized():
        return
    most = min(_cores(), 8)
    count = max(n for n in range(1, most + 1) if batch_size % n == 0)
    with contextlib.suppress(RuntimeError):  # jax is in use and keeps the devices that it has
        jax.config.update("jax_num_cpu_devices", count)


def _cores() -> int:
    """Cores that this process may use, within its affinity and its container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)  # on Linux alone
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or "max": no limit
        pass
    return max(cores, 1)


def devices_for(batch_size: int) -> list[jax.Device]:
    """Returns all devices of all processes; raises a ConfigError unless they can share a batch."""
    devices = jax.devices()
    count = len(devices)
    if batch_size % count:
        below = batch_size // count * count
        nearest = f"{below} or {below + count}" if below else f"{count}"
        raise ConfigError(
            f"{count} devices cannot share a batch of {batch_size} equally: "
            f"use the nearest batch size that they can, {nearest}"
        )
    if count != jax.process_count() * jax.local_device_count():
        raise ConfigError(
            f"this process has {jax.local_device_count()} of the {count} devices of "
            f"{jax.process_count()} processes: give every process as many"
        )
    return devices


def replicate(tree: _Tree, devices: list[jax.Device]) -> _Tree:
    """Copies every leaf to every device, behind a new leading axis, and leaves it there."""
    return _copy_program(tuple(devices))(tree, np.arange(_local(devices)))


@functools.lru_cache
def _copy_program(devices: tuple[jax.Device, ...]) -> Callable[[_Tree, np.ndarray], _Tree]:
    # The axis name is part of an array's sharding: with another one, the second step would compile
    # again for the outputs of the first.
    return jax.pmap(lambda x, _: x, AXIS, in_axes=(None, 0), devices=devices)


def unreplicate(tree: _Tree) -> _Tree:
    """Returns the first device's copy, on the host; the other copies stay on their devices."""
    first = jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), tree))
    # Of what pmap returns, a device's part has an axis of 1 in some versions of JAX.
    return jax.tree.map(lambda x, part: part.reshape(x.shape[1:]), tree, first)


def shard(batch: _Tree, devices: list[jax.Device]) -> _Tree:
    """Splits this process's part of a batch, [B, …], into [its devices, B / their number, …]."""
    n = _local(devices)
    return jax.tree.map(lambda x: x.reshape(n, -1, *x.shape[1:]), batch)


def _local(devices: Iterable[jax.Device]) -> int:
    return sum(device.process_index == jax.process_index() for device in devices)


def parallel_step(
    step: Callable[_Given, _Tree], devices: list[jax.Device], *, donate: bool = True
) -> Callable[_Given, _Tree]:
    """Maps a function over devices, such as `step(state, batch, constants)`.

    It averages over `AXIS` itself. Arguments come from `replicate` or `shard`; the first one is
    donated.
    """
    donated = (0,) if donate else ()
    return jax.pmap(step, axis_name=AXIS, devices=devices, donate_argnums=donated)


def make_sums(
    function: Callable[[_Constants, _Batch], dict[str, jax.Array]],
    devices: list[jax.Device] | None = None,
) -> Callable[[_Constants, Iterable[_Batch]], dict[str, np.ndarray]]:
    """Maps a function over devices of this process and sums its values over examples.

    Args:
      function: pure, (variables, batch) → {name: [B, …]}, one entry for each example.
      devices: default: all of this process.

    Returns:
      (variables, batches) → {name: sum over all examples, float64 […]}, and "examples", their
      number. Batches are trees of arrays [B, …] of any length; those no longer than the first
      share a program.
    """
    devices = devices or jax.local_devices()
    program = parallel_step(function, devices, donate=False)

    def sums(variables: _Constants, batches: Iterable[_Batch]) -> dict[str, np.ndarray]:
        variables = replicate(variables, devices)
        totals: dict[str, np.ndarray] = {}
        size, in_flight = 0, []
        for batch in batches:
            count = len(jax.tree.leaves(batch)[0])
            size = max(size, -(-count // len(devices)) * len(devices))
            in_flight.append((program(variables, shard(pad_rows(batch, size), devices)), count))
            if len(in_flight) > 1:  # read while the devices are busy with the next
                add_sums(totals, *in_flight.pop(0))
        for done in in_flight:
            add_sums(totals, *done)
        return totals

    return sums


def add_sums(totals: dict[str, np.ndarray], values: dict[str, jax.Array], count: int) -> None:
    """Adds the first `count` examples of values [devices, examples / devices, …]; rest: padding."""
    totals["examples"] = np.asarray(totals.get("examples", 0) + count)
    for name, value in values.items():
        rows = np.asarray(value, np.float64).reshape(-1, *value.shape[2:])[:count]
        totals[name] = totals.get(name, 0) + rows.sum(axis=0)
