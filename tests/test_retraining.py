"""The measurement of the paper's claim, on few images: its figures must fit each other."""

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
