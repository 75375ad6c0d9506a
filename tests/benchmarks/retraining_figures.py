"""Costs and gains of retraining: arrays, time and operations of its steps, curves apart."""

import dataclasses

import jax
import numpy as np
from harness import in_turns
from scipy.interpolate import PchipInterpolator

from jaxsplit.errors import ConfigError
from jaxsplit.evaluation.bd_rate import bd_accuracy, bd_rate, bd_rate_interval, common_rates
from jaxsplit.split import make_split
from jaxsplit.train import parallel, rate_groups
from jaxsplit.train.network_blocks import learning_blocks
from jaxsplit.train.rate_groups import make_curve_step, make_groups
from jaxsplit.train.state import Batch

ROUNDS = 15  # of timed steps


def sizes(config, rate, network):
    """Bytes of arrays: stored for a rate, and loaded by device and server to switch."""
    split = make_split(network, config.cut, rate.spec)
    own = learning_blocks(split, network.variables, config.trainable)
    behind = learning_blocks(split, network.variables, "tail")
    tables = rate.tables.to_arrays()

    def end(part, blocks):
        unit = [tree[part] for tree in rate.variables.values()]
        return array_bytes(tables, unit, [own[name] for name in blocks])

    return {
        "tables_bytes": array_bytes(tables),
        "stored_bytes": rate.stored_bytes + array_bytes(own),
        "device_switch_bytes": end("encoder", own.keys() - behind.keys()),
        "server_switch_bytes": end("decoder", own.keys() & behind.keys()),
    }


def array_bytes(*trees):
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(trees))


def costs(config, backbone, masks):
    """Seconds, in turns, and FLOPs of a step of one rate in every phase: mask → {…}."""
    found = {mask: {"phases": []} for mask in masks}
    for phase in config.phases:
        runs = {
            mask: OneRate(dataclasses.replace(config, trainable=mask), backbone, phase)
            for mask in masks
        }
        seconds = in_turns(runs, ROUNDS)
        for mask, run in runs.items():
            found[mask]["phases"].append(
                {"steps": phase.steps, "seconds": seconds[mask], "flops": run.flops}
            )
    for entry in found.values():
        for name in ("seconds", "flops"):
            entry[name] = sum(one["steps"] * one[name] for one in entry["phases"])
    return found


class OneRate:
    """The step of one rate on random examples; a call runs one."""

    def __init__(self, config, backbone, phase):
        frozen, devices = backbone.fold(), parallel.devices_for(config.batch_size)
        groups = make_groups(frozen, config.cut, config.spec, config.rates[:1], parallel.AXIS)
        config = dataclasses.replace(config, rate_vectorization="unroll")
        step = make_curve_step(config, groups, phase, frozen.preprocessing)
        state = rate_groups.first_state(config, backbone, groups)
        constants = rate_groups.make_constants(config, backbone, 1.0)
        self._state = parallel.replicate(state, devices)
        self._constants = parallel.replicate(constants, devices)
        batch = random_batch(config, groups[0].split, frozen)
        self._batch = parallel.shard(batch, devices)
        program = parallel.parallel_step(step, devices)
        self._run = program.lower(self._state, self._batch, self._constants).compile()
        analysis = self._run.cost_analysis()
        analysis = analysis[0] if isinstance(analysis, list) else analysis
        #: Floating-point operations on all devices, a multiply-add being two.
        self.flops = len(devices) * float(analysis["flops"])

    def __call__(self):
        self._state, metrics = self._run(self._state, self._batch, self._constants)
        jax.block_until_ready(metrics)


def random_batch(config, split, backbone):
    rng, size, classes = np.random.default_rng(0), config.batch_size, len(backbone.class_names)
    batch = Batch(
        features=np.abs(rng.standard_normal((size, *split.shape), np.float32)),
        teacher=rng.standard_normal((size, classes), np.float32),
        targets=rng.integers(0, classes, size, np.int32),
        index=np.arange(size, dtype=np.int32),
    )
    if config.trainable != "all":
        return batch
    shape = backbone.preprocessing.input_shape
    return dataclasses.replace(batch, images=rng.integers(0, 256, (size, *shape), np.uint8))


def quality_at(points, rate):
    """Interpolates a curve over the logarithm of the rate, with PCHIP; None outside its range."""
    rates, qualities = np.array(sorted(points, key=lambda point: (point[0], -point[1]))).T
    # Of points of a higher rate than another one, only those of better quality.
    front = qualities > np.append(-np.inf, np.maximum.accumulate(qualities)[:-1])
    rates, qualities = rates[front], qualities[front]
    if len(rates) < 2:
        raise ConfigError(f"expected at least 2 points that are not dominated, got {points}")
    if not rates[0] <= rate <= rates[-1]:
        return None
    return float(PchipInterpolator(np.log(rates), qualities)(np.log(rate)))


def compare(frozen, retrained):
    """Distances of (curve, images) from those of the frozen network."""
    curves = [curve.rate_quality() for curve, _ in (frozen, retrained)]
    result = {"at_equal_bytes": {}}
    try:
        for point in retrained[0].points:
            at = quality_at(curves[0], point.bytes_per_image)
            gain = None if at is None else 100 * (point.top1 - at)
            result["at_equal_bytes"][point.rate_id] = gain
        interval = bd_rate_interval(frozen[1], retrained[1])
        result |= {
            "bd_accuracy": bd_accuracy(*curves),
            "bytes": common_rates(*curves),
            "bd_rate": bd_rate(*curves),
            "bd_rate_interval": (interval.low, interval.high),
        }
    except ConfigError as error:  # curves that share no bytes or no accuracy
        result["not_compared"] = str(error)
    return result
