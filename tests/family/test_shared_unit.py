"""A family of one variable-rate unit: stored once, read once, and never damaged by a save."""

import json

import jax
import numpy as np
import pytest

from jaxsplit.codec.runtime import FamilyRate
from jaxsplit.errors import FamilyError
from jaxsplit.family import RateFamily, files
from jaxsplit.split import make_split
from jaxsplit.units import BottleneckSpec, VariableRate

LAMBDAS = {"r1": 1e-3, "r2": 1e-4, "r3": 1e-5}
SPEC = VariableRate(BottleneckSpec(channels=4), (1e-5, 1e-3))


def made(backbone, seed=0):
    split = make_split(backbone, "stage3.block1", SPEC)
    unit = jax.device_get(split.init(jax.random.key(seed)))
    rates = []
    for name, lmbda in LAMBDAS.items():
        variables = jax.device_get(SPEC.at(unit, SPEC.position(lmbda)))
        tables = split.tables(variables, np.zeros(4, np.float32))
        rates.append(FamilyRate(name, lmbda, SPEC, variables, tables))
    return RateFamily(
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        weights=backbone.weights,
        preprocessing=backbone.preprocessing,
        cut="stage3.block1",
        rates=tuple(rates),
    )


@pytest.fixture(scope="module")
def family(tiny_backbone):
    return made(tiny_backbone)


@pytest.mark.parametrize("packed", [True, False])
def test_the_unit_is_stored_once_and_shared_when_read(family, tmp_path, packed):
    family.save(tmp_path / "family", packed=packed)
    units = [path.name for path in (tmp_path / "family/rates").glob("unit-*")]
    assert len(units) == 1
    index = json.loads((tmp_path / "family/family.json").read_text())
    assert index["format"] == (4 if packed else 3)
    assert {entry["unit"] for entry in index["rates"]} == {f"rates/{units[0]}"}
    loaded = RateFamily.load(tmp_path / "family")
    assert loaded.fingerprint == family.fingerprint
    kernels = [rate.variables["params"]["encoder"]["depthwise"] for rate in loaded.rates]
    assert all(kernel is kernels[0] for kernel in kernels)


def test_another_rate_takes_the_bytes_of_gains_and_tables_alone(family, tmp_path):
    family.save(tmp_path / "family", packed=True)
    for rate in family.rates:
        [path] = (tmp_path / "family/rates").glob(f"{rate.rate_id}-*")
        arrays = [*rate.variables["rate"].values(), *rate.tables.to_arrays().values()]
        names = 1024
        assert path.stat().st_size < sum(x.nbytes for x in arrays) + names < rate.stored_bytes / 2


@pytest.mark.parametrize("packed", [True, False])
def test_saving_other_rates_of_the_same_unit_keeps_it(family, tmp_path, packed, monkeypatch):
    """It is not written again: a kill in between would damage the family that is there."""
    family.save(tmp_path / "family", packed=packed)
    [unit] = (tmp_path / "family/rates").glob("unit-*")
    written = []
    write_tree = files._write_tree
    monkeypatch.setattr(
        files, "_write_tree", lambda path, *rest: (written.append(path), write_tree(path, *rest))
    )
    family.select(["r2"]).save(tmp_path / "family", packed=packed)
    assert written == []
    assert unit.exists()
    assert RateFamily.load(tmp_path / "family").rates[0].digest == family["r2"].digest


def test_another_unit_replaces_it(family, tiny_backbone, tmp_path):
    family.save(tmp_path / "family", packed=True)
    [before] = (tmp_path / "family/rates").glob("unit-*")
    other = made(tiny_backbone, seed=1)
    other.save(tmp_path / "family", packed=True)
    [after] = (tmp_path / "family/rates").glob("unit-*")
    assert after != before
    assert RateFamily.load(tmp_path / "family").fingerprint == other.fingerprint


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_damaged_unit_is_refused(family, tmp_path, damage):
    family.save(tmp_path / "family", packed=True)
    [unit] = (tmp_path / "family/rates").glob("unit-*")
    damage(unit)
    with pytest.raises(FamilyError):
        RateFamily.load(tmp_path / "family")


def test_a_unit_that_was_changed_or_lies_elsewhere_is_refused(family, tiny_backbone, tmp_path):
    family.save(tmp_path / "family", packed=True)
    made(tiny_backbone, seed=1).save(tmp_path / "other", packed=True)
    [unit] = (tmp_path / "family/rates").glob("unit-*")
    [other] = (tmp_path / "other/rates").glob("unit-*")
    unit.write_bytes(other.read_bytes())
    with pytest.raises(FamilyError, match="was changed after it was saved"):
        RateFamily.load(tmp_path / "family")
    index = tmp_path / "family/family.json"
    index.write_text(
        index.read_text().replace(f"rates/{unit.name}", f"../other/rates/{other.name}")
    )
    with pytest.raises(FamilyError, match="lies outside of the family"):
        RateFamily.load(tmp_path / "family")
