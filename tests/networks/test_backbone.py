"""Backbone files round-trip, are byte-identical, and invalid ones are refused."""

import json
import os
import pickle
import re
import struct

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from jaxsplit import networks
from jaxsplit.errors import ConfigError, JaxsplitError, JaxsplitWarning, WeightsError
from jaxsplit.io.untrusted import MAX_HEADER


@pytest.fixture
def saved(tiny, tmp_path):
    _, variables, rest = tiny
    path = tmp_path / "weights.safetensors"
    networks.save_backbone(path, variables, **rest)
    return path


def rewritten(path, change):
    """Rewrites the file with its arrays and header changed by `change`."""
    with safetensors.safe_open(path, "numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["jaxsplit"])
    change(arrays, header)
    safetensors.numpy.save_file(arrays, path, {"jaxsplit": json.dumps(header)})
    return path


def by_hand(path, metadata, **tensor):
    """Writes a file of one tensor with any description."""
    header = json.dumps({"__metadata__": metadata, "w": tensor}).encode()
    size = tensor["data_offsets"][1]
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    return path


def refuses(path, *words):
    with pytest.raises(WeightsError) as caught:
        networks.read_backbone(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < len(str(path)) + 1000
    for word in (str(path), *words):
        assert word in message


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_saved_comes_back(tiny, tmp_path, dtype):
    module, variables, rest = tiny
    path = tmp_path / "new" / "weights.safetensors"
    networks.save_backbone(path, variables, **rest, dtype=dtype)
    backbone = networks.read_backbone(path)
    stored = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), variables)
    jax.tree.map(np.testing.assert_array_equal, backbone.variables, stored)
    assert {leaf.dtype for leaf in jax.tree.leaves(backbone.variables)} == {np.dtype(np.float32)}
    assert backbone.fingerprint == networks.fingerprint(stored)
    assert (dtype == "float32") == (backbone.fingerprint == networks.fingerprint(variables))
    for field in ("name", "preprocessing", "class_names", "card"):
        assert getattr(backbone, field) == rest[field]
    assert backbone.module == module
    assert backbone.weights is None
    assert networks.read_backbone(path).fingerprint == backbone.fingerprint
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.safetensors"]


def test_the_same_weights_give_the_same_bytes(tiny, saved, tmp_path):
    _, variables, rest = tiny
    turned = {name: dict(reversed(tree.items())) for name, tree in reversed(variables.items())}
    again = tmp_path / "again.safetensors"
    networks.save_backbone(again, turned, **rest)
    assert again.read_bytes() == saved.read_bytes()
    networks.save_backbone(again, jax.tree.map(lambda leaf: 2 * leaf, variables), **rest)
    assert again.read_bytes() != saved.read_bytes()


def test_a_loaded_backbone_saves_to_the_same_file(saved, tmp_path):
    backbone = networks.read_backbone(saved)
    fields = ("name", "preprocessing", "class_names", "card")
    again = tmp_path / "again.safetensors"
    networks.save_backbone(again, backbone.variables, **{f: getattr(backbone, f) for f in fields})
    assert again.read_bytes() == saved.read_bytes()


def test_the_fingerprint_depends_on_names_shapes_and_values_alone():
    tree = {"params": {"a": np.arange(4.0), "b": np.ones((2, 1))}, "batch_stats": {"c": np.ones(1)}}
    own = networks.fingerprint(tree)
    assert re.fullmatch("[0-9a-f]{64}", own)
    turned = {name: dict(reversed(part.items())) for name, part in reversed(tree.items())}
    assert networks.fingerprint(turned) == own
    assert networks.fingerprint(jax.tree.map(np.float32, tree)) == own
    assert networks.fingerprint(jax.tree.map(jax.numpy.asarray, tree)) == own
    fortran = {**tree, "params": {**tree["params"], "b": np.asfortranarray(np.ones((2, 1)))}}
    assert networks.fingerprint(fortran) == own
    params, stats = tree["params"], tree["batch_stats"]
    others = [
        {"params": {**params, "a": np.array([0, 1, 2, np.nextafter(np.float32(3), 4)])}},
        {"params": {**params, "a": np.arange(4.0)[::-1]}},
        {"params": {**params, "a": np.arange(4.0).reshape(2, 2)}},
        {"params": {**params, "b": np.ones((1, 2))}},
        {"params": {"a": params["a"], "B": params["b"]}},
        {"params": {"b": params["a"], "a": params["b"]}},
        {"params": params, "batch_stats": {"c": np.ones(())}},
        {"params": {**params, **stats}, "batch_stats": {}},
    ]
    prints = [networks.fingerprint({"batch_stats": stats, **other}) for other in others]
    assert len({own, *prints}) == 1 + len(others)


