"""Compares the figures in the documentation with the records that they come from.

    python .ci/check_figures.py     # prints one line for each wrong figure

A check yields (document, text) for what a document must say, as the record has it. Line breaks
in sentences do not count.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import shlex
import statistics
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from check_docs import ROOT, blocks, read

from jaxsplit import data, networks
from jaxsplit.cost import make_plan
from jaxsplit.evaluation import bd_rate, image_codecs
from jaxsplit.evaluation.compare import MeasuredCurve, compare_curves
from jaxsplit.evaluation.curve import Curve
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.weights.load import abstract_backbone

RESULTS = ROOT / "tests" / "benchmarks" / "results"
RESULTS_README = "tests/benchmarks/README.md"
CUTS = ("early", "middle", "late")
Claim = tuple[str, str]


def record(name: str) -> Any:
    """The record of a measurement."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def curve(name: str) -> Curve:
    """A measured curve of the repository."""
    return Curve.read(RESULTS / "curves" / name / "curve.json")


@functools.cache
def distance(reference: str, test: str, **options: Any) -> SimpleNamespace:
    """BD-rate of one measured curve against another, and its interval, as text too."""
    sides = (MeasuredCurve.open(RESULTS / "curves" / side) for side in (reference, test))
    found = compare_curves(*sides, **options)
    low, high = found.interval.low, found.interval.high
    text = f"{found.bd_rate_percent:+.1f} % ({low:+.1f} to {high:+.1f})"
    return SimpleNamespace(percent=found.bd_rate_percent, high=high, text=text)


def row(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def embedded() -> Iterator[Claim]:
    """Numbers of images and the accuracy of the embedded network."""
    sizes = [len(data.open_source("embedded", split)) for split in ("train", "test")]
    top1 = networks.open_embedded("fashion_mnist_resnet8").card["top1"]
    yield "README.md", f"{sum(sizes):,} images"
    yield "README.md", f"all {sizes[1]:,} test images"
    yield RESULTS_README, f"({100 * top1:.2f} % top-1 on all 10,000 test images"


def quickstart() -> Iterator[Claim]:
    """The short table of the README is of the long one."""
    long = re.findall(r"^\| (r\d .*) \|$", read(RESULTS_README), re.MULTILINE)[:5]
    for line in long:
        rate, _, size, _, _, _, top1, _, jpeg, webp = [cell.split()[0] for cell in line.split("|")]
        yield "README.md", row(rate, size, top1, jpeg, webp)


def shipped_family() -> Iterator[Claim]:
    """Bytes, accuracy and drop of every rate, as measured when the family was saved."""
    table = read(RESULTS_README).partition("## The shipped family")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| r\d .*$", table, re.MULTILINE)
    ]
    printed = [(cells[0], cells[1], cells[2], *cells[6:8]) for cells in rows]
    rates = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").rates
    unsplit = 100 * rates[0].measured["uncompressed_top1"]
    yield "README.md", f"whose top-1 is {unsplit:.2f} % on the 2,000 test images"
    for rate in rates:
        top1, unsplit = (100 * rate.measured[key] for key in ("top1", "uncompressed_top1"))
        size = f"{rate.measured['bytes_per_image']:.1f}"
        cells = rate.rate_id, f"{rate.lmbda:g}", size, f"{top1:.2f}", f"{unsplit - top1:.2f}"
        if cells not in printed:
            yield RESULTS_README, f"the shipped family: {' '.join(cells)}"


