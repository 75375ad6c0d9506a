"""The measurement of the paper's claim, on few images: its figures must fit each other."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxsplit import load_backbone
from jaxsplit.cost import split_cost
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.per_image import FILE, PerImage
from jaxsplit.split import make_split
from jaxsplit.units.bottleneck import BottleneckSpec

SCRIPT = Path(__file__).parent / "benchmarks" / "retraining.py"
MASKS = ("unit", "tail", "all")
KINDS = ("stored", "device_switch", "server_switch")


pytestmark = pytest.mark.usefixtures("hasty")


def test_the_readme_has_the_recorded_table(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as for a script
    spec = importlib.util.spec_from_file_location("retraining", SCRIPT)
    retraining = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(retraining)
    record = SCRIPT.parent / "results" / "retraining-fashion_mnist-cpu.json"
    report = json.loads(record.read_text())
    readme = (SCRIPT.parents[2] / "README.md").read_text()
    table, *_ = retraining.table(report).split("\n\n")
    assert len(table.splitlines()) == 2 + len(MASKS) * 4
    assert f"{table}\n" in readme
    text = " ".join(readme.split())
    assert f"the uncut network reaches {100 * report['uncut']:.2f} %" in text
    for mask, said in (("tail", "{} with the tail retrained"), ("all", "{} with everything")):
        against = report["masks"][mask]["against_unit"]
        low, high = against["bd_rate_interval"]
        assert said.format(f"{against['bd_rate']:+.1f} % ({low:+.1f} to {high:+.1f})") in text
    unit, *others = (report["masks"][mask] for mask in ("unit", "tail", "all"))
    times = [
        [f"{other[what] / unit[what]:.1f}" for other in others] for what in ("flops", "seconds")
    ]
    assert (
        "{} and {} times the operations and {} and {} times the seconds".format(
            *times[0], *times[1]
        )
        in text
    )
    stored = [
        sum(rate["stored_bytes"] for rate in one["rates"].values()) for one in (unit, *others)
    ]
    assert (
        "{:.0f} and {:.0f} times the storage".format(*(one / stored[0] for one in stored[1:]))
        in text
    )
    pairs = [
        (other["rates"][rate], unit["rates"][rate]) for other in others for rate in ("r1", "r2")
    ]
    fewer = [
        100 * (1 - one["bytes_per_image"] / beside["bytes_per_image"]) for one, beside in pairs
    ]
    assert f"take {min(fewer):.0f} to {max(fewer):.0f} % fewer" in text
    gains = [100 * (one["top1"] - beside["top1"]) for one, beside in pairs]
    assert f"from {-min(gains):.1f} points below to {max(gains):.1f} above" in text


@pytest.mark.slow
def test_the_table_of_three_trainings(tmp_path):
    report = tmp_path / "report.json"
    options = ["--smoke", "--rates", "r1,r4", "--workdir", tmp_path, "--json", report]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, options)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(report.read_text())
    masks = said["masks"]
    assert tuple(masks) == MASKS
    assert len(re.findall(r"^\| .* \| r[14] \|", done.stdout, re.MULTILINE)) == 6
    assert f"{100 * said['uncut']:.2f} %" in done.stdout

    flops = [masks[mask]["flops"] for mask in MASKS]
    assert flops == sorted(set(flops))
    assert all(masks[mask]["seconds"] > 0 for mask in MASKS)
    # The phase that needs no tail is cheap unless a head learns.
    phases = {mask: [phase["flops"] for phase in masks[mask]["phases"]] for mask in MASKS}
    assert phases["tail"][0] < phases["tail"][1] / 4
    assert phases["all"][0] > phases["all"][1] / 4

    backbone = load_backbone("fashion_mnist_resnet8")
    cost = split_cost(make_split(backbone, "stage1.block1", BottleneckSpec(12, 4, 4, 0)), backbone)
    for rate_id in ("r1", "r4"):
        unit, tail, whole = (masks[mask]["rates"][rate_id] for mask in MASKS)
        # Of the arrays only the tables differ in size.
        bare = [
            [one[f"{kind}_bytes"] - one["tables_bytes"] for kind in KINDS]
            for one in (unit, tail, whole)
        ]
        head, behind = 4 * cost.head_params, 4 * cost.tail_params
        stored, device, server = bare[0]
        assert bare[1] == [stored + behind, device, server + behind]
        assert bare[2] == [stored + head + behind, device + head, server + behind]
        assert 0 < device + server < stored

    for mask in MASKS:  # what `jaxsplit compare` reads
        curve = Curve.read(tmp_path / mask / "curve.json")
        assert PerImage.read(tmp_path / mask / FILE).belongs_to(curve)
        for point in curve.points:
            rate = masks[mask]["rates"][point.rate_id]
            assert (point.bytes_per_image, point.top1) == (rate["bytes_per_image"], rate["top1"])
