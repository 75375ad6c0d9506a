"""Units that begin as principal components: exact, decorrelated, with the step lambda asks for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.entropy import rounding_offsets
from jaxsplit.errors import ConfigError
from jaxsplit.split import Split
from jaxsplit.train.curve import train_curve
from jaxsplit.train.losses import Distortion
from jaxsplit.train.pca import best_step, check_pca, patches, pca_unit
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units import BottleneckSpec, ResidualSpec
from jaxsplit.units.unit_tree import UnitTree

CHANNELS = 5


def _spec(k, channels=None, **changes):
    linear = {"activation": "none", "output_activation": "none"}
    form = {"stride": k, "kernel": k, "padding": 0, "multiplier": k * k}
    return BottleneckSpec(**{"channels": channels or CHANNELS * k * k, **form, **linear, **changes})


def _split(spec):
    shape = jax.ShapeDtypeStruct((4, 6, CHANNELS), jnp.float32)
    tree = UnitTree.at(shape, spec)
    return Split(tree.tensors, tree.structure, None, "cut", None)


@pytest.fixture(scope="module")
def features():
    """Channels and neighbours that depend on each other, far from zero."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(size=(300, 4, 6, CHANNELS)), axis=2)
    return (smooth @ rng.normal(size=(CHANNELS, CHANNELS)) + 3).astype(np.float32)


def _encode(split, unit, features, train=False):
    x = jnp.asarray(features)
    return np.asarray(split.encode_train(unit, x, None)[0] if train else split.encode(unit, x))


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("k", [1, 2])
def test_all_components_give_the_features_back(k, batch_norm, features):
    split = _split(_spec(k, batch_norm=batch_norm, step=0.5))
    unit = pca_unit(split, features, 0.7, jax.random.key(0))
    latent = _encode(split, unit, features)
    back = split.decode(unit, jnp.asarray(latent))
    np.testing.assert_allclose(back, features, atol=1e-4)
    flat = latent.reshape(-1, latent.shape[-1])
    covariance = np.cov(flat.T)
    spread = np.diag(covariance)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-3)
    assert (np.diff(spread) <= 1e-3 * spread[0]).all()
    assert np.abs(covariance - np.diag(spread)).max() < 1e-3 * spread[0]
    # An orthonormal basis in steps: the energy is the features' over the step's square.
    assert spread.sum() * 0.7**2 == pytest.approx(_patch_variance(features, k), rel=1e-3)


@pytest.mark.parametrize("width", [16, 20, 24])
@pytest.mark.parametrize("blocks", [0, 2])
def test_a_residual_unit_begins_as_the_linear_one(blocks, width, features):
    """With components, and random mixtures beyond them, for the channels that no latent has."""
    metric, key = _metric(2), jax.random.key(0)
    linear = _split(_spec(2, channels=16))
    sizes = {"width": width, "blocks": blocks, "decoder_width": 40}
    residual = _split(ResidualSpec(16, stride=2, output_activation="none", **sizes))
    units = [pca_unit(split, features, 0.7, key, metric) for split in (linear, residual)]
    one, two = (
        _encode(split, unit, features)
        for split, unit in zip((linear, residual), units, strict=True)
    )
    np.testing.assert_allclose(two, one, atol=1e-3)
    back = residual.decode(units[1], jnp.asarray(two))
    np.testing.assert_allclose(back, linear.decode(units[0], jnp.asarray(one)), atol=1e-3)
    np.testing.assert_array_equal(
        units[0]["params"]["prior"]["bias_0"], units[1]["params"]["prior"]["bias_0"]
    )
    shapes = jax.tree.map(np.shape, units[1]["params"])
    assert {name: shapes[name] for name in ("encoder", "decoder")} == residual.spec.variable_shapes(
        residual.shape
    )["params"]


