"""Trained families by name, from a folder and from the Hub; and their device and server."""

import dataclasses
import fnmatch
import shutil
import sys
import types

import numpy as np
import pytest

import jaxsplit
from jaxsplit import cli
from jaxsplit.errors import FamilyError
from jaxsplit.evaluation.curve import Curve
from jaxsplit.family import RateFamily, pretrained
from jaxsplit.family.pretrained import load_pretrained, pretrained_names

pytestmark = pytest.mark.optimized

RESNET8 = "resnet8_small-fashion_mnist/stage1.block1"


@pytest.fixture(scope="module")
def saved(tiny_family, tmp_path_factory):
    """A folder with the tiny family, named as one of the package: `tiny-set/stage2.block1`."""
    folder = tmp_path_factory.mktemp("families")
    tiny_family.save(folder / "tiny-set" / "stage2.block1", packed=True)
    return folder


# Names and folders.


def test_names_are_of_a_backbone_a_dataset_and_a_cut():
    assert RESNET8 in pretrained_names()
    for name in pretrained_names():
        network, cut = name.split("/")
        family = load_pretrained(name)
        assert family.cut == cut
        assert network.partition("-")[0] == family.backbone


def test_a_family_is_found_by_its_name_and_by_its_folder(tiny_family, saved, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "FAMILIES", saved)
    name = "tiny-set/stage2.block1"
    assert pretrained_names() == (name,)
    for found in (name, saved / name, str(saved / name)):
        assert load_pretrained(found).fingerprint == tiny_family.fingerprint
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)  # a folder that is no family hides none
    assert load_pretrained(name).fingerprint == tiny_family.fingerprint
    tiny_family.select(["low"]).save(tmp_path / name)  # and one that is goes first
    assert len(load_pretrained(name).rates) == 1


def test_what_there_is_not_is_one_line_with_what_there_is(tmp_path):
    with pytest.raises(FamilyError, match=f"no family at nothing: .*{RESNET8}") as error:
        load_pretrained("nothing")
    assert "\n" not in str(error.value)
    with pytest.raises(FamilyError, match=r"family.json is missing"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("resnet20", "did you mean resnet20_small-cifar10/stage1.block3 or resnet20_small-fashion"),
        ("efficientnet_lite0/stage6.block", "stage6.block1 or efficientnet_lite0/stage6.block4?"),
        ("resnet8_smal-fashion_mnist/stage1.block1", f"did you mean {RESNET8}?"),
        ("efficientnet_lite0", "is a backbone: load it with jaxsplit.load_backbone; families are"),
        ("cifar10_resnet20", "cifar10_resnet20 is a backbone"),
        ("copy.safetensors", "it is weights of a backbone: see jaxsplit.load_backbone"),
        ("notes.txt", "it is a file; a family is a folder with family.json"),
    ],
)
def test_what_is_typed_for_a_family_names_what_was_meant(
    tiny_backbone, tmp_path, monkeypatch, typed, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("notes")
    if typed == "copy.safetensors":
        tiny_backbone.save(typed)
    with pytest.raises(FamilyError) as caught:
        load_pretrained(typed)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# The Hub.


@pytest.fixture
def hub(monkeypatch, saved, tmp_path):
    """A stub of huggingface_hub, which matches names and lays links into a store as it does.

    `hub.files` are those of the repository `me/trees`; `hub.calls` what was asked for.
    """
    module = types.ModuleType("huggingface_hub")
    module.calls = []
    source = saved / "tiny-set" / "stage2.block1"
    module.files = {
        f"{folder}{path.relative_to(source).as_posix()}": path
        for folder in ("", "cifar10/stage2.block1/")
        for path in source.rglob("*")
        if path.is_file()
    } | {"setup.py": source / "family.json"}

    def snapshot_download(repo_id, *, revision=None, allow_patterns=None):
        module.calls.append((repo_id, revision, allow_patterns))
        if repo_id != "me/trees":
            raise OSError(f"404 Client Error.\n\nRepository {repo_id} not found")
        for name, path in module.files.items():
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                target = tmp_path / "snapshot" / name
                blob = tmp_path / "blobs" / name.replace("/", "-")
                for folder in (target.parent, blob.parent):
                    folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, blob)
                target.symlink_to(blob)
        return str(tmp_path / "snapshot")

    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    module.snapshot = tmp_path / "snapshot"
    return module


