"""Curves are read exactly as written, and files of another schema are refused."""

import dataclasses
import json
import math

import numpy as np
import pytest
from points import make_codec, make_curve, make_rate

from jaxsplit.errors import ConfigError, DataError
from jaxsplit.evaluation.curve import Curve, Origin
from jaxsplit.tasks import Metric

CODEC = dict(quality=5, bytes_per_image=9.0, header_bytes_per_image=3.0, top1=0.5, agreement=0.5)


def _point(**changes):
    values = {
        "rate_id": "r0",
        "lmbda": 1e-3,
        "bytes_per_image": 152.4035,
        "estimated_bits_per_image": 1201.4499999999998,
        "bits_per_pixel": 1.5551377551020408,
        "top1": 0.9105,
        "n_images": 2000,
    }
    return make_rate(**(values | changes))


def _curve():
    return make_curve(0.925, 2000, (_point(), _point(rate_id="r1", lmbda=None, top1=1 / 3)))


def test_file_round_trip_is_exact(tmp_path):
    path = tmp_path / "curve.json"
    path.write_text("an older file")
    curve = _curve()
    curve.write(path)
    assert Curve.read(path) == curve
    assert [file.name for file in tmp_path.iterdir()] == ["curve.json"]


def test_a_curve_is_iterated_and_searched_by_rate():
    curve = make_curve(0.9, 2000, [_point(rate_id=name) for name in "ab"])
    assert [curve[name].rate_id for name in curve] == [point.rate_id for point in curve.points]
    assert curve.points[0].rate_id in curve
    assert "r99" not in curve


def test_table_bits_are_kept_and_older_files_have_none(tmp_path):
    curve = make_curve(0.925, 2000, (_point(), _point(rate_id="r1", table_bits_per_image=1203.25)))
    curve.write(tmp_path / "curve.json")
    assert Curve.read(tmp_path / "curve.json") == curve
    without, entry = json.loads(curve.to_json())["points"]
    assert "table_bits_per_image" not in without
    assert entry["table_bits_per_image"] == 1203.25
    with pytest.raises(ConfigError, match="table_bits_per_image is -1"):
        _point(table_bits_per_image=-1)


MEASURED = {
    "table_bits_per_image": 1203.25,
    "top1_interval": (0.897, 0.922),
    "top5": 0.99,
    "top5_interval": (0.98, 0.995),
    "agreement": 0.95,
    "agreement_interval": (0.94, 0.96),
    "bytes_p5": 140,
    "bytes_p95": 170,
    "device_macs": 4_000_000,
    "device_share": 1.4,
    "device_params": 5200,
    "server_macs": 7_000_000,
    "server_params": 70_000,
    "unit_bytes": 831,
    "unit_share": 0.03,
}


def test_everything_measured_is_kept_under_its_own_name(tmp_path):
    baselines = {
        "webp": (make_codec("webp", 0, 97.25, 30.0, 0.86, 0.9),),
        "avif": (
            make_codec("avif", 5, 350.5, 269.0, 0.5, 0.6, (0.4, 0.6), (0.5, 0.7)),
            *_avif_points(),
        ),
    }
    points = (_point(**MEASURED), _point(rate_id="r1"))
    curve = make_curve(
        0.925,
        2000,
        points,
        top1_interval=(0.91, 0.94),
        top5=0.998,
        top5_interval=(0.99, 1.0),
        baselines=baselines,
    )
    curve.write(tmp_path / "curve.json")
    assert Curve.read(tmp_path / "curve.json") == curve
    content = json.loads(curve.to_json())
    assert list(content) == ["uncompressed", "points", "baselines"]
    assert content["uncompressed"]["top1_interval"] == [0.91, 0.94]
    assert content["uncompressed"]["top5"] == 0.998
    assert content["uncompressed"]["top5_interval"] == [0.99, 1.0]
    assert content["baselines"]["avif"][0]["top1_interval"] == [0.4, 0.6]
    assert content["baselines"]["avif"][0]["agreement_interval"] == [0.5, 0.7]
    for name, value in MEASURED.items():
        written = content["points"][0][name]
        assert written == (list(value) if isinstance(value, tuple) else value)
        assert name not in content["points"][1]
    assert content["baselines"]["webp"] == [
        {
            "quality": 0,
            "bytes_per_image": 97.25,
            "header_bytes_per_image": 30.0,
            "top1": 0.86,
            "agreement": 0.9,
        }
    ]
    # One unknown does not take the others with it.
    some = make_curve(0.925, 2000, (_point(agreement=0.9, unit_bytes=np.int64(831)),))
    some.write(tmp_path / "curve.json")
    assert Curve.read(tmp_path / "curve.json") == some