def test_missing_and_foreign_files_are_refused(tmp_path):
    refuses(tmp_path / "none.safetensors")
    refuses(tmp_path)  # a folder
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"")
    refuses(foreign)
    foreign.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refuses(foreign)
    safetensors.numpy.save_file({"w": np.ones(3)}, foreign)
    refuses(foreign, "weights of another package")
    assert not networks.holds_backbone(foreign)
    safetensors.numpy.save_file({"w": np.ones(3)}, foreign, {"format": "pt"})
    refuses(foreign, "weights of another package")
    assert not networks.holds_backbone(tmp_path / "none.safetensors")


def test_a_pipe_is_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    assert not networks.holds_backbone(pipe)
    refuses(pipe, "is not a file")


def test_a_header_without_end_is_not_parsed(saved):
    with safetensors.safe_open(saved, "numpy") as file:
        metadata = file.metadata()
    fields = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    large = {**metadata, "padding": "x" * MAX_HEADER}
    assert networks.holds_backbone(by_hand(saved, metadata, **fields))
    assert not networks.holds_backbone(by_hand(saved, large, **fields))
    refuses(saved, "expected a .safetensors")


@pytest.mark.parametrize(
    "description", ["", "3", "[]", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 10_000]
)
def test_a_description_that_is_none_is_refused(tmp_path, description):
    fields = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    refuses(by_hand(tmp_path / "w", {"jaxsplit": description}, **fields), "not a backbone file")


@pytest.mark.parametrize(("dtype", "shape"), [("F8_E4M3", [2]), ("F4", [4]), ("F8_E8M0", [2])])
def test_numbers_that_numpy_lacks_are_refused(saved, dtype, shape):
    with safetensors.safe_open(saved, "numpy") as file:
        metadata = file.metadata()
    refuses(by_hand(saved, metadata, dtype=dtype, shape=shape, data_offsets=[0, 2]))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("params/stem/conv/kernel", np.nan, "not finite"),
        ("batch_stats/stem/bn/mean", -np.inf, "not finite"),
        ("batch_stats/stem/bn/var", -1, "negative variances"),
    ],
)
def test_values_that_compute_nothing_are_refused(saved, key, value, said):
    rewritten(saved, lambda arrays, _: arrays[key].reshape(-1).__setitem__(1, value))
    refuses(saved, said, key)


def test_integers_are_refused(saved):
    key = "params/logits/dense/bias"
    rewritten(saved, lambda arrays, _: arrays.update({key: np.zeros(3, np.int64)}))
    refuses(saved, "not floating point", key)


def test_what_could_not_be_read_again_is_not_saved(tiny, tmp_path):
    module, variables, rest = tiny
    path = tmp_path / "weights.safetensors"
    folded = networks.fold_normalization(variables, module.epsilon)
    with pytest.raises(WeightsError, match=r"before fold\(\)"):
        networks.save_backbone(path, folded, **rest)
    large = jax.tree.map(lambda leaf: leaf + np.float32(1e5), variables)
    with pytest.raises(WeightsError, match="not finite in float16"):
        networks.save_backbone(path, large, **rest)
    assert not path.exists()
    networks.save_backbone(path, large, **rest, dtype="float32")
    networks.read_backbone(path)


def test_damaged_files_end_in_one_line(saved, tmp_path):
    """Any flipped bit or truncation gives a WeightsError or other weights."""
    whole = saved.read_bytes()
    own = networks.read_backbone(saved).fingerprint
    (length,) = struct.unpack("<Q", whole[:8])
    rng = np.random.default_rng(0)
    places = [
        *range(8),
        *rng.integers(8, 8 + length, 150),
        *rng.integers(8 + length, len(whole), 5),
    ]
    damaged = tmp_path / "damaged.safetensors"
    messages = []
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(7))
        damaged.write_bytes(content)
        try:
            backbone = networks.read_backbone(damaged)
        except WeightsError as error:
            messages.append(str(error))
        else:
            # The outputs change only if the fingerprint does.
            assert backbone.fingerprint != own or place < 8 + length
    assert len(messages) > 60
    assert not any("\n" in message for message in messages)
    for size in (0, 5, 8, 100, 8 + length, len(whole) - 1):
        damaged.write_bytes(whole[:size])
        refuses(damaged)
    damaged.write_bytes(whole + b"x")
    refuses(damaged)


