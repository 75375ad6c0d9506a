"""What the paper claims, measured: a small unit behind a frozen network, against retraining.

    python tests/benchmarks/retraining.py [--steps N] [--workdir DIR] [--json FILE] [--smoke]

The same training three times: of the unit alone, of unit and tail, of head, unit and tail. Only
what learns differs; loss (distillation of the frozen network + lambda · bits), images and their
order, noise, phases, optimizer and schedule are the same. Blocks of the network that learn are each
rate's own, begin as the frozen ones, learn with `network_rate` times the unit's learning rate and
without weight decay; their batch normalisation keeps its stored moments. It is ResNet-20 on
Fashion-MNIST, cut after its first stage, and all test images go through real bytes.

Bytes: mean of real frames. Top-1: with Wilson's 95 % interval. At equal bytes: top-1 less that of
the frozen network at the same mean bytes, by PCHIP over ln bytes; n/a beyond its curve. The BD-rate
has a paired bootstrap's 95 % interval over the test images; it knows nothing of other seeds.
Seconds: of a step of one rate, the three taken in turns in one run, times the steps; the frozen
head's features, which all three need once, not among them. FLOPs: the compiler's count of the same
steps. Stored: a rate's arrays, its blocks among them. To switch: what of them a device or a server
loads for another rate; the coding tables are on both.

DIR gets checkpoints and cached features, and in `unit`, `tail` and `all` what `jaxsplit compare`
reads. The same command goes on where it was stopped.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

MASKS = {"unit": "unit alone", "tail": "unit and tail", "all": "everything"}
LAMBDAS = {"r1": 2e-3, "r2": 5e-4, "r3": 1.2e-4, "r4": 3e-5}
ROUNDS = 15  # of timed steps
POINT = ("lmbda", "bytes_per_image", "top1", "top1_interval", "n_images")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--data", default="tfds:fashion_mnist")
    parser.add_argument("--masks", default=",".join(MASKS), help="unit, tail, all; several")
    parser.add_argument("--rates", default=",".join(LAMBDAS), help="of r1 to r4; several")
    parser.add_argument("--network-rate", type=float, default=0.03)
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="training and test images; default: all")
    parser.add_argument("--smoke", action="store_true", help="few steps of a small network")
    parser.add_argument("--workdir", type=Path, help="default: a folder that is deleted")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from jaxsplit.train.parallel import use_cpu_cores

    config = make_config(options)
    use_cpu_cores(config.batch_size)
    with tempfile.TemporaryDirectory() as temporary:
        report = run(config, options, options.workdir or Path(temporary))
    print(table(report))


def make_config(options):
    """Of the frozen network; only `trainable` differs between the three."""
    from jaxsplit import BottleneckSpec
    from jaxsplit.train.curve_config import CurveConfig
    from jaxsplit.train.recipe import default_phases
    from jaxsplit.train.step import Rate

    common = {
        "spec": BottleneckSpec(channels=12, stride=4, kernel=4, padding=0, multiplier=4),
        "rates": tuple(Rate(name, LAMBDAS[name]) for name in options.rates.split(",")),
        "train_split": options.train_split,
        "test_split": options.test_split,
        "seed": options.seed,
        "network_rate": options.network_rate,
        "batch_size": 32,
        "learning_rate": 1e-2,
    }
    if options.smoke:
        return CurveConfig(
            backbone="fashion_mnist_resnet8",
            cut="stage1.block1",
            phases=default_phases(20),
            limit=256,
            batching="vmap",  # the way that compiles soonest
            **common,
        )
    return CurveConfig(
        backbone="fashion_mnist_resnet20",
        cut="stage1.block3",
        phases=default_phases(options.steps),
        data=options.data,
        limit=options.limit,
        feature_dtype="float16",
        **common,
    )


def run(config, options, workdir):
    """Trains and measures; the JSON grows with every rate."""
    from jaxsplit import data
    from jaxsplit.importers.pretrained import load_backbone

    backbone = load_backbone(config.backbone)
    source = data.open_source(config.data, split=config.test_split, limit=config.limit)
    report = {**provenance(), "config": dataclasses.asdict(config), "masks": {}}

    def save():
        if options.json:
            partial = options.json.with_name(options.json.name + ".partial")
            partial.write_text(json.dumps(report, indent=1) + "\n")
            os.replace(partial, options.json)

    curves = {}
    for mask in options.masks.split(","):
        masked = dataclasses.replace(config, trainable=mask)
        report["masks"][mask] = entry = {"rates": {}}
        curves[mask] = measure(masked, backbone, source, workdir, entry, save)
        report["uncut"] = curves[mask][0].uncompressed_top1
        if "unit" in curves and mask != "unit":
            entry["against_unit"] = compare(curves["unit"], curves[mask])
        save()
    costs(config, backbone, report["masks"])
    save()
    return report


def measure(config, backbone, source, workdir, entry, save):
    """Trains one mask; (curve, images) of its rates through real bytes, also in its folder."""
    import numpy as np

    from jaxsplit import data
    from jaxsplit.evaluation import accuracy
    from jaxsplit.evaluation.curve import Curve
    from jaxsplit.evaluation.images import FILE, PerImage
    from jaxsplit.train.networks import train_networks

    pairs = train_networks(config, backbone, workdir, progress(config.trainable), say)
    images, labels = data.load_arrays(source, backbone.preprocessing)
    uncut = accuracy.predictor(backbone)(images).argmax(-1)
    points, seen = [], []
    for family, network in pairs:
        curve, one = accuracy.evaluate_images(family, network, source)
        # What an own network says without the unit is not what the frozen one says.
        points.append(dataclasses.replace(curve.points[0], agreement=None, agreement_interval=None))
        seen.append(one)
        point = {key: getattr(points[-1], key) for key in POINT}
        rate = family.rates[0]
        entry["rates"][rate.rate_id] = point | sizes(config, rate, network)
        say(f"{config.trainable} {rate.rate_id}: {point}")
        save()
    curve = Curve(float((uncut == labels).mean()), len(labels), tuple(points))
    merged = PerImage(
        tuple(point.rate_id for point in points),
        *(np.concatenate([getattr(one, name) for one in seen]) for name in ("bytes", "predicted")),
        labels,
        uncut,
    )
    folder = workdir / config.trainable
    folder.mkdir(parents=True, exist_ok=True)
    curve.write(folder / "curve.json")
    merged.write(folder / FILE)
    return curve, merged


def sizes(config, rate, network):
    """Bytes of arrays: what is stored for a rate, and what of it either end loads to switch."""
    from jaxsplit.split import make_split
    from jaxsplit.train.trainable import learning_blocks

    split, params = make_split(network, config.cut, rate.spec), network.variables["params"]
    own = learning_blocks(split, params, config.trainable)
    behind = learning_blocks(split, params, "tail")
    tables = rate.tables.to_arrays()

    def end(part, blocks):
        unit = [tree[part] for tree in rate.variables.values()]
        return array_bytes(tables, unit, [own[name] for name in blocks])

    return {
        "stored_bytes": rate.stored_bytes + array_bytes(own),
        "device_switch_bytes": end("encoder", own.keys() - behind.keys()),
        "server_switch_bytes": end("decoder", own.keys() & behind.keys()),
    }


def array_bytes(*trees):
    import jax
    import numpy as np

    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(trees))


def compare(frozen, retrained):
    """Distances of (curve, images) from those of the frozen network."""
    from jaxsplit.errors import ConfigError
    from jaxsplit.evaluation.bd import bd_accuracy, bd_rate, common_rates, quality_at
    from jaxsplit.evaluation.bootstrap import bd_rate_interval

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


def costs(config, backbone, masks):
    """Seconds, in turns, and FLOPs of a step of one rate in every phase."""
    import jax

    found = {mask: [] for mask in masks}
    for phase in config.phases:
        runs = {
            mask: program(dataclasses.replace(config, trainable=mask), backbone, phase)
            for mask in masks
        }
        times = {mask: [] for mask in masks}
        for _ in range(ROUNDS):
            for mask, (compiled, state, *others) in runs.items():
                begun = time.perf_counter()
                state, _ = jax.block_until_ready(compiled(state, *others))
                times[mask].append(time.perf_counter() - begun)
                runs[mask] = compiled, state, *others
        for mask, (compiled, *_) in runs.items():
            one = {"steps": phase.steps, "flops": jax.local_device_count() * flops(compiled)}
            found[mask].append(one | {"seconds": statistics.median(times[mask][1:])})
    for mask, phases in found.items():
        masks[mask]["phases"] = phases
        for name in ("seconds", "flops"):
            masks[mask][name] = sum(one["steps"] * one[name] for one in phases)


def flops(compiled):
    """Floating-point operations of one device's part of a step, a multiply-add being two."""
    analysis = compiled.cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis)["flops"])


