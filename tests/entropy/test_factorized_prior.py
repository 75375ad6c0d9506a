"""The Linen module declares the parameters and equals the functions that it calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.entropy import FactorizedPrior, bits, build_tables, init_params
from jaxsplit.errors import ConfigError

pytestmark = pytest.mark.optimized


@pytest.mark.parametrize("filters", [(3, 3, 3), [2]])
def test_owns_the_parameters_of_the_functions(filters):
    z = jax.random.normal(jax.random.key(0), (2, 4, 4, 5)) * 3
    prior = FactorizedPrior(channels=5, filters=filters, init_scale=2.0)
    variables = jax.jit(prior.init)(jax.random.key(1), z)
    assert list(variables) == ["params"]
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == jax.tree.map(jnp.shape, init_params(jax.random.key(0), 5, filters))
    got = jax.jit(prior.apply)(variables, z)
    np.testing.assert_allclose(got, jax.jit(bits)(variables["params"], z), rtol=1e-6)
    assert build_tables(variables["params"]).channels == 5


def test_is_seeded_and_never_quantizes():
    prior = FactorizedPrior(channels=2)
    init, apply = jax.jit(prior.init), jax.jit(prior.apply)
    z = jnp.array([[30.0, 30.0], [30.4, 30.4]])
    variables = init(jax.random.key(3), z)
    jax.tree.map(np.testing.assert_array_equal, variables, init(jax.random.key(3), z))
    assert (variables["params"]["bias_0"] != init(jax.random.key(4), z)["params"]["bias_0"]).any()
    low, high = apply(variables, z)
    assert (low < high).all()


def test_another_number_of_channels_is_refused():
    with pytest.raises(ConfigError, match="to the last axis"):
        FactorizedPrior(channels=2).init(jax.random.key(0), jnp.zeros((2, 3)))
