"""Several arrays that cross one cut: each has its unit, and one frame carries all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_units import Projection

from jaxsplit.bitstream import EntropyCoder
from jaxsplit.entropy import join_tables, tables_by_position
from jaxsplit.errors import ConfigError
from jaxsplit.networks import FunctionNetwork
from jaxsplit.split import Split
from jaxsplit.units import BottleneckSpec, per_tensor
from jaxsplit.units.unit_tree import UnitTree

MAP = jax.ShapeDtypeStruct((8, 6, 4), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((5, 6), jnp.float32)
TREES = {
    "one map": (MAP, BottleneckSpec(3)),
    "tokens": (TOKENS, Projection(4)),
    "two maps, one spec": ({"skip": MAP, "deep": MAP}, BottleneckSpec(2)),
    "a map and tokens": (
        {"skip": MAP, "tokens": TOKENS},
        per_tensor({"skip": BottleneckSpec(3), "tokens": Projection(2)}),
    ),
    "nested": ({"a": {"b": MAP, "c": MAP}, "d": TOKENS}, Projection(2)),
}


def trained(tree):
    """Variables in which nothing is at its initial value."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 3.0, leaf.shape), jnp.float32)
        return leaf + jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, tree.init(jax.random.key(0)))


def drawn(features, count=3):
    rng = np.random.default_rng(2)
    return jax.tree.map(
        lambda x: jnp.asarray(np.abs(rng.normal(0, 3, (count, *x.shape))), jnp.float32), features
    )


def shifted(tree):
    """Offsets that are no whole numbers, of another value for each channel of each array."""
    leaves, structure = jax.tree.flatten(tree.zero_offsets())
    spread = np.linspace(-0.4, 0.4, sum(len(leaf) for leaf in leaves)).astype(np.float32)
    ends = np.cumsum([len(leaf) for leaf in leaves])
    return jax.tree.unflatten(structure, np.split(spread, ends[:-1]))


@pytest.fixture(scope="module", params=TREES, ids=lambda name: name.replace(" ", "-"))
def case(request):
    """(features of one image, units, variables, split)."""
    features, spec = TREES[request.param]
    tree = UnitTree.at(features, spec)
    network = FunctionNetwork(lambda v, x, cut: x, lambda v, x, cut: x, ("cut",))
    return features, tree, trained(tree), Split(tree.tensors, tree.structure, network, "cut", None)


def test_shapes_and_trees_fit_together(case):
    features, tree, variables, _ = case
    x = drawn(features)
    latents = tree.encode(variables, x)
    back = tree.decode(variables, latents)
    bits = tree.bits(variables, latents)
    structure = jax.tree.structure(features)
    for found in (latents, back, bits, tree.zero_offsets(), tree.features(3)):
        assert jax.tree.structure(found) == structure
    for tensor, z in zip(tree.tensors, jax.tree.leaves(latents), strict=True):
        assert z.shape == (3, *tensor.latent_shape)
    assert jax.tree.map(jnp.shape, back) == jax.tree.map(jnp.shape, x)
    assert jax.tree.map(jnp.shape, tree.features(3)) == jax.tree.map(jnp.shape, x)
    assert jax.tree.map(jnp.shape, bits) == jax.tree.map(jnp.shape, latents)
    values = sum(z[0].size for z in jax.tree.leaves(latents))
    assert np.prod(tree.latent_shape) == values
    if len(tree.tensors) > 1:
        assert tree.latent_shape == (1, 1, values)


def test_each_array_is_its_own_units_affair(case):
    features, tree, variables, _ = case
    x = drawn(features)
    latents, back = tree.encode(variables, x), tree.decode(variables, tree.encode(variables, x))
    leaves = zip(
        tree.tensors,
        jax.tree.leaves(x),
        *map(jax.tree.leaves, (latents, back, tree.bits(variables, latents))),
        strict=True,
    )
    for tensor, own, z, y, bits in leaves:
        alone = variables
        if len(tree.tensors) > 1:
            alone = {k: v[tensor.name] for k, v in variables.items() if tensor.name in v}
        np.testing.assert_array_equal(z, tensor.unit.encode(alone, own))
        np.testing.assert_array_equal(y, tensor.unit.decode(alone, z, tensor.shape))
        np.testing.assert_array_equal(bits, tensor.unit.bits(alone, z))


