"""A family of one variable-rate unit: stored once, read whole, and never damaged by a save."""

import copy
import dataclasses
import json
import pickle

import jax
import numpy as np
import pytest

from jaxsplit.errors import ConfigError, FamilyError
from jaxsplit.family import Levels, RateFamily, files
from jaxsplit.split import make_split
from jaxsplit.units import BottleneckSpec, VariableRate

SPEC = VariableRate(BottleneckSpec(channels=4), (1e-5, 1e-3))
NAMES = {"r1": 0, "r2": 31, "r3": 63}


def made(backbone, seed=0):
    split = make_split(backbone, "stage3.block1", SPEC)
    levels = Levels.of_prior(SPEC, jax.device_get(split.init(jax.random.key(seed))))
    return RateFamily(
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        weights=backbone.weights,
        preprocessing=backbone.preprocessing,
        cut="stage3.block1",
        rates=tuple(levels.named(level, name, {"n": 1.0}) for name, level in NAMES.items()),
        levels=levels,
    )


@pytest.fixture(scope="module")
def family(tiny_backbone):
    return made(tiny_backbone)


@pytest.mark.parametrize("packed", [True, False])
def test_unit_and_tables_are_stored_once(family, tmp_path, packed):
    family.save(tmp_path / "family", packed=packed)
    assert len(list((tmp_path / "family/rates").iterdir())) == 1
    index = json.loads((tmp_path / "family/family.json").read_text())
    assert index["format"] == (4 if packed else 3)
    assert [rate["level"] for rate in index["rates"]] == [0, 31, 63]
    loaded = RateFamily.load(tmp_path / "family")
    assert loaded.fingerprint == family.fingerprint
    for rate, other in zip(loaded.rates, family.rates, strict=True):
        assert (rate.rate_id, rate.lmbda, rate.measured) == (other.rate_id, other.lmbda, {"n": 1.0})
        assert rate.digest == other.digest
        jax.tree.map(np.testing.assert_array_equal, rate.variables, other.variables)


def test_64_levels_take_little_more_than_one_rate(family, tmp_path):
    family.save(tmp_path / "family", packed=True)
    (path,) = (tmp_path / "family/rates").iterdir()
    unit = sum(x.nbytes for x in jax.tree.leaves(family.levels.variables))
    assert family.levels.stored_bytes < path.stat().st_size < unit + 20_000


@pytest.mark.parametrize("packed", [True, False])
def test_saving_other_names_keeps_what_is_there(family, tmp_path, packed, monkeypatch):
    """It is not written again: a kill in between would damage the family that is there."""
    family.save(tmp_path / "family", packed=packed)
    written = []
    for module, name in ((files, "write_whole"), (files.checkpoint, "save_tree")):
        write = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda path, *x, write=write: (written.append(path.name), write(path, *x))
        )
    family.select(["r2", 0.9]).save(tmp_path / "family", packed=packed)
    assert written == ["family.json"]
    loaded = RateFamily.load(tmp_path / "family")
    assert [rate.rate_id for rate in loaded.rates] == ["r2", "level57"]
    assert loaded.fingerprint == family.fingerprint


def test_another_unit_replaces_it(family, tiny_backbone, tmp_path):
    family.save(tmp_path / "family", packed=True)
    (before,) = (tmp_path / "family/rates").iterdir()
    other = made(tiny_backbone, seed=1)
    other.save(tmp_path / "family", packed=True)
    (after,) = (tmp_path / "family/rates").iterdir()
    assert after != before
    assert RateFamily.load(tmp_path / "family").fingerprint == other.fingerprint


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_damaged_levels_are_refused(family, tmp_path, damage):
    family.save(tmp_path / "family", packed=True)
    (path,) = (tmp_path / "family/rates").iterdir()
    damage(path)
    with pytest.raises(FamilyError):
        RateFamily.load(tmp_path / "family")


