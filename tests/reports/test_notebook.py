"""Reprs are a line or a small table; a notebook draws a curve."""

import dataclasses
import re

import pytest
from points import make_curve
from reports.test_curve_html import CURVE, Page

from jaxsplit import _notebook
from jaxsplit.codec import Receiver, Sender
from jaxsplit.cost import make_plan
from jaxsplit.tasks import Classification
from jaxsplit.units import BottleneckSpec

MEASURED = {"bytes_per_image": 12.34, "top1": 0.5, "uncompressed_top1": 0.75}


@pytest.fixture(scope="module")
def family(tiny_family):
    first = dataclasses.replace(tiny_family.rates[0], measured=MEASURED)
    return dataclasses.replace(tiny_family, rates=(first, *tiny_family.rates[1:]))


def test_a_prompt_shows_a_line(tiny_backbone, family):
    rate, plan = family.rates[0], make_plan(tiny_backbone.network, (12, 12, 1))
    sender, receiver = (kind(family, tiny_backbone, batch_size=16) for kind in (Sender, Receiver))
    split = family.split(tiny_backbone, "mid")
    values = [tiny_backbone, tiny_backbone.network, rate, rate.spec, rate.tables, split, sender]
    values += [receiver, *plan.cuts, *CURVE.points, *CURVE.baselines["jpeg"]]
    for value in values:
        assert len(repr(value)) < 200
        assert "\n" not in repr(value)
        assert repr(value).startswith(f"{type(value).__name__}(")
    assert repr(sender).endswith("high, mid, low; batch_size=16)")
    assert (
        repr(BottleneckSpec(3, stride=4, kernel=4))
        == "BottleneckSpec(channels=3, stride=4, kernel=4)"
    )
    thousand = repr(Classification(tuple(map(str, range(1000)))))
    assert thousand == "Classification(1000 classes: 0, 1, …)"


def test_a_prompt_shows_the_rates_of_a_family_and_a_curve(family, tiny_family):
    assert repr(family).splitlines() == [
        "RateFamily('resnet8_small', 'stage2.block1', 12×12×1 images, 3 rates)",
        "  rate  lambda  bytes/image    top1",
        "  high   3e-05         12.3  0.5000",
        "  mid   0.0003",
        "  low    0.002",
    ]
    assert repr(tiny_family).splitlines()[1] == "  rate  lambda"  # not measured
    assert repr(CURVE).splitlines() == [
        "Curve(2 rates, jpeg, avif, 2000 images, unsplit top-1 93.65 %)",
        "  rate  lambda  bytes/image  top-1 %",
        "  r1     0.001         20.8    88.30",
        "  r2    0.0001         94.5    92.75",
    ]
    many = make_curve(
        0.5, 9, [dataclasses.replace(CURVE.points[0], rate_id=f"{i}") for i in range(99)]
    )
    assert repr(many).splitlines()[-1] == "  … 75 more"


def test_a_notebook_shows_tables_and_the_plot(family):
    table = Page(family._repr_html_())
    assert table.rows[0] == ["rate", "lambda", "bytes/image", "top1"]
    assert table.rows[1] == ["high", "3e-05", "12.3", "0.5000"]
    shown = CURVE._repr_html_()
    page = Page(shown)
    assert page.rows[1:] == [["r1", "0.001", "20.8", "88.30"], ["r2", "0.0001", "94.5", "92.75"]]
    assert [name for name, _ in page.tags].count("svg") == 1
    # Each colour of the plot has its value beside it: a notebook has no style of the page.
    used = set(re.findall(r"var\(--(\w+)\)", shown))
    assert {"rates", "jpeg", "avif"} <= used <= set(re.findall(r"--(\w+):", shown))
    nothing = dataclasses.replace(CURVE, points=())
    assert "<svg" not in nothing._repr_html_()


def test_the_html_of_others_is_left_to_the_notebook():
    class Own(_notebook.Shown):
        pass

    assert Own()._repr_html_() is None
