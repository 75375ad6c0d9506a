"""The factorized density against its definition, its limits, and known distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsplit.entropy import factorized
from jaxsplit.entropy.factorized import log_logistic_mass
from jaxsplit.entropy.prior_tables import Density
from jaxsplit.errors import ConfigError

pytestmark = pytest.mark.optimized

# Jitted, since compiling once is faster than per operation. Another test compares with and without
# jit.
_bits = jax.jit(factorized.bits)
_logits = jax.jit(factorized.cumulative_logits)


def _joined(trees):
    """Concatenates densities as channels of one."""
    return {name: np.concatenate([tree[name] for tree in trees]) for name in trees[0]}


def _latents(seed, *shape, scale=4.0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, scale, shape), jnp.float32)


@pytest.mark.parametrize("filters", [(), (2,), (3, 3, 3), (3, 2, 4, 3)])
def test_values_follow_the_paper(filters, reference, random_params):
    params = random_params(0, 4, filters)
    z = _latents(1, 5, 7, 4)
    logits, _ = reference.chain(params, z)
    np.testing.assert_allclose(_logits(params, z), logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(_bits(params, z), reference.bits(params, z), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("filters", [(), (3, 3, 3)])
def test_gradients_follow_the_paper(filters, reference, random_params):
    params = random_params(2, 3, filters)
    z = _latents(3, 20, 3)
    weights = np.random.default_rng(4).normal(size=z.shape)

    def loss(params, z):
        return (jnp.asarray(weights, jnp.float32) * _bits(params, z)).sum()

    by_params, by_z = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, z)

    def slope(params, z, name, index, step=1e-5):
        results = []
        for sign in (1, -1):
            moved = {**params, "z": z}
            moved = {k: np.array(v, np.float64) for k, v in moved.items()}
            moved[name][index] += sign * step
            results.append((weights * reference.bits(moved, moved.pop("z"))).sum())
        return (results[0] - results[1]) / (2 * step)

    for name, got in {**by_params, "z": by_z}.items():
        want = np.array([slope(params, z, name, i) for i in np.ndindex(got.shape)])
        np.testing.assert_allclose(got, want.reshape(got.shape), rtol=2e-4, atol=1e-4)


def test_likelihood_is_the_density_convolved_with_the_unit_interval(reference, random_params):
    params = random_params(5, 3)
    z = _latents(6, 10, 3)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    density = reference.pdf(params, np.asarray(z, np.float64)[..., None, :] + nodes[:, None] / 2)
    convolved = (density * weights[:, None] / 2).sum(axis=-2)
    np.testing.assert_allclose(jnp.exp2(-_bits(params, z)), convolved, rtol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_unit_cells_sum_to_one(offset, random_params):
    params = _joined([random_params(7, 3, scale=x, shift=2.0) for x in (0.05, 1.0, 40.0)])
    grid = jnp.broadcast_to(jnp.arange(-2500, 2501.0)[:, None] + offset, (5001, 9))
    total = jnp.exp2(-_bits(params, grid)).sum(axis=0)
    np.testing.assert_allclose(total, np.ones(9), rtol=2e-5)


def test_cumulative_increases(random_params):
    z = jnp.broadcast_to(jnp.linspace(-40, 40, 2001)[:, None], (2001, 6))
    logits = factorized.cumulative_logits(random_params(8, 6), z)
    assert (jnp.diff(logits, axis=0) > 0).all()


def test_values_and_gradients_are_finite_far_out(reference, random_params):
    trees = []
    for scale in (0.05, 3.0, 1e4):
        for factor in (0.0, 0.7, -0.7, 30.0, -30.0):
            tree = random_params(9, 4, scale=scale)
            trees.append({k: np.full_like(v, factor) if "fac" in k else v for k, v in tree.items()})
    params = _joined(trees)
    channels = len(params["bias_0"])
    far = [1e1, 1e2, 1e3, 1e4, 1e5]
    z = np.array([-x for x in far] + [0.0, 0.5] + far, np.float32)
    z = np.broadcast_to(z[:, None], (z.size, channels))

    @jax.jit
    def run(params, z):
        value, pullback = jax.vjp(factorized.bits, params, z)
        return value, *pullback(jnp.ones_like(value))

    value, by_params, by_z = run(params, z)
    for leaf in jax.tree.leaves((value, by_params, by_z)):
        assert np.isfinite(leaf).all()
    assert (value >= 0).all()
    # Where the interval lies in a tail, the bits must fall towards the centre, as fast as the
    # logits do: tanh is saturated there, and what is left is the product of the matrices.
    logits, _ = reference.chain(params, z)
    slope = np.ones((channels, 1, 1))
    for k in range(4):
        slope = np.log1p(np.exp(params[f"matrix_{k}"].astype(np.float64))) @ slope
    tail = (np.abs(z) >= 1e4) & (np.abs(logits) > 30)
    assert tail[:, :40].any(axis=0).all()
    want = np.broadcast_to(np.sign(z) * slope[:, 0, 0] / np.log(2), z.shape)
    np.testing.assert_allclose(by_z[tail], want[tail], rtol=1e-3)


def test_tail_values_keep_their_digits(reference, random_params):
    params = random_params(10, 4)
    z = jnp.broadcast_to(jnp.array([-1e5, -1e4, 1e4, 1e5])[:, None], (4, 4))
    middle = reference.chain(params, z)[0]
    growth = reference.chain(params, z + 0.5)[0] - reference.chain(params, z - 0.5)[0]
    want = (np.abs(middle) - growth / 2 - np.log(-np.expm1(-growth))) / np.log(2)
    np.testing.assert_allclose(_bits(params, z), want, rtol=2e-6)


def test_growth_survives_where_the_difference_of_logits_would_not():
    # Near 1e7 a float32 has no room for z ± 1/2, and the two logits would be equal.
    params = factorized.init_params(jax.random.key(0), 1, init_scale=1.0)
    value, slope = jax.value_and_grad(lambda z: _bits(params, z).sum())(jnp.full(1, 1e9))
    np.testing.assert_allclose(value, 1e9 / np.log(2), rtol=1e-3)
    np.testing.assert_allclose(slope, 1 / np.log(2), rtol=1e-3)


def test_vanished_growth_costs_forty_bits_and_is_lifted():
    value, (by_lower, by_growth) = jax.value_and_grad(
        lambda args: -log_logistic_mass(*args), argnums=0
    )((jnp.float32(0.0), jnp.float32(-1e-8)))
    assert 25 < value < 35
    assert by_lower == 0
    assert -2e12 < by_growth < -1e11


@pytest.mark.parametrize("channels", [1, 12, 3000])
def test_blocks_jit_and_vmap_change_nothing(channels, random_params):
    n = 9001 if channels == 12 else 37
    params = random_params(11, channels)
    z = _latents(12, n, channels)

    def run(params, z):
        value, pullback = jax.vjp(factorized.bits, params, z)
        return value, pullback(jnp.cos(z))

    whole = jax.jit(run)(params, z)
    pieces = [jax.jit(run)(params, z[i : i + 500]) for i in range(0, n, 500)]
    np.testing.assert_allclose(
        whole[0], np.concatenate([p[0] for p in pieces]), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        whole[1][1], np.concatenate([p[1][1] for p in pieces]), rtol=1e-4, atol=1e-5
    )
    for name, got in whole[1][0].items():
        want = sum(np.asarray(p[1][0][name], np.float64) for p in pieces)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-4 * np.abs(want).max())
    if channels == 12:
        np.testing.assert_allclose(factorized.bits(params, z), whole[0], rtol=1e-5, atol=1e-6)
        twice = jax.tree.map(lambda x: jnp.stack([x, x]), (params, z))
        np.testing.assert_allclose(
            jax.vmap(factorized.bits)(*twice)[1], whole[0], rtol=1e-5, atol=1e-6
        )


def test_channels_do_not_mix(random_params):
    params = random_params(13, 5)
    z = _latents(14, 6, 5)
    jacobian = jax.jit(jax.jacobian(lambda z: factorized.bits(params, z).sum(axis=0)))(z)
    off_diagonal = np.asarray(jacobian)[~np.eye(5, dtype=bool)[:, None, :].repeat(6, axis=1)]
    assert (off_diagonal == 0).all()
    alone = {name: value[2:3] for name, value in params.items()}
    np.testing.assert_allclose(_bits(alone, z[:, 2:3]), _bits(params, z)[:, 2:3], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_other_dtypes_are_priced_in_float32(dtype, random_params):
    params = random_params(15, 2)
    z = jnp.arange(-6, 6).reshape(6, 2)
    got = factorized.bits(params, z.astype(dtype))
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, factorized.bits(params, z.astype(jnp.float32)))


@pytest.mark.parametrize("p", [2**-20, 0.01, 0.5, 0.9, 1 - 2**-20])
def test_quantile_inverts_the_cumulative(p, reference, random_params):
    places = [(3.0, 0.0), (0.01, -7.0), (1e3, 5e4)]
    params = _joined([random_params(16, 6, scale=x, shift=shift) for x, shift in places])
    shift = np.repeat([abs(shift) for _, shift in places], 6)
    z = Density(params).quantiles(p)
    got, slope = reference.chain(params, z[None])
    # To the resolution of z and its logits.
    room = 1e-12 * (1 + np.abs(got)) + slope * 1e-14 * (np.abs(z) + shift)
    assert (np.abs(got - np.log(p / (1 - p))) < room).all()


def test_init_scale_is_the_initial_width():
    scales = [0.1, 1.0, 10.0, 300.0]
    params = _joined([factorized.init_params(jax.random.key(1), 20, init_scale=s) for s in scales])
    # Where the logits are ±1, in a chain without bends: one logistic scale to each side.
    density = Density(params)
    low, high = (density.quantiles(p) for p in (1 / (1 + np.e), np.e / (1 + np.e)))
    np.testing.assert_allclose((high - low) / 2, np.repeat(scales, 20), rtol=1e-3)
    assert np.unique(density.quantiles(0.5)).size == 80


@pytest.mark.parametrize(
    "arguments", [{"channels": 0}, {"filters": (3, 0)}, {"init_scale": 0.0}, {"init_scale": np.inf}]
)
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ConfigError, match="positive"):
        factorized.init_params(jax.random.key(0), **{"channels": 2, **arguments})


def test_misfits_are_refused(random_params):
    params = random_params(17, 3)
    with pytest.raises(ConfigError, match=r"\(2, 4\).*\[\.\.\., 3\]"):
        factorized.bits(params, jnp.zeros((2, 4)))


def test_training_reaches_the_entropy_of_known_sources():
    rng = np.random.default_rng(18)
    n = 20000

    def noisy(size):
        sources = [
            rng.laplace(1.3, 2.0, size),
            rng.normal(-4.0, 3.0, size),
            np.where(rng.random(size) < 0.7, rng.normal(-3, 1, size), rng.normal(4, 2, size)),
        ]
        z = np.stack(sources, axis=1) + rng.uniform(-0.5, 0.5, (size, 3))
        return jnp.asarray(z, jnp.float32)

    train, unseen = noisy(n), noisy(10 * n)
    # The differential entropy of source + noise, from a fine histogram of many samples.
    many = np.asarray(noisy(2_000_000))
    entropy = []
    for column in many.T:
        counts, edges = np.histogram(column, bins=2000)
        share = counts[counts > 0] / counts.sum()
        entropy.append(-(share * np.log2(share / (edges[1] - edges[0]))).sum())
    params = factorized.init_params(jax.random.key(2), 3)
    steps = 1500
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, steps))

    @jax.jit
    def fit(params, state, key):
        def step(carry, key):
            params, state = carry
            batch = train[jax.random.randint(key, (512,), 0, n)]
            grads = jax.grad(lambda p: factorized.bits(p, batch).mean())(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), jax.random.split(key, steps))[0][0]

    params = fit(params, optimizer.init(params), jax.random.key(3))
    got = factorized.bits(params, unseen).mean(axis=0)
    assert (np.asarray(got) > 0.995 * np.array(entropy)).all()
    np.testing.assert_allclose(got, entropy, rtol=0.01)
