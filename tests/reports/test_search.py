"""Results of a search, as a table and as a picture."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxsplit.reports.search import plot_design, render
from jaxsplit.search import Candidate, Design
from jaxsplit.search.pareto import Result, choose, front
from jaxsplit.units.bottleneck import BottleneckSpec


@pytest.fixture(scope="module")
def design():
    """Sixty results of three cuts; more bytes and later cuts are better on the whole."""
    rng = np.random.default_rng(0)
    results = []
    for i in range(60):
        depth, size = i % 3, float(np.exp(rng.uniform(1, 5)))
        top1 = 0.93 - 0.3 / (1 + size * (1 + depth) / 8) - 0.05 * rng.random()
        unit = BottleneckSpec((4, 8)[i % 2], 2)
        one = Candidate(f"stage{depth + 1}.block1", unit, 1e-3 / size, 3_000_000 * (depth + 1))
        results.append(Result(one, 100, size, top1, 1000))
    return Design(tuple(results), tuple(front(results)), 0.2, 0.935, 9_200_000, 1000, 14.2)


def test_the_table_is_the_front(design):
    text = render(design, design.front[:2])
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 110
    rows = [line.split("|")[1:] for line in text.splitlines() if line.startswith("| stage")]
    assert len(rows) == len(design.front)
    for row, result in zip(rows, design.front, strict=True):
        cells = [cell.strip() for cell in row]
        assert cells[0].removesuffix(" *") == result.candidate.cut
        assert cells[3:5] == [f"{result.bytes_per_image:.1f}", f"{100 * result.quality:.2f}"]
    assert [row[0].strip().endswith("*") for row in rows] == [True] * 2 + [False] * (len(rows) - 2)


def test_the_table_says_where_everything_loses_too_much(design):
    def said(most_drop):
        return " ".join(render(dataclasses.replace(design, most_drop=most_drop)).split())

    assert "Results that lose more than 20 percentage points of top-1 are left out." in said(0.2)
    assert "All results lose more than 0.1 percentage points of top-1" in said(0.001)


def test_the_picture_is_reproducible(design, tmp_path):
    for name in ("one", "again"):
        plot_design(tmp_path / f"{name}.png", design, choose(design.front, 8))
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (1200, 800)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_all_of_it_is_json(design):
    values = json.loads(json.dumps(design.to_dict()))
    assert len(values["results"]) == 60
    assert [one["bytes_per_image"] for one in values["front"]] == [
        result.bytes_per_image for result in design.front
    ]
    for one in values["front"]:
        assert {"cut", "channels", "stride", "lambda", "device_macs", "top1", "steps"} <= set(one)