def test_blocks_begin_with_inputs_of_about_one_size(features):
    """Large components do not hide small ones from the first layer of a block."""
    split = _split(ResidualSpec(20, stride=2, width=20))
    unit = pca_unit(split, features, 0.01, jax.random.key(0))
    spread = _encode(split, unit, features).std(axis=(0, 1, 2))
    kernels = np.asarray(unit["params"]["encoder"]["block1"]["depthwise"])
    sizes = np.sqrt(np.square(kernels).sum(axis=(0, 1)))[:, 0] * spread
    assert spread.max() > 50 * spread.min()
    assert sizes.max() < 5 * sizes.min()


def _patch_variance(features, k):
    n, h, w, c = features.shape
    patches = features.reshape(n, h // k, k, w // k, k, c).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(-1, k * k * c).var(axis=0, ddof=1).sum()


@pytest.mark.parametrize("k", [1, 2])
def test_what_is_lost_with_fewer_channels_is_what_the_last_components_hold(k, features):
    whole = _split(_spec(k))
    latent = _encode(whole, pca_unit(whole, features, 1.0, jax.random.key(0)), features)
    spread = latent.reshape(-1, latent.shape[-1]).var(axis=0)
    few = _split(_spec(k, channels=3))
    unit = pca_unit(few, features, 1.0, jax.random.key(0))
    back = few.decode(unit, jnp.asarray(_encode(few, unit, features)))
    error = np.square(np.asarray(back) - features).mean() * CHANNELS * k * k
    assert error == pytest.approx(spread[3:].sum(), rel=1e-3)


def test_normalising_by_the_batch_changes_nothing_at_the_start(features):
    split = _split(_spec(2))
    unit = pca_unit(split, features, 0.7, jax.random.key(0))
    latent = _encode(split, unit, features)
    np.testing.assert_allclose(_encode(split, unit, features, train=True), latent, atol=0.02)


def test_the_prior_begins_as_wide_as_the_latents(features):
    split = _split(_spec(1))
    unit = pca_unit(split, features, 0.3, jax.random.key(0))
    latent = np.round(_encode(split, unit, features))
    entropy = 0.0
    for channel in np.moveaxis(latent, -1, 0):
        shares = np.unique(channel, return_counts=True)[1] / channel.size
        entropy -= (shares * np.log2(shares)).sum()
    # Where it rounds is in the middle of what comes, so that most of a narrow channel is zeros.
    np.testing.assert_allclose(rounding_offsets(unit["params"]["prior"]), 0, atol=0.1)
    charged = np.asarray(split.bits(unit, jnp.asarray(latent))).mean(axis=(0, 1, 2)).sum()
    assert entropy <= charged < entropy + 0.3 * CHANNELS


def _cost(split, unit, features, lmbda, metric):
    """The loss of a unit's rounded latents, as a square of the error and entropies."""
    latent = np.round(_encode(split, unit, features))
    back = np.asarray(split.decode(unit, jnp.asarray(latent)))
    errors = patches((back - features).astype(np.float64), split.spec.stride)
    error = np.einsum("nhwi,ij,nhwj->n", errors, metric, errors).mean()
    bits = 0.0
    for channel in np.moveaxis(latent, -1, 0):
        shares = np.unique(channel, return_counts=True)[1] / channel.size
        bits -= (shares * np.log2(shares)).sum() * channel[0].size
    return error + lmbda * bits


def _metric(k):
    """Some errors cost a thousand times what others do."""
    rng, n = np.random.default_rng(5), CHANNELS * k * k
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return 1e-4 * (basis * np.geomspace(1, 1e-3, n)) @ basis.T


@pytest.mark.parametrize("lmbda", [1e-6, 1e-5])
def test_no_other_step_has_a_lower_cost(lmbda, features):
    split, metric = _split(_spec(1)), _metric(1)
    scale, price = float(np.square(features).mean()), np.trace(metric) / len(metric)
    step = best_step(lmbda, price, scale)

    def cost(step):
        unit = pca_unit(split, features, step, jax.random.key(0), metric)
        return _cost(split, unit, features, lmbda, metric)

    assert cost(step) < min(cost(0.6 * step), cost(1.6 * step))
    assert best_step(4 * lmbda, price, scale) == pytest.approx(2 * step)


@pytest.mark.parametrize("k", [1, 2])
def test_what_costs_more_is_sent_better(k, features):
    """By a metric, its own components cost less than those of the mean square, at any step."""
    split, metric, key = _split(_spec(k)), _metric(k), jax.random.key(0)
    scale, price = float(np.square(features).mean()), np.trace(metric) / len(metric)
    own = pca_unit(split, features, best_step(1e-4, price, scale), key, metric)
    plain = [
        _cost(split, pca_unit(split, features, step, key), features, 1e-4, metric)
        for step in best_step(1e-4, price, scale) * np.geomspace(0.25, 4, 9)
    ]
    assert _cost(split, own, features, 1e-4, metric) < 0.9 * min(plain)
    back = split.decode(own, jnp.asarray(_encode(split, own, features)))
    np.testing.assert_allclose(back, features, atol=1e-3)


def test_a_price_of_nothing_still_has_a_step():
    assert best_step(0.0, 1.0, 4.0) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": 3},
        {"padding": 1},
        {"multiplier": 2},
        {"decoder_kernel": 3},
        {"decoder_multiplier": 1},
        {"activation": "relu"},
        {"latent_activation": "relu"},
    ],
)
def test_forms_that_are_no_transform_of_patches_are_refused(changes):
    with pytest.raises(ConfigError, match="stride and kernels are equal"):
        check_pca(_spec(2, **changes))


