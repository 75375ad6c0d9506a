"""The page stands alone, shows every figure, and a browser draws it."""

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from points import changed, make_codec, make_curve, make_rate

from jaxsplit.reports.curve_html import describe_units, report, write_report
from jaxsplit.units import BottleneckSpec

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
    make_rate("r1", 1e-3, 20.8, 155.6, 0.212, 0.883, 2000, **MEASURED),
    make_rate("r2", 1e-4, 94.5, 737.6, 0.965, 0.9275, 2000, **MEASURED),
)
CODECS = {
    "jpeg": tuple(make_codec("jpeg", q, 300.0 + q, 180.0, 0.7 + q / 400, 0.8) for q in (10, 50)),
    "avif": (make_codec("avif", 40, 450.0, 270.0, 0.9, 0.92, (0.88, 0.915), (0.91, 0.93)),),
}
CURVE = make_curve(0.9365, 2000, POINTS, top1_interval=(0.925, 0.946), top5=1.0, baselines=CODECS)


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
    for _, attributes in page.tags:
        assert not {"src", "href"} & set(attributes)
        assert attributes.get("xlink:href", "#").startswith("#")  # marks, defined in the page
    assert not re.search(r"url\((?!#)|@import|https?://", text)


def test_the_same_curve_gives_the_same_page():
    assert report(CURVE, "title") == report(CURVE, "title")


def test_the_plot_has_the_colours_of_the_page_and_its_text_as_text():
    text = report(CURVE, "title")
    svg = text[text.index("<svg") : text.index("</svg>")]
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    style = text[text.index("<style>") : text.index("</style>")]
    assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(re.findall(r"--(\w+):", style))
    for words in ("bytes per image (mean, logarithmic)", "unsplit network, 93.65 %"):
        assert f">{words}</text>" in svg


def test_every_figure_is_there():
    rows = {row[0]: row for row in Page(report(CURVE, "title")).rows[1:3]}
    assert rows["r1"][2:4] == ["20.8", "15–30"]
    assert rows["r2"][7:11] == ["92.75", "85.0–90.0", "99.00", "98.0–99.5"]
    costs = Page(report(CURVE, "title")).rows[7]
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


def test_every_point_of_the_baselines_is_there():
    page = Page(report(CURVE, "title"))
    rows = page.rows[-3:]
    assert [row[:5] for row in rows] == [
        ["JPEG", "10", "310.0", "180.0", "72.50"],
        ["JPEG", "50", "350.0", "180.0", "82.50"],
        ["AVIF", "40", "450.0", "270.0", "90.00"],
    ]
    assert [row[5:] for row in rows[1:]] == [
        ["n/a", "80.00", "n/a"],
        ["88.0–91.5", "92.00", "91.0–93.0"],
    ]
    without = report(dataclasses.replace(CURVE, baselines={}), "title")
    assert "codec" not in without


def test_the_curve_and_the_rates_lead_and_the_codecs_settings_are_folded_away():
    text = report(CURVE, "title")
    order = [text.index(part) for part in ("<h1>", "<svg", ">Rates<", ">Costs<", "<details>")]
    assert order == sorted(order)
    folded = text[text.index("<details>") : text.index("</details>")]
    assert "All 3 settings" in folded
    assert len(Page(folded).rows) == 4
    assert len(Page(text.replace(folded, "")).rows) == 9  # three tables of two rates


def test_codecs_are_compared_at_the_quality_of_each_rate():
    rows = Page(report(CURVE, "title")).rows
    assert rows[3:6] == [
        ["rate", "bytes / image", "JPEG bytes", "AVIF bytes"],
        ["r1", "20.8", "n/a", "450.0"],
        ["r2", "94.5", "n/a", "n/a"],
    ]


def test_what_units_share_is_said_once():
    eight, twelve = (BottleneckSpec(channels, stride=2) for channels in (8, 12))
    same = describe_units({"r1": eight, "r2": eight})
    assert list(same) == ["units"]
    assert "channels 8, stride 2" in same["units"]
    mixed = describe_units({"r1": eight, "r2": twelve, "r3": eight})
    assert "channels" not in mixed.pop("units")
    assert mixed == {"unit of r1, r3": "channels 8", "unit of r2": "channels 12"}
    assert list(describe_units({"r1": eight})) == ["unit"]


