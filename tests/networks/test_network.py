"""The interface of a network: head and tail are the whole at every cut, each part run once."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit import networks
from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError
from jaxsplit.networks import FunctionNetwork, LinenNetwork, as_network, make_backbone
from jaxsplit.networks.inference import head_program
from jaxsplit.tasks import Classification

SHAPE = (12, 10, 1)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sides(variables, images):
    """Features of a small U-Net's encoder: a shallow and a deep array."""
    shallow = nn.relu(images @ variables["encoder"][0])
    return {"skip": shallow, "deep": nn.relu(shallow[:, ::2, ::2] @ variables["encoder"][1])}


class Counted:
    """A U-net as two functions, which count how often they are called."""

    def __init__(self):
        self.calls = []

    def head(self, variables, images, cut):
        self.calls.append(("head", cut))
        return sides(variables, images) if cut == "middle" else images

    def tail(self, variables, features, cut):
        self.calls.append(("tail", cut))
        both = features if cut == "middle" else sides(variables, features)
        up = jnp.repeat(jnp.repeat(both["deep"], 2, axis=1), 2, axis=2)
        return {"mask": both["skip"] @ variables["skip"] + up @ variables["deep"]}


@pytest.fixture
def unet():
    """(network, variables, calls); variables are a pytree that no dictionary of names is."""
    counted = Counted()
    network = FunctionNetwork(counted.head, counted.tail, ("image", "middle"))
    variables = {
        "encoder": [drawn(1, 4, seed=1), drawn(4, 6, seed=2)],
        "skip": drawn(4, 2, seed=3),
        "deep": drawn(6, 2, seed=4),
    }
    return network, variables, counted.calls


@pytest.fixture
def linen(tiny):
    module, variables, _ = tiny
    return LinenNetwork(module), variables


def test_a_linen_network_is_its_module_at_every_cut(linen):
    network, variables = linen
    images = drawn(3, *SHAPE)
    whole = network.module.apply(variables, images)
    assert network.cuts() == network.module.endpoints()[:-1]
    np.testing.assert_array_equal(network(variables, images), whole)
    for cut in network.cuts():
        features = network.head(variables, images, cut)
        np.testing.assert_array_equal(network.tail(variables, features, cut), whole)
    seen, outputs = network.at_cuts(variables, images, network.cuts())
    np.testing.assert_array_equal(outputs, whole)
    for cut, features in seen.items():
        np.testing.assert_array_equal(features, network.head(variables, images, cut))


def test_a_pair_of_functions_is_a_network_at_every_cut(unet):
    network, variables, _ = unet
    images = drawn(3, *SHAPE)
    whole = network(variables, images)
    assert whole["mask"].shape == (3, 12, 10, 2)
    for cut in network.cuts():
        features = network.head(variables, images, cut)
        outputs = network.tail(variables, features, cut)
        np.testing.assert_array_equal(outputs["mask"], whole["mask"])
    assert set(network.head(variables, images, "middle")) == {"skip", "deep"}


def test_every_part_of_a_module_runs_once_for_all_cuts(linen, monkeypatch):
    network, variables = linen
    ran = []
    apply = type(network.module).apply

    def counted(self, variables, x, start=None, stop=None):
        ran.append((start, stop))
        return apply(self, variables, x, start=start, stop=stop)

    monkeypatch.setattr(type(network.module), "apply", counted)
    cuts = network.cuts()
    jax.eval_shape(lambda v, x: network.at_cuts(v, x, cuts), variables, drawn(1, *SHAPE))
    assert ran == [*zip((None, *cuts), cuts, strict=False), (cuts[-1], None)]
    ran.clear()
    jax.eval_shape(lambda v, x: network.at_cuts(v, x, cuts[1::2]), variables, drawn(1, *SHAPE))
    assert ran == [(None, cuts[1]), (cuts[1], cuts[3]), (cuts[3], None)]


def test_a_head_runs_once_for_each_cut_and_the_tail_once(unet):
    network, variables, calls = unet
    seen, outputs = network.at_cuts(variables, drawn(2, *SHAPE), ("image", "middle"))
    assert calls == [("head", "image"), ("head", "middle"), ("tail", "middle")]
    assert list(seen) == ["image", "middle"]
    assert outputs["mask"].shape == (2, 12, 10, 2)
    calls.clear()
    network(variables, drawn(2, *SHAPE))
    assert calls == [("head", "middle"), ("tail", "middle")]


def test_shapes_are_those_of_one_image_without_running_anything(linen, unet):
    network, variables = linen
    shapes = network.feature_shapes(variables, SHAPE)
    assert tuple(shapes) == network.cuts()
    images = drawn(2, *SHAPE)
    for cut, shape in shapes.items():
        features = network.head(variables, images, cut)
        assert (2, *shape.shape) == features.shape
        assert shape.dtype == features.dtype
    network, variables, _ = unet
    only_shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    found = jax.tree.map(lambda x: x.shape, network.feature_shapes(only_shapes, SHAPE))
    assert found == {"image": SHAPE, "middle": {"deep": (6, 5, 6), "skip": (12, 10, 4)}}
    for wrong in ((12, 10), (0, 10, 1), (2, 12, 10, 1)):
        for one in (network, linen[0]):
            with pytest.raises(ConfigError, match=r"expected \(H, W, channels\)"):
                one.feature_shapes(variables, wrong)


