"""The features of all cuts: what their folder is named after, and what damages it."""

import errno
import os
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsplit import data, networks
from jaxsplit.errors import ConfigError
from jaxsplit.search import features

CUTS = ("stage2.block1", "stage3.block1")


@pytest.fixture(scope="module")
def backbone():
    return networks.open_embedded("fashion_mnist_resnet8").fold()


@pytest.fixture(scope="module")
def source():
    return data.open_source("embedded", split="train", limit=40)


@pytest.fixture(scope="module")
def kept(backbone, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    found = features.compute(backbone, CUTS, source, folder, 2**30, lambda text: None)
    return folder, found


@pytest.fixture
def folder(kept, tmp_path):
    return shutil.copytree(kept[0], tmp_path / "features")


def same(one, other):
    assert one.scales == other.scales
    np.testing.assert_array_equal(one.teacher, other.teacher)
    np.testing.assert_array_equal(one.labels, other.labels)
    for cut in CUTS:
        np.testing.assert_array_equal(one.features[cut], other.features[cut])


def test_what_is_kept_is_found_again(backbone, source, kept):
    said = []
    again = features.compute(backbone, CUTS, source, kept[0], 2**30, said.append)
    assert not said
    same(again, kept[1])


def test_the_teacher_is_the_whole_network(backbone, source, kept):
    images, labels = data.load_arrays(source, backbone.preprocessing)
    logits = backbone.module.apply(backbone.variables, backbone.preprocessing.normalise(images))
    np.testing.assert_allclose(kept[1].teacher, logits, 1e-3, 1e-3)
    assert (kept[1].teacher.argmax(-1) == labels).mean() > 0.7


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("done.json", b"{"),
        ("done.json", b"{}"),
        ("done.json", b'{"scales": {"stage2.block1": 1.0}}'),
        ("done.json", b"[]"),
        ("labels.npy", b""),
        ("teacher.npy", None),
        ("stage3.block1.npy", b"something else"),
        ("stage3.block1.npy", None),
    ],
)
def test_a_damaged_folder_is_made_again(backbone, source, kept, folder, name, content):
    (path,) = folder.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    said = []
    again = features.compute(backbone, CUTS, source, folder, 2**30, said.append)
    assert "damaged" in said[0]
    same(again, kept[1])
    assert len(list(folder.iterdir())) == 1


def test_all_that_changes_features_changes_their_folder(backbone, source, monkeypatch):
    found = [
        features.describe(backbone, CUTS, source),
        features.describe(backbone, CUTS[:1], source),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        found.append(features.describe(backbone, CUTS, source))
    with monkeypatch.context() as patch:
        patch.setattr(features, "_DTYPE", "bfloat16")
        found.append(features.describe(backbone, CUTS, source))
    with jax.default_matmul_precision("float32"):
        found.append(features.describe(backbone, CUTS, source))
    unfolded = networks.open_embedded("fashion_mnist_resnet8")
    found.append(features.describe(unfolded, CUTS, source))
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), backbone.variables)
    facts = ("fingerprint", "name", "module", "preprocessing")
    other = SimpleNamespace(variables=half, **{name: getattr(backbone, name) for name in facts})
    found.append(features.describe(other, CUTS, source))  # even of one fingerprint
    assert len({features.key(about) for about in found}) == len(found)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="there is no such call here")
def test_a_full_disk_is_one_line_before_anything_is_computed(
    backbone, source, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match="No space left on device; free some"):
        features.compute(backbone, CUTS, source, tmp_path, 2**30, lambda text: None)
    assert not list(tmp_path.iterdir())


def test_without_such_a_call_the_free_space_is_looked_up(backbone, source, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match="No space left on device"):
        features.compute(backbone, CUTS, source, tmp_path, 2**30, lambda text: None)