def test_curves_of_older_files_are_shown_without_what_they_lack():
    old = make_curve(0.9, 10, (make_rate("r1", None, 20.8, 155.6, 0.212, 0.883, 10),))
    row = Page(report(old, "title")).rows[1]
    assert row == ["r1", "n/a", "20.8", "n/a–n/a", "155.6", "n/a", "0.212", "88.30", *5 * ["n/a"]]


def test_names_are_text_and_not_markup():
    point = dataclasses.replace(POINTS[0], rate_id="<b>&r</b>")
    text = report(make_curve(0.9, 10, (point,)), "<em>t</em>", {"<u>": "<s>"})
    assert not {"b", "em", "u", "s"} & {tag for tag, _ in Page(text).tags}
    assert "&lt;b&gt;&amp;r&lt;/b&gt;" in text


@pytest.mark.parametrize("interval", [(0.85, 0.90), (0.2, 0.999), (0.0, 1.0)])
def test_every_dot_and_bar_lies_within_the_picture(interval):
    points = tuple(changed(point, top1_interval=interval) for point in POINTS)
    for unsplit in ((0.925, 0.946), interval):
        curve = dataclasses.replace(CURVE, points=points, unsplit={"top1": (0.9365, unsplit)})
        text = report(curve, "title")
        marks = [a for tag, a in Page(text).tags if tag == "use"]
        dots = [mark for mark in marks if "fill: var(--rates)" in mark["style"]]
        assert len(dots) == 3  # two, and the legend's
        assert all(0 < float(dot["x"]) < 864 and 0 < float(dot["y"]) < 576 for dot in dots)
        bars = re.findall(r'd="M \S+ (\S+) \nL \S+ (\S+) \n" .*--rates\); stroke-opacity', text)
        assert len(bars) == 2
        assert all(0 < float(end) < 576 for bar in bars for end in bar)
        # The band is clipped where it is wider than the axes.
        assert len(re.findall(r'clip-path="url\(#\w+\)" style="fill: var\(--grey\); op', text)) == 1


def shot(page, picture, width, scheme):
    """The page as Chromium draws it, for readers who prefer light or dark."""
    profile = picture.with_suffix("")
    number = {"dark": 0, "light": 1}[scheme]
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={width},1000", f"--user-data-dir={profile}"]
    command += [f"--blink-settings=preferredColorScheme={number}"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert Page(done.stdout).rows == Page(page.read_text()).rows
    subprocess.run(
        [*command, f"--screenshot={picture}", page.as_uri()], capture_output=True, timeout=120
    )


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, which is not installed")
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize(
    ("scheme", "back"), [("light", (255, 255, 255)), ("dark", (0x14, 0x18, 0x1C))]
)
def test_a_browser_draws_it_in_both_colour_schemes(tmp_path, width, scheme, back):
    page, picture = tmp_path / "report.html", tmp_path / "shot.png"
    write_report(page, CURVE, "title")
    shot(page, picture, width, scheme)
    from PIL import Image

    with Image.open(picture) as drawn:
        pixels = drawn.convert("RGB")
        assert len(pixels.getcolors(1 << 24)) > 50  # a page, and no blank one
        assert pixels.getpixel((2, 2)) == back


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, which is not installed")
def test_nothing_scrolls_sideways_on_1200_pixels(tmp_path):
    page = tmp_path / "report.html"
    points = tuple(
        dataclasses.replace(point, bytes_per_image=22482.9, estimated_bits_per_image=179863.2)
        for point in POINTS
    )
    text = report(dataclasses.replace(CURVE, points=points), "title")
    measure = """<script>document.querySelectorAll("details").forEach(x => x.open = true);
    document.title = [document.documentElement, ...document.querySelectorAll(".wide")].map(
    x => x.scrollWidth - x.clientWidth)</script></body>"""
    page.write_text(text.replace("</body>", measure))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert re.search("<title>(.*)</title>", done.stdout)[1] == "0,0,0,0,0,0"


@pytest.mark.parametrize("top1", [0.0, 1.0])
def test_rates_that_are_all_wrong_or_all_right_are_drawn(top1):
    points = tuple(changed(point, top1=top1) for point in POINTS)
    text = report(make_curve(top1, 2000, points), "title")
    assert "nan" not in text
    assert "r1" in text