def test_symbols_are_one_array_and_come_back_to_the_bit(case):
    features, tree, variables, split = case
    latents, offsets = tree.encode(variables, drawn(features)), shifted(tree)
    symbols = split.quantize(latents, offsets)
    assert symbols.dtype == jnp.int32
    assert symbols.shape == (3, *tree.latent_shape)
    assert len(np.unique(symbols)) > 3
    again = split.dequantize(symbols, offsets)
    rounded = split.round(latents, offsets)
    assert jax.tree.structure(again) == jax.tree.structure(latents)
    jax.tree.map(np.testing.assert_array_equal, again, rounded)
    np.testing.assert_array_equal(split.quantize(again, offsets), symbols)
    for z, found, offset in zip(*map(jax.tree.leaves, (latents, again, offsets)), strict=True):
        assert (np.abs(z - found) <= 0.5 + 1e-5).all()
        steps = np.asarray(found) - offset
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)


def test_the_tables_of_a_frame_code_what_the_priors_charge(case):
    features, tree, variables, split = case
    offsets = shifted(tree)
    tables = tree.tables(jax.device_get(variables), offsets)
    latents = split.round(tree.encode(variables, drawn(features)), offsets)
    # Beyond, tables have an escape for all.
    latents = jax.tree.map(lambda z: jnp.clip(z, -2, 2), latents)
    latents = split.round(latents, offsets)
    symbols = np.asarray(split.quantize(latents, offsets))
    coder = EntropyCoder(tables)
    for one in symbols:
        content = coder.encode(one)
        np.testing.assert_array_equal(coder.decode(content, one.shape[:2]), one)
        assert len(content) <= tables.information_bits(one) / 8 + 1.1
    bits = sum(np.asarray(x).sum() for x in jax.tree.leaves(tree.bits(variables, latents)))
    np.testing.assert_allclose(tables.information_bits(symbols), bits, rtol=0.05)
    # A receiver has the tables alone.
    stored = tree.stored_offsets(tables)
    jax.tree.map(np.testing.assert_array_equal, stored, offsets)
    jax.tree.map(
        np.testing.assert_array_equal, split.dequantize(symbols, stored), jax.device_get(latents)
    )


def test_the_best_offsets_cost_the_fewest_bits(case):
    _, tree, variables, _ = case
    best = tree.best_offsets(jax.device_get(variables))
    assert jax.tree.map(np.shape, best) == jax.tree.map(np.shape, tree.zero_offsets())
    tables = tree.tables(jax.device_get(variables), best)
    jax.tree.map(np.testing.assert_array_equal, tree.stored_offsets(tables), best)


def test_a_training_step_keeps_the_structure_of_the_variables(case):
    """The statistics of a step are what the next one is given: another tree would be compiled."""
    features, tree, variables, _ = case
    stats = variables.get("batch_stats", {})
    latents, after = tree.encode_train(variables, drawn(features), None)
    assert jax.tree.structure(after) == jax.tree.structure(stats)
    _, after = tree.decode_train({**variables, "batch_stats": after}, latents, None)
    assert jax.tree.structure(after) == jax.tree.structure(stats)
    moved = [
        bool((a != b).any())
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(stats), strict=True)
    ]
    assert all(moved)


def test_folding_keeps_the_function(case):
    features, tree, variables, _ = case
    folded, own = tree.fold(variables)
    assert set(own) == {"params"}
    x = drawn(features)
    latents = tree.encode(variables, x)
    for ours, theirs in (
        (folded.encode(own, x), latents),
        (folded.decode(own, latents), tree.decode(variables, latents)),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs
        )


def test_known_shapes_are_those_of_fresh_variables():
    for features, spec in (
        TREES["two maps, one spec"],
        ({"a": MAP}, BottleneckSpec(2, batch_norm=False)),
    ):
        tree = UnitTree.at(features, spec)
        shapes = jax.tree.map(np.shape, tree.init(jax.random.key(0)))
        units = [shapes["params"]] if len(tree.tensors) == 1 else shapes["params"].values()
        for own in units:
            del own["prior"]
        assert tree.variable_shapes() == shapes
    assert UnitTree.at(*TREES["a map and tokens"]).variable_shapes() is None
    assert UnitTree.at(*TREES["tokens"]).variable_shapes() is None


def test_units_of_several_arrays_start_differently():
    tree = UnitTree.at({"a": MAP, "b": MAP}, BottleneckSpec(2))
    own = tree.init(jax.random.key(0))["params"]
    kernels = [own[name]["encoder"]["pointwise"]["kernel"] for name in ("a", "b")]
    assert (kernels[0] != kernels[1]).any()


