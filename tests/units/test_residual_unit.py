"""The residual unit: sizes, shapes, a linear start, alone and at many rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.cost import plan_unit
from jaxsplit.errors import ConfigError
from jaxsplit.units import ResidualSpec, VariableRate
from jaxsplit.units.residual_unit import depth_to_space, space_to_depth
from jaxsplit.units.unit import spec_from_dict

SHAPE = (6, 7, 5)
UNIT = ResidualSpec(
    channels=4, stride=2, width=8, blocks=2, kernel=3, decoder_width=6, decoder_blocks=1
)


@pytest.fixture(scope="module")
def features():
    return jax.random.normal(jax.random.key(1), (3, *SHAPE))


@pytest.fixture(scope="module")
def variables():
    """Not the initial ones: the blocks' last layers are not zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: x + rng.uniform(0.01, 0.1, x.shape).astype(np.float32),
        UNIT.init(jax.random.key(0), SHAPE),
    )


def test_patches_go_into_channels_and_back():
    """Also those that reach over the last row and column."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    deep = space_to_depth(x, 4)
    assert deep.shape == (2, 2, 2, 48)
    np.testing.assert_array_equal(deep[0, 0, 1, : 2 * 3], x[0, 0, 4:].reshape(-1))
    np.testing.assert_array_equal(depth_to_space(deep, 4)[:, :5, :6], x)


@pytest.mark.parametrize("size", [(6, 7), (1, 1), (8, 2)])
def test_any_size_comes_back(variables, size):
    x = jnp.ones((2, *size, 5))
    latents = UNIT.encode(variables, x)
    assert latents.shape[1:] == UNIT.latent_shape((*size, 5))
    assert UNIT.decode(variables, latents, (*size, 5)).shape == x.shape


@pytest.mark.parametrize(
    "spec",
    [
        UNIT,
        ResidualSpec(channels=3, blocks=0, decoder_blocks=2, decoder_kernel=5),
        ResidualSpec(channels=3, stride=4, kernel=5, expansion=3, decoder_expansion=1),
    ],
)
def test_the_shapes_are_those_of_the_variables(spec):
    shapes = jax.tree.map(np.shape, spec.init(jax.random.key(0), SHAPE))
    del shapes["params"]["prior"]
    assert spec.variable_shapes(SHAPE) == shapes
    assert spec_from_dict(spec.to_dict()) == spec


def test_a_fresh_unit_is_linear_and_a_trained_one_is_not(variables, features):
    fresh = UNIT.init(jax.random.key(0), SHAPE)

    def superposed(variables):
        zero, one, two, both = (
            UNIT.encode(variables, x)
            for x in (0 * features, features, features[::-1], features + features[::-1])
        )
        return np.abs(one + two - zero - both).max() < 1e-4

    assert superposed(fresh)
    assert not superposed(variables)


def test_every_array_is_used(variables, features):
    """Those of the blocks too: no gradient is zero."""

    def loss(params):
        unit = {"params": params}
        latents = UNIT.encode(unit, features)
        seen = UNIT.decode(unit, latents, SHAPE)
        return jnp.square(seen - features).sum() + UNIT.bits(unit, latents).sum()

    grads = jax.grad(loss)(variables["params"])
    assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(grads))


def test_the_receptive_field_is_that_of_the_blocks(variables):
    """Two blocks of 3×3 see two patches to each side."""
    x = jnp.zeros((1, 14, 14, 5))
    moved = UNIT.encode(variables, x.at[0, 6, 6].set(1.0)) - UNIT.encode(variables, x)
    seen = np.abs(np.asarray(moved[0])).max(axis=-1) > 1e-7
    assert seen[1:6, 1:6].all()
    assert not seen[0].any()
    assert not seen[:, 6:].any()


def test_one_unit_serves_all_rates(variables, features):
    unit = VariableRate(UNIT, lambdas=(1e-5, 1e-3))
    fresh = unit.init(jax.random.key(0), SHAPE)
    gains = fresh["params"]["gains"]
    own = {"params": {**variables["params"], "gains": gains}}
    shapes = jax.tree.map(np.shape, {**fresh, "params": dict(fresh["params"])})
    del shapes["params"]["prior"]
    assert unit.variable_shapes(SHAPE) == shapes
    latents = [unit.encode(unit.at(own, p), features) for p in (0.0, 1.0)]
    np.testing.assert_allclose(latents[1], 10 * latents[0], rtol=1e-3, atol=1e-4)
    plain, folded = unit.fold(unit.at(own, 0.5))
    assert plain == unit
    np.testing.assert_array_equal(
        plain.encode(folded, features), unit.encode(unit.at(own, 0.5), features)
    )


def test_blocks_of_the_decoder_are_scaled_by_the_rate(variables, features):
    """At a scale of 1 the decoder is the unit's own, at 0 it is linear, and images may differ."""
    unit = VariableRate(UNIT, lambdas=(1e-5, 1e-3))
    fresh = unit.init(jax.random.key(0), SHAPE)
    low, high = (np.asarray(unit.at(fresh, p)["rate"]["decoder_scale"]) for p in (0.0, 1.0))
    np.testing.assert_allclose(low, 10 * high, rtol=1e-3)  # as the steps
    z = UNIT.encode(variables, features)
    ones = {"gain": jnp.ones(4), "inverse_gain": jnp.ones(4)}

    def decode(scale):
        rate = {**ones, "decoder_scale": scale}
        return unit.decode({**variables, "rate": rate}, z, SHAPE)

    count = UNIT.decoder_scales
    whole, linear = decode(jnp.ones(count)), decode(jnp.zeros(count))
    np.testing.assert_array_equal(whole, UNIT.decode(variables, z, SHAPE))
    assert np.abs(whole - linear).max() > 1e-3
    mixed = decode(jnp.array([[1.0], [0.0], [1.0]]) * jnp.ones((1, count)))
    for found, expected in zip(mixed, (whole[0], linear[1], whole[2]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_its_costs_are_counted():
    """A patch embedding, a depthwise and two pointwise convolutions a block, and an output."""
    spec = ResidualSpec(channels=8, stride=2, width=16, kernel=5, decoder_width=32)
    plan = plan_unit(spec, (8, 8, 10))
    block = 25 * 16 + 2 * 16 * 32
    assert plan.encoder_macs == 16 * (40 * 16 + block + 16 * 8)
    assert plan.encoder_params == 40 * 16 + 16 + block + 32 + 16 + 16 * 8 + 8
    assert plan.decoder_macs == 16 * (8 * 32 + 25 * 32 + 2 * 32 * 64 + 32 * 40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 0}, "channels is 0; expected 1 … 4096"),
        ({"width": 10**9}, "width is 1000000000; expected 1 … 4096"),
        ({"stride": 65}, "expected 1 … 64"),
        ({"blocks": -1}, "blocks is -1; expected 0 … 64"),
        ({"decoder_blocks": 10**9}, "decoder_blocks is 1000000000"),
        ({"decoder_expansion": 17}, "expected 1 … 16"),
        ({"width": None}, "width is None"),
        ({"kernel": 4}, "expected an odd number"),
        ({"decoder_kernel": 2.0}, "expected a whole number"),
        ({"output_activation": "elu"}, "expected one of"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    """Also those of a stored spec, before anything is allocated."""
    with pytest.raises(ConfigError, match=message):
        spec_from_dict({**UNIT.to_dict(), **changes})


def test_features_without_rows_and_columns_are_refused():
    with pytest.raises(ConfigError, match="takes"):
        UNIT.latent_shape((16, 5))
