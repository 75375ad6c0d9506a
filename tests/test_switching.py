"""Another rate costs next to nothing: what `tests/benchmarks/switching.py` measures."""

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.optimized

SCRIPTS = Path(__file__).parent / "benchmarks"


@pytest.fixture(scope="module")
def switching():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("switching")


def test_a_switch_compiles_nothing_and_takes_less_than_a_millisecond(switching):
    found = switching.measure(switching.FAMILY, images=4, turns=100)
    assert found["compilations"] == 0
    for end in ("device", "server"):
        # Medians: a worst call is the machine's.
        assert abs(found[end]["extra_us"]) < 1000
        assert 0 < found[end]["choose"]["median_us"] < 1000
        assert 0 < found[end]["stays"]["median_us"] <= found[end]["stays"]["worst_us"]
    assert found["bytes_of_a_rate"]["largest"] < found["bytes_of_the_backbone"]


def test_pairs_are_of_one_image_at_one_rate(switching, monkeypatch):
    now, calls = [0], [("", -1)]

    def call(rate, number):
        now[0] += {"a": 10_000, "b": 30_000}[rate] + 3_000 * (rate != calls[-1][0])
        calls.append((rate, number))

    monkeypatch.setattr(
        switching,
        "timed",
        lambda run: -now[0] / 1000 + (run() or now[0] / 1000),
    )
    found = switching.paired(call, [("a", "b"), ("b", "a"), ("b", "a")])
    assert found["stays"] == {"median_us": 30, "worst_us": 30}
    assert found["switches"] == {"median_us": 33, "worst_us": 33}
    assert found["extra_us"] == 3
    # One after the other: what comes first alternates.
    assert calls[1:5] == [("b", 0), ("a", 0), ("a", 0), ("a", 0)]
    assert calls[5:9] == [("b", 1), ("b", 1), ("a", 1), ("b", 1)]
