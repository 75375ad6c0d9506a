"""The exported bundle: what it computes without JAX, what it refuses, and its samples."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from bitstream import reference_decoder
from PIL import Image

import jaxsplit
from jaxsplit import bitstream, data, networks
from jaxsplit.cli import main
from jaxsplit.codec.rates import FamilyRate
from jaxsplit.deploy.export import export_bundle
from jaxsplit.deploy.runtime import run as runtime
from jaxsplit.deploy.runtime.bundle import check_files, read_bundle
from jaxsplit.deploy.runtime.device import DeviceSender
from jaxsplit.errors import BudgetError, ConfigError, DataError, FamilyError
from jaxsplit.family import Levels, RateFamily
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.split import make_split
from jaxsplit.units import ResidualSpec, VariableRate

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NAME, CUT = "resnet8_small-fashion_mnist/stage1.block1", "stage1.block1"
ROUNDED = 1e-3  # share of symbols that two compilers may round differently here


@pytest.fixture(scope="module")
def family():
    return load_pretrained(NAME)


@pytest.fixture(scope="module")
def levels(family):
    """A variable-rate family that was never trained."""
    backbone = jaxsplit.load_backbone("fashion_mnist_resnet8")
    spec = VariableRate(ResidualSpec(channels=6, stride=2, width=8), (1e-5, 1e-2))
    variables = jax.device_get(make_split(backbone, CUT, spec).init(jax.random.key(0)))
    known = Levels.of_prior(spec, variables, count=16)
    return RateFamily(
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        weights="fashion_mnist_resnet8",
        preprocessing=backbone.preprocessing,
        cut=CUT,
        rates=(known.named(3, "low"), known.named(12, "high")),
        bound=backbone,
        levels=known,
    )


@pytest.fixture(scope="module")
def bundle(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / "device"
    assert export_bundle(family, folder).different == 0
    return folder


@pytest.fixture(scope="module")
def levels_bundle(levels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels") / "device"
    done = export_bundle(levels, folder)
    assert done.different <= ROUNDED * done.symbols
    return folder


@pytest.fixture(scope="module")
def images():
    source = data.open_source("embedded", split="test", max_samples=24)
    return data.load_arrays(source, data.Preprocessing((28, 28), 1))[0]


@pytest.fixture(scope="module")
def photos(images, tmp_path_factory):
    """Files that the preprocessing decodes, turns, converts and resizes."""
    folder = tmp_path_factory.mktemp("photos")
    grey = Image.fromarray(images[0][..., 0])
    grey.save(folder / "grey.png")
    grey.resize((90, 61)).convert("RGB").save(folder / "photo.jpg", exif=_turned())
    grey.convert("RGBA").save(folder / "transparent.png")
    return sorted(folder.iterdir())


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


BLOCKED = """
import runpy, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "flax", "onnx", "optax", "scipy"):
            raise ImportError(f"{name} is not installed on this device")

sys.meta_path.insert(0, Refused())
folder, *sys.argv[1:] = sys.argv[1:]
sys.path[0] = folder
try:
    runpy.run_path(f"{folder}/run.py", run_name="__main__")
finally:
    assert "jax" not in sys.modules
    assert all(
        module.__file__.startswith(folder)
        for name, module in sys.modules.items()
        if name.partition(".")[0] == "jaxsplit"
    )
"""


def on_device(folder, *words):
    """Runs a bundle's run.py where JAX cannot be imported, and returns its exit code and output."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    command = [sys.executable, "-W", "error", "-c", BLOCKED, str(folder), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=kept)
    return done.returncode, done.stdout + done.stderr


def close(frames, expected, sender):
    """Checks that frames decode, to the symbols of others but for a few."""
    count, version = sender.header.n_rates, sender.header.version
    different = total = 0
    for ours, theirs in zip(frames, expected, strict=True):
        a, b = (bitstream.unpack_frame(x, count, version=version)[0] for x in (ours, theirs))
        assert a.rate_index == b.rate_index
        rate = sender.runtime(a.rate_index)
        a, b = (rate.coder.decode(x.payload, rate.latent_shape[:2]) for x in (a, b))
        different, total = different + (a != b).sum(), total + a.size
    assert different <= ROUNDED * total


def test_frames_are_those_of_the_library(family, bundle, images):
    sender = family.codec()[0]
    device = DeviceSender(bundle, threads=1)
    assert device.header == sender.header
    for rate in ("r1", "r5"):
        close(device.encode(images, rate), sender.encode(images, rate), sender)


@pytest.mark.parametrize("rate", ["low", "high", 0, 1.0, "0.4", "level7"])
def test_levels_are_those_of_the_library(levels, levels_bundle, images, rate):
    sender = levels.codec()[0]
    device = DeviceSender(levels_bundle, threads=1)
    assert device.header == sender.header
    assert device.index(rate) == levels.index(rate)
    close(device(images[:4], rate), sender(images[:4], rate), sender)


