"""The command line on real files: what it prints and writes, and how it refuses."""

import contextlib
import dataclasses
import gc
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from jaxsplit import bitstream, data, networks
from jaxsplit.cli import main
from jaxsplit.codec import Receiver, Sender
from jaxsplit.cost import split_cost
from jaxsplit.evaluation import card
from jaxsplit.evaluation.curve import Curve
from jaxsplit.experiments import config
from jaxsplit.family import Levels, RateFamily
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.split import make_split
from jaxsplit.units import BottleneckSpec, VariableRate
from jaxsplit.weights.load import load_backbone

COMMANDS = (
    *("quickstart", "adapt", "train", "evaluate", "compare", "plan", "design", "pack"),
    *("encode", "decode", "export", "serve", "send", "info", "import"),
)
RATES = ("r1", "r2", "r3", "r4", "r5")


@pytest.fixture(scope="session", autouse=True)
def _warnings_stay_errors():
    """The command line hides dependencies' warnings unless somebody asks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "warnoptions", ["error"])
        yield


def run(*arguments):
    """One command in this process: its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def runs(*arguments):
    done = run(*arguments)
    assert done.code == 0, done.err
    return done


def refuses(*arguments, words=()):
    """Exit code 2, nothing on stdout, one line on stderr that says `words`."""
    done = run(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert re.fullmatch(r"jaxsplit: \S.*\n", done.err), done.err
    for word in words:
        assert str(word) in done.err
    return done


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The shortened quickstart: its streams and its folder."""
    out = tmp_path_factory.mktemp("quickstart")
    done = runs("quickstart", "--smoke", "--out", out)
    done.folder = out
    return done


@pytest.fixture(scope="module")
def family(quickstart):
    """Folder of the quickstart's family."""
    return quickstart.folder / "family"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four image files of four formats, three sizes and two modes."""
    folder = tmp_path_factory.mktemp("pictures")
    source = data.open_source("embedded", max_samples=4)
    forms = [
        ("one.png", "L", (28, 28)),
        ("two.jpg", "RGB", (64, 48)),
        ("three.webp", "RGB", (31, 90)),
        ("four.bmp", "L", (9, 9)),
    ]
    for example, (name, mode, size) in zip(source, forms, strict=True):
        image = Image.fromarray(example["image"][..., 0]).convert(mode)
        image.resize(size).save(folder / name)
    return [folder / name for name, _, _ in forms]


@pytest.fixture(scope="module")
def ends(family, pictures):
    """Sender and receiver of the family, and the pictures as the network takes them."""
    opened, backbone = RateFamily.load(family), load_backbone("fashion_mnist_resnet8")
    count = len(pictures)
    images = [backbone.preprocessing.apply(data.decode_image(path)) for path in pictures]
    return SimpleNamespace(
        family=opened,
        backbone=backbone,
        sender=Sender(opened, backbone, batch_size=count),
        receiver=Receiver(opened, backbone, batch_size=count),
        images=np.stack(images),
    )


@pytest.fixture(scope="module")
def encoded(family, pictures, tmp_path_factory):
    """The pictures encoded at r3: the command's streams and its file."""
    path = tmp_path_factory.mktemp("encoded") / "pictures.jspl"
    done = runs("encode", *pictures, "--family", family, "--rate", "r3", "-o", path)
    done.path = path
    return done


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory):
    """Test images as PNG files of three classes, and classes.txt with all of them."""
    root = tmp_path_factory.mktemp("images")
    source = data.open_source("embedded", max_samples=60)
    (root / "classes.txt").write_text("\n".join(source.class_names))
    for index, example in enumerate(source):
        name = source.class_names[example["label"]]
        if name in ("Trouser", "Bag", "Ankle boot"):
            (root / "test" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(example["image"][..., 0]).save(root / "test" / name / f"{index}.png")
    return root


# quickstart


@pytest.mark.slow
def test_quickstart_writes_the_curve(quickstart):
    written = json.loads((quickstart.folder / "curve.json").read_text())
    assert set(written) == {"uncompressed", "points", "baselines", "origin"}
    assert written["origin"]["data"] == "embedded"
    assert set(written["baselines"]) == {"jpeg", "webp"}
    tops = {"top1", "top1_interval", "top5", "top5_interval"}
    assert set(written["uncompressed"]) == {"n_images", *tops}
    assert [point["rate_id"] for point in written["points"]] == list(RATES)
    for point in written["points"]:
        assert set(point) == {
            "rate_id",
            "lambda",
            "bytes_per_image",
            "estimated_bits_per_image",
            "bits_per_pixel",
            "n_images",
            *("table_bits_per_image", "bytes_p5", "bytes_p95", *tops),
            *("agreement", "agreement_interval", "device_macs", "device_share", "device_params"),
            *("server_macs", "server_params", "unit_bytes", "unit_share"),
        }
        assert point["n_images"] == written["uncompressed"]["n_images"] == 64
        assert 0 <= point["top1"] <= 1
        assert point["bits_per_pixel"] == pytest.approx(8 * point["bytes_per_image"] / 28**2)
        # Real bytes follow the tables, and stay within the bound of what the prior estimates.
        estimated, tables = (point[f"{kind}_bits_per_image"] / 8 for kind in ("estimated", "table"))
        assert tables < point["bytes_per_image"] <= tables + 3
        assert point["bytes_per_image"] <= 1.03 * estimated + 3
    assert written["uncompressed"]["top1"] > 0.9


@pytest.mark.slow
def test_quickstart_draws_the_curve(quickstart):
    with Image.open(quickstart.folder / "curve.png") as image:
        assert image.format == "PNG"
        assert min(image.size) >= 400
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert 0.01 < np.mean(pixels.min(-1) < 200) < 0.9  # ink, and paper


@pytest.mark.slow
def test_quickstart_saves_the_family(quickstart, family):
    loaded = load_pretrained(family)
    curve = Curve.read(quickstart.folder / "curve.json")
    assert tuple(rate.rate_id for rate in loaded.rates) == RATES
    for rate, point in zip(loaded.rates, curve.points, strict=True):
        assert rate.lmbda == point.lmbda
        assert rate.measured["bytes_per_image"] == point.bytes_per_image
        assert rate.measured["top1"] == point.top1
    assert {path.name for path in quickstart.folder.iterdir()} == {
        "curve.json",
        "curve.png",
        "family",
        "images.npz",
        "report.html",
    }


@pytest.mark.slow
def test_quickstart_prints_a_row_for_every_rate(quickstart):
    curve = Curve.read(quickstart.folder / "curve.json")
    for point in curve.points:
        (row,) = re.findall(rf"^\| {point.rate_id} .*$", quickstart.out, re.MULTILINE)
        assert f"{point.bytes_per_image:.1f}" in row
        assert f"{100 * point.top1:.2f}" in row
    assert f"{100 * curve.uncompressed_top1:.2f}" in quickstart.out
    assert "JPEG" in quickstart.out
    assert "WebP" in quickstart.out
    assert f"; open {quickstart.folder / 'report.html'}\n" in quickstart.out
    assert "its figures mean nothing" in quickstart.out


@pytest.mark.slow
def test_quickstart_shows_progress_on_stderr(quickstart):
    lines = quickstart.err.splitlines()
    steps = [line for line in lines if re.match(r"step \d+/6  .*loss", line)]
    assert len(steps) >= 2
    assert max(map(len, steps)) < 140
    assert any(re.fullmatch(r"step 6/6  \d+ images/s", line) for line in lines)
    for rate in RATES:
        assert any(re.match(rf"  {rate}  bits \d.*  loss \d", line) for line in lines)
        assert any(line.startswith(f"evaluating {rate}, ") for line in lines)
    assert "step" not in quickstart.out


def without_times(text):
    """Lines but the one that says where the results are, and how long they took."""
    return [line for line in text.splitlines() if not line.startswith("wrote ")]


@pytest.mark.slow
def test_quickstart_again_writes_the_identical_curve(quickstart, tmp_path):
    command = [sys.executable, "-m", "jaxsplit", "quickstart", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    again = (tmp_path / "curve.json").read_bytes()
    assert again == (quickstart.folder / "curve.json").read_bytes()
    assert without_times(done.stdout) == without_times(quickstart.out)


@pytest.mark.slow
def test_quickstart_as_a_user_runs_it(tmp_path):
    """One device a core and XLA's own number of threads, none of what the tests set.

    But for the flags that compile hastily: `tiny_training` and `tiny_family` compile as users do.
    """
    own = ("NPROC", "JAX_NUMPY_RANK_PROMOTION")
    environment = {key: value for key, value in os.environ.items() if key not in own}
    flags = os.environ["XLA_FLAGS"].split()
    devices = "--xla_force_host_platform_device_count="
    environment["XLA_FLAGS"] = " ".join(flag for flag in flags if not flag.startswith(devices))
    command = [sys.executable, "-m", "jaxsplit", "quickstart", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert all(f"| {rate} " in done.stdout for rate in RATES)
    assert len(Curve.read(tmp_path / "curve.json").points) == len(RATES)


def test_a_reader_may_close_the_pipe():
    command = f"{sys.executable} -m jaxsplit info fashion_mnist_resnet8 | head -c 1"
    done = subprocess.run(command, shell=True, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("b", "")


def test_quickstart_hands_its_seed_on(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "jaxsplit.cli.train._run_curve", lambda loaded, *rest, **more: seen.append(loaded)
    )
    for seed in (0, 7):
        runs("quickstart", "--seed", seed, "--out", tmp_path)
    assert seen[0] == config.load("fashion_mnist:quickstart")
    assert seen[1] == dataclasses.replace(seen[0], seed=7)


def test_the_device_runs_less_than_half_of_the_network():
    loaded = config.load("fashion_mnist:quickstart")
    backbone = load_backbone(loaded.backbone)
    cost = split_cost(make_split(backbone, loaded.cut, loaded.spec), backbone)
    assert cost.device_share <= 0.45


# train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training with another seed than the quickstart's, without image codecs."""
    workdir = tmp_path_factory.mktemp("trained")
    overrides = ("--config.seed=1", "--config.baselines=()")
    arguments = ("train", "--config", "fashion_mnist:smoke", *overrides, "--workdir")
    done = runs(*arguments, workdir)
    done.folder, done.arguments = workdir, (*arguments, workdir)
    return done


@pytest.mark.slow
def test_another_seed_gives_another_curve(quickstart, trained):
    one, other = (Curve.read(done.folder / "curve.json") for done in (quickstart, trained))
    assert one.uncompressed_top1 == other.uncompressed_top1
    for point, another in zip(one.points, other.points, strict=True):
        assert point.bytes_per_image != another.bytes_per_image


@pytest.mark.slow
def test_a_finished_training_is_not_repeated(trained):
    curve = (trained.folder / "curve.json").read_bytes()
    fingerprint = RateFamily.load(trained.folder / "family").fingerprint
    assert "step 6/6" in trained.err
    again = runs(*trained.arguments)
    assert "step 6/6" not in again.err
    assert "6 of 6 steps are done" in again.err
    assert (trained.folder / "curve.json").read_bytes() == curve
    assert RateFamily.load(trained.folder / "family").fingerprint == fingerprint
    assert without_times(again.out) == without_times(trained.out)


@pytest.mark.slow
def test_a_card_repeats_the_command_without_folders_of_this_machine(tmp_path):
    overrides = ("--config.seed=3", "--config.max_samples=32", "--config.batch_size=32")
    runs("train", "--config", "cifar10_backbone:smoke", "--workdir", tmp_path, *overrides)
    card = json.loads((tmp_path / "report.json").read_text())
    again = "jaxsplit train --config cifar10_backbone:smoke --workdir DIR"
    assert card["command"] == " ".join((again, *overrides))
    assert str(tmp_path) not in json.dumps(card)


@pytest.mark.slow
def test_a_backbone_is_trained_and_described(tmp_path):
    done = runs("train", "--config", "fashion_mnist_backbone:smoke", "--workdir", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert f"top-1 {100 * report['top1']:.2f} % on 1000 test images" in done.out
    assert re.search(r"^step \d+/\d+ .*loss.*top1", done.err, re.MULTILINE)
    backbone = load_backbone(tmp_path / "weights.safetensors")
    assert backbone.card == report
    again = "jaxsplit train --config fashion_mnist_backbone:smoke --workdir DIR"
    assert backbone.card["command"] == again
    test = data.open_source("embedded", max_samples=1000)
    images, labels = data.load_arrays(test, backbone.preprocessing)
    logits = networks.predict(backbone.module, backbone.variables, backbone.preprocessing, images)
    assert np.mean(logits.argmax(-1) == labels) == report["top1"]
    described = runs("info", tmp_path / "weights.safetensors").out
    assert backbone.fingerprint in described
    assert f"top1: {report['top1']}" in described


# evaluate


@pytest.mark.slow
def test_evaluate_measures_the_chosen_rates_on_a_folder(family, ends, folder_of_images, tmp_path):
    done = runs(
        *("evaluate", "--family", family, "--data", f"folder:{folder_of_images}"),
        *("--rates", "r4,r2", "--max-samples", 12, "--baselines", "none"),
        *("--out", tmp_path / "new" / "out"),
    )
    curve = Curve.read(tmp_path / "new" / "out" / "curve.json")
    assert [point.rate_id for point in curve.points] == ["r4", "r2"]
    source = data.open_source(f"folder:{folder_of_images}", max_samples=12)
    images, labels = data.load_arrays(source, ends.backbone.preprocessing)
    assert np.bincount(labels).tolist() == [0, 4, 0, 0, 0, 0, 0, 0, 4, 4]  # over the classes
    for point in curve.points:
        frames = ends.sender.encode(images, point.rate_id)
        assert point.n_images == 12
        assert point.bytes_per_image == np.mean([len(frame) for frame in frames])
        predicted = ends.receiver.decode(frames).argmax(-1)
        assert point.top1 == np.mean(predicted == labels)
        assert re.search(rf"^\| {point.rate_id} ", done.out, re.MULTILINE)
    assert "| r1 " not in done.out
    with Image.open(tmp_path / "new" / "out" / "curve.png") as image:
        assert image.format == "PNG"


@pytest.mark.slow
def test_evaluate_gives_what_the_quickstart_gave(quickstart, family, tmp_path):
    runs("evaluate", "--family", family, "--max-samples", 64, "--out", tmp_path)
    assert (tmp_path / "curve.json").read_bytes() == (quickstart.folder / "curve.json").read_bytes()


@pytest.mark.slow
def test_evaluate_takes_weights_from_a_file(family, folder_of_images, tmp_path):
    weights = tmp_path / "copy.safetensors"
    shutil.copy(networks.backbone.BACKBONES / "fashion_mnist_resnet8.safetensors", weights)
    arguments = ("evaluate", "--family", family, "--data", f"folder:{folder_of_images}")
    arguments = (*arguments, "--rates", "r1", "--max-samples", 6, "--baselines", "none")
    assert runs(*arguments, "--weights", weights).out == runs(*arguments).out


@pytest.mark.slow
def test_evaluate_compares_with_the_codecs_that_it_is_told(family, folder_of_images, tmp_path):
    arguments = ("evaluate", "--family", family, "--data", f"folder:{folder_of_images}")
    arguments = (*arguments, "--rates", "r1", "--max-samples", 6)
    done = runs(*arguments, "--baselines", "avif,jpeg", "--out", tmp_path)
    written = json.loads((tmp_path / "curve.json").read_text())
    assert list(written["baselines"]) == ["avif", "jpeg"]
    for points in written["baselines"].values():
        assert len(points) >= 13
        for point in points:
            assert point["bytes_per_image"] > point["header_bytes_per_image"] > 100
            assert 0 <= point["top1"] <= 1
            assert 0 <= point["agreement"] <= 1
            low, high = point["top1_interval"]
            assert low <= point["top1"] <= high
        assert points[-1]["agreement"] == 1  # of the best quality
    assert "AVIF, JPEG: the smallest" in " ".join(done.out.split())
    assert "WebP" not in done.out
    assert max(map(len, done.out.splitlines()[:-1])) <= 110
    alone = runs(*arguments, "--baselines", "none")
    assert "JPEG" not in alone.out
    (row,) = re.findall(r"^\| r1 .*\) \|$", alone.out, re.MULTILINE)  # of the second table
    (point,) = written["points"]
    assert f" {100 * point['agreement']:.1f} (" in row
    assert f" {100 * point['device_share']:.1f} | " in row


@pytest.mark.slow
def test_evaluate_prints_the_curve_as_json(family, folder_of_images, tmp_path):
    arguments = ("evaluate", "--family", family, "--data", f"folder:{folder_of_images}")
    arguments = (*arguments, "--rates", "r5", "--max-samples", 6, "--baselines", "none", "--json")
    done = runs(*arguments, "--out", tmp_path)
    assert done.out == (tmp_path / "curve.json").read_text()
    assert "baselines" not in json.loads(done.out)
    assert runs(*arguments).out == done.out


def test_evaluate_refuses_codecs_that_there_are_not(monkeypatch):
    arguments = ("evaluate", "--family", "x", "--baselines")
    for given, name in (("png", "png"), ("jpeg,none", "none"), ("", "")):
        words = [f"{name!r}", "jpeg, webp, avif"]
        refuses(*arguments, given, words=words)
    monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
    refuses(*arguments, "jpeg,avif", words=["Pillow was built without AVIF"])


# encode and decode


@pytest.mark.slow
def test_encode_writes_the_frames_of_the_sender(encoded, ends):
    header, frames = bitstream.read_container(encoded.path.read_bytes())
    expected = ends.sender.encode(ends.images, "r3")
    assert header == ends.sender.header
    assert [
        bitstream.pack_frame(frame.payload, frame.rate_index, len(RATES)) for frame in frames
    ] == expected
    payload = sum(map(len, expected))
    rest = encoded.path.stat().st_size - payload
    assert f"4 images, {payload} bytes ({payload / 4:.1f} an image)" in encoded.out
    assert f"{rest} of header" in encoded.out


@pytest.mark.slow
def test_decode_predicts_what_the_receiver_predicts(encoded, family, ends):
    frames = ends.sender.encode(ends.images, "r3")
    probabilities = np.asarray(jax.nn.softmax(ends.receiver.decode(frames)))
    done = runs("decode", encoded.path, "--family", family)
    rows = json.loads(runs("decode", encoded.path, "--family", family, "--json").out)
    assert len(rows) == len(frames) == len(done.out.splitlines())
    for index, (row, line) in enumerate(zip(rows, done.out.splitlines(), strict=True)):
        assert row == {
            "image": index,
            "class": ends.backbone.class_names[probabilities[index].argmax()],
            "probability": pytest.approx(probabilities[index].max(), abs=1e-4),
            "rate": "r3",
            "bytes": len(frames[index]),
        }
        assert row["class"] in line
        assert f"{row['probability']:.4f}" in line
        assert f"{row['bytes']} bytes" in line


@pytest.mark.slow
def test_rates_may_be_mixed_in_a_file(family, ends, tmp_path):
    frames = [ends.sender.encode(ends.images[:1], rate)[0] for rate in ("r5", "r1")]
    opened = [bitstream.unpack_frame(frame, len(RATES))[0] for frame in frames]
    path = tmp_path / "mixed.jspl"
    path.write_bytes(bitstream.write_container(ends.sender.header, opened))
    rows = json.loads(runs("decode", path, "--family", family, "--json").out)
    assert [row["rate"] for row in rows] == ["r5", "r1"]
    assert [row["bytes"] for row in rows] == [len(frame) for frame in frames]


@pytest.mark.slow
def test_an_image_alone_is_encoded_as_in_company_and_checks_cost_four_bytes(
    encoded, family, pictures, tmp_path
):
    path = tmp_path / "checked.jspl"
    arguments = ("--family", family, "--rate", "r3", "-o", path)
    runs("encode", pictures[1], *arguments, "--frame-checks")
    header, (frame,) = bitstream.read_container(path.read_bytes())
    expected = bitstream.read_container(encoded.path.read_bytes())
    assert header == expected[0]
    assert frame == expected[1][1]
    plain = bitstream.write_container(header, [frame])
    assert path.stat().st_size == len(plain) + 4
    rows = json.loads(runs("decode", path, "--family", family, "--json").out)
    assert [row["bytes"] for row in rows] == [
        len(bitstream.pack_frame(frame.payload, 2, len(RATES)))
    ]


# info


@pytest.mark.slow
def test_info_describes_a_family(family, ends):
    out = runs("info", family).out
    assert ends.family.fingerprint in out
    assert "resnet8_small cut after stage1.block1" in out
    for rate in ends.family.rates:
        row = rf"^  {rate.rate_id} +{rate.lmbda:.3g} +{rate.measured['bytes_per_image']:.4g} "
        assert re.search(row, out, re.MULTILINE)


@pytest.mark.slow
def test_info_describes_a_file(encoded, ends):
    out = runs("info", encoded.path).out
    payload = sum(map(len, ends.sender.encode(ends.images, "r3")))
    assert "4 images" in out.splitlines()[0]
    assert f"r3: latent (7, 7, 12), 4 images, {payload} bytes" in out
    assert "r1: latent (7, 7, 12), 0 images, 0 bytes" in out


def test_text_of_a_weights_file_does_not_reach_the_terminal_as_it_is(tmp_path, capsys):
    backbone = networks.open_embedded("fashion_mnist_resnet8")
    card = {"origin": "\x1b[2J\n  fingerprint: 0", "a\rb": "\u202e", "list": ["\x07"]}
    networks.save_backbone(
        tmp_path / "own.safetensors",
        backbone.variables,
        name=backbone.name,
        preprocessing=backbone.preprocessing,
        class_names=backbone.class_names,
        card=card,
    )
    assert main(["info", str(tmp_path / "own.safetensors")]) == 0
    out, lines = capsys.readouterr().out, ("backbone", "fingerprint", "origin", "a", "list", "cuts")
    assert all(line.isprintable() for line in out.splitlines())
    assert len(out.splitlines()) == len(lines)
    missing = str(tmp_path / "a\x1b[2J\nb.jspl")
    assert main(["decode", missing, "--family", "resnet8_small-fashion_mnist/stage1.block1"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.isprintable()


def test_info_describes_embedded_weights():
    out = runs("info", "fashion_mnist_resnet8").out
    assert load_backbone("fashion_mnist_resnet8").fingerprint in out
    assert "resnet8_small, 10 classes" in out
    assert "stage1.block1 (28, 28, 16)" in out


def test_info_lists_what_is_embedded():
    families, backbones, networks = runs("info").out.splitlines()
    assert "efficientnet_lite4" in networks
    assert "resnet8_small-fashion_mnist/stage1.block1" in families
    assert "fashion_mnist_resnet8" in backbones
    for name in families.partition(": ")[2].split(", "):
        assert load_pretrained(name).fingerprint in runs("info", name).out


# encode by a limit or a quality; pack


@pytest.mark.slow
def test_encode_keeps_to_a_limit_or_a_quality(pictures, tmp_path):
    name, out = "resnet8_small-fashion_mnist/stage1.block1", tmp_path / "x.jspl"
    sender, _ = load_pretrained(name).codec()
    images = np.stack(
        [sender.backbone.preprocessing.apply(data.decode_image(path)) for path in pictures]
    )
    for words, request in (
        (("--rate", "r4"), {"rate": "r4"}),
        (("--max-bytes", 60), {"max_bytes": 60}),
        (("--quality", 0.97), {"quality": 0.97}),
    ):
        runs("encode", *pictures, "--family", name, *words, "-o", out)
        frames = sender(images, **request)
        reader = bitstream.Reader(io.BytesIO(out.read_bytes()))
        count = len(reader.header.rates)
        assert list(reader) == [bitstream.unpack_frame(frame, count)[0] for frame in frames]
    out.unlink()
    for words, told in (
        (("--max-bytes", 0), ["--max-bytes is 0"]),
        (("--quality", 98), ["--quality is 98", "0.98"]),
        (("--quality", 0.999), ["no rate keeps 0.999"]),
        (("--quality", 0.9, "--rate", "r1"), ["--rate", "--quality"]),
        ((), ["--rate", "--max-bytes", "--quality"]),
    ):
        refuses("encode", *pictures, "--family", name, *words, "-o", out, words=told)
    assert not out.exists()


@pytest.mark.slow
def test_levels_are_encoded_measured_and_described(pictures, tmp_path):
    backbone = load_backbone("fashion_mnist_resnet8")
    spec = VariableRate(BottleneckSpec.from_stride(8, 4), (1e-5, 1e-2))
    split = make_split(backbone, "stage1.block1", spec)
    levels = Levels.of_prior(spec, jax.device_get(split.init(jax.random.key(0))))
    rates = tuple(levels.named(level, name) for name, level in (("low", 0), ("high", 63)))
    parts = backbone.name, backbone.fingerprint, backbone.weights, backbone.preprocessing
    family = RateFamily(*parts, "stage1.block1", rates, levels=levels)
    folder, out = tmp_path / "family", tmp_path / "x.jspl"
    family.save(folder, packed=True)
    words = ("encode", *pictures, "--family", folder, "-o", out)
    for rate, level in (("0.37", "level23"), ("high", "high"), ("level63", "high")):
        sent = json.loads(runs(*words, "--rate", rate, "--json").out)["images"]
        assert {one["rate"] for one in sent} == {level}
        found = json.loads(runs("decode", out, "--family", folder, "--json").out)
        assert [(one["rate"], one["bytes"]) for one in found] == [
            (one["rate"], one["bytes"]) for one in sent
        ]
    budget = max(one["bytes"] for one in sent) - 5
    sent = json.loads(runs(*words, "--max-bytes", budget, "--json").out)["images"]
    assert all(budget - 30 < one["bytes"] <= budget for one in sent)
    assert "levels 0 to 63: latent (7, 7, 8)" in runs("info", out).out
    one_image = ("encode", pictures[0], *words[len(pictures) + 1 :])
    refuses(*one_image, "--max-bytes", 1, words=["--max-bytes 1", "--over-budget shortest"])
    sent = json.loads(runs(*words, "--max-bytes", 1, "--over-budget", "shortest", "--json").out)[
        "images"
    ]
    assert {one["rate"] for one in sent} == {"low"}
    refuses(*words, "--rate", "1.5", words=["1.5", "from 0, the fewest bytes, to 1"])
    refuses(*words, "--rate", "medium", words=["no rate 'medium'", "low, high"])
    images = ("--data", "embedded", "--max-samples", 20, "--rates", "low,0.5")
    shown = json.loads(runs("evaluate", "--family", folder, *images, "--json").out)
    assert [one["rate_id"] for one in shown["points"]] == ["low", "level32"]
    assert shown["points"][0]["unit_bytes"] == levels.stored_bytes


SAID = ("--card", "license=Apache-2.0", "--card", "limits=Grey images of clothing.")


@pytest.mark.slow
def test_pack_completes_what_a_training_wrote(trained, tmp_path):
    folder = trained.folder / "family"
    written = RateFamily.load(folder)
    assert card.missing(written.card) == ["limits", "license"]
    assert written.card["command"] == (
        "jaxsplit train --config fashion_mnist:smoke --workdir DIR --config.seed=1 "
        "'--config.baselines=()'"
    )
    assert written.card["seed"] == 1
    # As it is: the figures stay.
    runs("pack", "--family", folder, "-o", tmp_path / "packed", *SAID)
    packed = RateFamily.load(tmp_path / "packed")
    assert packed.card == {
        **written.card,
        "license": "Apache-2.0",
        "limits": "Grey images of clothing.",
    }
    assert packed.fingerprint == written.fingerprint
    assert [rate.measured for rate in packed.rates] == [rate.measured for rate in written.rates]
    # Measured anew, on other images.
    images = ("--data", "embedded", "--max-samples", 100)
    done = runs("pack", "--family", folder, "-o", tmp_path / "again", *SAID, *images)
    again = RateFamily.load(tmp_path / "again")
    assert {rate.measured["n_images"] for rate in again.rates} == {100}
    assert "| r3 " in done.out
    out = runs("info", tmp_path / "again").out
    for words in ("limits: Grey images of clothing.", "evaluation n_images: 100", "top1_interval"):
        assert words in out
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["family.json", "rates"]


def test_pack_refuses_a_card_with_gaps_before_it_measures(tmp_path):
    name = "resnet8_small-fashion_mnist/stage1.block1"
    full = load_pretrained(name)
    kept = {key: value for key, value in full.card.items() if key not in ("limits", "evaluation")}
    dataclasses.replace(full, card=kept).save(tmp_path / "family")
    out = ("-o", tmp_path / "out")
    pack = ("pack", "--family", tmp_path / "family", *out)
    refuses(*pack, words=["lacks evaluation, limits", "--card limits=…", "--data SOURCE"])
    refuses(*pack, "--data", "embedded", words=["lacks limits: give --card limits=…"])
    refuses(*pack, "--max-samples", 9, words=["--max-samples", "--data SOURCE"])
    refuses(*pack, "--card", "limits", words=["'limits' is not KEY=VALUE"])
    refuses(*pack, "--card", "limits=", words=["is not KEY=VALUE"])
    assert not (tmp_path / "out").exists()


# what is refused


@pytest.fixture
def blocked(tmp_path):
    """A folder that cannot be created, not even by root: below a file."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "folder"


def test_help_is_instant():
    """Of every command, without a heavy import."""
    program = f"""
import sys
from jaxsplit.cli import main
for arguments in [[], *([name] for name in {COMMANDS})]:
    try:
        main([*arguments, "--help"])
    except SystemExit as done:
        assert done.code == 0
    heavy = {{"jax", "flax", "numpy", "orbax", "matplotlib", "rich", "tensorflow_datasets"}}
    assert not heavy & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    for name in COMMANDS:
        assert f"usage: jaxsplit {name}" in done.stdout
        assert re.search(rf"^    {name}\b", done.stdout, re.MULTILINE)
    for option in (
        "--out DIR",
        "--seed",
        "--rates A,B",
        "--weights FILE",
        "--json",
        "--workdir",
        "--baselines",
    ):
        assert option in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("command", "kinds"), [("train", ["curve", "backbone"]), ("design", ["design"])]
)
def test_the_keys_of_a_configuration_are_listed(command, kinds):
    """--help-config needs no other option; see test_config.py for what it lists."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as done:
        main([command, "--help-config"])
    assert done.value.code == 0
    assert out.getvalue() == "\n\n".join(map(config.describe_keys, kinds)) + "\n"
    assert "learning_rate = " in out.getvalue()


def test_an_error_ends_the_process_with_2():
    command = [sys.executable, "-m", "jaxsplit", "info", "no/such/family"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"jaxsplit: .*no/such/family.*\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["frobnicate"], ["'frobnicate'", "quickstart"]),
        (["encode"], ["IMAGE", "--family", "--output"]),
        (["encode", "x", "--family", "y", "-o", "z"], ["--rate", "--max-bytes", "--quality"]),
        (["compare", "x"], ["TEST"]),
        (["compare", "nothing", "x"], ["nothing", "No such file"]),
        (["compare", "x", "y", "--from-drop", "few"], ["--from-drop", "'few'"]),
        (["decode", "x.jspl"], ["--family"]),
        (["evaluate"], ["--family"]),
        (
            ["evaluate", "--family", "x", "--backbone", "y", "--weights", "z"],
            ["--weights", "--backbone"],
        ),
        (["train", "--config", "fashion_mnist:smoke"], ["--workdir"]),
        (["quickstart", "--seed", "many"], ["--seed", "'many'"]),
        (["quickstart", "--sed", "1"], ["--sed"]),
        (["quickstart", "--config.seed=1"], ["--config.seed"]),
        (["evaluate", "--family", "x", "--max-samples", "few"], ["--max-samples", "'few'"]),
        (["info", "nothing"], ["no family at nothing", "hf:owner/name"]),
        (["info", "nothing.jspl"], ["nothing.jspl", "No such file"]),
        (["info", "nothing.safetensors"], ["nothing.safetensors"]),
        (["decode", "nothing.jspl", "--family", "x"], ["nothing.jspl", "No such file"]),
        (["evaluate", "--family", "nothing"], ["no family at nothing", "resnet8_small"]),
    ],
)
def test_wrong_words_are_refused(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuses(*arguments, words=words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "override", "words"),
    [
        ("nothing", "seed=1", ["'nothing'", "fashion_mnist"]),
        ("fashion_mnist:huge", "seed=1", ["'huge'"]),
        ("fashion_mnist:smoke", "sead=1", ["'sead'"]),
        ("fashion_mnist:smoke", "spec.chanels=1", ["'spec.chanels'"]),
        ("fashion_mnist:smoke", "seed=one", ["seed", "'one'"]),
        ("fashion_mnist:smoke", "seed=1.5", ["seed", "'1.5'"]),
        ("fashion_mnist:smoke", "seed=-1", ["seed", "-1"]),
        ("fashion_mnist:smoke", "batch_size=0", ["batch_size is 0"]),
        ("fashion_mnist:smoke", "batch_size=68", ["64 training examples", "68"]),
        ("fashion_mnist:smoke", "spec.channels=0", ["channels"]),
        ("fashion_mnist:smoke", "phases.0.steps=-1", ["-1 steps"]),
        ("fashion_mnist:smoke", "lambdas.r1=-1.0", ["r1", "-1.0"]),
        ("fashion_mnist:smoke", "cut=nowhere", ["'nowhere'", "stage1.block1"]),
        ("fashion_mnist:smoke", "backbone=nobody", ["'nobody'", "fashion_mnist_resnet8"]),
        ("fashion_mnist:smoke", "data=nothing", ["'nothing'", "folder:PATH"]),
        ("fashion_mnist:smoke", "test_split=tset", ["'tset'", "test"]),
        ("fashion_mnist:smoke", "max_samples=-1", ["-1"]),
        ("fashion_mnist_backbone:smoke", "model=resnet9", ["'resnet9'", "resnet8_small"]),
        ("fashion_mnist_backbone:smoke", "test_split=tset", ["'tset'", "test"]),
        ("fashion_mnist_backbone:smoke", "batch_size=0", ["batch_size is 0"]),
        ("fashion_mnist_backbone:smoke", "epochs=0", ["epochs is 0"]),
        ("fashion_mnist_backbone:smoke", "max_samples=100", ["100", "batch of 128"]),
        ("fashion_mnist_backbone:smoke", "seed=-1", ["seed", "-1"]),
    ],
)
def test_wrong_configurations_are_refused_before_a_step(name, override, words, tmp_path):
    arguments = ("train", "--config", name, f"--config.{override}", "--workdir", tmp_path)
    refuses(*arguments, words=words)  # one line: no progress was shown


@pytest.mark.parametrize("command", ["quickstart", "train"])
def test_a_folder_that_cannot_be_written_is_refused_at_once(command, blocked):
    where = ("--out",) if command == "quickstart" else ("--config", "fashion_mnist", "--workdir")
    refuses(command, *where, blocked, words=[blocked, "cannot write"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rates", "r1,r9"], ["'r9'", "r1, r2, r3, r4, r5"]),
        (["--max-samples", "0"], ["--max-samples", "'0'"]),
        (["--data", "tfds:nope"], ["tfds:nope"]),
        (["--data", "folder:nope"], ["folder:nope", "no such folder"]),
        (["--data", "pigeons"], ["'pigeons'", "embedded"]),
        (["--split", "tset"], ["'tset'", "test"]),
        (["--max-samples", "-1"], ["-1"]),
        (["--weights", "nope.safetensors"], ["nope.safetensors"]),
        (["--backbone", "nope"], ["'nope'", "fashion_mnist_resnet8"]),
    ],
)
def test_evaluate_refuses(family, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    refuses("evaluate", "--family", family, *arguments, words=words)


@pytest.mark.slow
def test_evaluate_refuses_an_unwritable_folder_and_other_classes(family, blocked, tmp_path):
    refuses("evaluate", "--family", family, "--out", blocked, words=[blocked, "cannot write"])
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("L", (28, 28)).save(tmp_path / "pets" / name / "0.png")
    refuses(
        *("evaluate", "--family", family, "--data", f"folder:{tmp_path / 'pets'}"),
        words=["2 classes (cat", "10", "T-shirt/top"],
    )
    (tmp_path / "pets" / "dog" / "0.png").unlink()
    refuses(
        *("evaluate", "--family", family, "--data", f"folder:{tmp_path / 'pets'}"),
        words=["'dog'", "no images"],
    )


@pytest.mark.slow
def test_encode_refuses(family, pictures, blocked, tmp_path):
    def refused(*images, words, rate="r3", out=tmp_path / "x.jspl"):
        refuses("encode", *images, "--family", family, "--rate", rate, "-o", out, words=words)
        assert not (tmp_path / "x.jspl").exists()

    text = tmp_path / "text.png"
    text.write_text("not an image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(pictures[0].read_bytes()[:200])
    refused(tmp_path / "no.png", words=[tmp_path / "no.png", "no such file"])
    refused(text, words=[text, "not an image"])
    refused(cut, words=[cut])
    refused(tmp_path, words=[tmp_path])
    refused(pictures[0], rate="r9", words=["'r9'", "r1, r2, r3, r4, r5"])
    refused(*pictures, out=blocked / "x.jspl", words=[blocked / "x.jspl", "cannot write"])


@pytest.mark.slow
def test_decode_refuses(encoded, family, trained, tmp_path):
    whole = encoded.path.read_bytes()
    damaged = tmp_path / "damaged.jspl"
    noise = np.random.default_rng(0).bytes(1000)
    flipped = bytearray(whole)
    flipped[-20] ^= 1
    for content, word in [
        (whole[:-10], "truncated"),
        (whole[:30], "truncated"),
        (b"", "truncated"),
        (bytes(flipped), "corrupted"),
        (whole + b"x", "corrupted"),
        (noise, "not a jaxsplit file"),
        (whole[:60] + noise, "orrupted"),
    ]:
        damaged.write_bytes(content)
        for command in (["decode", damaged, "--family", family], ["info", damaged]):
            refuses(*command, words=[word])
    other = trained.folder / "family"
    refuses("decode", encoded.path, "--family", other, words=["another family", other])
    few = ("--max-images", "1")
    refuses("decode", encoded.path, "--family", family, *few, words=["images, more than", *few])
    refuses("decode", tmp_path, "--family", family, words=[tmp_path])
    other_file = ("decode", encoded.path, damaged, "--family", family)
    done = run(*other_file)
    assert (done.code, len(done.out.splitlines())) == (1, 4)
    assert str(damaged) in done.err.splitlines()[0]


@pytest.mark.slow
def test_other_weights_are_refused(encoded, family, pictures, tmp_path):
    """The same network with one weight changed, and another network."""
    backbone = load_backbone("fashion_mnist_resnet8")
    kept = {
        name: getattr(backbone, name) for name in ("preprocessing", "class_names", "card", "name")
    }
    leaves, structure = jax.tree.flatten(backbone.variables)
    leaves[0] = leaves[0] + 1
    changed, deeper = tmp_path / "changed.safetensors", tmp_path / "deeper.safetensors"
    networks.save_backbone(changed, jax.tree.unflatten(structure, leaves), **kept)
    init = networks.create("resnet20_small", 10).init
    shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    networks.save_backbone(deeper, variables, **{**kept, "name": "resnet20_small"})
    commands = [
        ("evaluate", "--family", family),
        ("decode", encoded.path, "--family", family),
        ("encode", *pictures, "--family", family, "--rate", "r1", "-o", tmp_path / "x.jspl"),
    ]
    for command in commands:
        refuses(
            *(*command, "--weights", changed),
            words=[backbone.fingerprint[:12], load_backbone(changed).fingerprint[:12]],
        )
        refuses(*command, "--weights", deeper, words=["resnet8_small", "resnet20_small"])
    text = tmp_path / "text.safetensors"
    text.write_text("nothing")
    refuses(*commands[0], "--weights", text, words=[text])


@pytest.mark.slow
def test_a_damaged_family_is_refused(family, tmp_path):
    damaged = tmp_path / "family"
    shutil.copytree(family, damaged)
    index = json.loads((damaged / "family.json").read_text())
    first = damaged / index["rates"][0]["folder"]
    shutil.rmtree(first)
    refuses("info", damaged, words=[damaged])
    (damaged / "family.json").write_text("{")
    refuses("info", damaged, words=[damaged / "family.json"])
    (damaged / "family.json").write_text(json.dumps({**index, "format": 99}))
    refuses("info", damaged, words=["99"])


@pytest.mark.parametrize("platform", ["nonsense", "cuda"])
def test_a_backend_that_cannot_start_is_one_line(platform, pictures, tmp_path):
    if platform == "cuda" and importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("cuda may start here")
    out = tmp_path / "out.jspl"
    family = "resnet8_small-fashion_mnist/stage1.block1"
    words = ["encode", str(pictures[0]), "--family", family, "--rate", "r1", "-o", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "jaxsplit", *words],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": platform},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"jaxsplit: .*{platform}.*JAX_PLATFORMS=''.*\n", done.stderr), done.stderr
    assert not out.exists()


def test_memory_that_runs_out_is_one_line_and_a_bug_has_its_traceback(monkeypatch):
    def failing(error):
        def describe(name):
            raise error

        monkeypatch.setattr("jaxsplit.cli.info.describe", describe)

    failing(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n…"))
    refuses("info", words=["out of memory: use smaller batches"])
    failing(RuntimeError("can't start new thread"))
    refuses("info", words=["can't start new thread: this machine allows no more; end other"])
    failing(SystemError("<function f> returned NULL without setting an exception"))
    refuses("info", words=["without setting an exception: a library failed, perhaps because mem"])
    failing(RuntimeError("of our own"))
    with pytest.raises(RuntimeError, match="of our own"):
        run("info")


def test_an_interrupt_is_no_traceback(monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxsplit.cli.info.describe", interrupted)
    done = run("info")
    assert (done.code, done.out, done.err) == (130, "", "jaxsplit: interrupted\n")


def test_sigterm_is_said_and_handlers_are_those_of_before(monkeypatch):
    monkeypatch.setattr("jaxsplit.cli.info.describe", lambda name: signal.raise_signal(15))
    before = signal.getsignal(signal.SIGTERM)
    done = run("info")
    assert (done.code, done.out, done.err) == (143, "", "jaxsplit: stopped by SIGTERM\n")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["collector", "destructor"])
def test_a_signal_in_a_callback_whose_errors_are_ignored_still_ends(monkeypatch, number, kind):
    left = []

    def ended(*_):
        if left:
            left.pop()
            signal.raise_signal(number)
            time.sleep(0)  # the handler raises here

    def describe(name):
        left.append("one signal")
        for _ in range(1000):
            gc.collect(0) if kind == "collector" else type("Own", (), {"__del__": ended})()
            time.sleep(0.01)

    monkeypatch.setattr("jaxsplit.cli.info.describe", describe)
    callbacks = [ended] if kind == "collector" else []
    gc.callbacks[:0] = callbacks
    try:
        done = run("info")
    finally:
        del gc.callbacks[: len(callbacks)]
    assert not left
    assert (done.code, done.out, done.err.count("\n")) == (128 + number, "", 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_says_how_it_goes_on(monkeypatch, tmp_path, number):
    monkeypatch.setattr("jaxsplit.search.search", lambda *_: signal.raise_signal(number))
    done = run("design", "--config", "resnet20_design:smoke", "--workdir", tmp_path / "w", "-q")
    assert (done.code, done.out) == (128 + number, "")
    assert "interrupted: the same command resumes" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_interrupted_while_it_is_measured_says_so(monkeypatch, tmp_path, number):
    monkeypatch.setattr("jaxsplit.experiments.run.train_curve", lambda *_: None)
    monkeypatch.setattr("jaxsplit.experiments.run.measure", lambda *_: signal.raise_signal(number))
    done = run("train", "--config", "fashion_mnist:smoke", "--workdir", tmp_path / "w", "-q")
    saved = "after the training, which is saved: the same command resumes from there"
    assert done.err == f"jaxsplit: stopped by {number.name} {saved}\n"
    assert done.code == 128 + number


def test_names_of_files_are_bytes(monkeypatch, tmp_path):
    """Standard output takes any name; a JSON document has text."""
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("L", (28, 28)).save(tmp_path / name)
    stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stdout", stdout)
    family = "resnet8_small-fashion_mnist/stage1.block1"
    words = ["encode", tmp_path / name, "--family", family, "--rate", "r1"]
    assert main([*map(str, words), "-o", str(tmp_path / f"{name}.jspl")]) == 0
    assert b"caf\\udce9.png.jspl" in stdout.buffer.getvalue()
    stdout.buffer.truncate(0)
    assert main([*map(str, words), "-o", str(tmp_path / f"{name}.jspl"), "--json"]) == 0
    document = json.loads(stdout.buffer.getvalue().strip(b"\0"))
    assert document["images"][0]["image"] == str(tmp_path / "caf\\xe9.png")
    assert document["file"] == str(tmp_path / "caf\\xe9.png.jspl")
