"""The paper's claim, measured: a small unit behind a frozen network, against retraining.

    python tests/benchmarks/retraining.py [--steps N] [--workdir DIR] [--json FILE] [--smoke]

The same training three times: of the unit alone, of unit and tail, of head, unit and tail. Only
what learns differs; loss (distillation of the frozen network + lambda · bits), images and their
order, noise, phases, optimizer and schedule are the same. Blocks of the network that learn are each
rate's own, begin as the frozen ones, learn with `network_lr_multiplier` times the unit's learning
rate and without weight decay; their batch normalization keeps its stored moments. It is ResNet-20
on Fashion-MNIST, cut after its first stage, and all test images go through real bytes.

Bytes: mean of real frames. Top-1: with Wilson's 95 % interval. At equal bytes: top-1 less that of
the frozen network at the same mean bytes, by PCHIP over ln bytes; n/a beyond its curve. The BD-rate
has a paired bootstrap's 95 % interval over the test images; it knows nothing of other seeds.
Seconds: of a step of one rate, the three taken in turns in one run, times the steps; the frozen
head's features, which all three need once, not among them. FLOPs: the compiler's count of the same
steps. Stored: a rate's arrays, its blocks among them. Loaded to switch: what of them a device or a
server needs for another rate; the coding tables are on both.

`network_lr_multiplier` was chosen from 0.01, 0.03 and 0.1 without test images: `--masks all
--rates r1,r3 --steps 300 --max-samples 6000 --train-split 'train[:90%]'
--test-split 'train[90%:]'`.

DIR gets checkpoints and cached features, and in `unit`, `tail` and `all` what `jaxsplit compare`
reads. The same command resumes where it was stopped.
"""

import dataclasses
import datetime
import sys
import tempfile
from pathlib import Path

from harness import make_parser, provenance, write_json

MASKS = {"unit": "unit alone", "tail": "unit and tail", "all": "everything"}
LAMBDAS = {"r1": 2e-3, "r2": 5e-4, "r3": 1.2e-4, "r4": 3e-5}
KINDS = ("stored", "device_switch", "server_switch")  # of arrays
POINT = ("lmbda", "bytes_per_image", "top1", "top1_interval", "n_images")


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--data", default="tfds:fashion_mnist")
    parser.add_argument("--masks", default=",".join(MASKS), help="unit, tail, all; several")
    parser.add_argument("--rates", default=",".join(LAMBDAS), help="of r1 to r4; several")
    parser.add_argument("--network-lr-multiplier", type=float, default=0.03)
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-samples", type=int, help="training and test images; default: all")
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
    from jaxsplit.train.config import CurveConfig
    from jaxsplit.train.curve import default_phases
    from jaxsplit.train.step import Rate

    config = CurveConfig(
        backbone="fashion_mnist_resnet20",
        cut="stage1.block3",
        spec=BottleneckSpec(channels=12, stride=4, kernel=4, padding=0, multiplier=4),
        rates=tuple(Rate(name, LAMBDAS[name]) for name in options.rates.split(",")),
        phases=default_phases(options.steps),
        data=options.data,
        train_split=options.train_split,
        test_split=options.test_split,
        max_samples=options.max_samples,
        seed=options.seed,
        network_lr_multiplier=options.network_lr_multiplier,
        batch_size=32,
        learning_rate=1e-2,
        feature_dtype="float16",
    )
    if not options.smoke:
        return config
    return dataclasses.replace(
        config,
        backbone="fashion_mnist_resnet8",
        cut="stage1.block1",
        phases=default_phases(20)[::2],
        data="embedded",
        max_samples=64,
        rate_vectorization="vmap",  # the way that compiles soonest
    )