def test_other_shapes_and_names_are_refused(saved):
    kernel = "params/logits/dense/kernel"

    def put(key, value):
        return rewritten(saved, lambda arrays, _: arrays.update({key: np.ones(value)}))

    refuses(put(kernel, (64, 4)), "resnet8_small", kernel, "(64, 4)", "(64, 3)")
    rewritten(saved, lambda arrays, _: arrays.pop(kernel))
    refuses(saved, f"missing: '{kernel}'")
    networks.read_backbone(put(kernel, (64, 3)))
    refuses(put(f"{kernel}/x", (1,)), f"unused: '{kernel}/x'")
    hostile = "\x1b[2J" + "w" * 10**5
    refuses(put(hostile, (1,)), r"'\x1b[2Jwww")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "resnet9_small"),
        ("name", ["resnet8_small"]),
        ("name", 8),
        ("name", "\x1b" * 10_000),
        ("class_names", 3),
        ("class_names", []),
        ("class_names", "abc"),
        ("class_names", [[1], [2], [3]]),
        ("class_names", ["a", "b", None]),
        ("class_names", ["a", "b\n1  cat  0.9999", "c"]),
        ("class_names", ["a", "b\x1b[2J", "c"]),
        ("card", [1]),
        ("card", "text"),
        ("preprocessing", ["size"]),
        ("preprocessing", {"size": [28.5, 28]}),
        ("preprocessing", {"size": [10**9, 10**9], "channels": 1}),
        ("preprocessing", {"size": [12, 10], "channels": 1, "mean": ["a"]}),
        ("preprocessing", {"size": [12, 10], "channels": 1, "interpolation": ["bilinear"]}),
        ("preprocessing", {"size": [12, 10], "channels": 2}),
        ("preprocessing", {"side": 12}),
        ("preprocessing", None),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(saved, key, value):
    refuses(rewritten(saved, lambda _, header: header.update({key: value})))


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickle_is_executed(saved, tmp_path):
    trace = tmp_path / "executed"
    pickle.loads(pickle.dumps(Bomb(trace))).close()
    assert trace.exists()  # the bomb is live
    trace.unlink()
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(pickle.dumps(Bomb(trace)))
    refuses(bare)
    np.savez(tmp_path / "zip", bomb=np.array([Bomb(trace)], dtype=object))
    refuses((tmp_path / "zip.npz").rename(bare))
    assert not trace.exists()
    assert issubclass(WeightsError, JaxsplitError)
    assert not issubclass(WeightsError, ConfigError)


@pytest.mark.parametrize(
    "name", ["resnet8_small", "resnet18", "mobilenet_v2", "efficientnet_lite0"]
)
def test_folding_keeps_the_function_and_the_fingerprint(tiny, randomised, name):
    _, _, rest = tiny
    module = networks.create(name, 5)
    variables = randomised(module, (33, 40, 3))  # as in test_imagenet_cuts.py: the same program
    backbone = networks.Backbone(
        name,
        module,
        variables,
        rest["preprocessing"],
        ("a",) * 5,
        networks.fingerprint(variables),
        {},
    )
    folded = backbone.fold()
    assert folded.fingerprint == backbone.fingerprint
    assert set(folded.variables) == {"params"}
    assert folded.fold() is folded
    x = np.random.default_rng(1).normal(size=(2, 33, 40, 3)).astype(np.float32)
    expected = jax.jit(backbone.module.apply)(variables, x)
    got = jax.jit(folded.module.apply)(folded.variables, x)
    spread = np.ptp(expected, axis=0).max()
    assert spread > 1e-3  # the images do matter
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-2 * spread)


def test_the_old_name_of_folding_still_works_and_names_the_new_one():
    with pytest.warns(JaxsplitWarning, match="fold_normalization"):
        assert networks.fold_batch_norm is networks.fold_normalization
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        networks.nothing  # noqa: B018