@pytest.mark.parametrize(
    ("name", "revision", "folder"),
    [
        ("hf:me/trees", None, ""),
        ("hf:me/trees@v1.0", "v1.0", ""),
        ("hf:me/trees/cifar10/stage2.block1", None, "cifar10/stage2.block1/"),
        ("hf:me/trees/cifar10/stage2.block1@refs/pr/1", "refs/pr/1", "cifar10/stage2.block1/"),
    ],
)
def test_a_family_of_the_hub_is_downloaded_alone(tiny_family, hub, name, revision, folder):
    assert load_pretrained(name).fingerprint == tiny_family.fingerprint
    patterns = [f"{folder}family.json", f"{folder}rates/*.safetensors"]
    assert hub.calls == [("me/trees", revision, patterns)]
    assert not (hub.snapshot / "setup.py").exists()


def test_a_family_of_orbax_is_not_read_from_the_hub(tiny_family, hub, tmp_path):
    """Small files of orbax may hold arrays of any size."""
    tiny_family.save(tmp_path / "orbax")
    hub.files["family.json"] = tmp_path / "orbax" / "family.json"
    with pytest.raises(FamilyError, match=r"hf:me/trees is not a packed family.*jaxsplit pack"):
        load_pretrained("hf:me/trees")
    assert load_pretrained(tmp_path / "orbax").fingerprint == tiny_family.fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:trees",
        "hf:me/../trees",
        "hf:me/trees/../x",
        "hf:me/tr*es",
        "hf:me/trees@",
        "hf:/a/b",
    ],
)
def test_what_is_no_name_on_the_hub_asks_for_nothing(hub, name):
    with pytest.raises(FamilyError, match="is not a name on the Hub; expected hf:owner/name"):
        load_pretrained(name)
    assert not hub.calls


def test_a_download_that_fails_is_one_line(hub):
    with pytest.raises(FamilyError, match=r"cannot download hf:me/other .*404.*not found") as error:
        load_pretrained("hf:me/other")
    assert "\n" not in str(error.value)
    hub.files = {}
    hub.snapshot.mkdir()
    with pytest.raises(FamilyError, match=r"family.json is missing"):
        load_pretrained("hf:me/trees")


def test_a_damaged_download_is_refused(hub, tmp_path):
    for name in [name for name in hub.files if name.startswith("rates/high")]:
        path = tmp_path / name.replace("/", "-")
        path.write_bytes(hub.files[name].read_bytes()[:-8])
        hub.files[name] = path
    with pytest.raises(FamilyError, match="damaged"):
        load_pretrained("hf:me/trees")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FamilyError, match=r'pip install "jaxsplit\[hub\]"') as error:
        load_pretrained("hf:me/trees")
    assert "\n" not in str(error.value)


# Device and server.


def test_both_ends_in_a_line(saved, tiny_backbone, tiny_images, tiny_family):
    sender, receiver = load_pretrained(saved / "tiny-set" / "stage2.block1").codec(tiny_backbone)
    again = jaxsplit.Sender(tiny_family, tiny_backbone)
    frames = sender(tiny_images[:3], rate="mid")
    assert frames == again.encode(tiny_images[:3], "mid")
    assert receiver(frames).shape == (3, 10)
    assert (sender.batch_size, receiver.batch_size) == (1, 1)


def test_the_ends_load_the_backbone_that_the_family_names():
    sender, receiver = load_pretrained(RESNET8).codec(batch_size=2)
    assert sender.backbone.weights == "fashion_mnist_resnet8"
    images = np.zeros((2, 28, 28, 1), np.uint8)
    assert receiver(sender(images, quality=0.9)).shape == (2, 10)


def test_a_family_that_names_no_backbone_needs_one(saved, other_backbone):
    family = load_pretrained(saved / "tiny-set" / "stage2.block1")
    with pytest.raises(FamilyError, match="names no weights of resnet8_small: pass the network"):
        family.codec()
    with pytest.raises(FamilyError, match="give it those weights"):
        family.codec(other_backbone)


def test_what_is_derived_from_it_has_ends_too(saved):
    family = load_pretrained(saved / "tiny-set" / "stage2.block1")
    assert isinstance(family, RateFamily)
    assert type(family.select(["low"])) is type(family)
    assert type(dataclasses.replace(family, card={"limits": "none"})) is type(family)


@pytest.mark.slow
def test_a_rate_costs_the_same_whichever_others_are_measured(tmp_path):
    """The shipped family's r3: its frames take a second byte of length, as `encode` writes them."""
    options = ("--rates", "r5,r3", "--baselines", "none", "--out", str(tmp_path))
    assert cli.main(["evaluate", "--family", RESNET8, *options]) == 0
    points = {point.rate_id: point for point in Curve.read(tmp_path / "curve.json").points}
    assert list(points) == ["r5", "r3"]
    for rate_id, point in points.items():
        measured = load_pretrained(RESNET8)[rate_id].measured
        # Another machine may round a few symbols, or see an image or two, differently.
        assert point.bytes_per_image == pytest.approx(measured["bytes_per_image"], abs=0.02)
        assert point.top1 == pytest.approx(measured["top1"], abs=1e-3)