def plan_times() -> Iterator[Claim]:
    """Recorded MACs are those counted today; the correlations are those of the record."""
    found = {one["network"]: one for one in record("plan-times-cpu")}
    for name, one in found.items():
        network = abstract_backbone(name)
        shape = network.preprocessing.input_shape
        plan = make_plan(network.module, shape, network.variables, channels=(4,), strides=(2,))
        heads = [cut.device_macs for cut in plan.cuts]
        if one["macs"] != np.diff([0, *heads, plan.macs]).tolist():
            yield "plan-times-cpu.json", f"{name} has other MACs today"
        if f"{one['over_cuts']:.2f}" != "1.00":
            yield "plan-times-cpu.json", f"{name} has a rank correlation of 1.00 over the cuts"
    one, other = (found[name]["over_parts"] for name in ("resnet50", "mobilenet_v2"))
    yield RESULTS_README, "rank correlation 1.00 for ResNet-50 and MobileNetV2"
    yield (
        RESULTS_README,
        f"the parts between neighbouring cuts it is only {one:.2f} and {other:.2f}",
    )


def training_times() -> Iterator[Claim]:
    """The table of the time of a step."""
    cuts = record("training-cpu")["cuts"]
    three = [cuts[name] for name in ("S1", "S2", "S3")]
    seconds = [cut["seconds_per_step"] for cut in three]
    yield RESULTS_README, "| a step of one rate, ms | S1 | S2 | S3 |"
    for title, cells in (
        (
            "PyTorch, the head run again in every step",
            [f"{1e3 * one['torch, head recomputed']:.0f}" for one in seconds],
        ),
        ("PyTorch, cached features", [f"{1e3 * one['torch, cached']:.0f}" for one in seconds]),
        (
            "jaxsplit, cached features (`map`; S1 `unroll`)",
            [f"{1e3 * cut['per_rate']:.0f}" for cut in three],
        ),
        (
            "faster than PyTorch with the head / with cached features",
            [
                f"{cut['against_head_recomputed']:.1f}× / {cut['against_cached']:.2f}×"
                for cut in three
            ],
        ),
    ):
        yield RESULTS_README, row(title, *cells)
    if [cut["batching"] for cut in cuts.values()] != ["unroll", "map", "map"]:
        yield "training-cpu.json", "the rates are unrolled at S1 and mapped at S2 and S3"


def switching() -> Iterator[Claim]:
    """The cost of a change of rate."""
    found = record("switching-cpu")
    device, server = found["device"], found["server"]
    chosen, worst = (
        [end["choose"][which] for end in (device, server)] for which in ("median_us", "worst_us")
    )
    turns = f"{found['turns']:,}"
    whole = [end["stays"]["median_us"] / 1e3 for end in (device, server)]
    stays, switches = (
        [end[how]["worst_us"] / 1e3 for end in (device, server)] for how in ("stays", "switches")
    )
    if found["compilations"]:
        yield "switching-cpu.json", "nothing compiles"
    for text in (
        f"takes {chosen[0]:.0f} µs on the device and {chosen[1]:.0f} µs on the server",
        f"worst of {turns}: {worst[0] / 1e3:.2f} ms and {worst[1] / 1e3:.2f} ms",
        f"took {device['extra_us']:.0f} µs (device, of {whole[0]:.1f} ms)",
        f"and {server['extra_us']:.0f} µs (server, of {whole[1]:.1f} ms)",
        f"median of {turns} pairs",
        f"up to {stays[0]:.1f} and {stays[1]:.1f} ms with the same rate",
        f"and {switches[0]:.1f} and {switches[1]:.1f} ms with another rate",
    ):
        yield RESULTS_README, text


def device_half() -> Iterator[Claim]:
    """The exported device half beside the library's sender."""
    found = record("device-stage4.block3-cpu")
    if found["missed"]:
        yield "device-stage4.block3-cpu.json", "all bars met"
    rates, cpu, fresh = found["rates"].values(), found["cpu_milliseconds"], found["fresh_process"]
    different, total = (sum(one[key] for one in rates) for key in ("different", "symbols"))
    yield RESULTS_README, f"{different} of {total / 1e6:.2f} million symbols differ"
    if not any(one["predictions_different"] for one in rates):
        yield RESULTS_README, "no prediction does"
    for name, device, jax in (
        ("uint8 array to frame, ms", cpu["device"], cpu["jax"]),
        ("JPEG file to frame, ms", cpu["device_from_jpeg"], cpu["jax_from_jpeg"]),
    ):
        yield RESULTS_README, row(name, f"{device:.1f}", f"{jax:.1f}")
    for name, key, digits in (
        ("first frame of a fresh process, s", "cpu_seconds", 2),
        ("peak memory of that process, MB", "memory_mb", 0),
    ):
        cells = (f"{fresh[end][key]:.{digits}f}" for end in ("device", "jax"))
        yield RESULTS_README, row(name, *cells)
    yield RESULTS_README, f"onnxruntime alone takes {cpu['onnxruntime']:.1f} ms"


