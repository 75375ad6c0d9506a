"""Backbone files: what is saved comes back, the same bytes every time, and nothing else loads."""

import io
import json
import pickle
import re
import zipfile

import jax
import numpy as np
import pytest

from jaxsplit import models
from jaxsplit.errors import ConfigError, JaxsplitError, WeightsError


@pytest.fixture
def saved(tiny, tmp_path):
    _, variables, rest = tiny
    path = tmp_path / "weights.npz"
    models.save_backbone(path, variables, **rest)
    return path


def rewritten(path, change):
    """The file once more, its entries {name: bytes} as `change` leaves them."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def npy(array, allow_pickle=False):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def refuses(path, *words):
    with pytest.raises(WeightsError) as caught:
        models.load_backbone(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_saved_comes_back(tiny, tmp_path, dtype):
    module, variables, rest = tiny
    path = tmp_path / "new" / "weights.npz"
    models.save_backbone(path, variables, **rest, dtype=dtype)
    backbone = models.load_backbone(path)
    stored = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), variables)
    jax.tree.map(np.testing.assert_array_equal, backbone.variables, stored)
    assert {leaf.dtype for leaf in jax.tree.leaves(backbone.variables)} == {np.dtype(np.float32)}
    assert backbone.fingerprint == models.fingerprint(stored)
    assert (dtype == "float32") == (backbone.fingerprint == models.fingerprint(variables))
    for field in ("name", "preprocessing", "class_names", "card"):
        assert getattr(backbone, field) == rest[field]
    assert backbone.module == module
    assert backbone.weights is None
    assert models.open_backbone(path).fingerprint == backbone.fingerprint
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.npz"]


def test_the_same_weights_give_the_same_bytes(tiny, saved, tmp_path):
    _, variables, rest = tiny
    turned = {name: dict(reversed(tree.items())) for name, tree in reversed(variables.items())}
    again = tmp_path / "again.npz"
    models.save_backbone(again, turned, **rest)
    assert again.read_bytes() == saved.read_bytes()
    models.save_backbone(again, jax.tree.map(lambda leaf: 2 * leaf, variables), **rest)
    assert again.read_bytes() != saved.read_bytes()


def test_a_loaded_backbone_saves_to_the_same_file(saved, tmp_path):
    backbone = models.load_backbone(saved)
    fields = ("name", "preprocessing", "class_names", "card")
    again = tmp_path / "again.npz"
    models.save_backbone(again, backbone.variables, **{f: getattr(backbone, f) for f in fields})
    assert again.read_bytes() == saved.read_bytes()


def test_the_fingerprint_depends_on_names_shapes_and_values_alone():
    tree = {"params": {"a": np.arange(4.0), "b": np.ones((2, 1))}, "batch_stats": {"c": np.ones(1)}}
    own = models.fingerprint(tree)
    assert re.fullmatch("[0-9a-f]{64}", own)
    turned = {name: dict(reversed(part.items())) for name, part in reversed(tree.items())}
    assert models.fingerprint(turned) == own
    assert models.fingerprint(jax.tree.map(np.float32, tree)) == own
    assert models.fingerprint(jax.tree.map(jax.numpy.asarray, tree)) == own
    fortran = {**tree, "params": {**tree["params"], "b": np.asfortranarray(np.ones((2, 1)))}}
    assert models.fingerprint(fortran) == own
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
    prints = [models.fingerprint({"batch_stats": stats, **other}) for other in others]
    assert len({own, *prints}) == 1 + len(others)


def test_missing_and_foreign_files_are_refused(tmp_path):
    refuses(tmp_path / "none.npz")
    refuses(tmp_path)  # a folder
    foreign = tmp_path / "foreign.npz"
    foreign.write_bytes(b"")
    refuses(foreign)
    foreign.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refuses(foreign)
    np.savez(foreign, w=np.ones(3))
    refuses(foreign, "card.json")


def test_unknown_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="'nothing_like_it'"):
        models.open_backbone("nothing_like_it")
    with pytest.raises(WeightsError, match=r"no weights at missing\.npz"):
        models.open_backbone("missing.npz")


def test_a_folder_does_not_hide_embedded_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion_mnist_resnet8").mkdir()
    assert models.open_backbone("fashion_mnist_resnet8").weights == "fashion_mnist_resnet8"


def test_damaged_files_end_in_one_line(saved, tmp_path):
    """A changed bit, wherever it is, gives a WeightsError or is harmless; so does a cut."""
    whole = saved.read_bytes()
    own = models.load_backbone(saved).fingerprint
    rng = np.random.default_rng(0)
    directory = whole.index(b"PK\x01\x02")
    places = [
        *range(0, 80, 7),
        *rng.integers(0, directory, 40),
        *rng.integers(directory, len(whole), 60),
        *(directory + np.arange(6, 12)),  # version, flags and compression of the first entry
    ]
    damaged = tmp_path / "damaged.npz"
    messages = []
    for place in places:
        for bit in (0, 6):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            damaged.write_bytes(content)
            try:
                assert models.load_backbone(damaged).fingerprint == own
            except WeightsError as error:
                messages.append(str(error))
    assert len(messages) > len(places)
    assert not any("\n" in message for message in messages)
    with zipfile.ZipFile(saved) as archive:
        entry = archive.infolist()[-1]
    content = bytearray(whole)
    content[entry.header_offset + 30 + len(entry.filename)] = 7  # deflate has no such block
    damaged.write_bytes(content)
    refuses(damaged, "block")
    for length in rng.integers(0, len(whole), 10):
        damaged.write_bytes(whole[:length])
        refuses(damaged)


def test_other_shapes_and_names_are_refused(saved):
    kernel = "params/logits/dense/kernel"
    rewritten(saved, lambda entries: entries.update({f"{kernel}.npy": npy(np.ones((64, 4)))}))
    refuses(saved, "resnet8_small", kernel, "(64, 4)", "(64, 3)")
    rewritten(saved, lambda entries: entries.pop(f"{kernel}.npy"))
    refuses(saved, kernel, "None", "(64, 3)")
    rewritten(saved, lambda entries: entries.update({f"{kernel}.npy": npy(np.ones((64, 3)))}))
    models.load_backbone(saved)
    rewritten(saved, lambda entries: entries.update({f"{kernel}/x.npy": npy(np.ones(1))}))
    refuses(saved, f"{kernel}/x", "(1,)", "None")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "resnet9_small"),
        ("name", ["resnet8_small"]),
        ("class_names", 3),
        ("preprocessing", {"size": [12, 10], "channels": 2}),
        ("preprocessing", {"side": 12}),
        ("preprocessing", None),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(saved, key, value):
    def change(entries):
        entries["card.json"] = json.dumps({**json.loads(entries["card.json"]), key: value})

    refuses(rewritten(saved, change))


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickle_is_executed(saved, tmp_path):
    trace = tmp_path / "executed"
    bomb = np.array([Bomb(trace)], dtype=object)
    content = npy(bomb, allow_pickle=True)
    pickle.loads(pickle.dumps(Bomb(trace))).close()
    assert trace.exists()  # the bomb is live
    trace.unlink()
    name = "params/logits/dense/bias.npy"
    rewritten(saved, lambda entries: entries.update({name: content}))
    refuses(saved, "allow_pickle")
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Bomb(trace)))
    refuses(bare)
    assert not trace.exists()
    assert issubclass(WeightsError, JaxsplitError)
    assert not issubclass(WeightsError, ConfigError)