@pytest.mark.parametrize("changes", [{"width": 15}, {"decoder_width": 15}])
def test_widths_that_do_not_hold_the_latent_are_refused(changes):
    with pytest.raises(ConfigError, match="widths of at least channels"):
        check_pca(ResidualSpec(16, **{"width": 16, **changes}))


def test_more_channels_than_components_are_refused(features):
    split = _split(_spec(1, channels=CHANNELS + 1))
    with pytest.raises(ConfigError, match="6 channels of 5 components"):
        pca_unit(split, features, 1.0, jax.random.key(0))


@pytest.fixture(scope="module")
def config(tiny_config):
    return dataclasses.replace(
        tiny_config,
        spec=dataclasses.replace(_spec(2, channels=8), output_activation="relu"),
        rates=(Rate("high", 1e-4), Rate("low", 1e-3)),
        phases=(Phase(8, Distortion(distillation=0, features=1)),),
        learning_rate=1e-3,
    )


def test_a_training_that_begins_there_is_ahead_of_one_that_begins_anywhere(config, tiny_backbone):
    def losses(config):
        seen = []
        train_curve(config, tiny_backbone, None, lambda step, steps, said: seen.append(said))
        return np.asarray(seen[-1]["loss"])

    begun = losses(dataclasses.replace(config, initialization="pca"))
    assert (begun < 0.5 * losses(config)).all()
    assert config.key != dataclasses.replace(config, initialization="pca").key


def test_features_that_are_not_cached_give_the_same_start(config, tiny_backbone):
    phase = Phase(0, Distortion(distillation=0, features=1))
    begins = dataclasses.replace(config, initialization="pca", phases=(phase,))
    kept, run = (
        train_curve(dataclasses.replace(begins, cache=cache), tiny_backbone)
        for cache in ("memory", "none")
    )
    for one, other in zip(kept.rates, run.rates, strict=True):
        pairs = zip(*(jax.tree.leaves(rate.variables) for rate in (one, other)), strict=True)
        for leaf, found in pairs:
            np.testing.assert_allclose(found, leaf, rtol=1e-4, atol=1e-5)
    high, low = (rate.variables["params"]["encoder"] for rate in kept.rates)
    np.testing.assert_array_equal(high["pointwise"]["kernel"], low["pointwise"]["kernel"])
    # One basis, in units of each rate's step: lambda is ten times the other's.
    scales = [np.asarray(encoder["pointwise_norm"]["scale"]) for encoder in (high, low)]
    np.testing.assert_allclose(scales[0], scales[1] * 10**0.5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": (Phase(1, Distortion()),)}, "a positive weight of features"),
        ({"spec": BottleneckSpec(channels=3)}, "stride and kernels are equal"),
        ({"initialization": "zero"}, "expected one of random, pca"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_before_the_training(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, **{"initialization": "pca", **changes})