def service() -> Iterator[Claim]:
    """The service: throughput by family, load, faults, the link that changes."""
    found, faults = record("service-cpu"), record("service-faults-cpu")
    run, load = found["throughput"], found["load"]
    yield RESULTS_README, f"{run['ratio']:.2f} of the bare `Receiver`'s images a second"
    yield RESULTS_README, f"{load['submitted']} images: {load['images_per_second']:.0f} a second"
    yield RESULTS_README, f"in {load['p50_ms']:.0f} ms (median) and {load['p99_ms']:.0f} ms (99 %)"
    for one in (load, found["restart"], faults["replicas"]):
        if one["wrong"] or one["counts"]["answered"] != one["submitted"]:
            yield "service records", "every image answered once, and nothing wrong"
    yield RESULTS_README, f"{found['restart']['submitted']} images with 20 drops and a restart"
    yield RESULTS_README, f"{faults['replicas']['submitted']} with a replica killed"
    slowest = max(one["seconds"] for one in faults["refusals"].values())
    yield RESULTS_README, f"refused within {slowest:.1f} s"
    rate = statistics.median(run["service"])
    yield "README.md", f"One core serves {rate:.0f} frames a second"
    yield RESULTS_README, f"a million frames an hour take {math.ceil(1e6 / 3600 / rate)} cores"
    link = record("service-link-cpu")["link"]
    fixed = {key: x["accuracy"] for key, x in link.items() if isinstance(x, dict)}
    ours, best = fixed.pop("by link"), max(fixed.values())
    for document in (RESULTS_README, "README.md"):
        yield document, f"{100 * link['by link']['in_time']:.1f} % of the images were answered"
        yield document, f"{100 * ours:.1f} % correct"
        yield document, f"{100 * best:.1f} %"


def short_frames() -> Iterator[Claim]:
    """Frames that are shorter than the information that they carry."""
    points = curve("paper_recipe-fashion_mnist").points
    least = min(point.bytes_per_image - point.table_bits_per_image / 8 for point in points)
    yield RESULTS_README, f"rate's frames are {-least:.1f} bytes shorter"


def bar(name: str, reference: str, test: str) -> Iterator[Claim]:
    """Ours is ten per cent better beyond chance, with an encoder and a tail that are no larger."""
    found = distance(reference, test, drops=(0.06, 0.005))
    if found.percent > -10 or found.high >= 0:
        yield name, f"a BD-rate of at most -10 %, not {found.text}"
    paper, ours = curve(reference).points, curve(test).points
    if min(len(paper), len(ours)) < 6:
        yield name, "at least six rates on both sides"
    for cost in ("device_macs", "device_params", "server_macs", "server_params"):
        if getattr(ours[0], cost) > getattr(paper[0], cost):
            yield name, f"no more {cost} than the recipe"