def test_a_budget_chooses_the_rates_of_the_library(family, bundle, images):
    sender, device = family.codec()[0], DeviceSender(bundle, threads=1)
    for budget in (30, 60, 150):
        options = {"max_bytes": budget, "over_budget": "shortest"}
        close(device(images, **options), sender(images, **options), sender)
    with pytest.raises(BudgetError, match="image 0 takes at least"):
        device(images[:2], max_bytes=2)


def test_a_budget_chooses_the_levels_of_the_library(levels, levels_bundle, images):
    sender, device = levels.codec()[0], DeviceSender(levels_bundle, threads=1)
    sizes = sorted(len(x) for rate in (0.0, 0.5, 1.0) for x in sender(images[:8], rate))
    for budget in (sizes[0] - 1, sizes[8], sizes[12], sizes[-1]):
        options = {"max_bytes": budget, "over_budget": "shortest"}
        found = device(images[:8], **options)
        close(found, sender(images[:8], **options), sender)
    # The level that the budget finds is the one that the model computes.
    frame = bitstream.unpack_frame(found[0], 16, version=4)[0]
    assert device(images[:1], f"level{frame.rate_index}") == found[:1]


def test_the_device_needs_no_jax(family, bundle, photos, tmp_path):
    output = tmp_path / "photos.jspl"
    code, text = on_device(bundle, "encode", *photos, "-o", output, "--rate", "r3")
    assert (code, text[:15]) == (0, "3 of 3 images, "), text
    sender, receiver = family.codec()
    header, frames = bitstream.read_container(output.read_bytes())
    receiver.check(header)
    expected = sender(photos, "r3")
    ours = [bitstream.pack_frame(x.payload, x.rate_index, 5) for x in frames]
    close(ours, expected, sender)
    assert main(["decode", str(output), "--family", NAME, "--quiet"]) == 0
    code, text = on_device(bundle, "encode", photos[0], "-o", output, "--max-bytes", "60")
    assert code == 0, text
    (frame,) = bitstream.read_container(output.read_bytes())[1]
    close(
        [bitstream.pack_frame(frame.payload, frame.rate_index, 5)],
        sender(photos[0], max_bytes=60),
        sender,
    )


def test_the_device_checks_itself(levels_bundle):
    code, text = on_device(levels_bundle, "check")
    assert code == 0, text
    assert "4 frames: " in text


def test_what_is_wrong_on_the_device_is_one_line(bundle, photos, tmp_path):
    output = tmp_path / "x.jspl"
    for words, part in {
        ("encode", photos[0], "-o", output, "--rate", "r9"): "has no rate 'r9'",
        ("encode", tmp_path / "none.jpg", "-o", output, "--rate", "r1"): "no such file",
        ("encode", photos[0], "-o", output, "--max-bytes", "1"): "more than --max-bytes 1",
        ("encode", photos[0], "-o", tmp_path / "no" / "x.jspl", "--rate", "r1"): "No such file",
    }.items():
        code = runtime.main([*map(str, words), "--bundle", str(bundle)])
        assert code == 2, part
    code, text = on_device(bundle, "encode", photos[0], tmp_path, "-o", output, "--rate", "r1")
    assert code == 1
    assert "folder" in text
    assert "Traceback" not in text


def test_a_damaged_bundle_is_refused(bundle, tmp_path):
    copied = tmp_path / "copied"
    subprocess.run(["cp", "-r", bundle, copied], check=True)
    assert check_files(copied) > 20
    with (copied / "device.onnx").open("r+b") as file:
        file.seek(5000)
        file.write(b"\0" * 64)
    with pytest.raises(FamilyError, match=r"device\.onnx differs from its checksum"):
        check_files(copied)
    (copied / "device.onnx").write_bytes(b"\1\2")
    with pytest.raises(FamilyError, match="the model cannot be run"):
        DeviceSender(copied)(np.zeros((28, 28, 1), np.uint8), "r1")
    (copied / "manifest.json").write_text('{"format": "jaxsplit bundle 2"}')
    with pytest.raises(FamilyError, match="expected 'jaxsplit bundle 1'"):
        read_bundle(copied)
    with pytest.raises(FamilyError, match="is no bundle"):
        DeviceSender(tmp_path)


def test_images_are_as_the_library_takes_them(bundle, images):
    device = DeviceSender(bundle, threads=1)
    large = np.repeat(images[0].repeat(3, axis=0).repeat(2, axis=1), 3, axis=2)
    preprocessing = device.bundle.preprocessing
    np.testing.assert_array_equal(device.inputs(large)[0], preprocessing.apply(large))
    for wrong, error in {
        3: FamilyError,
        "none.png": DataError,
        b"": DataError,
    }.items():
        with pytest.raises(error):
            device.inputs(wrong)
    with pytest.raises(FamilyError, match="expected uint8"):
        device.inputs(images.astype(np.float32))
    with pytest.raises(ConfigError, match="one of rate and max_bytes"):
        device.encode(images)


