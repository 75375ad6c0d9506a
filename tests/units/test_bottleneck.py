"""The unit: its sizes, its form, and the same function with batch normalization folded."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit.errors import ConfigError
from jaxsplit.units.bottleneck import INITIAL_LATENT_STD, Bottleneck, BottleneckSpec


def features(*shape, seed=0):
    return np.abs(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def trained(spec, shape, seed=1):
    """The unit and variables drawn as if it had been trained: nothing is at its initial value."""
    unit = Bottleneck(spec, shape)
    tree = jax.eval_shape(unit.init, jax.random.key(0), jnp.zeros((1, *shape)))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.3, 3.0, leaf.shape), jnp.float32)
        return jnp.asarray(rng.normal(0, 0.7, leaf.shape), jnp.float32)

    return unit, jax.tree_util.tree_map_with_path(draw, tree)


# FACTS of the published units: side of the features, spec, side of the latent and of the output.
PUBLISHED = [
    (7, {"stride": 2, "padding": 1, "decoder_padding": 1}, 4, 7),
    (7, {"stride": 4, "padding": 1, "decoder_padding": 0}, 2, 7),
    (14, {"stride": 2, "padding": 1, "decoder_padding": 0}, 7, 15),
    (14, {"stride": 4, "padding": 1, "decoder_kernel": 5, "decoder_padding": 0}, 4, 17),
    (65, {"stride": 8, "padding": 0, "decoder_kernel": 9}, 8, 65),
    (65, {"stride": 6, "padding": 0, "decoder_kernel": 5}, 11, 65),
    (65, {"stride": 4, "padding": 0, "decoder_kernel": 5}, 16, 65),
]


@pytest.mark.parametrize(("side", "form", "latent", "output"), PUBLISHED)
def test_the_published_units_have_their_published_sizes(side, form, latent, output):
    spec = BottleneckSpec(2, crop=False, latent_activation="relu", **form)
    assert spec.latent_size(side, side) == (latent, latent)
    assert spec.output_size(side, side) == (output, output)
    cropped = dataclasses.replace(spec, crop=True)
    assert cropped.latent_size(side, side) == (latent, latent)
    assert cropped.output_size(side, side) == (side, side)
    unit = Bottleneck(spec, (side, side, 3))
    x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    (reconstruction, bits), _ = jax.eval_shape(
        lambda x: unit.init_with_output(jax.random.key(0), x), x
    )
    assert reconstruction.shape == (2, output, output, 3)
    assert bits.shape == (2, latent, latent, 2)


SPECS = [
    BottleneckSpec(3),
    BottleneckSpec(3, stride=1, kernel=1, padding=0),
    BottleneckSpec(2, stride=4, kernel=4, padding=0),
    BottleneckSpec(2, stride=3, kernel=2, padding=0, multiplier=2),
    BottleneckSpec(2, stride=2, kernel=5, padding=2, decoder_kernel=4, decoder_padding=1),
    BottleneckSpec(1, stride=4, kernel=3, padding=1, decoder_kernel=7, multiplier=3),
    BottleneckSpec(2, stride=2, kernel=3, multiplier=2, decoder_multiplier=3),
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("size", [(7, 7), (9, 6), (5, 8)])
def test_any_size_is_cropped_to_the_features(spec, size):
    uncropped = dataclasses.replace(spec, crop=False)
    for form, expected in ((spec, size), (uncropped, uncropped.output_size(*size))):
        unit = Bottleneck(form, (*size, 4))
        x = jax.ShapeDtypeStruct((2, *size, 4), jnp.float32)
        variables = jax.eval_shape(unit.init, jax.random.key(0), x)
        latent = jax.eval_shape(lambda v, x, u=unit: u.apply(v, x, method="encode"), variables, x)
        assert latent.shape == (2, *form.latent_size(*size), form.channels)
        out = jax.eval_shape(lambda v, z, u=unit: u.apply(v, z, method="decode"), variables, latent)
        assert out.shape == (2, *expected, 4)
        assert out.dtype == jnp.float32


@pytest.mark.parametrize("size", [(7, 7), (8, 5)])
def test_cropping_only_cuts(size):
    """Before the cut the reconstruction is the uncropped one, pixel by pixel."""
    spec = BottleneckSpec(2, stride=3, kernel=5, padding=2, decoder_padding=0, crop=False)
    unit, variables = trained(spec, (*size, 2))
    cropped = Bottleneck(dataclasses.replace(spec, crop=True), (*size, 2))
    z = np.random.default_rng(2).normal(size=(1, *spec.latent_size(*size), 2)).astype(np.float32)
    whole = unit.apply(variables, z, method="decode")
    assert whole.shape[1] >= size[0]
    assert whole.shape[2] >= size[1]
    part = cropped.apply(variables, z, method="decode")
    np.testing.assert_allclose(part, whole[:, : size[0], : size[1]], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_the_shapes_are_known_without_a_trace(spec):
    for form in (spec, dataclasses.replace(spec, batch_norm=False)):
        unit = Bottleneck(form, (9, 6, 4))
        fresh = jax.eval_shape(unit.init, jax.random.key(0), jnp.zeros((1, 9, 6, 4)))
        shapes = jax.tree.map(np.shape, fresh)
        del shapes["params"]["prior"]
        assert shapes == form.variable_shapes((9, 6, 4))


def test_the_tree_holds_the_unit_and_nothing_else():
    spec = BottleneckSpec(3, kernel=5, padding=2, decoder_kernel=4, multiplier=2)
    _, variables = trained(spec, (6, 6, 4))
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == {"encoder", "decoder", "prior"}
    assert set(variables["batch_stats"]) == {"encoder", "decoder"}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    encoder, decoder = variables["params"]["encoder"], variables["params"]["decoder"]
    assert encoder["depthwise"].shape == (5, 5, 4, 2)
    assert encoder["pointwise"]["kernel"].shape == (8, 3)
    assert decoder["pointwise"]["kernel"].shape == (3, 8)
    assert decoder["depthwise"].shape == (4, 4, 4, 2)
    wide = dataclasses.replace(spec, decoder_multiplier=3)
    decoder = trained(wide, (6, 6, 4))[1]["params"]["decoder"]
    assert decoder["pointwise"]["kernel"].shape == (3, 12)
    assert decoder["depthwise"].shape == (4, 4, 4, 3)
    plain, _ = spec.fold(variables)
    _, bare = trained(plain, (6, 6, 4))
    assert set(bare) == {"params"}


FORMS = [
    dict(zip(("activation", "latent_activation", "output_activation"), names, strict=True))
    for names in itertools.product(("relu", "none"), repeat=3)
]


@pytest.mark.parametrize("multiplier", [(1, None), (3, None), (1, 2)])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form.values()))
def test_folding_keeps_the_function(form, multiplier):
    """To 1e-5 of the values' size, for the latent and for the reconstruction."""
    shape = (6, 7, 3)
    spec = BottleneckSpec(2, decoder_kernel=4, step=0.7, **form)
    filters = dict(zip(("multiplier", "decoder_multiplier"), multiplier, strict=True))
    spec = dataclasses.replace(spec, **filters)
    unit, variables = trained(spec, shape)
    plain, folded = spec.fold(variables)
    assert plain == dataclasses.replace(spec, batch_norm=False)
    bare = Bottleneck(plain, shape)
    x = features(4, *shape)

    assert set(folded) == {"params"}
    prior = variables["params"]["prior"]
    jax.tree.map(np.testing.assert_array_equal, folded["params"]["prior"], prior)
    tree = jax.eval_shape(bare.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, tree)
    z = unit.apply(variables, x, method="encode")
    for method, argument in (("encode", x), ("decode", z)):
        expected = unit.apply(variables, argument, method=method)
        got = bare.apply(folded, argument, method=method)
        size = np.abs(expected).max()
        assert size > 0.1
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * size)
    assert plain.fold(folded) == (plain, folded)