def recipe() -> Iterator[Claim]:
    """The comparison with the paper's recipe on small images."""
    for name, title in (("fashion_mnist", "Fashion-MNIST"), ("cifar10", "CIFAR-10")):
        names = f"paper_recipe-{name}", f"resnet20_small-{name}"
        yield from bar(name, *names)
        paper, ours = map(curve, names)
        for points in zip(paper.points, ours.points, strict=True):
            cells = []
            for side, point in zip((paper, ours), points, strict=True):
                drop = 100 * (side.uncompressed_top1 - point.top1)
                cells += [f"{point.lmbda:g}", f"{point.bytes_per_image:.1f}", f"{drop:.2f}"]
            yield RESULTS_README, row(*cells)
        if ours.points[0].device_share > 0.45:
            yield name, "at most 45 % of the MACs on the device"
        charged = [  # by the paper's own priors in place of its table
            (point.bytes_per_image + (point.estimated_bits_per_image - coded) / 8, point.top1)
            for point in paper.points
            if (coded := point.table_bits_per_image)
        ]
        points = [(point.bytes_per_image, point.top1) for point in ours.points]
        limits = paper.uncompressed_top1 - 0.06, paper.uncompressed_top1 - 0.005
        found = bd_rate.bd_rate(charged, points, limits=limits)
        yield RESULTS_README, f"{found:.1f} % on {title}"
    nearer = distance(*names, drops=(0.04, 0.005))
    yield RESULTS_README, f"from 4 pp below the unsplit network it is {nearer.percent:.1f} %"


def imagenet() -> Iterator[Claim]:
    """The table of ImageNet, and how many times fewer bytes the units take than image codecs."""
    codecs = curve("folds-efficientnet_lite0-middle").baselines
    for name, fewer in zip(CUTS, (1, 2, 5), strict=True):
        gains = []
        for point in curve(f"folds-efficientnet_lite0-{name}").points:
            found = [
                (one.bytes_per_image, image_codecs.TITLES[codec])
                for codec, sizes in codecs.items()
                if (one := image_codecs.smallest_reaching(sizes, point.agreement, "agreement"))
            ]
            low, high = (100 * end for end in point.agreement_interval)
            beside = ["none", "n/a"]
            if found:
                size, codec = min(found)
                beside = [f"{size:.0f}, {codec}", f"{size / point.bytes_per_image:.1f}×"]
                if point.agreement >= 0.95:
                    gains.append(size / point.bytes_per_image)
            agreement = f"{100 * point.agreement:.2f} ({low:.1f}–{high:.1f})"
            cells = f"{point.bytes_per_image:.0f}", f"{100 * point.top1:.2f}", agreement
            yield RESULTS_README, row(name, point.rate_id, *cells, *beside)
        if min(gains) < fewer:
            yield name, f"at least {fewer} times fewer bytes than image codecs"
        ends = dict.fromkeys(f"{gain:.1f}" for gain in (min(gains), max(gains)))
        yield RESULTS_README, f"{' to '.join(ends)} times fewer {name}"


def weak_device() -> Iterator[Claim]:
    """The table of EfficientNet-Lite0 on a weak device."""
    for point in curve("efficientnet_lite0-stage3.block1").points:
        low, high = (100 * end for end in point.agreement_interval)
        agreement = f"{100 * point.agreement:.2f} ({low:.1f}–{high:.1f})"
        cells = f"{point.bytes_per_image:.0f}", f"{100 * point.top1:.2f}", agreement
        yield RESULTS_README, row("stage3.block1", point.rate_id, *cells)
    for cut in ("stage6.block1", "stage6.block4"):
        names = [f"imagenette-{kind}-{cut}" for kind in ("light", "pca")]
        for point, shipped in zip(*(curve(name).points for name in names), strict=True):
            cells = [
                number
                for one in (point, shipped)
                for number in (
                    f"{one.bytes_per_image:.0f}",
                    f"{100 * one.top1:.2f}",
                    f"{100 * one.agreement:.2f}",
                )
            ]
            yield RESULTS_README, row(cut, point.rate_id, *cells)
        low_high = distance(*reversed(names), quality="agreement")
        yield RESULTS_README, f"{low_high.percent:.1f} %"


