"""`Backbone.save` → `load_backbone`: the same backbone, or a refusal when it is saved."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxsplit
from jaxsplit import networks
from jaxsplit.errors import ConfigError, WeightsError
from jaxsplit.networks import registry
from jaxsplit.tasks import Classification

PREPROCESSING = jaxsplit.Preprocessing((8, 6), 3, 12, "bicubic", (0.1, 0.2, 0.3), (0.5,))
CLASSES = ("zebra", "Äpfel", "cat")


class Own(nn.Module):
    """Two layers, one cut; no batch normalization."""

    width: int = 4

    def endpoints(self):
        return ("low", "logits")

    @nn.compact
    def __call__(self, x, *, start=None, stop=None):
        if start is None:
            x = nn.Conv(self.width, (3, 3), strides=2, name="low")(x)
        return x if stop == "low" else nn.Dense(3, name="logits")(x.mean(axis=(1, 2)))


@dataclasses.dataclass(frozen=True)
class Ranked(Classification):
    """A task of the user's, which a file can't hold."""

    margin: float = 1.0

    name = "ranked"


def of_functions():
    rng = np.random.default_rng(0)
    variables = {"low": {"w": rng.normal(size=(3, 5))}, "high": rng.normal(size=(5, 3))}

    def head(variables, images, cut):
        return images @ variables["low"]["w"]

    def tail(variables, features, cut):
        return features.mean(axis=(1, 2)) @ variables["high"]

    variables = jax.tree.map(jnp.float32, variables)
    return networks.FunctionNetwork(head, tail, ("low",)), variables, None


def of_nnx():
    graph, state = nnx.split(nnx.Linear(3, 3, rngs=nnx.Rngs(0)))

    def head(state, images, cut):
        return nnx.merge(graph, state)(images)

    def tail(state, features, cut):
        return features.mean(axis=(1, 2))

    return networks.FunctionNetwork(head, tail, ("low",)), state, state


def of_linen():
    variables = Own().init(jax.random.key(0), jnp.zeros((1, *PREPROCESSING.input_shape)))
    return Own(), variables, None


def included():
    module = networks.create("resnet8_small", 3)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), jnp.zeros((1, 8, 6, 3)))
    return module, jax.tree.map(lambda x: jnp.float32(rng.uniform(0.1, 1, x.shape)), shapes), None


@pytest.fixture(autouse=True)
def no_names(monkeypatch):
    monkeypatch.setattr(registry, "_OWN", {})


@pytest.fixture
def own():
    network, variables, _ = of_linen()
    return jaxsplit.make_backbone("own", network, variables, PREPROCESSING, CLASSES, {"seed": 3})


def refused(backbone, path, error, *words):
    """Saving ends in one line with these words, and leaves no file."""
    with pytest.raises(error) as caught:
        backbone.save(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not path.exists()


@pytest.mark.parametrize(
    ("make", "task"),
    [
        (of_linen, Classification(CLASSES)),
        (of_functions, Classification(CLASSES)),
        (of_functions, Ranked(CLASSES, 0.5)),
        (of_nnx, Classification(CLASSES)),
        (included, Classification(CLASSES)),
    ],
)
def test_what_is_saved_is_what_is_loaded(tmp_path, make, task):
    network, variables, structure = make()
    name = "resnet8_small" if make is included else f"own {make.__name__}"
    if make is not included:
        networks.register(name, network, task=task, variables=structure)
    card = {"command": "none", "top1": 0.5}
    backbone = jaxsplit.make_backbone(name, network, variables, PREPROCESSING, task, card)
    path = tmp_path / "new" / "own.safetensors"
    backbone.save(path)
    for loaded in (jaxsplit.load_backbone(path), jaxsplit.load_backbone(name, path)):
        for field in ("name", "network", "preprocessing", "task", "fingerprint", "card"):
            assert getattr(loaded, field) == getattr(backbone, field)
        assert loaded.class_names == CLASSES
        assert loaded.weights is None
    images = np.random.default_rng(1).normal(size=(2, 8, 6, 3)).astype(np.float32)
    run = jax.jit(backbone.network)  # an equal network's program is the same
    expected = run(backbone.variables, images)
    np.testing.assert_array_equal(run(loaded.variables, images), expected)
    assert np.ptp(expected) > 0
    again = path.with_name("again.safetensors")
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_a_shipped_backbone_is_saved_with_its_card(tmp_path):
    backbone = jaxsplit.load_backbone("fashion_mnist_resnet8")
    backbone.save(tmp_path / "copy.safetensors")
    loaded = jaxsplit.load_backbone(tmp_path / "copy.safetensors")
    assert (loaded.fingerprint, loaded.card) == (backbone.fingerprint, backbone.card)


def test_a_network_without_a_registered_name_is_refused_when_it_is_saved(own, tmp_path):
    path = tmp_path / "own.safetensors"
    refused(own, path, ConfigError, "networks.register('own', network)")
    networks.register("own", Own(width=5))
    refused(own, path, ConfigError, "another network is registered as own", "register('own'")
    networks.register("own", own.network)  # a later registration replaces it
    own.save(path)
    named = dataclasses.replace(own, name="resnet8_small")
    path.unlink()
    refused(named, path, ConfigError, "included resnet8_small is another network")


def test_a_file_of_a_network_that_is_not_registered_says_what_to_call(own, tmp_path, monkeypatch):
    networks.register("own", Own())
    path = tmp_path / "own.safetensors"
    own.save(path)
    monkeypatch.setattr(registry, "_OWN", {})
    with pytest.raises(WeightsError, match=r"'own' is neither included nor registered: call .*reg"):
        jaxsplit.load_backbone(path)
    networks.register("own", Own(width=5))
    with pytest.raises(WeightsError, match="does not fit own; of another shape"):
        jaxsplit.load_backbone(path)


def test_a_task_that_is_not_registered_is_refused(own, tmp_path, monkeypatch):
    path = tmp_path / "own.safetensors"
    networks.register("own", Own())
    ranked = dataclasses.replace(own, task=Ranked(CLASSES))
    refused(ranked, path, ConfigError, "task is a Ranked", "task=backbone.task")
    networks.register("own", Own(), task=Ranked(CLASSES))
    ranked.save(path)
    networks.register("own", Own())
    with pytest.raises(WeightsError, match="its task 'ranked' is not registered"):
        jaxsplit.load_backbone(path)


def test_variables_that_could_not_be_read_again_are_refused(own, tmp_path):
    path = tmp_path / "own.safetensors"
    networks.register("own", Own())

    def other(change, **fields):
        variables = change(own.variables)
        given = {"fingerprint": networks.fingerprint(variables), **fields}
        return dataclasses.replace(own, variables=variables, **given)

    doubled = other(lambda tree: jax.tree.map(lambda x: 2 * x, tree), fingerprint=own.fingerprint)
    refused(doubled, path, WeightsError, "not those of its fingerprint")
    half = other(lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree))
    refused(half, path, WeightsError, "a file holds float32", "is bfloat16")
    wild = other(lambda tree: jax.tree.map(lambda x: x.at[0].set(np.nan), tree))
    refused(wild, path, WeightsError, "not finite in float32")
    fewer = other(lambda tree: {"params": {"low": tree["params"]["low"]}})
    refused(fewer, path, WeightsError, "do not fit own; missing: 'params/logits/bias'")
    module, variables, _ = included()
    backbone = jaxsplit.make_backbone("resnet8_small", module, variables, PREPROCESSING, CLASSES)
    refused(backbone.fold(), path, WeightsError, "before fold()")


def test_variables_in_other_trees_than_dictionaries_need_their_structure(tmp_path):
    path = tmp_path / "own.safetensors"
    network, state, _ = of_nnx()
    backbone = jaxsplit.make_backbone("own", network, state, PREPROCESSING, CLASSES)
    networks.register("own", network)
    refused(backbone, path, WeightsError, "variables=backbone.variables")


def test_a_file_that_does_not_fit_the_functions_is_refused(tmp_path):
    path = tmp_path / "own.safetensors"
    network, variables, _ = of_functions()
    networks.register("own", network)
    jaxsplit.make_backbone("own", network, variables, PREPROCESSING, CLASSES).save(path)
    renamed = networks.FunctionNetwork(
        lambda v, x, cut: x @ v["first"], *of_functions_tail(network)
    )
    networks.register("own", renamed)
    with pytest.raises(WeightsError, match=r"does not fit own \(.KeyError: 'first'"):
        jaxsplit.load_backbone(path)


def of_functions_tail(network):
    return network.tail_function, network.names


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"card": {"note": object()}}, "no JSON"),
        ({"card": {"loss": float("nan")}}, "no JSON"),
        ({"preprocessing": type("Own", (jaxsplit.Preprocessing,), {})((8, 6))}, "is a Own"),
    ],
)
def test_a_description_that_a_file_does_not_hold_is_refused(own, tmp_path, change, said):
    networks.register("own", Own())
    refused(dataclasses.replace(own, **change), tmp_path / "own.safetensors", ConfigError, said)


def test_the_name_of_a_file_is_checked(own, tmp_path):
    networks.register("own", Own())
    refused(own, tmp_path / "resnet50", ConfigError, "must end in .safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        own.save(tmp_path / "folder.safetensors")


@pytest.mark.parametrize("name", ["resnet50", "", "a\nb", 3])
def test_names_that_nothing_can_be_registered_under(name):
    with pytest.raises(ConfigError):
        networks.register(name, Own())


def test_only_networks_and_tasks_are_registered():
    with pytest.raises(ConfigError, match="is no network"):
        networks.register("own", nn.Dense(3))
    with pytest.raises(ConfigError, match=r"expected a jaxsplit\.Task"):
        networks.register("own", Own(), task=("cat", "dog"))


@pytest.mark.parametrize("name", ["log_var", "var"])
def test_only_the_variances_of_normalizations_must_not_be_negative(tmp_path, name):
    network, variables, _ = of_functions()
    variables = {**variables, "low": {**variables["low"], name: np.full(5, -3, np.float32)}}
    networks.register("own", network)
    backbone = jaxsplit.make_backbone("own", network, variables, PREPROCESSING, CLASSES)
    backbone.save(tmp_path / "own.safetensors")
    loaded = jaxsplit.load_backbone(tmp_path / "own.safetensors")
    assert np.asarray(loaded.variables["low"][name]).tolist() == [-3] * 5
    statistics = {**variables, "batch_stats": {"bn": {"var": np.full(5, -3, np.float32)}}}
    wrong = jaxsplit.make_backbone("own", network, statistics, PREPROCESSING, CLASSES)
    refused(
        wrong, tmp_path / "x.safetensors", WeightsError, "negative variances", "batch_stats/bn/var"
    )
