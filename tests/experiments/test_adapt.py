"""A folder of drawn images becomes a network with their classes, a family, a curve and a report."""

import io
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw

import jaxsplit
from jaxsplit.cli import main
from jaxsplit.errors import ConfigError, DataError, Interrupted, JaxsplitWarning
from jaxsplit.experiments.adapt import FINETUNINGS, adapt
from jaxsplit.train import loop

NETWORK, CUT = "fashion_mnist_resnet8", "stage3.block1"
SHAPES = ("bar", "disc", "frame", "stripes")


def drawn(shape, seed):
    """A picture of 40 × 32 pixels."""
    rng = np.random.default_rng((SHAPES.index(shape), seed))
    image = Image.new("RGB", (40, 32), tuple(rng.integers(0, 60, 3).tolist()))
    colour = tuple(rng.integers(150, 255, 3).tolist())
    left, top = rng.integers(2, 12, 2).tolist()
    box, draw = (left, top, left + 18, top + 18), ImageDraw.Draw(image)
    if shape == "bar":
        draw.rectangle((left + 6, top, left + 11, top + 18), fill=colour)
    elif shape == "disc":
        draw.ellipse(box, fill=colour)
    elif shape == "frame":
        draw.rectangle(box, outline=colour, width=3)
    else:
        for row in range(top, top + 18, 6):
            draw.line((left, row, left + 18, row), fill=colour, width=2)
    return image


