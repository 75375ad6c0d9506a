"""A plan's tables and picture: what they show, and that they are the same every time."""

import pytest
from PIL import Image

from jaxsplit import networks
from jaxsplit.cost import Link, make_plan
from jaxsplit.cost.link import compare_latencies, option
from jaxsplit.reports import plan as report


@pytest.fixture(scope="module")
def plan():
    module = networks.create("resnet8_small", 10)
    return make_plan(module, (28, 28, 1), channels=(4, 16), strides=(2, 8), name="res$et")


@pytest.fixture(scope="module")
def comparison(plan):
    link, cut = Link(0.5, 50, 1, 10), plan["stage1.block1"]
    trained = option(link, cut, cut.units[0], 61.0, "family [r1]", 0.9205)
    return compare_latencies(plan, link, 196, 2.0, 784, [trained])


def rows(text, title):
    """Cells of the table below a title, without its head and without lines."""
    lines = text[text.index(title) :].splitlines()[1:]
    lines = lines[: next(i for i, line in enumerate(lines) if line and line[0] not in "|+")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return [row for row in cells if row[0]]


def test_the_tables_have_every_cut_and_fit_a_terminal(plan, comparison):
    text = report.render(plan, comparison, 196)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 110
    names = [cut.cut for cut in plan.cuts]
    for title in ("Cuts of res$et", "A unit for every cut", "Latency of an image"):
        found = [row[0] for row in rows(text, title) if row[0] != "cut"]
        assert found[: len(names)] == names
    times = {row[0]: row for row in rows(text, "Latency of an image")}
    assert {"all on the device", "image sent"} <= set(times)
    assert times["image sent"][3] == "784"
    (trained,) = (row for row in rows(text, "Trained rates") if "r1" in row[0])
    assert trained[:3] == ["family [r1]", "stage1.block1", "92.05"]
    assert trained[5] == "61"
    assert f"fastest cut: {comparison.best_cut.cut}" in text
    for absent in ("Latency of an image", "fastest cut", "Trained rates"):
        assert absent not in report.render(plan)


def test_all_units_of_a_cut_are_shown(plan, comparison):
    cut = plan["stage1.block1"]
    found = rows(report.render_units(cut, comparison) + "\nend", "Units at stage1.block1")
    assert [row[0] for row in found if "," in row[0] and row[0] != "C, s"] == [
        f"{unit.spec.channels}, {unit.spec.stride}" for unit in cut.units
    ]
    assert max(map(len, report.render_units(cut).splitlines())) <= 110


def test_the_picture_is_reproducible_and_shows_the_link(plan, comparison, tmp_path):
    for name, timed in (("one", comparison), ("again", comparison), ("plain", None)):
        report.plot_plan(tmp_path / f"{name}.png", plan, timed, 196)
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (1200, 800)
    one, again, plain = ((tmp_path / f"{n}.png").read_bytes() for n in ("one", "again", "plain"))
    assert one == again
    assert one != plain
    assert not list(tmp_path.glob("*.partial"))
