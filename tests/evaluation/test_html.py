"""The page stands alone, shows every figure, and a browser draws it."""

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.html import report, write_report
from jaxsplit.evaluation.points import CodecPoint, RatePoint

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MEASURED = dict(
    table_bits_per_image=160.0,
    top1_interval=(0.85, 0.90),
    top5=0.99,
    top5_interval=(0.98, 0.995),
    agreement=0.91,
    agreement_interval=(0.89, 0.93),
    bytes_p5=15.0,
    bytes_p95=30.0,
    device_macs=3_900_000,
    device_share=0.419,
    device_params=6720,
    server_macs=5_500_000,
    server_params=72_000,
    unit_bytes=19_400,
    unit_share=0.064,
)
POINTS = (
    RatePoint("r1", 1e-3, 20.8, 155.6, 0.212, 0.883, 2000, **MEASURED),
    RatePoint("r2", 1e-4, 94.5, 737.6, 0.965, 0.9275, 2000, **MEASURED),
)
CODECS = {
    "jpeg": tuple(CodecPoint("jpeg", q, 300.0 + q, 180.0, 0.7 + q / 400, 0.8) for q in (10, 50)),
    "avif": (CodecPoint("avif", 40, 450.0, 270.0, 0.9, 0.92),),
}
CURVE = Curve(0.9365, 2000, POINTS, (0.925, 0.946), 1.0, CODECS)


class Page(HTMLParser):
    """Tags with their attributes, and the text of every table row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self._cell = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        self._cell = tag in ("td", "th")

    def handle_data(self, data):
        if self._cell:
            self.rows[-1].append(data)
            self._cell = False


def test_nothing_is_loaded_from_elsewhere():
    text = report(CURVE, "title")
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)
    assert not re.search(r"url\(|@import|https?://", text)


def test_every_figure_is_there():
    rows = {row[0]: row for row in Page(report(CURVE, "title")).rows[1:3]}
    assert rows["r1"][2:4] == ["20.8", "15–30"]
    assert rows["r2"][7:11] == ["92.75", "85.0–90.0", "99.00", "98.0–99.5"]
    costs = Page(report(CURVE, "title")).rows[4]
    assert costs == [
        "r1",
        "3,900,000",
        "41.90 %",
        "6,720",
        "5,500,000",
        "72,000",
        "19,400",
        "6.40 %",
    ]


def test_curves_of_older_files_are_shown_without_what_they_lack():
    old = Curve(0.9, 10, (RatePoint("r1", None, 20.8, 155.6, 0.212, 0.883, 10),))
    row = Page(report(old, "title")).rows[1]
    assert row == ["r1", "n/a", "20.8", "n/a–n/a", "155.6", "n/a", "0.212", "88.30", *5 * ["n/a"]]


def test_names_are_text_and_not_markup():
    point = dataclasses.replace(POINTS[0], rate_id="<b>&r</b>")
    text = report(Curve(0.9, 10, (point,)), "<em>t</em>", {"<u>": "<s>"})
    assert not {"b", "em", "u", "s"} & {tag for tag, _ in Page(text).tags}
    assert "&lt;b&gt;&amp;r&lt;/b&gt;" in text


def test_every_dot_lies_within_the_picture():
    circles = [a for tag, a in Page(report(CURVE, "title")).tags if tag == "circle"]
    assert len(circles) == 4  # what lies far below the lowest rate is left out
    for circle in circles:
        assert 64 <= float(circle["cx"]) <= 936
        assert 20 <= float(circle["cy"]) <= 464


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, which is not installed")
@pytest.mark.parametrize("width", [1400, 400])
def test_a_browser_draws_it(tmp_path, width):
    page, shot = tmp_path / "report.html", tmp_path / "shot.png"
    write_report(page, CURVE, "title")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={width},1000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert Page(done.stdout).rows == Page(page.read_text()).rows
    subprocess.run(
        [*command, f"--screenshot={shot}", page.as_uri()], capture_output=True, timeout=120
    )
    from PIL import Image

    with Image.open(shot) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50  # a page, and no blank one


@pytest.mark.parametrize("top1", [0.0, 1.0])
def test_rates_that_are_all_wrong_or_all_right_are_drawn(top1):
    points = tuple(dataclasses.replace(point, top1=top1) for point in POINTS)
    text = report(Curve(top1, 2000, points), "title")
    assert "nan" not in text
    assert "r1" in text