ORIGIN = Origin(
    "resnet8_small", "5e" * 32, "stage1.block1", "embedded", "test", "af" * 8, 10, "0.1.0", "0.7.0"
)


def test_the_origin_is_kept_and_read_strictly(tmp_path):
    path, curve = tmp_path / "curve.json", make_curve(0.925, 2000, (_point(),), origin=ORIGIN)
    curve.write(path)
    assert Curve.read(path) == curve
    content = json.loads(path.read_text())
    assert content["origin"]["data_fingerprint"] == "af" * 8
    for wrong, message in (
        ({"classes": -1}, "classes is -1"),
        ({"cut": None}, "cut is None, expected a string"),
        ({"cut": "stem\nr1  99.9 %"}, "without control characters"),
        ({"seed": 1}, "origin has the keys"),
    ):
        path.write_text(json.dumps(content | {"origin": content["origin"] | wrong}))
        with pytest.raises(DataError, match=message):
            Curve.read(path)


@pytest.mark.parametrize("name", ["label", "unit", "name"])
def test_texts_of_metrics_that_a_terminal_obeys_are_refused(tmp_path, name):
    path, curve = tmp_path / "curve.json", make_curve(0.9, 2000, (_point(),))
    dataclasses.replace(curve, metrics={"top1": Metric("top-1", "%")}).write(path)
    assert Curve.read(path).metrics["top1"].label == "top-1"
    content = json.loads(path.read_text())
    for evil in ("\x1b[2J", "%\nBD-rate -99 %", "\u202e"):
        content["metrics"]["top1"][name] = evil
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=f"{name} of metrics"):
            Curve.read(path)


def _avif_points():
    return tuple(make_codec("avif", q, 300.0 + q, 269.0, 0.7, 0.7) for q in (10, 20))


def test_a_file_of_before_the_optional_keys_is_still_read(tmp_path):
    point = {
        "rate_id": "r0",
        "lambda": 0.001,
        "bytes_per_image": 52.0,
        "estimated_bits_per_image": 400.0,
        "bits_per_pixel": 0.53,
        "top1": 0.875,
        "n_images": 2000,
    }
    old = {"uncompressed": {"top1": 0.925, "n_images": 2000}, "points": [point]}
    (tmp_path / "curve.json").write_text(json.dumps(old))
    curve = Curve.read(tmp_path / "curve.json")
    assert json.loads(curve.to_json()) == old
    assert curve.points[0].agreement is None
    assert curve.origin is None
    assert curve.baselines == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agreement": 1.5}, "agreement is 1.5, expected a number from 0 to 1"),
        ({"top5": "all"}, "top5 is 'all'"),
        ({"top5_interval": 1}, "top5_interval is 1, expected its lower and upper limit"),
        ({"top1_interval": (0.9, 0.8)}, "expected the lower limit first"),
        ({"top1_interval": (0.9,)}, "expected its lower and upper limit"),
        ({"agreement_interval": 0.9}, "expected its lower and upper limit"),
        ({"agreement_interval": (0.9, 1.1)}, "agreement_interval is 1.1"),
        ({"device_params": 0.5}, "device_params is 0.5, expected a whole number"),
        ({"unit_share": -1}, "unit_share is -1"),
    ],
)
def test_measured_numbers_out_of_their_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_curve(0.925, 2000, (_point(**({"agreement": 0.9, "top5": 0.99} | changes)),))