def test_folding_leaves_its_argument_alone():
    spec = BottleneckSpec(2)
    _, variables = trained(spec, (4, 4, 2))
    before = jax.tree.map(np.array, variables)
    spec.fold(variables)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_the_step_is_the_unit_of_the_latent():
    shape = (6, 6, 3)
    one = BottleneckSpec(2, activation="none")
    unit, variables = trained(one, shape)
    wide = Bottleneck(dataclasses.replace(one, step=4.0), shape)
    x = features(3, *shape)
    z = unit.apply(variables, x, method="encode")
    np.testing.assert_allclose(wide.apply(variables, x, method="encode"), z / 4, rtol=1e-6)
    np.testing.assert_allclose(
        wide.apply(variables, z / 4, method="decode"),
        unit.apply(variables, z, method="decode"),
        rtol=1e-6,
    )


@pytest.mark.parametrize("step", [0.25, 8.0])
def test_a_fresh_latent_has_the_same_spread_at_any_step(step):
    """In steps, over a batch that training normalizes: so a coarser step starts no worse."""
    unit = Bottleneck(BottleneckSpec(3, step=step), (8, 8, 4))
    x, key = features(16, 8, 8, 4), jax.random.key(0)
    run = jax.jit(lambda key, x: unit.init_with_output(key, x, train=True, method="encode"))
    z, _ = run(key, x)
    np.testing.assert_allclose(np.std(z, axis=(0, 1, 2)), INITIAL_LATENT_STD, rtol=1e-3)


