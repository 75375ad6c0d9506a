"""The interface of a unit: what it has by default, and the registry that finds it again."""

import dataclasses
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_units import Projection

from jaxsplit.bitstream import EntropyCoder
from jaxsplit.errors import ConfigError
from jaxsplit.units import BottleneckSpec, per_tensor, register
from jaxsplit.units import unit as unit_module
from jaxsplit.units.unit import check_stored, spec_from_dict

SPECS = [
    BottleneckSpec(3),
    BottleneckSpec(2, stride=3, kernel=4, decoder_kernel=5, decoder_multiplier=2, step=0.5),
    Projection(4),
    per_tensor({"skip": BottleneckSpec(3), "deep": Projection(2)}),
]


@pytest.fixture
def registry(monkeypatch):
    """Kinds that a test registers are forgotten with its end."""
    monkeypatch.setattr(unit_module, "_KINDS", dict(unit_module._KINDS))


def derived(name, kind):
    """A class of units that is not registered."""
    made = type(name, (Projection,), {"kind": kind, "__annotations__": {"kind": ClassVar[str]}})
    return dataclasses.dataclass(frozen=True)(made)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_unit_comes_back_from_what_a_family_stores(spec):
    form = json.loads(json.dumps(spec.to_dict()))
    again = spec_from_dict(form)
    assert again == spec
    assert hash(again) == hash(spec)
    assert type(again) is type(spec)
    check_stored(spec)


def test_a_form_without_a_kind_is_a_bottleneck():
    """Families of every version were stored without one."""
    form = BottleneckSpec(3).to_dict()
    assert "kind" not in form
    for known in (form, {**form, "kind": "bottleneck"}):
        assert spec_from_dict(known) == BottleneckSpec(3)


def test_own_units_are_registered_under_their_kind(registry):
    own = register(derived("Own", "tests.own"))
    assert spec_from_dict({"kind": "tests.own", "channels": 3}) == own(3)
    again = register(derived("Own", "tests.own"))  # a cell of a notebook that runs again
    assert type(spec_from_dict(own(3).to_dict())) is again


@pytest.mark.parametrize("kind", ["test_porjection", "", None, 7, ["test_projection"]])
def test_an_unknown_kind_is_refused_and_says_what_to_do(kind):
    words = "import the module that defines it first"
    with pytest.raises(ConfigError, match=words) as error:
        spec_from_dict({"kind": kind, "channels": 3})
    assert "\n" not in str(error.value)
    if kind == "test_porjection":
        assert "did you mean test_projection?" in str(error.value)


def test_fields_that_do_not_fit_are_errors():
    with pytest.raises(ConfigError, match="no key 'colour'"):
        spec_from_dict({**Projection(3).to_dict(), "colour": "red"})
    with pytest.raises(ConfigError, match="lacks 'channels'"):
        spec_from_dict({"stride": 2})
    with pytest.raises(ConfigError, match=r"crop is \(\); expected a truth value"):
        spec_from_dict({**BottleneckSpec(3).to_dict(), "crop": []})
    with pytest.raises(ConfigError, match="must be positive"):
        spec_from_dict({**BottleneckSpec(3).to_dict(), "channels": 0})


def test_kinds_are_unique_and_units_dataclasses(registry):
    with pytest.raises(ConfigError, match=r"'test_projection' of Other is taken by Projection"):
        register(derived("Other", "test_projection"))
    for kind in ("", None):
        with pytest.raises(ConfigError, match="a class attribute `kind`"):
            register(derived("Nameless", kind))

    class Plain:
        kind = "tests.plain"

    with pytest.raises(ConfigError, match=r"Plain needs .* a dataclass"):
        register(Plain)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_unit_that_is_not_registered_cannot_be_stored(tiny_family, tmp_path, wrapped):
    spec = derived("Stranger", "tests.stranger")(3)
    spec = per_tensor({"a": spec}) if wrapped else spec
    with pytest.raises(ConfigError, match=r"Stranger .*jaxsplit\.units\.register"):
        check_stored(spec)
    rate = dataclasses.replace(tiny_family.rates[0], spec=spec)
    family = dataclasses.replace(tiny_family, rates=(rate,))
    for packed in (True, False):
        with pytest.raises(ConfigError, match=r"decorate the class with jaxsplit\.units\.register"):
            family.save(tmp_path / "family", packed=packed)
    assert not (tmp_path / "family").exists()


def test_a_class_that_took_the_name_of_another_cannot_be_stored():
    """It would be loaded as the other one."""
    with pytest.raises(ConfigError, match="not registered"):
        check_stored(derived("Projection", "test_projection")(3))


def test_units_by_name_say_which_is_missing():
    units = per_tensor({"b": Projection(1), "a": Projection(2)})
    assert units == per_tensor({"a": Projection(2), "b": Projection(1)})
    assert units.unit_of("a") == Projection(2)
    with pytest.raises(ConfigError, match=r"'c' crosses the cut and has no unit; .* a, b"):
        units.unit_of("c")
    with pytest.raises(ConfigError, match="got none"):
        per_tensor({})


@pytest.mark.parametrize("shape", [(5, 4, 8), (7, 8), (8,)])
def test_a_unit_of_six_methods_has_the_others(shape):
    """Its prior charges about what its tables take, whatever the rank of the features."""
    unit = Projection(3)
    assert unit.latent_shape(shape) == (*shape[:-1], 3)
    variables = unit.init(jax.random.key(0), shape)
    x = jnp.asarray(np.random.default_rng(0).normal(0, 2, (6, *shape)), jnp.float32)
    latents, stats = unit.encode_train(variables, x, None)
    assert stats == {}
    np.testing.assert_array_equal(latents, unit.encode(variables, x))
    back, stats = unit.decode_train(variables, latents, shape, None)
    assert stats == {}
    assert back.shape == x.shape
    assert unit.fold(variables) == (unit, variables)
    assert unit.has_prior(variables)
    assert unit.variable_shapes(shape) is None
    offsets = unit.offsets(variables, 3)
    assert offsets.dtype == np.float32
    assert not offsets.any()
    rounded = jnp.round(jnp.clip(latents, -2, 2))  # beyond, tables have an escape for all
    symbols = np.asarray(rounded, np.int32).reshape(6, 1, -1, 3)
    bits = unit.bits(variables, rounded)
    assert (np.asarray(bits) > 0).all()
    tables = unit.tables(jax.device_get(variables), offsets)
    charged = tables.information_bits(symbols)
    np.testing.assert_allclose(charged, np.asarray(bits).sum(), rtol=0.02)
    coder = EntropyCoder(tables)
    for one in symbols:
        np.testing.assert_array_equal(coder.decode(coder.encode(one), one.shape[:2]), one)
