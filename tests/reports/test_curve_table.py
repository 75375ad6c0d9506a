"""The table says what the numbers say, fits a terminal and a pipe, and reads markup as text."""

import re

import pytest
from points import make_codec, make_curve, make_rate

from jaxsplit.reports.curve_table import render, render_details
from jaxsplit.reports.elements import WIDTH


def _point(rate_id="r0", top1=0.875, **changes):
    values = {
        "lmbda": 1e-3,
        "bytes_per_image": 52.04,
        "estimated_bits_per_image": 401.26,
        "bits_per_pixel": 0.531,
        "n_images": 2000,
        "table_bits_per_image": 402.51,
    }
    return make_rate(rate_id=rate_id, top1=top1, **(values | changes))


JPEG = [
    make_codec("jpeg", 5, 217.3, 173.5, 0.88, 0.9),
    make_codec("jpeg", 20, 290.8, 180.7, 0.91, 0.95),
]
WEBP = [
    make_codec("webp", 0, 97.3, 30.0, 0.86, 0.9),
    make_codec("webp", 9, 150.3, 30.5, 0.93, 0.98),
]
CODECS = {"jpeg": JPEG, "webp": WEBP}
MEASURED = {
    "top1_interval": (0.8598, 0.8888),
    "top5": 0.991,
    "agreement": 0.911,
    "agreement_interval": (0.8977, 0.9227),
    "bytes_p5": 31,
    "bytes_p95": 74,
    "device_macs": 4_000_000,
    "device_share": 0.4,
    "device_params": 5_200,
    "server_macs": 7_000_000,
    "server_params": 4_652_008,
    "unit_bytes": 831,
    "unit_share": 0.0301,
}