def run(config, options, workdir):
    """Trains and measures; the JSON grows with every rate."""
    import jax
    from retraining_figures import compare, costs

    from jaxsplit import data
    from jaxsplit.weights.load import load_backbone

    backbone = load_backbone(config.backbone)
    source = data.open_source(config.data, split=config.test_split, max_samples=config.max_samples)
    report = {
        **provenance(("jax", "jaxlib", "flax")),
        "devices_used": jax.local_device_count(),
        "config": dataclasses.asdict(config),
        "masks": {},
    }

    def save():
        write_json(options.json, report)

    curves = {}
    for mask in options.masks.split(","):
        masked = dataclasses.replace(config, trainable=mask)
        report["masks"][mask] = entry = {"rates": {}}
        curves[mask] = measure(masked, backbone, source, workdir, entry, save)
        report["uncut"] = curves[mask][0].uncompressed_top1
        if "unit" in curves and mask != "unit":
            entry["against_unit"] = compare(curves["unit"], curves[mask])
        save()
    for mask, entry in costs(config, backbone, report["masks"]).items():
        report["masks"][mask] |= entry
    save()
    return report


def measure(config, backbone, source, workdir, entry, save):
    """Trains one mask; (curve, images) of its rates through real bytes, also in its folder."""
    import numpy as np
    from retraining_figures import sizes

    from jaxsplit import data
    from jaxsplit.evaluation import evaluate
    from jaxsplit.evaluation.curve import Curve
    from jaxsplit.evaluation.per_image import FILE, PerImage
    from jaxsplit.train.curve import train_networks

    pairs = train_networks(config, backbone, workdir, progress(config.trainable), say)
    images, labels = data.load_arrays(source, backbone.preprocessing)
    uncut = evaluate.predictor(backbone)(images).argmax(-1)
    points, seen = [], []
    for family, network in pairs:
        curve, one = evaluate.evaluate_images(family, network, source)
        # What an own network says without the unit is not what the frozen one says.
        metrics = dict(curve.points[0].metrics)
        metrics.pop("agreement")
        points.append(dataclasses.replace(curve.points[0], metrics=metrics))
        seen.append(one)
        point = {key: getattr(points[-1], key) for key in POINT}
        rate = family.rates[0]
        entry["rates"][rate.rate_id] = point | sizes(config, rate, network)
        say(f"{config.trainable} {rate.rate_id}: {point}")
        save()
    curve = Curve({"top1": (uncut == labels).mean()}, len(labels), tuple(points))
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


def say(text):
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def progress(mask):
    """Says every hundred steps how the rates fare."""

    def tell(done, total, metrics):
        if done % 100 == 0 or done == total:
            shown = {name: value.round(4).tolist() for name, value in metrics.items()}
            say(f"{mask} {done}/{total} {shown}")

    return tell


def table(report):
    """The report as Markdown, as in the README beside this script."""
    lines = [
        "| trained | rate | bytes | top-1 % (interval) | at equal bytes | a rate's training, s "
        "| TFLOP | stored, kB | device loads | server loads |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    distances = []
    for mask, entry in report["masks"].items():
        against = entry.get("against_unit", {})
        for name, rate in entry["rates"].items():
            low, high = rate["top1_interval"]
            gain = against.get("at_equal_bytes", {}).get(name)
            cells = [
                MASKS[mask],
                name,
                f"{rate['bytes_per_image']:.1f}",
                f"{100 * rate['top1']:.2f} ({100 * low:.2f}–{100 * high:.2f})",
                "" if mask == "unit" else "n/a" if gain is None else f"{gain:+.2f}",
                f"{entry['seconds']:.0f}",
                f"{entry['flops'] / 1e12:.2f}",
                *(f"{rate[f'{kind}_bytes'] / 1000:.1f}" for kind in KINDS),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        if "bd_rate" in against:
            (low, high), (first, last) = against["bd_rate_interval"], against["bytes"]
            distances.append(
                f"\n{MASKS[mask]} against unit alone: {against['bd_accuracy']:+.2f} points from "
                f"{first:.1f} to {last:.1f} bytes; BD-rate {against['bd_rate']:+.1f} % "
                f"({low:+.1f} to {high:+.1f})"
            )
    return "\n".join([*lines, *distances, f"\nunsplit network: {100 * report['uncut']:.2f} %"])


if __name__ == "__main__":
    main()
