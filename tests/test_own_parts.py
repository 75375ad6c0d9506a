"""Own units, priors, losses, optimizers and networks: trained, saved, loaded, coded and decoded."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from own_units import Projection

import jaxsplit
from jaxsplit import networks, units
from jaxsplit.errors import ConfigError, FamilyError
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase

PREPROCESSING = jaxsplit.Preprocessing((12, 12), 1, mean=(0.3,), std=(0.35,))
CLASSES = jaxsplit.open_source("embedded", max_samples=10).class_names


@dataclasses.dataclass(frozen=True)
class Ranking:
    """An own loss: the teacher's best class should keep its lead, and features their size."""

    margin: float = 1.0

    def __call__(self, seen):
        best = jax.nn.one_hot(seen.teacher.argmax(-1), seen.teacher.shape[-1])
        lead = (seen.outputs * best).sum(-1) - jnp.where(best > 0, -jnp.inf, seen.outputs).max(-1)
        lost = jnp.square(seen.reconstruction - seen.features).mean(axis=(1, 2, 3))
        return nn.relu(self.margin - lead) + lost


class UNet(nn.Module):
    """Two scales; both cross the cut between encoder and decoder."""

    def setup(self):
        self.first, self.second = nn.Conv(4, (3, 3)), nn.Conv(8, (3, 3), strides=2)
        self.last, self.logits = nn.Conv(8, (3, 3)), nn.Dense(10)

    def __call__(self, x):
        return self.tail(self.head(x))

    def head(self, x):
        skip = nn.relu(self.first(x))
        return {"skip": skip, "deep": nn.relu(self.second(skip))}

    def tail(self, features):
        deep = features["deep"].repeat(2, axis=1).repeat(2, axis=2)
        x = nn.relu(self.last(jnp.concatenate([features["skip"], deep], axis=-1)))
        return self.logits(x.mean(axis=(1, 2)))


class ViT(nn.Module):
    """Patches of 4 × 4, two blocks; tokens [B, 9, 16] cross between them."""

    def setup(self):
        self.embed = nn.Conv(16, (4, 4), strides=4)
        self.attention = [nn.MultiHeadDotProductAttention(2) for _ in range(2)]
        self.mlp = [nn.Dense(16) for _ in range(2)]
        self.logits = nn.Dense(10)

    def __call__(self, x):
        return self.tail(self.head(x))

    def head(self, x):
        x = self.embed(x)
        return self._block(0, x.reshape(len(x), -1, 16))

    def tail(self, tokens):
        return self.logits(self._block(1, tokens).mean(axis=1))

    def _block(self, i, x):
        x = x + self.attention[i](x)
        return x + nn.gelu(self.mlp[i](x))


def linen_halves(module):
    """A network of a Linen module's methods `head` and `tail`, and its variables."""
    variables = module.init(jax.random.key(0), jnp.zeros((1, *PREPROCESSING.input_shape)))

    def head(variables, images, cut):
        return module.apply(variables, images, method="head")

    def tail(variables, features, cut):
        return module.apply(variables, features, method="tail")

    return networks.FunctionNetwork(head, tail, ("middle",)), variables