def test_a_part_of_the_rates_is_decoded_by_the_whole_family(family, images, tmp_path):
    done = export_bundle(family, tmp_path / "some", ["r2", "r4"])
    device = DeviceSender(done.folder, threads=1)
    assert device.names == ("r2", "r4")
    sender, receiver = family.codec()
    close(device(images[:4], "r4"), sender(images[:4], "r4"), sender)
    assert receiver(device(images[:4], max_bytes=100)).shape == (4, 10)
    with pytest.raises(FamilyError, match="no rate 'r1'; it has r2, r4"):
        device(images, "r1")


def test_an_export_replaces_bundles_alone(family, levels, bundle, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "manifest.json").write_text('{"format": "of another program"}')
    with pytest.raises(ConfigError, match="neither empty nor a bundle"):
        export_bundle(family, tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        export_bundle(family, tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match="levels share one encoder"):
        export_bundle(levels, tmp_path / "device", ["low"])
    with pytest.raises(FamilyError, match="no rate 'r9'"):
        export_bundle(family, tmp_path / "device", ["r9"])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r'pip install "jaxsplit\[export\]"'):
        export_bundle(family, tmp_path / "device")
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "manifest.json"}


def test_a_manifest_names_all_files_and_versions(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    present = {str(x.relative_to(bundle)) for x in bundle.rglob("*") if x.is_file()}
    assert set(manifest["files"]) == {x for x in present if "__pycache__" not in x} - {
        "manifest.json"
    }
    assert manifest["model"]["opset"] == 17
    assert manifest["versions"]["jaxsplit"] == jaxsplit.__version__
    assert (bundle / "LICENSE").read_text() == (Path(__file__).parents[2] / "LICENSE").read_text()
    assert "{" not in (bundle / "README.md").read_text().replace("{rate}", "")


@pytest.mark.parametrize("which", ["bundle", "levels_bundle"])
def test_a_decoder_of_the_format_reads_the_samples(which, request):
    folder = request.getfixturevalue(which)
    vectors = json.loads((folder / "samples/vectors.json").read_text())["vectors"]
    content = (folder / "samples/frames.jspl").read_bytes()
    _, _, rates, frames = reference_decoder.read_container(content)
    assert len(frames) == len(vectors)
    for vector, (index, payload) in zip(vectors, frames, strict=True):
        assert (vector["index"], vector["payload"]) == (index, payload.hex())
        assert list(rates[index][2]) == vector["shape"]
        for pair in (vector, vector["self_test"]):
            assert decoded(pair, vector["tables"]) == pair["symbols"]


def decoded(pair, tables):
    """Symbols of a payload, by the decoder that was written from FORMAT.md."""
    height, width, channels = pair["shape"]
    rows = list(zip(tables["minima"], tables["counts"], strict=True))
    if tables["table_indices"] is not None:
        rows = [rows[index] for index in np.ravel(tables["table_indices"])]
        height, width, channels = 1, 1, height * width * channels
    assert len(rows) == channels
    found = reference_decoder.decode_payload(bytes.fromhex(pair["payload"]), rows, height, width)
    return np.ravel(found).tolist()


def test_the_command_exports(tmp_path, capsys):
    folder = tmp_path / "device"
    words = ["export", "--family", NAME, "--rates", "r1", "-o", str(folder), "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["different"] == 0
    assert f"decode photo.jspl --family {NAME}`" in (folder / "README.md").read_text()
    assert document["bytes"] == sum(x.stat().st_size for x in folder.rglob("*") if x.is_file())


def test_a_network_of_functions_is_exported(tmp_path):
    """Two arrays cross its cut, and one frame has both."""

    def head(variables, images, cut):
        x = jax.nn.relu(images @ variables["w"])
        return {"low": x[:, ::2, ::2], "mean": x.mean(axis=(1, 2), keepdims=True)}

    def tail(variables, features, cut):
        return features["low"].mean(axis=(1, 2)) + features["mean"][:, 0, 0]

    network = networks.FunctionNetwork(head, tail, ("middle",))
    seen = jaxsplit.Preprocessing((8, 8), channels=1)
    weights = {"w": np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)}
    backbone = networks.make_backbone("own", network, weights, seen, "abcd")
    spec = ResidualSpec(channels=3, stride=1, width=4)
    split = make_split(backbone, "middle", spec)
    unit = jax.device_get(split.init(jax.random.key(1)))
    tables = split.tables(unit, split.best_offsets(unit))
    rate = FamilyRate("only", None, spec, unit, tables)
    parts = {"weights": None, "preprocessing": seen, "cut": "middle", "rates": (rate,)}
    own = RateFamily("own", backbone.fingerprint, bound=backbone, **parts)
    export_bundle(own, tmp_path / "device")
    device, images = DeviceSender(tmp_path / "device", threads=1), np.arange(256, dtype=np.uint8)
    images = images.reshape(4, 8, 8, 1)
    sender = own.codec()[0]
    close(device(images, "only"), sender(images, "only"), sender)