def test_levels_that_were_changed_or_lie_elsewhere_are_refused(family, tiny_backbone, tmp_path):
    family.save(tmp_path / "family", packed=True)
    made(tiny_backbone, seed=1).save(tmp_path / "other", packed=True)
    (path,), (other,) = ((tmp_path / name / "rates").iterdir() for name in ("family", "other"))
    path.write_bytes(other.read_bytes())
    with pytest.raises(FamilyError, match=r"the unit of .* was changed after it was saved"):
        RateFamily.load(tmp_path / "family")
    index = tmp_path / "family/family.json"
    index.write_text(
        index.read_text().replace(f"rates/{path.name}", f"../other/rates/{other.name}")
    )
    with pytest.raises(FamilyError, match="lies outside of the family"):
        RateFamily.load(tmp_path / "family")


@pytest.mark.parametrize("level", [64, -1, "1", None, 0.5])
def test_levels_that_do_not_exist_are_refused(family, tmp_path, level):
    family.save(tmp_path / "family", packed=True)
    index = tmp_path / "family/family.json"
    found = json.loads(index.read_text())
    found["rates"][0]["level"] = level
    index.write_text(json.dumps(found))
    with pytest.raises(FamilyError, match="is damaged"):
        RateFamily.load(tmp_path / "family")


def test_an_index_without_rates_or_with_the_name_of_another_level_is_refused(family, tmp_path):
    family.save(tmp_path / "family", packed=True)
    index = tmp_path / "family/family.json"
    found = json.loads(index.read_text())
    for rates in ([], 2 * found["rates"], [{**found["rates"][0], "rate_id": "level5"}]):
        index.write_text(json.dumps({**found, "rates": rates}))
        with pytest.raises(FamilyError, match="is damaged"):
            RateFamily.load(tmp_path / "family")


def test_levels_of_a_plain_unit_are_refused(family, tmp_path):
    family.save(tmp_path / "family", packed=True)
    index = tmp_path / "family/family.json"
    found = json.loads(index.read_text())
    found["levels"]["spec"] = {"channels": 4}
    index.write_text(json.dumps(found))
    with pytest.raises(FamilyError, match="has levels of"):
        RateFamily.load(tmp_path / "family")


def test_rates_are_all_levels_or_none(family):
    with pytest.raises(ConfigError, match="r1 is no level of the family"):
        dataclasses.replace(family, levels=None)


def test_names_of_another_unit_s_levels_are_refused(family, tiny_backbone):
    """Else they would show its lambdas and figures, and the codec would send with the other."""
    other = made(tiny_backbone, seed=1)
    with pytest.raises(ConfigError, match="r1 is no level of the family"):
        dataclasses.replace(family, levels=other.levels)
    changed = [
        dataclasses.replace(x, variables=jax.tree.map(np.copy, x.variables)) for x in family.rates
    ]
    with pytest.raises(ConfigError, match="r1 is no level of the family"):
        family.with_rates(changed)
    assert family.with_levels(other.levels).fingerprint == other.fingerprint
    for again in (copy.deepcopy(family), pickle.loads(pickle.dumps(family)), family.half()):
        assert [rate.rate_id for rate in again.rates] == list(NAMES)


def test_a_unit_has_2_to_255_levels(family):
    for count in (1, 256):
        with pytest.raises(ConfigError, match=rf"{count} levels, expected 2 … 255"):
            Levels.of_prior(SPEC, family.levels.variables, count)
    with pytest.raises(ConfigError, match="rate 'a' is level -1, expected 0 … 63"):
        family.levels.named(-1, "a")
    fewer = Levels.of_prior(SPEC, family.levels.variables, 8)
    with pytest.raises(ConfigError, match="is level 31, expected 0 … 7"):
        family.with_levels(fewer)


def test_copies_hold_the_unit_alone(family):
    size = len(pickle.dumps(family))
    for rate in family.levels:
        assert rate.coder
    assert len(pickle.dumps(family)) == size
    for one in (copy.deepcopy(family), pickle.loads(pickle.dumps(family))):
        assert one.fingerprint == family.fingerprint
    assert len(repr(family.levels)) < 300


def test_rounded_to_float16_it_keeps_its_names(family):
    half = family.half()
    assert [(rate.rate_id, rate.level) for rate in half.rates] == list(NAMES.items())
    assert half.levels.stored_bytes < 0.8 * family.levels.stored_bytes
    assert not any(rate.measured for rate in half.rates)
