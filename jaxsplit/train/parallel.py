"""Devices and processes: the only module that knows `pmap`, and how arrays are laid out for it."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.errors import ConfigError

__all__ = ["use_cpu_cores"]  # the rest is for the trainings of this package

#: Name of the device axis, for `jax.lax.pmean` and batch normalisation inside a step.
AXIS = "devices"

#: Steps that may be under way at once. XLA's CPU client gives every step beyond 32 a thread to
#: wait in, of a pool as large as the number of cores: a step that the others wait for may then find
#: none, and all devices hang in its first sum. Whoever asks a training to stop waits for as many.
AHEAD = 4


def use_cpu_cores(batch_size: int) -> None:
    """Makes CPU cores (at most 8) devices, as many as divide the batch.

    XLA spreads a training step over cores poorly: on two cores, one device per core took a step
    of ResNet-8 or ResNet-20 in 1/1.3 of the time of one device over both. Call it before jax is
    used: later, as in a cell that is run again, it changes nothing. Nor does it where jax runs on
    another platform, where the environment says how many devices there are, or where this is one
    of several processes: they may share the cores.

    Args:
      batch_size: examples of a step, over all devices.

    >>> use_cpu_cores(batch_size=64)  # first of all; then jax.devices() are the cores
    """
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if told or jax.distributed.is_initialized():
        return
    most = min(_cores(), 8)
    count = max(n for n in range(1, most + 1) if batch_size % n == 0)
    with contextlib.suppress(RuntimeError):  # jax is in use and keeps the devices that it has
        jax.config.update("jax_num_cpu_devices", count)


def _cores() -> int:
    """Cores that this process may keep busy: a container's share of a machine can be small."""
    affinity = getattr(os, "sched_getaffinity", None)  # on Linux alone
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or "max": no limit
        pass
    return max(cores, 1)


def devices_for(batch_size: int) -> list[jax.Device]:
    """All devices, of every process; each takes the same share of a batch.

    Raises:
      ConfigError: they can't.
    """
    devices = jax.devices()
    count = len(devices)
    if batch_size % count:
        below = batch_size // count * count
        nearest = f"{below} or {below + count}" if below else f"{count}"
        raise ConfigError(
            f"{count} devices cannot share a batch of {batch_size} equally: "
            f"take the nearest batch size that they can, {nearest}"
        )
    if count != jax.process_count() * jax.local_device_count():
        raise ConfigError(
            f"of {count} devices of {jax.process_count()} processes {jax.local_device_count()} are "
            "this one's: give every process as many"
        )
    return devices


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
    """Copies every leaf to every device, behind a new leading axis, and leaves it there."""
    return _copy_program(tuple(devices))(tree, np.arange(_local(devices)))


@functools.lru_cache
def _copy_program(devices: tuple[jax.Device, ...]) -> Callable[..., Any]:
    # The axis is a part of where arrays lie: under another name the first step would be compiled
    # for these, and the second one anew for what the first gives.
    return jax.pmap(lambda x, _: x, AXIS, in_axes=(None, 0), devices=devices)


def unreplicate(tree: Any) -> Any:
    """The first device's copy, on the host."""
    return jax.tree.map(lambda x: np.asarray(x[0]), jax.device_get(tree))


def shard(batch: Any, devices: list[jax.Device]) -> Any:
    """Splits this process's part of a batch, [B, …], into [its devices, B / their number, …]."""
    n = _local(devices)
    return jax.tree.map(lambda x: x.reshape(n, x.shape[0] // n, *x.shape[1:]), batch)


def _local(devices: Iterable[jax.Device]) -> int:
    return sum(device.process_index == jax.process_index() for device in devices)


def parallel_step(
    step: Callable[..., tuple[Any, Any]], devices: list[jax.Device]
) -> Callable[..., tuple[Any, Any]]:
    """Maps `step(state, batch, constants)` over devices.

    `state` and `constants` are as from `replicate`, `batch` as from `shard`; the state is donated.
    The step itself averages over `AXIS` what must agree.
    """
    return jax.pmap(step, axis_name=AXIS, devices=devices, donate_argnums=(0,))


def parallel_function(
    function: Callable[[Any, Any], Any], devices: list[jax.Device]
) -> Callable[[Any, Any], Any]:
    """Maps `function(batch, constants)` over devices: `constants` as from `replicate`."""
    return jax.pmap(function, axis_name=AXIS, devices=devices)


def make_sums(
    function: Callable[[Any, Any], dict[str, jax.Array]],
    devices: list[jax.Device] | None = None,
) -> Callable[[Any, Iterable[Any]], dict[str, np.ndarray]]:
    """Maps a function over devices and sums what it says of every example.

    Batches may have any length: what fills the devices up beside them doesn't count, nor does an
    example for which a batch's own `mask` is False.

    Args:
      function: pure, (variables, batch) → {name: [B, …]}, one entry for each example of the batch.
      devices: of this process; default: all of them.

    Returns:
      (variables, batches) → {name: sum over all examples, float64 […]}, and under "examples" their
      number. Batches are trees of arrays [B, …]; one program serves all that are no longer than
      the first.
    """
    devices = devices or jax.local_devices()

    def weighted(variables: Any, batch: Any, counts: jax.Array) -> dict[str, jax.Array]:
        values = {**function(variables, batch), "examples": counts}

        def total(x: jax.Array) -> jax.Array:
            wide = jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.int32
            x = x.astype(jnp.promote_types(x.dtype, wide))
            chosen = jnp.where(counts.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x))
            return jax.lax.psum(chosen.sum(axis=0), AXIS)

        return jax.tree.map(total, values)

    program = jax.pmap(weighted, axis_name=AXIS, devices=devices)

    def sums(variables: Any, batches: Iterable[Any]) -> dict[str, np.ndarray]:
        variables = replicate(variables, devices)
        totals: dict[str, np.ndarray] = {}
        size, pending = 0, None
        for batch in batches:
            count = len(jax.tree.leaves(batch)[0])
            size = max(size, -(-count // len(devices)) * len(devices))
            counts = np.arange(size) < count
            if isinstance(batch, dict) and "mask" in batch:
                counts[:count] &= batch["mask"]
            filled = jax.tree.map(functools.partial(_fill_up, size=size), batch)
            result = program(variables, shard(filled, devices), shard(counts, devices))
            if pending is not None:  # read while the devices are busy with the next
                _add(totals, pending)
            pending = result
        if pending is not None:
            _add(totals, pending)
        return totals

    return sums


def _fill_up(array: np.ndarray, size: int) -> np.ndarray:
    fill = np.zeros((size - len(array), *array.shape[1:]), array.dtype)
    return np.concatenate([array, fill]) if len(fill) else np.asarray(array)


def _add(totals: dict[str, np.ndarray], sums: Any) -> None:
    for name, value in unreplicate(sums).items():
        totals[name] = totals.get(name, 0) + value.astype(np.float64)