def write(folder, counts):
    """A folder of drawn images: class → their number."""
    for shape, count in counts.items():
        (folder / shape).mkdir(parents=True)
        for i in range(count):
            drawn(shape, i).save(folder / shape / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return write(tmp_path_factory.mktemp("drawn") / "photos", dict.fromkeys(SHAPES, 15))


@pytest.fixture(scope="session")
def command(photos, tmp_path_factory):
    """The words of a short run, its folder and what it printed."""
    out = tmp_path_factory.mktemp("adapted") / "out"
    words = ["adapt", "--data", f"folder:{photos}", "--backbone", NETWORK, "--cut", CUT]
    words += ["--minutes", "0.01", "--out", str(out), "--json"]
    with pytest.MonkeyPatch.context() as patch:
        printed = io.StringIO()
        patch.setattr("sys.stdout", printed)
        patch.setattr("sys.warnoptions", ["error"])
        assert main(words) == 0
    return SimpleNamespace(words=words, out=out, document=json.loads(printed.getvalue()))


def test_it_writes_network_family_curve_and_report(command):
    names = {path.name for path in command.out.iterdir()}
    assert {"backbone.safetensors", "family", "curve.json", "report.html", "images.npz"} <= names
    assert command.document["cut"] == CUT
    assert command.document["top1"] > 0.7
    assert {name: one["images"] for name, one in command.document["classes"].items()} == (
        dict.fromkeys(SHAPES, 3)
    )
    curve = jaxsplit.Curve.read(command.out / "curve.json")
    assert len(curve.points) >= 6
    sizes = [point.bytes_per_image for point in curve.points]
    assert sizes == sorted(sizes)
    assert {"jpeg", "webp"} <= set(curve.baselines)
    report = (command.out / "report.html").read_text()
    assert all(f"top-1 of {shape}" in report for shape in SHAPES)
    assert "95 % interval" in report


def test_the_family_sends_an_image_with_no_further_word(command, photos, tmp_path, capsys):
    family, sent = str(command.out / "family"), str(tmp_path / "photo.jspl")
    photo = str(photos / "disc" / "14.png")
    assert main(["encode", photo, "--family", family, "--rate", "1", "-o", sent, "-q"]) == 0
    assert main(["decode", sent, "--family", family, "-q"]) == 0
    assert set(capsys.readouterr().out.split()) & set(SHAPES)


def test_a_folder_that_was_moved_still_works(command, photos, tmp_path, monkeypatch):
    shutil.copytree(command.out / "family", tmp_path / "elsewhere" / "family")
    shutil.copy(command.out / "backbone.safetensors", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere" / "family")
    family = jaxsplit.load_pretrained(".")
    sender, receiver = family.codec()
    assert receiver(sender([drawn("bar", 1)], 0.5)).shape == (1, len(SHAPES))
    family.save(tmp_path / "alone")
    assert str(tmp_path) not in (tmp_path / "alone" / "family.json").read_text()
    with pytest.raises(jaxsplit.JaxsplitError, match="names no weights"):
        jaxsplit.load_pretrained(tmp_path / "alone").codec()


def test_the_same_command_resumes(command, monkeypatch):
    """Neither the layer nor the unit is trained again."""
    before = {path: path.read_bytes() for path in command.out.glob("family/family.json")}

    def refuse(*_, **__):
        raise AssertionError

    for name in ("fit_head", "seconds_per_step", "measure"):
        monkeypatch.setattr(f"jaxsplit.experiments.adapt.{name}", refuse)
    monkeypatch.setattr("jaxsplit.train.rate_groups.loop.parallel.parallel_step", refuse)
    monkeypatch.setattr("sys.warnoptions", ["error"])
    assert main([*command.words, "-q"]) == 0
    assert before == {path: path.read_bytes() for path in command.out.glob("family/family.json")}


@pytest.fixture(scope="session")
def arrays():
    pairs = [(np.asarray(drawn(shape, i)), n) for n, shape in enumerate(SHAPES) for i in range(10)]
    images, labels = zip(*pairs, strict=True)
    return jaxsplit.data.from_arrays(images, labels, SHAPES)


def short(source, **options):
    return adapt(
        *(NETWORK, source), cut=CUT, **{"steps": 0, "baselines": (), "progress": False, **options}
    )


def test_a_stopped_training_resumes_and_gives_the_same_family(arrays, tmp_path, monkeypatch):
    whole = short(arrays, steps=4)
    monkeypatch.setattr("jaxsplit.experiments.adapt._SAVE_EVERY", 2)
    save = loop._save

    def stop(directory, done, state):
        save(directory, done, state)
        raise Interrupted("killed", 9)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", stop)
        with pytest.raises(Interrupted):
            short(arrays, steps=4, out=tmp_path)
    lines = []
    resumed = short(arrays, steps=4, out=tmp_path, log=lambda text, *_: lines.append(text))
    assert {"the network is fitted already", "2 of 4 steps are done"} <= set(lines)
    assert resumed.family.fingerprint == whole.family.fingerprint


def test_the_network_is_finetuned_as_asked(arrays):
    """The last layer on augmented images, or all of the network."""
    own = {one: short(arrays, finetune=one).backbone for one in FINETUNINGS}
    assert own["last"].card["head"]["views"] > own["none"].card["head"]["views"] == 1
    none, last, every = (
        [jax.tree.leaves(own[one].variables["params"][part])[0] for part in ("stem", "logits")]
        for one in FINETUNINGS
    )
    assert [np.array_equal(*pair) for pair in zip(none, last, strict=True)] == [True, False]
    assert not np.array_equal(none[0], every[0])
    assert 0 <= own["all"].card["finetuning"]["top1"] <= 1
    assert all(one.class_names == SHAPES for one in own.values())


def test_unbalanced_classes_are_said(tmp_path):
    folder = write(tmp_path, {"bar": 12, "disc": 3})
    with pytest.warns(JaxsplitWarning, match="2 training images of disc, 8 of bar"):
        short(folder)
    done = short(folder, class_weights="balanced")
    assert done.backbone.card["head"]["class_weights"] == "balanced"


def test_odd_photos_are_adapted_to(tmp_path):
    """Grey ones, one of 4,000 pixels, one that is damaged."""
    folder = write(tmp_path, dict.fromkeys(SHAPES[:2], 10))
    for i in range(3):
        drawn("bar", i).convert("L").save(folder / "bar" / f"{i:02}.png")
    drawn("disc", 0).resize((4000, 3200)).save(folder / "disc" / "00.png")
    (folder / "disc" / "01.png").write_bytes((folder / "disc" / "02.png").read_bytes()[:60])
    (folder / "bar" / "holiday.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.warns(JaxsplitWarning) as found:
        done = short(folder)
    texts = [str(one.message) for one in found]
    assert any("1 of 16 images are left out" in text for text in texts)
    assert any("holiday.heic" in text and "convert HEIC to JPEG" in text for text in texts)
    assert done.accuracy.classes.keys() == set(SHAPES[:2])


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ({"bar": 5}, "has one class, bar: give two or more"),
        ({"bar": 2, "disc": 2}, "has 2 images: give 3 or more"),
        ({"bar": 5, "disc": 0}, "class 'disc' has no images"),
    ],
)
def test_too_few_images_are_one_line(tmp_path, counts, match):
    with pytest.raises(DataError, match=match):
        short(write(tmp_path, counts))


def test_heic_alone_says_how_to_convert(tmp_path):
    for name in SHAPES[:2]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match="convert HEIC to JPEG"):
        short(tmp_path)


@pytest.mark.parametrize("options", [{"finetune": "some"}, {"minutes": 0.0}, {"steps": -1}])
def test_wrong_arguments_are_refused(arrays, options):
    with pytest.raises(ConfigError):
        short(arrays, **options)