def imagenet_distances() -> Iterator[Claim]:
    """The comparison with the paper's recipe on ImageNet, and the parts of ours."""
    by_agreement = {"quality": "agreement", "drops": (0.3, 0.04)}
    for cut in CUTS:
        ours, paper = f"folds-efficientnet_lite0-{cut}", f"folds-paper_recipe-{cut}"
        yield from bar(cut, paper, ours)
        yield RESULTS_README, f"{cut} {distance(paper, ours, **by_agreement).text}"
        lines = [line for line in read(RESULTS_README).splitlines() if line.startswith(f"| {cut}")]
        for kind, words in (("steps", "training steps"), ("square", "squared error")):
            text = distance(ours, f"folds-{kind}-{cut}", **by_agreement).text
            if not any(words in line and line.endswith(f" {text} |") for line in lines):
                yield RESULTS_README, f"{cut}, {words}: {text}"
        steps = distance(ours, f"folds-steps-{cut}", drops=(0.06, 0.005))
        yield RESULTS_README, f"{cut} {steps.text}"
    if curve("folds-paper_recipe-early").points[0].device_share > 0.45:
        yield "early", "at most 45 % of the MACs on the device"
    names = "folds-paper_recipe-middle-first", "folds-efficientnet_lite0-middle"
    found = distance(*names, drops=(0.06, 0.005))
    yield RESULTS_README, f"the middle is at {found.text}"
    if found.high >= 0:
        yield "middle", "a difference beyond chance also before the recipe's rate moved"


def ablations() -> Iterator[Claim]:
    """The effect of each part, seed by seed, and the options of the commands."""
    shell = [line for block in blocks(read(RESULTS_README), "sh") for line in block.splitlines()]
    for name, seeds in (
        ("resnet20_small-fashion_mnist", [0, 1, 2]),
        ("efficientnet_lite0-early", [1, 2, 3]),
        ("efficientnet_lite0-middle", [1, 2, 3]),
    ):
        found = record(f"ablation-{name}")
        first, *trials = found["trials"]
        if [run["seed"] for run in first["runs"]] != seeds:
            yield f"ablation-{name}.json", f"the seeds are {seeds}"
        lines = [shlex.split(line) for line in shell if f"sweep.py {found['config']} " in line]
        common = [line[line.index("--common") + 1] if "--common" in line else "" for line in lines]
        if found["common"] not in common:
            yield RESULTS_README, f"sweep.py {found['config']} --common {found['common']!r}"
        for trial in trials:
            yield RESULTS_README, row(f"`{trial['trial']}`", *gains(trial))
    trials = record("ablation-resnet20_small-cifar10")["trials"][1:]
    for trial, words in zip(trials, ("rounding in all phases", "with ReLU latents"), strict=True):
        mean, each = gains(trial)
        yield RESULTS_README, f"{words} {mean} ({each})"


def gains(trial: dict[str, Any]) -> tuple[str, str]:
    """The mean BD-rate of a trial, and that of each run."""
    found = [run["bd_rate_percent"] for run in trial["runs"]]
    return f"{sum(found) / len(found):+.1f} %", ", ".join(f"{value:+.1f}" for value in found)


def search() -> Iterator[Claim]:
    """The front of a search."""
    found = record("design-resnet20_small-cifar10")
    yield RESULTS_README, f"took the {found['minutes']:.1f} minutes"
    yield RESULTS_README, f"{len(found['results'])} candidates"
    yield RESULTS_README, f"{len(found['front'])} are on the"
    unsplit, rows = found["uncut"], []
    for one in found["front"]:
        drop, share = unsplit["top1"] - one["top1"], one["device_macs"] / unsplit["macs"]
        unit = one["cut"], f"{one['channels']}, {one['stride']}", f"{one['lambda']:g}"
        size = f"{one['bytes_per_image']:.1f}"
        rows.append(row(*unit, size, f"{100 * drop:.1f}", f"{100 * share:.1f}"))
    if sum(one in read(RESULTS_README) for one in rows) != 8:
        yield RESULTS_README, "eight of the front: " + " ".join(rows)


