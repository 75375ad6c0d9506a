"""`jaxsplit plan` on the command line: what it takes, prints, writes and refuses."""

import contextlib
import io
import json
import re

import pytest
from PIL import Image

from jaxsplit import networks
from jaxsplit.cli import main
from jaxsplit.family.pretrained import load_pretrained

FAMILY = "resnet8_small-fashion_mnist/stage1.block1"
LINK = ("--device-gmacs", "0.1", "--server-gmacs", "50", "--bandwidth-mbps", "0.1")


def plan(*arguments, code=0):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["plan", *map(str, arguments)]) == code, err.getvalue()
    return err.getvalue() if code else out.getvalue()


def test_a_name_alone_is_enough():
    values = json.loads(plan("resnet8_small", "--channels", "4", "--strides", "2", "--json"))
    assert values["input_shape"] == [32, 32, 3]
    shapes = networks.cuts("resnet8_small", (32, 32, 3))
    assert [(cut["cut"], tuple(cut["feature_shape"])) for cut in values["cuts"]] == [
        *shapes.items()
    ]
    assert {unit["channels"] for cut in values["cuts"] for unit in cut["units"]} == {4}
    wider = ("resnet8_small", "--input", "20", "40", "--classes", "7", "--json")
    wide = json.loads(plan(*wider, "--channels", "4", "--strides", "2"))
    assert wide["cuts"][0]["feature_shape"] == [20, 40, 16]
    assert values["params"] - wide["params"] == 3 * (64 + 1)


def test_trained_rates_stand_beside_the_units(tmp_path):
    """With weights or by the network's name: the images are those of the family."""
    for name in ("fashion_mnist_resnet8", "resnet8_small"):
        arguments = (name, "--channels", "4,12", "--strides", "4", *LINK, "--family", FAMILY)
        values = json.loads(plan(*arguments, "--json"))
        assert values["input_shape"] == [28, 28, 1]
        rates = values["link"]["families"]
        for rate, planned in zip(load_pretrained(FAMILY).rates, rates, strict=True):
            assert planned["sent_bytes"] == rate.measured["bytes_per_image"]
            assert planned["top1"] == rate.measured["top1"]
            assert planned["cut"] == "stage1.block1"
            assert planned["name"].endswith(rate.rate_id)
        totals = [rate["total_ms"] for rate in rates]
        assert totals == sorted(totals)  # the lowest rate first
    text = plan(*arguments, "--cut", "stem", "--plot", tmp_path / "plan.png")
    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.size == (1200, 800)
    for words in ("Trained rates", "Units at stem", "fastest cut: ", "plan.png"):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet9"], "no network called 'resnet9': give one of resnet8_small, "),
        (["resnet8_small", "--device-gmacs", "1"], "a link also needs --server-gmacs"),
        (["resnet8_small", "--rtt-ms", "1"], "--rtt-ms needs a link"),
        (["resnet8_small", *LINK, "--bits-per-symbol", "0"], "expected more than 0"),
        (["resnet8_small", *LINK, "--bits-per-symbol", "inf"], "less than infinity"),
        (["resnet8_small", *LINK, "--image-bytes", "inf"], "less than infinity"),
        (["resnet8_small", *LINK, "--image-bytes", "nan"], "expected more than 0"),
        (
            ["resnet8_small", "--classes", "0"],
            "--classes: '0'; expected a whole number",
        ),
        (
            ["resnet8_small", "--classes", "-3"],
            "--classes: '-3'; expected a whole number",
        ),
        (["resnet8_small", *LINK[:5], "-1"], "more than 0"),
        (["resnet8_small", "--cut", "stage7"], "no cut 'stage7'; it has stem"),
        (["resnet8_small", "--channels", "4;8"], "expected a whole number"),
        (["resnet8_small", "--strides", "65"], "at most 64"),
        (["resnet8_small", "--input", "0", "9"], "expected a whole number of at least 1"),
        (["resnet8_small", "--symbols", "0"], "expected a whole number of at least 1"),
        (["resnet20_small", *LINK, "--family", FAMILY], "is of resnet8_small"),
        (["resnet8_small", *LINK, "--input", "9", "9", "--family", FAMILY], "leave out --input"),
        (["fashion_mnist_resnet8", "--classes", "4"], "have their own"),
        (["resnet8_small", "--plot", "/nowhere/plan.png"], "cannot write /nowhere/plan.png"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, words):
    said = plan(*arguments, code=2)
    assert re.fullmatch(r"jaxsplit: \S.*\n", said)
    assert words in said