def test_activations_do_what_they_say():
    shape = (6, 6, 3)
    unit, variables = trained(BottleneckSpec(3), shape)
    x = features(4, *shape)
    open_latent = unit.apply(variables, x, method="encode")
    assert (open_latent < 0).any()
    assert (unit.apply(variables, open_latent, method="decode") >= 0).all()
    published = Bottleneck(BottleneckSpec(3, latent_activation="relu"), shape)
    latent = published.apply(variables, x, method="encode")
    np.testing.assert_array_equal(latent, np.maximum(open_latent, 0))
    signed = Bottleneck(BottleneckSpec(3, output_activation="none"), shape)
    out = signed.apply(variables, open_latent, method="decode")
    assert (out < 0).any()
    np.testing.assert_array_equal(
        np.maximum(out, 0), unit.apply(variables, open_latent, method="decode")
    )


def test_one_channel_prices_one_latent_channel():
    """The prior's channels don't mix: bits of channel c depend on channel c alone."""
    shape = (4, 4, 2)
    unit, variables = trained(BottleneckSpec(3), shape)
    z = jnp.asarray(np.random.default_rng(0).integers(-3, 4, (2, 2, 2, 3)), jnp.float32)
    bits = unit.apply(variables, z, method="bits")
    assert (bits > 0).all()
    other = unit.apply(variables, z.at[..., 1].add(5), method="bits")
    np.testing.assert_allclose(other[..., ::2], bits[..., ::2], rtol=1e-5)
    assert (np.abs(other[..., 1] - bits[..., 1]) > 1e-3).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 0},
        {"stride": 0},
        {"kernel": -1},
        {"multiplier": 0},
        {"decoder_multiplier": 0},
        {"decoder_kernel": 0},
        {"padding": -1},
        {"decoder_padding": -1},
        {"padding": 3},
        {"decoder_kernel": 2, "decoder_padding": 2},
        {"stride": 65},
        {"step": 0.0},
        {"step": -1.0},
        {"step": float("nan")},
        {"step": float("inf")},
        {"activation": "gelu"},
        {"latent_activation": "Relu"},
        {"output_activation": None},
    ],
    ids=str,
)
def test_a_spec_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError):
        BottleneckSpec(**{"channels": 4, **wrong})


def test_specs_are_values():
    assert BottleneckSpec(4, stride=2) == BottleneckSpec(4)
    assert hash(BottleneckSpec(4)) == hash(BottleneckSpec(4, kernel=3))
    assert BottleneckSpec(**dataclasses.asdict(SPECS[4])) == SPECS[4]