def grid() -> Iterator[Claim]:
    """The grid that the search is compared with."""
    found = record("design-grid-resnet20_small-cifar10")
    for part, said in (
        (
            "chosen",
            "of the {n} chosen points that can be compared, trained in full, the grid beats ",
        ),
        ("front", "of the {n} on the front as the search left it, "),
        ("grid", "of the {n} units of the grid, of {all}, the chosen points beat "),
    ):
        rows = [one for one in found[part] if one["gap"] is not None]
        beaten = sum(one["beaten"] for one in rows)
        yield RESULTS_README, said.format(n=len(rows), all=len(found[part])) + str(beaten)
    top1 = {one["point"]: one["top1"] for one in found["grid"]}
    both = [
        100 * (top1[one["point"]] - one["top1"]) for one in found["chosen"] if one["point"] in top1
    ]
    count = {5: "five"}.get(len(both), len(both))
    low, high = f"{-min(both):.1f} pp for the worse", f"{max(both):.1f} pp for the better"
    yield RESULTS_README, f"The {count} units that both sides trained differ by {low} to {high}"
    (beaten,) = [one for one in found["chosen"] if one["beaten"]]
    better = 100 * (top1[beaten["point"]] - beaten["top1"])
    yield RESULTS_README, f"by {100 * beaten['gap']:.1f} pp, is also a unit of the grid"
    yield RESULTS_README, f"it is itself {better:.1f} pp better"


def retraining() -> Iterator[Claim]:
    """The effect of retraining the network."""
    sys.path.insert(0, str(RESULTS.parent))
    from retraining import table

    found = record("retraining-fashion_mnist-cpu")
    lines = table(found).partition("\n\n")[0].splitlines()
    if len(lines) != 2 + 3 * 4:
        yield "retraining-fashion_mnist-cpu.json", "three trainings of four rates"
    for line in lines:
        yield RESULTS_README, line
    yield RESULTS_README, f"The unsplit network reaches {100 * found['uncut']:.2f} %"
    unit, *others = (found["masks"][mask] for mask in ("unit", "tail", "all"))
    for one, said in zip(others, ("with the tail retrained", "with everything"), strict=True):
        low, high = one["against_unit"]["bd_rate_interval"]
        percent = one["against_unit"]["bd_rate"]
        yield RESULTS_README, f"{percent:+.1f} % ({low:+.1f} to {high:+.1f}) {said}"
    for what, said in (("flops", "the operations"), ("seconds", "the seconds")):
        times = " and ".join(f"{one[what] / unit[what]:.1f}" for one in others)
        yield RESULTS_README, f"{times} times {said}"
    stored = [
        sum(rate["stored_bytes"] for rate in one["rates"].values()) for one in (unit, *others)
    ]
    times = " and ".join(f"{one / stored[0]:.0f}" for one in stored[1:])
    yield RESULTS_README, f"{times} times the storage"
    pairs = [(one["rates"][rate], unit["rates"][rate]) for one in others for rate in ("r1", "r2")]
    fewer = [100 * (1 - one["bytes_per_image"] / two["bytes_per_image"]) for one, two in pairs]
    more = [100 * (one["top1"] - two["top1"]) for one, two in pairs]
    yield RESULTS_README, f"take {min(fewer):.0f} to {max(fewer):.0f} % fewer"
    yield RESULTS_README, f"from {-min(more):.1f} pp below to {max(more):.1f} pp above"


CHECKS = (
    *(embedded, quickstart, shipped_family, plan_times, training_times, switching, short_frames),
    *(
        device_half,
        service,
        recipe,
        imagenet,
        weak_device,
        imagenet_distances,
        ablations,
        search,
        grid,
    ),
    retraining,
)


def says(document: str, text: str) -> bool:
    """Returns whether a document has the text; other files have none."""
    if not document.endswith(".md"):
        return False
    if text.startswith("|"):
        # A row may have further cells before and after.
        return text in read(document)
    return text in " ".join(read(document).split())


def errors() -> Iterator[str]:
    """Every figure that is not what the record has."""
    for check in CHECKS:
        for document, text in check():
            if not says(document, text):
                yield f"{document}: expected: {text}"


def main() -> int:
    """Checks all figures."""
    found = list(errors())
    print("\n".join(found) or "figures: no errors")
    return bool(found)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
