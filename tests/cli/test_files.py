"""Files at the command line: kinds, partial failures, names of outputs."""

import contextlib
import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxsplit import bitstream, cli
from jaxsplit.cli.files import hint
from jaxsplit.evaluation.card import measured_curve
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.train.metrics import MetricsWriter

FAMILY = "resnet8_small-fashion_mnist/stage1.block1"


@pytest.fixture(scope="module", autouse=True)
def _warnings_as_a_user_has_them():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "warnoptions", [])
        yield


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A current folder with two images and a text."""
    monkeypatch.chdir(tmp_path)
    for name, grey in (("a.png", 40), ("b.png", 200)):
        Image.fromarray(np.full((28, 28), grey, np.uint8)).save(name)
    (tmp_path / "bad.png").write_text("no image")
    return tmp_path


@pytest.fixture(scope="module")
def family():
    return load_pretrained(FAMILY)


def run(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(word) for word in words])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue().splitlines())


def refused(*words):
    done = run(*words)
    assert (done.code, done.out, len(done.err)) == (2, "", 1), done.err
    return done.err[0]


def test_encode_and_decode_go_on_after_what_is_bad(desk):
    words = ("--family", FAMILY)
    done = run("encode", "a.png", "bad.png", "b.png", *words, "--rate", "r1", "-o", "x.jspl")
    assert done.code == 1
    assert "bad.png" in done.err[0]
    assert done.err[1:] == ["jaxsplit: 1 of 3 images failed and are not in x.jspl"]
    header, frames = bitstream.read_container((desk / "x.jspl").read_bytes())
    assert len(frames) == 2
    # A whole file whose second frame no range coder wrote.
    wrong = [frames[0], bitstream.Frame(0, b"\xff" * 90), frames[0]]
    (desk / "y.jspl").write_bytes(bitstream.write_container(header, wrong))
    done = run("decode", "y.jspl", *words)
    assert done.code == 1
    assert [line.split()[:2] for line in done.out.splitlines()] == [["image", "0"], ["image", "2"]]
    assert done.err[0].startswith("jaxsplit: y.jspl: image 1: ")
    assert done.err[1:] == ["jaxsplit: 1 failed, 2 images decoded"]
    # Several files are named, and one that is none doesn't end the others.
    done = run("decode", "x.jspl", "a.png", *words, "--json")
    assert [one["file"] for one in json.loads(done.out)] == ["x.jspl", "x.jspl"]
    assert (done.code, "it is an image: jaxsplit encode a.png" in done.err[0]) == (1, True)


def test_a_budget_that_no_image_keeps_writes_nothing_and_names_its_option(desk):
    words = ("--family", FAMILY, "--max-bytes", 3, "-o", "x.jspl")
    assert "more than --max-bytes 3: raise it" in refused("encode", "a.png", *words)
    done = run("encode", "a.png", "b.png", *words)
    assert (done.code, len(done.err)) == (2, 3)
    assert not (desk / "x.jspl").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("encode", "a.png", "--family", "x", "--rate", "r1", "-o", "w.png"), "such as w.jspl"),
        (("plan", "resnet8_small", "--plot", "plan.pdf"), "--plot plan.pdf: the name must end in"),
        (("info", "a.png"), "jaxsplit encode a.png --family NAME --rate ID -o a.jspl"),
        (("info", "report.html"), "it is a report: open it in a browser"),
        (("info", "own.py"), "jaxsplit train --config own.py --workdir DIR"),
        (("info", "notes.txt"), "notes.txt is nothing that info describes"),
        (("info", "net.pth"), "net.pth"),
        (("compare", "report.html", "a.png"), "report.html is no curve; it is a report"),
        (("encode", "no.png", "--family", "x", "--rate", "r1", "-o", "x.jspl"), "no such file"),
    ],
)
def test_a_file_of_another_kind_is_named_with_its_command(desk, words, said):
    for name in ("report.html", "own.py", "notes.txt", "net.pth"):
        (desk / name).write_text("text")
    assert said in refused(*words)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "images.npz", "design.json", "t.jspl"])
def test_a_hint_fits_its_file(desk, name):
    assert hint(desk / name) == ""
    (desk / name).touch()
    assert hint(desk / name).startswith("; it is ")
    assert hint(desk / "a.png", ".png") == ""


def test_a_trainings_folder_is_taken_as_its_family_and_its_curve_is_shown(desk, family):
    family.save(desk / "run" / "family")
    curve = measured_curve(family, "x")
    curve.write(desk / "run" / "curve.json")
    done = run("info", "run")
    assert (done.code, family.fingerprint in done.out, "terms: http" in done.out) == (0, True, True)
    assert all(len(line) < 110 for line in done.out.splitlines()[-7:])
    assert load_pretrained("run").fingerprint == family.fingerprint
    assert run("info", "run/family/family.json").out.endswith(done.out.partition("\n")[2])
    done = run("info", "run/curve.json")
    assert "| r3 " in done.out
    assert json.loads(run("info", "run/curve.json", "--json").out) == json.loads(curve.to_json())


def test_compare_takes_families_by_their_cards(desk, family):
    done = run("compare", "efficientnet_lite0/stage4.block3", "efficientnet_lite0/stage6.block1")
    assert (done.code, "BD-rate " in done.out) == (0, True)
    assert "of embedded, the other of " in refused(
        "compare", FAMILY, "efficientnet_lite0/stage6.block1"
    )
    family.with_rates(family.rates).save(desk / "bare")
    assert "bare carries no figures: measure" in refused("compare", FAMILY, "bare")


def test_points_of_a_curve_are_no_tuples(desk, family):
    family.select("r1").save(desk / "one")
    line = refused("compare", "one", "one")
    assert "0.883 at 18.06" in line
    assert "[(" not in line


def test_pack_follows_no_link_to_rates(desk, family):
    family.save(desk / "packed")
    (desk / "packed" / "rates").rename(desk / "elsewhere")
    (desk / "packed" / "rates").symlink_to(desk / "elsewhere", target_is_directory=True)
    before = sorted((desk / "elsewhere").iterdir())
    line = refused("pack", "--family", FAMILY, "-o", "packed")
    assert "its rates folder is a link" in line
    assert sorted((desk / "elsewhere").iterdir()) == before


def test_another_training_in_a_workdir_is_a_line_of_the_command_line(desk, monkeypatch):
    def describe(name):
        for key in ("one", "two"):
            with MetricsWriter(desk / "w", ("r1",), key) as writer:
                writer.begin(0)
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxsplit.cli.info.describe", describe)
    line, _ = run("info").err
    assert line.startswith(f"jaxsplit: warning: {desk / 'w'} was last of a training with other")


def test_messages_for_the_shell_name_options(desk, family):
    words = ("encode", "a.png", "-o", "x.jspl", "--family")
    for request, said in (
        (("--max-bytes", 0), "--max-bytes is 0"),
        (("--quality", 2), "--quality"),
    ):
        assert said in refused(*words, FAMILY, *request)
    family.with_rates(family.rates).save(desk / "bare")
    assert "name a rate with --rate, or" in refused(*words, "bare", "--max-bytes", 60)
    assert "for --backbone" in refused(*words, "fashion_mnist_resnet8", "--rate", "r1")
    speeds = ("--device-gmacs", 0, "--server-gmacs", 1, "--bandwidth-mbps", 1)
    assert "--device-gmacs 0, --server-gmacs 1" in refused("plan", "resnet8_small", *speeds)