@pytest.mark.parametrize("outputs", [True, False])
@pytest.mark.parametrize("cuts", [(), ("middle",), ("image", "middle")])
def test_the_one_program_gives_what_is_asked_for(unet, cuts, outputs):
    network, variables, calls = unet
    preprocessing = Preprocessing(SHAPE[:2], channels=1, mean=(0.3,), std=(0.4,))
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
    pixels = preprocessing.normalize(images)
    program = head_program(network, cuts, preprocessing, outputs=outputs)
    calls.clear()
    seen, found = program(variables, images)
    assert [call for call in calls if call[0] == "head"] == [
        ("head", cut) for cut in cuts or network.cuts()[-1:]
    ]
    assert tuple(seen) == cuts
    for cut in cuts:
        direct = network.head(variables, pixels, cut)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), seen[cut], direct)
    if outputs or not cuts:
        whole = network(variables, pixels)["mask"]
        np.testing.assert_allclose(found["mask"], whole, 1e-4, 1e-4)
    calls.clear()
    program(jax.tree.map(lambda x: 2 * x, variables), images)
    assert not calls  # other weights: the same program


def test_folding_is_for_networks_that_know_how(linen, unet):
    network, variables = linen
    folded, own = network.fold(variables)
    assert folded.folded
    assert not network.folded
    assert set(own) == {"params"}
    images = drawn(2, *SHAPE)
    np.testing.assert_allclose(folded(own, images), network(variables, images), 1e-3, 1e-4)
    assert folded.fold(own) == (folded, own)
    network, variables, _ = unet
    assert network.fold(variables) == (network, variables)
    assert not network.folded


def test_networks_are_values(linen, unet):
    network, _ = linen
    assert LinenNetwork(network.module) == network
    assert hash(LinenNetwork(network.module)) == hash(network)
    assert as_network(network.module) == network
    assert as_network(network) is network
    network, _, _ = unet
    assert dataclasses.replace(network) == network
    assert hash(dataclasses.replace(network)) == hash(network)


def test_what_is_no_network_is_refused():
    for wrong in (object(), nn.Dense(3), lambda x: x, None):
        with pytest.raises(ConfigError, match="is no network: give a Linen module with endpoints"):
            as_network(wrong)
    for names in ((), ("a", "a")):
        with pytest.raises(ConfigError, match="expected different names"):
            FunctionNetwork(lambda v, x, cut: x, lambda v, x, cut: x, names)


def test_a_network_of_ones_own_is_a_backbone(unet, linen):
    network, variables, _ = unet
    preprocessing = Preprocessing(SHAPE[:2], channels=1)
    backbone = make_backbone("unet", network, variables, preprocessing, ("a", "b"))
    assert backbone.task == Classification(("a", "b"))
    assert backbone.class_names == ("a", "b")
    assert backbone.output_shapes["mask"].shape == (12, 10, 2)
    assert backbone.feature_shapes["middle"]["deep"].shape == (6, 5, 6)
    assert backbone.fold() is backbone
    with pytest.raises(ConfigError, match="FunctionNetwork, no Linen module"):
        _ = backbone.module
    network, variables = linen
    assert make_backbone("own", network.module, variables, preprocessing, "abc").network == network


def test_the_fingerprint_of_any_tree_depends_on_names_shapes_and_values(unet):
    _, variables, _ = unet
    own = networks.fingerprint(variables)
    assert networks.fingerprint(dict(reversed(variables.items()))) == own
    first, second = variables["encoder"]
    others = [
        {**variables, "encoder": [second, first]},
        {**variables, "encoder": [first]},
        {**variables, "encoder": {"a": first, "b": second}},
        {**variables, "skip": variables["skip"] + np.float32(1e-3)},
        {**variables, "skip": variables["skip"].T},
        list(jax.tree.leaves(variables)),
        variables["skip"],
    ]
    found = [networks.fingerprint(other) for other in others]
    assert len({own, *found}) == len(others) + 1

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Weights:
        skip: np.ndarray

    assert networks.fingerprint(Weights(first)) == networks.fingerprint({"skip": first})


@pytest.mark.parametrize("count", [9, 11])
def test_there_is_a_class_name_for_each_logit(tiny_backbone, count):
    parts = tiny_backbone.variables, tiny_backbone.preprocessing
    names = [str(number) for number in range(count)]
    message = f"10 logits, but there are {count} class names"

    def tail(variables, features, cut):
        return features.mean(axis=(1, 2)) @ np.ones((1, 10), np.float32)

    functions = networks.FunctionNetwork(lambda variables, images, cut: images, tail, ("low",))
    for network in (tiny_backbone.network, functions):
        with pytest.raises(ConfigError, match=message):
            networks.make_backbone("own", network, *parts, names)
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(tiny_backbone, task=names)
    with pytest.raises(ConfigError, match=message):
        networks.register("own", tiny_backbone.network, task=Classification(tuple(names)))