def program(config, backbone, phase):
    """(compiled step of one rate, state, batch, constants) on random examples."""
    import numpy as np

    from jaxsplit.train import curve, parallel
    from jaxsplit.train.groups import make_curve_step, make_groups

    frozen = backbone.fold()
    groups = make_groups(frozen, config.cut, config.spec, config.rates[:1], parallel.AXIS)
    step = make_curve_step(
        groups, phase, curve.make_optimizer(config), frozen.preprocessing, batching="unroll"
    )
    rng, size, classes = np.random.default_rng(0), config.batch_size, len(backbone.class_names)
    shape, image = groups[0].split.shape, frozen.preprocessing.input_shape
    batch = {
        "features": np.abs(rng.standard_normal((size, *shape), np.float32)),
        "teacher": rng.standard_normal((size, classes), np.float32),
        "label": rng.integers(0, classes, size, np.int32),
        "index": np.arange(size, dtype=np.int32),
    }
    if config.trainable == "all":
        batch["image"] = rng.integers(0, 256, (size, *image), np.uint8)
    devices = parallel.devices_for(size)
    state = parallel.replicate(curve.first_state(config, backbone, groups), devices)
    constants = curve.make_constants(config, backbone, groups, 1.0)
    arguments = state, parallel.shard(batch, devices), parallel.replicate(constants, devices)
    return parallel.parallel_step(step, devices).lower(*arguments).compile(), *arguments