def test_a_unit_without_its_prior_is_noticed():
    tree = UnitTree.at(*TREES["two maps, one spec"])
    variables = tree.init(jax.random.key(0))
    assert tree.has_prior(variables)
    del variables["params"]["deep"]["prior"]
    assert not tree.has_prior(variables)


def test_arrays_and_units_that_do_not_match_are_refused():
    two = {"a": MAP, "b": TOKENS}
    with pytest.raises(ConfigError, match="'b' crosses the cut and has no unit"):
        UnitTree.at(two, per_tensor({"a": BottleneckSpec(2)}))
    three = per_tensor(dict.fromkeys("abc", Projection(2)))
    with pytest.raises(ConfigError, match="3 units, but only a, b crosses"):
        UnitTree.at(two, three)
    with pytest.raises(ConfigError, match=r"^b: .*a bottleneck takes \(H, W, channels\)"):
        UnitTree.at(two, BottleneckSpec(2))
    with pytest.raises(ConfigError, match="too small"):
        UnitTree.at(MAP, BottleneckSpec(2, kernel=9, padding=0))
    assert UnitTree.at(MAP, BottleneckSpec(2)).single.shape == (8, 6, 4)
    with pytest.raises(ConfigError, match="a, b cross the cut"):
        _ = UnitTree.at(two, Projection(2)).single


def test_noise_of_arrays_is_their_own_and_depends_on_the_example():
    tree = UnitTree.at({"a": MAP, "b": MAP}, Projection(2))
    split = Split(tree.tensors, tree.structure, None, "cut", None)
    zeros = jax.tree.map(lambda x: jnp.zeros((4, *x.shape)), {"a": MAP, "b": MAP})
    keys = jax.random.split(jax.random.key(0), 4)
    noise = split.add_noise(zeros, keys)
    for x in jax.tree.leaves(noise):
        assert np.abs(x).max() <= 0.5
        assert len(np.unique(np.asarray(x).reshape(4, -1), axis=0)) == 4
    assert (noise["a"] != noise["b"]).any()
    turned = split.add_noise(zeros, keys[::-1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[::-1]), noise, turned)


def test_trees_are_values():
    features, spec = TREES["a map and tokens"]
    assert UnitTree.at(features, spec) == UnitTree.at(dict(features), spec)
    assert hash(UnitTree.at(features, spec)) == hash(UnitTree.at(dict(features), spec))
    other = dataclasses.replace(spec.unit_of("skip"), channels=2)
    assert UnitTree.at(features, per_tensor({"skip": other, "tokens": Projection(2)})) != (
        UnitTree.at(features, spec)
    )


def shaped(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({}, "nothing crosses"),
        ({"positions": shaped((9, 4), jnp.int32)}, "int32; units code floating-point"),
        ({"prior": shaped((9, 4)), "x": shaped((9, 4))}, "called 'prior': rename"),
        ({"a/b": shaped((9, 4)), "x": shaped((9, 4))}, "called 'a/b': rename"),
    ],
)
def test_what_no_unit_codes_is_refused(features, said):
    with pytest.raises(ConfigError, match=said):
        UnitTree.at(features, Projection(2))


def test_more_tables_than_a_frame_has_are_refused_before_a_training():
    features = {"left": shaped((4, 4, 160)), "right": shaped((4, 4, 160))}
    with pytest.raises(ConfigError, match=r"320 channels in all.*at most 256 tables"):
        UnitTree.at(features, BottleneckSpec(160))


def test_position_dependent_tables_of_tokens_join_those_of_a_map():
    rng = np.random.default_rng(0)
    shapes = ((3, 3, 2), (5, 2))
    parts = []
    for shape in shapes:
        symbols = rng.integers(-3, 4, (50, *shape[:-1], shape[-1])).astype(np.int32)
        maps = symbols if len(shape) == 3 else symbols[:, None]
        parts.append((tables_by_position(maps, np.zeros(2, np.float32)), shape))
    joint = join_tables(parts)
    assert joint.table_indices.shape == (1, 1, 28)
    latent = rng.integers(-3, 4, (1, 1, 28)).astype(np.int32)
    coder = EntropyCoder(joint)
    np.testing.assert_array_equal(coder.decode(coder.encode(latent), (1, 1)), latent)