def _rows(text):
    """Cells of the rows below the header, by their first cell."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows[2:]}


def test_codecs_are_compared_at_equal_agreement_where_that_is_asked():
    points = (_point(**MEASURED), _point("r1", agreement=0.99), _point("r2"))
    text = render(make_curve(0.925, 2000, points), CODECS, raw_bytes=784, measure="agreement")
    rows = _rows(text)
    assert rows["r0"][6:] == ["91.10", "290.8 (180.7)", "150.3 (30.5)"]
    assert rows["r1"][6:] == ["99.00", "n/a", "n/a"]
    assert rows["r2"][6:] == ["n/a", "n/a", "n/a"]  # whose agreement is unknown
    assert rows["unsplit"][6:] == ["100.00", "n/a", "n/a"]
    assert "reaches the rate's agreement" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= WIDTH


def test_every_figure_is_in_its_row():
    curve = make_curve(0.925, 2000, (_point(), _point("r1", 0.905, bytes_per_image=1234.56)))
    rows = _rows(render(curve, CODECS, raw_bytes=784))
    figures = ["0.001", "52.0", "401.3", "402.5", "0.531", "87.50", "5.00"]
    assert rows["r0"] == [*figures, "217.3 (173.5)", "150.3 (30.5)"]
    assert rows["r1"][1] == "1235"
    assert rows["r1"][-3:] == ["2.00", "290.8 (180.7)", "150.3 (30.5)"]
    assert rows["unsplit"] == ["", "784 raw", "", "", "", "92.50", "0.00", "n/a", "150.3 (30.5)"]


def test_a_rate_above_the_unsplit_network_has_a_negative_drop_and_none_is_minus_zero():
    curve = make_curve(
        0.9, 2000, (_point(top1=0.9), _point("r1", 0.9025), _point("r2", 0.90000001))
    )
    rows = _rows(render(curve))
    assert [rows[name][6] for name in ("r0", "r1", "r2")] == ["0.00", "-0.25", "0.00"]


def test_columns_without_a_sweep_are_left_out_and_an_empty_sweep_reaches_nothing():
    curve = make_curve(0.925, 2000, (_point(),))
    assert "JPEG" not in render(curve)
    assert "WebP bytes" not in render(curve, {"jpeg": JPEG})
    assert _rows(render(curve, {"jpeg": []}))["r0"][-1] == "n/a"


def test_unknown_lambda_is_said():
    assert _rows(render(make_curve(0.925, 2000, (_point(lmbda=None),))))["r0"][0] == "n/a"


def test_table_bits_of_an_older_file_are_unknown():
    point = _point(table_bits_per_image=None)
    assert _rows(render(make_curve(0.925, 2000, (point,))))["r0"][3] == "n/a"


@pytest.mark.parametrize("rate_id", ["r0", "[bold]r0[/]", "[/]", "a_rather_long_name_of_a_rate"])
@pytest.mark.parametrize("codecs", [("jpeg",), ("webp", "avif"), ("jpeg", "webp", "avif")])
def test_text_is_ascii_within_its_width_whatever_the_name(rate_id, codecs):
    big = _point(
        rate_id, bytes_per_image=31250.4, estimated_bits_per_image=250003.2, lmbda=1.234e-05
    )
    sizes = [make_codec("jpeg", 50, 31250.5, 620.5, 0.99, 0.99)]
    codecs = dict.fromkeys(codecs, sizes)
    text = render(make_curve(0.925, 2000, (big,)), codecs, raw_bytes=150528)
    assert text.isascii()
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert text == "\n".join(line.rstrip() for line in text.splitlines())
    first = "".join(re.findall(r"^\|([^|]*)\|", text, re.M)).replace(" ", "")
    assert first == f"rate{rate_id}unsplit"
    assert "150528 raw" in text
    assert re.search(r"31250 \(620\.5\)" if len(codecs) < 3 else r"31250 \|", text)
    assert "(620.5)" in text


def test_the_environment_does_not_change_the_text(monkeypatch):
    curve = make_curve(0.925, 2000, (_point(),))
    expected = render(curve, CODECS)
    for name, value in {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
        assert render(curve, CODECS) == expected


def test_title_says_how_many_images():
    assert "2000 images" in render(make_curve(0.925, 2000, (_point(),)))
    assert "500 to 2000 images" in render(make_curve(0.925, 2000, (_point(n_images=500),)))


def test_a_notebook_gets_text_too(monkeypatch):
    curve = make_curve(0.925, 2000, (_point(),))
    text = render(curve)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert render(curve) == text


def test_the_note_names_the_codecs_that_were_swept():
    curve = make_curve(0.925, 2000, (_point(),))
    assert "\nJPEG, WebP: the smallest" in render(curve, CODECS)
    assert "\nAVIF: the smallest" in render(curve, {"avif": []})
    assert "smallest" not in render(curve, {})


def test_details_say_what_was_measured():
    points = (_point(**MEASURED), _point("r1", unit_bytes=9_999_500, agreement=1))
    curve = make_curve(0.925, 2000, points, top1_interval=(0.9126, 0.9357), top5=0.998)
    rows = _rows(render_details(curve))
    figures = ["86.0-88.9", "99.10", "91.1 (89.8-92.3)", "31-74", "40.0", "5.2k", "70.0", "4.65M"]
    assert rows["r0"] == [*figures, "831 (3.0)"]
    assert rows["r1"] == ["n/a", "n/a", "100.0", *["n/a"] * 5, "10M"]
    assert rows["unsplit"][:2] == ["91.3-93.6", "99.80"]


@pytest.mark.parametrize("rate_id", ["r0", "[/]", "a_rather_long_name_of_a_rate"])
def test_details_fit_their_width_too(rate_id):
    large = {"bytes_p5": 1523, "bytes_p95": 4820, "unit_bytes": 1_340_000, "unit_share": 0.123}
    text = render_details(make_curve(0.925, 2000, (_point(rate_id, **(MEASURED | large)),)))
    assert text.isascii()
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "1523-4820" in text
    assert "1.34M (12.3)" in text
    first = "".join(re.findall(r"^\|([^|]*)\|", text, re.M)).replace(" ", "")
    assert first == f"rate{rate_id}unsplit"