def say(text):
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def progress(mask):
    """Says every hundred steps how the rates fare."""

    def tell(done, total, metrics):
        if done % 100 == 0 or done == total:
            shown = {name: value.round(4).tolist() for name, value in metrics.items()}
            say(f"{mask} {done}/{total} {shown}")

    return tell


def provenance():
    """When, on what and with which versions."""
    import jax

    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "devices": jax.local_device_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        },
    }


def table(report):
    """The report as Markdown, as it stands in the README."""
    lines = [
        "| trained | rate | bytes | top-1 % (interval) | at equal bytes | training of a rate: s "
        "| PFLOP | stored, kB | device loads, kB | server loads, kB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for mask, entry in report["masks"].items():
        equal = entry.get("against_unit", {}).get("at_equal_bytes", {})
        for name, rate in entry["rates"].items():
            low, high = rate["top1_interval"]
            gain = equal.get(name)
            kilobytes = [
                f"{rate[key] / 1000:.1f}"
                for key in ("stored_bytes", "device_switch_bytes", "server_switch_bytes")
            ]
            cells = [
                MASKS[mask],
                name,
                f"{rate['bytes_per_image']:.1f}",
                f"{100 * rate['top1']:.2f} ({100 * low:.2f}–{100 * high:.2f})",
                "" if mask == "unit" else "n/a" if gain is None else f"{gain:+.2f}",
                f"{entry['seconds']:.0f}",
                f"{entry['flops'] / 1e15:.3f}",
                *kilobytes,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    for mask, entry in report["masks"].items():
        if "bd_rate" in (against := entry.get("against_unit", {})):
            low, high = against["bd_rate_interval"]
            first, last = against["bytes"]
            lines.append(
                f"\n{MASKS[mask]} against unit alone: {against['bd_accuracy']:+.2f} points from "
                f"{first:.1f} to {last:.1f} bytes; BD-rate {against['bd_rate']:+.1f} % "
                f"({low:+.1f} to {high:+.1f})"
            )
    return "\n".join([*lines, f"\nuncut network: {100 * report['uncut']:.2f} %"])


if __name__ == "__main__":
    main()