@pytest.mark.parametrize(
    ("baselines", "message"),
    [
        ([], "baselines has list"),
        ({"png": []}, r"baselines has the keys \['png'\].*perhaps \['avif', 'jpeg', 'webp'\]"),
        ({"jpeg": {}}, "jpeg is not a list"),
        ({"jpeg": [{"quality": 5}]}, r"jpeg\[0\] has the keys \['quality'\]"),
        ({"jpeg": [{**CODEC, "quality": 0.5}]}, "quality is 0.5, expected a whole number"),
        ({"jpeg": [{**CODEC, "agreement": 2}]}, "agreement is 2"),
        ({"jpeg": [{**CODEC, "codec": "webp"}]}, r"jpeg\[0\] has the keys"),
        ({"jpeg": [{**CODEC, "top1_interval": [0.5]}]}, "expected its lower and upper limit"),
    ],
)
def test_baselines_of_another_schema_are_refused(tmp_path, baselines, message):
    content = json.loads(_curve().to_json()) | {"baselines": baselines}
    (tmp_path / "curve.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        Curve.read(tmp_path / "curve.json")


def test_equal_curves_give_equal_files_whatever_their_numbers_came_as(tmp_path):
    point = _point(top1=np.float64(0.9105), n_images=np.int64(2000), lmbda=np.float64(1e-3))
    assert (
        make_curve(0.925, 2000, [point]).to_json() == make_curve(0.925, 2000, (_point(),)).to_json()
    )
    assert _point(bytes_per_image=52) == _point(bytes_per_image=52.0)
    assert '"bytes_per_image": 52.0,' in make_curve(1, 1, [_point(bytes_per_image=52)]).to_json()


def test_file_has_the_documented_schema():
    content = json.loads(_curve().to_json())
    assert content["uncompressed"] == {"top1": 0.925, "n_images": 2000}
    assert list(content) == ["uncompressed", "points"]
    assert list(content["points"][0]) == [
        "rate_id",
        "lambda",
        "bytes_per_image",
        "estimated_bits_per_image",
        "bits_per_pixel",
        "top1",
        "n_images",
    ]
    assert content["points"][0]["lambda"] == 1e-3


def _without(key):
    def change(content):
        del content["points"][1][key]

    return change


def _with(key, value):
    def change(content):
        content["points"][1][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("lambda"), r"points\[1\] has the keys"),
        (_with("lmbda", 1.0), r"points\[1\] has the keys"),
        (_with("top1", 91.05), "top1 is 91.05, expected a number from 0 to 1"),
        (_with("top1", "0.9"), "top1 is '0.9'"),
        (_with("top1", True), "top1 is True"),
        (_with("bytes_per_image", None), "bytes_per_image is None"),
        (_with("bytes_per_image", math.nan), "the number NaN is out of range"),
        (_with("bits_per_pixel", math.inf), "the number Infinity is out of range"),
        (_with("bits_per_pixel", 10**400), "the number 10000000000000000000 is out of range"),
        (_with("lambda", -1), "lmbda is -1"),
        (_with("n_images", 2.5), "n_images is 2.5"),
        (_with("n_images", 0), "n_images is 0"),
        (_with("rate_id", "r0"), "same rate id"),
        (_with("rate_id", 7), "rate_id is 7"),
        (lambda content: content.pop("uncompressed"), "the file has the keys"),
        (lambda content: content["uncompressed"].update(top1=2), "uncompressed_top1 is 2"),
        (lambda content: content.update(points={}), "points is not a list"),
        (lambda content: content.update(points=[3]), r"points\[0\] has int"),
    ],
)
def test_files_of_another_schema_are_refused(tmp_path, change, message):
    content = json.loads(_curve().to_json())
    change(content)
    path = tmp_path / "curve.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        Curve.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe\x00", b"[" * 100_000])
def test_files_that_are_no_curve_are_refused(tmp_path, content):
    path = tmp_path / "curve.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a rate–accuracy curve"):
        Curve.read(path)


def test_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        Curve.read(tmp_path / "nowhere.json")
