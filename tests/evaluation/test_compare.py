"""`jaxsplit compare` on files: its figures, what it says where it has none, and its refusals."""

import contextlib
import dataclasses
import functools
import io
import json
import re
import shutil
import sys

import pytest
from evaluation import measured

from jaxsplit import errors
from jaxsplit.cli import main
from jaxsplit.errors import ConfigError
from jaxsplit.evaluation import bd_rate as bd
from jaxsplit.evaluation.bd_rate import bd_accuracy, bd_rate, bd_rate_interval
from jaxsplit.evaluation.compare import MeasuredCurve, compare_curves
from jaxsplit.evaluation.curve import Curve, Origin
from jaxsplit.evaluation.per_image import PerImage
from jaxsplit.evaluation.points import RatePoint
from jaxsplit.reports.curve_html import write_report
from jaxsplit.reports.curve_plot import plot_curve

REFERENCE = measured.draw(400, draw_seed=1)
TEST = measured.draw(400, draw_seed=2, scale=0.8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("measured")
    return measured.write(root / "old", REFERENCE), measured.write(root / "new", TEST)


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["compare", *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def result(*arguments):
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def refusal(*arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"jaxsplit: \S.*\n", err)
    return err


@pytest.fixture
def few_resamples(monkeypatch):
    """The interval of a tenth of the draws, where its limits are not the point."""
    few = functools.partial(bd_rate_interval, resamples=200)
    monkeypatch.setattr(bd, "bd_rate_interval", few)
    return few


def curves(quality="top1"):
    return [
        MeasuredCurve("", measured.curve_of(i), i).rate_quality(quality) for i in (REFERENCE, TEST)
    ]


def test_figures_are_those_of_the_functions(folders):
    found = result(*folders)
    assert found["bd_rate_percent"] == bd_rate(*curves())
    assert found["bd_accuracy_points"] == bd_accuracy(*curves())
    interval = bd_rate_interval(REFERENCE, TEST)
    assert found["interval"] == dataclasses.asdict(interval)
    assert interval.low < found["bd_rate_percent"] < interval.high < 0
    assert (found["quality"], found["method"], found["no_interval"]) == ("top1", "pchip", "")


def test_options_reach_the_functions(folders, few_resamples):
    options = ("--method", "akima", "--from-drop", 20, "--to-drop", 10)
    uncut = measured.curve_of(REFERENCE).uncompressed_top1
    limits = uncut - 0.2, uncut - 0.1
    found = result(*folders, *options)
    assert found["bd_rate_percent"] == pytest.approx(
        bd_rate(*curves(), method="akima", limits=limits), rel=1e-12
    )
    assert found["interval"]["low"] == pytest.approx(
        few_resamples(REFERENCE, TEST, method="akima", drops=(0.2, 0.1)).low, rel=1e-12
    )
    assert (found["overlap"]["low"], found["overlap"]["high"]) == pytest.approx(limits)
    assert found["overlap"]["of_limits"] == pytest.approx(1)

    found = result(*folders, "--quality", "agreement", "--from-drop", 30)
    limits = (0.7, float("inf"))
    assert found["bd_rate_percent"] == bd_rate(*curves("agreement"), limits=limits)
    assert found["bd_rate_percent"] != bd_rate(*curves(), limits=limits)
    assert found["overlap"]["low"] == 0.7


def test_the_table_says_the_same(folders):
    code, out, _ = run(*folders, "--from-drop", 20)
    assert code == 0
    found = result(*folders, "--from-drop", 20)
    first, *lines = out.splitlines()
    # Beside each other: where they lie needs no telling.
    assert first == f"top-1 of {folders[1].name} against {folders[0].name}, pchip"
    assert lines[0].startswith(f"BD-rate      {found['bd_rate_percent']:+.2f} %")
    low, high = found["interval"]["low"], found["interval"]["high"]
    assert f"95 % interval {low:+.2f} to {high:+.2f} %, 2000 resamples of 400 images" in lines[0]
    assert lines[1].startswith(f"BD-accuracy  {found['bd_accuracy_points']:+.2f} pp")
    assert lines[2].startswith("overlap")
    assert f"to {100 * found['overlap']['high']:.2f} %" in lines[2]
    assert len(lines) == 3


@pytest.mark.usefixtures("few_resamples")
def test_a_file_is_as_good_as_its_folder(folders):
    files = [folder / "curve.json" for folder in folders]
    by_file, by_folder = result(*files), result(*folders)
    assert by_file.pop("reference") == str(files[0])
    assert by_file.pop("test") == str(files[1])
    assert by_file.items() <= by_folder.items()


def test_without_images_there_is_no_interval_and_a_line_says_so(folders, tmp_path):
    old = folders[0]
    shutil.copy(folders[1] / "curve.json", tmp_path)
    code, out, _ = run(old, tmp_path)
    assert code == 0
    assert f"no interval: no images.npz in {tmp_path}\n" in out
    assert result(old, tmp_path)["interval"] is None
    other = measured.write(tmp_path / "other", measured.draw(400, seed=1))
    assert "no interval: the two curves have different images" in run(old, other)[1]
    assert "agreement" in refusal(old, tmp_path, "--quality", "agreement")


def test_a_curve_whose_name_is_its_own_has_no_images(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "one")
    (tmp_path / "one" / "curve.json").rename(tmp_path / "one" / "first.json")
    assert result(tmp_path / "one" / "first.json", folders[1])["interval"] is None


@pytest.mark.usefixtures("few_resamples")
def test_curves_without_a_common_rate_have_no_bd_accuracy(tmp_path):
    far = dataclasses.replace(REFERENCE, bytes=100 * REFERENCE.bytes)
    pair = [measured.write(tmp_path / n, i) for n, i in (("near", REFERENCE), ("far", far))]
    found = result(*pair)
    assert found["bd_rate_percent"] == pytest.approx(9900)
    assert found["bd_accuracy_points"] is None
    assert "the curves share no range of bytes" in run(*pair)[1]


@pytest.mark.usefixtures("few_resamples")
def test_refusals_are_one_line(folders, tmp_path):
    old, new = folders
    assert "No such file" in refusal(old, tmp_path / "nothing")
    assert "curve.json" in refusal(old, tmp_path)
    assert "no range of quality" in refusal(old, new, "--to-drop", 89)
    assert "from 1 to 2 percentage points" in refusal(old, new, "--from-drop", 1, "--to-drop", 2)
    assert "from nan to" in refusal(old, new, "--from-drop", "nan")
    assert "'cubic'" in refusal(old, new, "--method", "cubic")
    assert "metric 'psnr'; choose top1" in refusal(old, new, "--quality", "psnr")
    other = measured.write(tmp_path / "other", measured.draw(399))
    message = refusal(old, other, "--from-drop", 20)
    assert "on 400 images and" in message
    assert "on 399 images" in message


def test_images_of_another_evaluation_are_refused(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "mixed")
    shutil.copy(folders[1] / "images.npz", tmp_path / "mixed")
    assert "another evaluation" in refusal(tmp_path / "mixed", folders[1])
    (tmp_path / "mixed" / "images.npz").write_text("damaged")
    assert "no per-image records" in refusal(tmp_path / "mixed", folders[1])


ORIGIN = Origin("resnet8_small", "5e" * 32, "stem", "embedded", "test", "af" * 8, 10, "0", "0")


def _side(name, images=None, **changes):
    origin = dataclasses.replace(ORIGIN, **changes)
    return MeasuredCurve(
        name, dataclasses.replace(measured.curve_of(REFERENCE), origin=origin), images
    )


@pytest.mark.usefixtures("few_resamples")
def test_systems_with_other_networks_are_compared_on_the_same_images():
    other = {
        "backbone": "resnet20_small",
        "backbone_fingerprint": "00" * 32,
        "cut": "stage1.block3",
    }
    found = compare_curves(_side("old"), _side("new", **other))
    assert found.same_images is True
    assert "images " not in found.render()
    # The same images, read from elsewhere.
    assert compare_curves(_side("old"), _side("new", data="folder:copy")).same_images is True


def test_without_labels_equal_predictions_do_not_pair_the_images_of_two_folders():
    points = [
        RatePoint(f"r{size}", 0.1, size, 8 * size, 0.1, {"agreement": share}, 3)
        for size, share in ((10, 1 / 3), (20, 2 / 3), (30, 1.0))
    ]
    names, sizes = [point.rate_id for point in points], [[10] * 3, [20] * 3, [30] * 3]
    images = PerImage(names, sizes, [[4, 0, 0], [4, 4, 0], [4, 4, 4]], None, [4, 4, 4])
    first, other = (
        MeasuredCurve(
            name,
            Curve({}, 3, points, {}, dataclasses.replace(ORIGIN, data_fingerprint=name * 16)),
            images,
        )
        for name in "ab"
    )
    assert images.belongs_to(first.curve)
    same, not_same = compare_curves(first, first), compare_curves(first, other)
    assert (same.quality, same.bd_rate_percent, same.same_images) == ("agreement", 0, True)
    assert "no interval: the two curves have different images" not in same.render()
    assert not_same.same_images is False
    assert not_same.no_interval == "the two curves have different images or networks"
    with pytest.raises(ConfigError, match="there is no top1 in a: its images have no labels"):
        compare_curves(first, other, quality="top1")


def test_other_images_of_the_same_data_are_told():
    found = compare_curves(_side("old"), _side("new", split="train", data_fingerprint="00" * 8))
    assert found.same_images is False
    assert found.render().splitlines()[-1].startswith("images       different")


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("changes", [{"data": "folder:imagenet"}, {"classes": 100}])
def test_other_data_or_classes_are_refused_in_one_line(changes, tmp_path):
    sides = _side("old"), _side("new", data_fingerprint="00" * 8, **changes)
    for side in sides:
        side.curve.write(tmp_path / f"{side.name}.json")
    message = refusal(tmp_path / "old.json", tmp_path / "new.json")
    assert "one curve is of embedded (10 classes), the other of" in message
    # Single images that are the same say more than names.
    seen = (
        dataclasses.replace(sides[0], images=REFERENCE),
        dataclasses.replace(sides[1], images=TEST),
    )
    assert compare_curves(*seen).same_images is True


@pytest.mark.usefixtures("few_resamples")
def test_what_older_files_do_not_say_is_said(folders, tmp_path):
    shutil.copy(folders[1] / "curve.json", tmp_path)
    assert "images       unknown" in run(folders[0], tmp_path)[1]
    assert result(folders[0], tmp_path)["same_images"] is None
    assert result(*folders)["same_images"] is True  # by their images.npz


def test_a_report_or_plot_of_another_curve_is_told(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", [])  # as without -W
    folder = tmp_path / "mixed"
    shutil.copytree(folders[0], folder)
    curves = [MeasuredCurve.open(one).curve for one in folders]
    assert run(folder, folder)[2] == ""  # an evaluation by an earlier version wrote no marks
    for curve, words in ((curves[0], ""), (curves[1], "warning: report.html and curve.png in ")):
        write_report(folder / "report.html", curve, "a title")
        plot_curve(folder / "curve.png", curve)
        assert curve.name in (folder / "report.html").read_text().partition("<footer>")[2]
        errors._WARNED.clear()
        code, _, err = run(folder, folder)
        assert (code, err.count("\n")) == (0, bool(words))
        assert words in err
    (folder / "report.html").write_bytes(b"")
    (folder / "curve.png").unlink()
    assert run(folder, folder)[2] == ""
