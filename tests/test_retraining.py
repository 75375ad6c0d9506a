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
from jaxsplit.errors import ConfigError
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.per_image import FILE, PerImage
from jaxsplit.split import make_split
from jaxsplit.units.bottleneck import BottleneckSpec

SCRIPT = Path(__file__).parent / "benchmarks" / "retraining.py"
MASKS = ("unit", "tail", "all")
KINDS = ("stored", "device_switch", "server_switch")


CURVE = [(30.0, 0.80), (55.0, 0.87), (90.0, 0.90), (160.0, 0.915)]


@pytest.fixture(scope="module")
def figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        import retraining_figures

        return retraining_figures


def test_a_curve_goes_through_its_points_and_ends_with_them(figures):
    dominated = [(60.0, 0.85), (90.0, 0.89), *CURVE]  # no better than points of fewer bytes
    for rate, quality in CURVE:
        assert figures.quality_at(dominated, rate) == pytest.approx(quality)
    assert figures.quality_at(CURVE, 29.9) is None
    assert figures.quality_at(CURVE, 160.1) is None
    with pytest.raises(ConfigError, match="at least 2 points"):
        figures.quality_at([(30.0, 0.8), (40.0, 0.7)], 30.0)


def test_between_its_points_a_curve_is_smooth_over_logarithms(figures):
    before, at, after = (figures.quality_at(CURVE, rate) for rate in (69.9, 70.0, 70.1))
    assert 0.87 < before < at < after < 0.90
    assert before + after == pytest.approx(2 * at, abs=1e-5)
    # Through two points it is the line over the logarithm.
    assert figures.quality_at([(10, 0.5), (1000, 0.7)], 100) == pytest.approx(0.6)


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
