"""The variable-rate unit: one prior for every step size, and gains for each rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit import entropy
from jaxsplit.errors import ConfigError
from jaxsplit.units import BottleneckSpec, VariableRate
from jaxsplit.units.unit import spec_from_dict

SHAPE = (6, 6, 5)
UNIT = VariableRate(BottleneckSpec(channels=4), lambdas=(1e-5, 1e-3), anchors=3)


@pytest.fixture(scope="module")
def variables():
    """Not the initial ones: every parameter and statistic is moved."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: x + rng.uniform(0.01, 0.1, x.shape).astype(np.float32),
        UNIT.init(jax.random.key(0), SHAPE),
    )


@pytest.fixture(scope="module")
def features():
    return jax.random.normal(jax.random.key(1), (3, *SHAPE))


@pytest.mark.parametrize("width", [0.25, 1.0, 3.0])
def test_one_density_prices_every_step(width):
    """Probabilities of all symbols of a step sum to 1, and equal those of the scaled density."""
    params = entropy.init_params(jax.random.key(0), channels=2, init_scale=1.5)
    symbols = (np.arange(-400, 401)[:, None] * np.ones((1, 2))).astype(np.float32)
    found = jnp.exp2(-entropy.bits(params, jnp.asarray(symbols * width), width))
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-4)
    given = jnp.full((len(symbols), 2), width)
    np.testing.assert_array_equal(jnp.exp2(-entropy.bits(params, symbols * width, given)), found)
    scaled = entropy.Density(params, 1 / width)
    masses = scaled.masses(np.arange(-400.5, 401)[None] * np.ones((2, 1)))
    np.testing.assert_allclose(found.T, masses, rtol=1e-3, atol=1e-9)


def test_a_width_of_one_is_the_usual_step():
    params = entropy.init_params(jax.random.key(0), channels=2)
    z = jax.random.normal(jax.random.key(1), (50, 2)) * 9
    np.testing.assert_array_equal(entropy.bits(params, z, 1.0), entropy.bits(params, z))


def test_the_medians_of_a_centred_density_are_zero():
    params = entropy.init_params(jax.random.key(3), channels=3)
    medians = entropy.Density(entropy.centred(params)).quantiles(0.5)
    assert np.abs(entropy.Density(params).quantiles(0.5)).max() > 0.1
    np.testing.assert_allclose(medians, 0, atol=1e-5)


def test_images_of_one_batch_have_rates_of_their_own(variables, features):
    positions = jnp.array([0.0, 0.3, 1.0])
    mixed = UNIT.at(variables, positions)
    latents = UNIT.encode(mixed, features)
    bits = UNIT.bits(mixed, latents)
    seen = UNIT.decode(mixed, jnp.round(latents), SHAPE)
    for i, position in enumerate(positions):
        alone = UNIT.at(variables, position)
        own = UNIT.encode(alone, features[i : i + 1])
        np.testing.assert_allclose(latents[i], own[0], rtol=1e-5)
        np.testing.assert_allclose(bits[i], UNIT.bits(alone, own)[0], rtol=1e-4, atol=1e-5)
        decoded = UNIT.decode(alone, jnp.round(own), SHAPE)
        np.testing.assert_allclose(seen[i], decoded[0], rtol=1e-4, atol=1e-5)


def test_gains_between_two_anchors_are_geometric_means(variables):
    low, middle, high = (UNIT.at(variables, p)["rate"]["gain"] for p in (0.5, 0.75, 1.0))
    np.testing.assert_allclose(middle, np.sqrt(low * high), rtol=1e-5)
    assert (high > low).all()


@pytest.mark.parametrize("position", [0.0, 0.6])
def test_folding_keeps_the_gains(variables, features, position):
    """Another rate of a folded unit is another [C], not other kernels."""
    at = UNIT.at(variables, position)
    plain, folded = UNIT.fold(at)
    assert plain == VariableRate(BottleneckSpec(channels=4, batch_norm=False), UNIT.lambdas, 3)
    assert "batch_stats" not in folded
    jax.tree.map(np.testing.assert_array_equal, folded["rate"], at["rate"])
    latents = UNIT.encode(at, features)
    np.testing.assert_allclose(plain.encode(folded, features), latents, rtol=1e-4, atol=1e-5)
    rounded = jnp.round(latents)
    np.testing.assert_allclose(
        plain.decode(folded, rounded, SHAPE), UNIT.decode(at, rounded, SHAPE), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("position", [0.0, 1.0])
def test_tables_cost_what_the_prior_says(variables, features, position):
    at = jax.tree.map(np.asarray, UNIT.at(variables, position))
    symbols = np.round(UNIT.encode(at, features)).astype(np.int32)
    offsets = UNIT.offsets(at, 4)
    assert not offsets.any()
    found = UNIT.tables(at, offsets).information_bits(symbols)
    assert found == pytest.approx(float(UNIT.bits(at, jnp.asarray(symbols, float)).sum()), rel=0.01)


def test_variables_without_a_rate_are_refused(variables, features):
    with pytest.raises(ConfigError, match=r"pass unit\.at\(variables, position\)"):
        UNIT.encode({name: variables[name] for name in ("params", "batch_stats")}, features)


@pytest.mark.parametrize("lambdas", [(1e-3, 1e-5), (0.0, 1.0), (1e-3, float("inf"))])
def test_impossible_lambdas_are_refused(lambdas):
    with pytest.raises(ConfigError, match="two rising numbers above 0"):
        VariableRate(BottleneckSpec(channels=4), lambdas)


@pytest.mark.parametrize("anchors", [1, 65, 10**10])
def test_impossible_numbers_of_anchors_are_refused(anchors):
    """Also those of a stored spec, before anything is allocated."""
    with pytest.raises(ConfigError, match="expected 2 … 64"):
        spec_from_dict({**UNIT.to_dict(), "anchors": anchors})


def test_a_rate_outside_of_the_range_is_refused():
    assert UNIT.position(1e-3) == 0.0
    assert UNIT.position(1e-5) == 1.0
    with pytest.raises(ConfigError, match=r"lambda 0\.01 is outside of the unit's 1e-05 … 0\.001"):
        UNIT.position(1e-2)


def test_it_is_stored_and_read():
    assert spec_from_dict(UNIT.to_dict()) == UNIT
    with pytest.raises(ConfigError, match="strides must be at most 64"):
        spec_from_dict({**UNIT.to_dict(), "unit": {"channels": 4, "stride": 1000}})


def test_the_shapes_of_its_variables_are_known(variables):
    at = UNIT.at(variables, 0.5)
    shapes = jax.tree.map(np.shape, {**at, "params": dict(at["params"])})
    del shapes["params"]["prior"]
    assert UNIT.variable_shapes(SHAPE) == shapes