def nnx_halves():
    """The same of an NNX model: the graph is a constant, the state are the variables."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(1, 8, (3, 3), strides=2, rngs=rngs)
            self.dense = nnx.Linear(8, 10, rngs=rngs)

    graph, state = nnx.split(Model(nnx.Rngs(0)))

    def head(state, images, cut):
        return nnx.relu(nnx.merge(graph, state).conv(images))

    def tail(state, features, cut):
        return nnx.merge(graph, state).dense(features.mean(axis=(1, 2)))

    return networks.FunctionNetwork(head, tail, ("middle",)), state


def plain_halves():
    rng = np.random.default_rng(0)
    variables = {"first": rng.normal(size=(9, 8)), "last": rng.normal(size=(8, 10))}

    def head(variables, images, cut):
        patches = images.reshape(len(images), 4, 3, 4, 3).transpose(0, 1, 3, 2, 4)
        return jax.nn.relu(patches.reshape(len(images), 4, 4, 9) @ variables["first"])

    def tail(variables, features, cut):
        return features.mean(axis=(1, 2)) @ variables["last"]

    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
    return networks.FunctionNetwork(head, tail, ("middle",)), variables


BOTTLENECK = jaxsplit.BottleneckSpec(2)
TRAINED = {
    "own unit, prior, loss and optimizer": (
        plain_halves,
        Projection(3),
        {"loss": Ranking(), "optimizer": optax.sgd(1e-2, momentum=0.9), "steps": 6},
    ),
    "two arrays, one unit each": (
        lambda: linen_halves(UNet()),
        units.per_tensor({"skip": BOTTLENECK, "deep": Projection(4)}),
        {},
    ),
    "two arrays, one unit for both": (lambda: linen_halves(UNet()), BOTTLENECK, {}),
    "tokens": (lambda: linen_halves(ViT()), Projection(4), {}),
    "an NNX model": (nnx_halves, BOTTLENECK, {"tables": "channels"}),
    "two plain functions": (plain_halves, BOTTLENECK, {"tables": "positions"}),
}


@functools.cache
def trained(name):
    halves, spec, options = TRAINED[name]
    network, variables = halves()
    backbone = networks.make_backbone("own", network, variables, PREPROCESSING, CLASSES)
    phases = (
        None if "steps" in options else [Phase(3, Distortion()), Phase(3, Distortion(), "round")]
    )
    family = jaxsplit.train_family(
        backbone,
        "middle",
        {"r1": 1e-3, "r2": 1e-5},
        unit=spec,
        phases=phases,
        progress=False,
        max_samples=64,
        batch_size=16,
        **options,
    )
    return backbone, family


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_brought_along_is_trained_saved_loaded_and_coded(name, packed, tmp_path):
    backbone, family = trained(name)
    family.save(tmp_path / "family", packed=packed)
    loaded = jaxsplit.RateFamily.load(tmp_path / "family")
    assert loaded.fingerprint == family.fingerprint
    source = jaxsplit.open_source("embedded", split="test", max_samples=5)
    images, _ = jaxsplit.data.load_arrays(source, PREPROCESSING)
    sender, receiver = loaded.codec(backbone, batch_size=5)
    for rate in ("r1", "r2"):
        frames = sender(images, rate=rate)
        symbols = receiver.symbols(frames, rate)
        np.testing.assert_array_equal(symbols, sender.symbols(images, rate))
        assert np.abs(symbols).max() > 0  # something crosses
        # All of it is in the bytes: what the tables say it takes, and little more.
        bits = loaded[rate].tables.information_bits(symbols)
        assert bits / 8 <= sum(map(len, frames)) < bits / 8 + 5 * 4
        split = loaded.split(backbone, rate)
        offsets = split.stored_offsets(loaded[rate].tables)
        features = split.decode(loaded[rate].variables, split.dequantize(symbols, offsets))
        expected = split.tail(backbone.variables, features)
        np.testing.assert_allclose(receiver(frames), expected, rtol=1e-4, atol=1e-4)


def test_every_part_of_every_unit_learns():
    """Of two arrays each unit's encoder, decoder and prior, and the own optimizer's momentum."""
    for name in ("two arrays, one unit each", "own unit, prior, loss and optimizer"):
        backbone, family = trained(name)
        fresh = jaxsplit.make_split(backbone, "middle", TRAINED[name][1]).init(jax.random.key(0))
        moved = jax.tree.map(
            lambda a, b: float(np.abs(a - b).max()),
            family["r2"].variables["params"],
            fresh["params"],
        )
        for path, distance in jax.tree.leaves_with_path(moved):
            assert distance > 0, (name, path)


def test_a_cut_without_a_unit_for_all_that_crosses_is_refused():
    network, variables = linen_halves(UNet())
    backbone = networks.make_backbone("own", network, variables, PREPROCESSING, CLASSES)
    with pytest.raises(ConfigError, match="'skip' crosses the cut and has no unit"):
        jaxsplit.make_split(backbone, "middle", units.per_tensor({"deep": BOTTLENECK}))
    three = units.per_tensor({"deep": BOTTLENECK, "skip": BOTTLENECK, "high": BOTTLENECK})
    with pytest.raises(ConfigError, match="3 units"):
        jaxsplit.make_split(backbone, "middle", three)


def test_a_family_of_a_unit_that_nobody_registered_is_refused(tmp_path, monkeypatch):
    _, family = trained("tokens")
    family.save(tmp_path / "family")
    monkeypatch.delitem(units.unit._KINDS, "test_projection")
    with pytest.raises(FamilyError, match=r"test_projection.*import the module that defines it"):
        jaxsplit.RateFamily.load(tmp_path / "family")
    with pytest.raises(ConfigError, match=r"Projection is not registered.*units\.register"):
        family.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_family_of_another_network_is_refused():
    _, family = trained("tokens")
    network, variables = linen_halves(ViT())
    moved = jax.tree.map(lambda x: x + 1, variables)
    other = networks.make_backbone("own", network, moved, PREPROCESSING, CLASSES)
    with pytest.raises(FamilyError, match="trained on"):
        family.codec(other)
