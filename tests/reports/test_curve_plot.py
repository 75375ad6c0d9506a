"""The picture is the same for the same input, stays inside its frame and changes no global."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from points import changed, make_codec, make_curve, make_rate

from jaxsplit.errors import ConfigError
from jaxsplit.reports.curve_plot import plot_curve


def _curve(names=("r0", "r1", "r2"), scale=1.0):
    points = [
        make_rate(name, 1e-3, scale * 40 * 1.5**i, 320.0 * 1.5**i, 0.4, 0.85 + 0.02 * i, 2000)
        for i, name in enumerate(names)
    ]
    return make_curve(0.925, 2000, tuple(points))


def _sweep(codec="jpeg", lowest=0.1):
    tops = np.linspace(lowest, 0.925, 8)
    return [make_codec(codec, 1 + i, 200.0 + 40 * i, 170.0, top, top) for i, top in enumerate(tops)]


def _pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_size_and_margins(tmp_path):
    # Long first and last names, and the raw image's label, are where a picture gets clipped.
    names = ("a_long_rate_name", "r1", "another_long_rate_name")
    path = tmp_path / "curve.png"
    two = {codec: _sweep(codec) for codec in ("jpeg", "webp")}
    for codecs in (None, {}, two, {**two, "avif": _sweep("avif")}):
        plot_curve(path, _curve(names), codecs, raw_bytes=784 if codecs else None)
        pixels = _pixels(path)
        assert pixels.shape == (800, 1200, 3)
        edges = [pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]]
        assert all((edge == 255).all() for edge in edges)
        assert (pixels != 255).any(axis=2).mean() > 0.01


def test_same_input_gives_the_same_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "curve.png"
    path.write_text("an older file")
    files = set()
    for _ in range(2):
        plot_curve(path, _curve(), {"jpeg": iter(_sweep())}, "a title", 784)
        files.add(path.read_bytes())
    assert len(files) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["curve.png"]


def _axes(tmp_path, monkeypatch, *arguments, **options):
    """The axes of a plot, caught on their way into the file."""
    from matplotlib.figure import Figure

    caught, save = [], Figure.savefig

    def savefig(self, *args, **kwargs):
        caught.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    plot_curve(tmp_path / "curve.png", *arguments, **options)
    return caught[0].axes[0]


def test_the_lowest_qualities_do_not_squash_the_rates(tmp_path, monkeypatch):
    axes = _axes(tmp_path, monkeypatch, _curve(), {"jpeg": _sweep(lowest=0.1)})
    low, high = axes.get_ylim()
    assert low == pytest.approx(85 - 12)
    assert 92.5 < high < 97


def test_every_codec_has_its_own_colour_and_name(tmp_path, monkeypatch):
    codecs = {codec: _sweep(codec) for codec in ("jpeg", "webp", "avif")}
    axes = _axes(tmp_path, monkeypatch, _curve(), codecs)
    colours = {line.get_label(): line.get_color() for line in axes.lines}
    whole = [f"{name} to the unsplit network, whole files" for name in ("JPEG", "WebP", "AVIF")]
    assert len({colours[label] for label in whole}) == 3
    assert colours["AVIF without its header"] == colours[whole[2]]


def test_the_intervals_of_rates_are_bars_inside_of_the_picture(tmp_path, monkeypatch):
    curve = _curve()
    assert not _axes(tmp_path, monkeypatch, curve).collections
    points = [
        changed(point, top1_interval=(point.top1 - 0.03, point.top1 + 0.09))
        for point in curve.points[1:]
    ]
    known = dataclasses.replace(curve, points=(curve.points[0], *points))
    axes = _axes(tmp_path, monkeypatch, known)
    (bars,) = axes.collections
    for bar, point in zip(bars.get_segments(), points, strict=True):
        assert bar[:, 0] == pytest.approx(point.bytes_per_image)
        assert bar[:, 1] == pytest.approx(100 * np.array(point.top1_interval))
    assert axes.get_ylim()[1] > 100 * (0.89 + 0.09)


def test_codecs_near_the_rates_are_all_in_the_picture(tmp_path, monkeypatch):
    axes = _axes(tmp_path, monkeypatch, _curve(), {"jpeg": _sweep(lowest=0.80)})
    assert 73 < axes.get_ylim()[0] < 80
    left, right = axes.get_xlim()
    assert left < 30  # the payload alone
    assert right > 480


def test_bytes_are_plain_numbers_at_every_scale(tmp_path, monkeypatch):
    for scale in (0.001, 1.0, 1e5):
        axes = _axes(tmp_path, monkeypatch, _curve(scale=scale), {"jpeg": _sweep()})
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert len(labels) >= 3
        assert all(float(label.replace(",", "")) > 0 for label in labels)
        low, high = axes.get_xlim()
        assert low < scale * 40 * 1.5**2 < high


def test_raw_size_is_marked_where_it_is_near(tmp_path, monkeypatch):
    def texts(**options):
        axes = _axes(tmp_path, monkeypatch, _curve(), {"jpeg": _sweep()}, **options)
        return [text.get_text() for text in axes.texts], axes.get_xlim()[1]

    near, right = texts(raw_bytes=784)
    assert "raw image, 784 bytes" in near
    assert right > 784
    far, right = texts(raw_bytes=150528)
    assert not any("raw" in text for text in far)
    assert right < 1000
    assert {"r0", "r1", "r2", "unsplit network, 92.50 %"} <= set(far)


@pytest.mark.parametrize("names", [("r0",), ("$r_{0$", "\\frac")])
def test_one_rate_and_names_that_look_like_formulas(tmp_path, names):
    plot_curve(tmp_path / "curve.png", _curve(names), title="$\\frac$ & 5 $")
    assert _pixels(tmp_path / "curve.png").shape == (800, 1200, 3)


def test_nothing_to_draw_is_refused(tmp_path):
    empty = make_rate("r0", 1.0, 0.0, 0.0, 0.0, 0.1, 1)
    for points in ((), (empty,)):
        with pytest.raises(ConfigError, match="cannot plot"):
            plot_curve(tmp_path / "curve.png", make_curve(0.9, 1, points))
    assert not list(tmp_path.iterdir())


def test_import_is_light_and_drawing_leaves_pyplot_alone(tmp_path):
    program = f"""
import sys
from jaxsplit.evaluation import image_codecs
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.points import RatePoint
from jaxsplit.reports import curve_html as html
from jaxsplit.reports.curve_plot import plot_curve
heavy = {{"jax", "flax", "matplotlib", "scipy"}} & set(sys.modules)
assert not heavy, heavy
point = RatePoint("r", 1, 9, 9, 1, {{"top1": 0.8}}, 1)
plot_curve({str(tmp_path / "curve.png")!r}, Curve({{"top1": 0.9}}, 1, (point,)))
assert "matplotlib.pyplot" not in sys.modules
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
