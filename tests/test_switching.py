"""Another rate costs next to nothing: what `tests/benchmarks/switching.py` measures."""

import importlib.util
from pathlib import Path

import pytest

from jaxsplit.pretrained import pretrained_names

SCRIPT = Path(__file__).parent / "benchmarks" / "switching.py"


@pytest.fixture(scope="module")
def switching():
    spec = importlib.util.spec_from_file_location("switching", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_switch_compiles_nothing_and_takes_less_than_a_millisecond(switching):
    found = switching.measure(pretrained_names()[-1], images=4, repeats=300)
    assert found["switches"] > 200
    assert found["compilations"] == 0
    for end in ("device", "server"):
        # Medians: a worst call is the machine's.
        assert found[end]["extra"]["median_us"] < 1000
        assert 0 < found[end]["choose"]["median_us"] < 1000
    assert found["bytes_of_a_rate"]["largest"] < found["bytes_of_the_backbone"]


def test_the_extra_of_a_switch_is_beyond_the_calls_that_stay(switching):
    calls = [("a", False, 10.0), ("a", False, 12.0), ("b", True, 31.0), ("b", False, 30.0)]
    calls += [("a", True, 13.0)]
    extra = switching.extra(calls)
    assert (extra["median_us"], extra["worst_us"]) == (1.5, 2.0)
    assert extra["worst_staying_us"] == 1.0
