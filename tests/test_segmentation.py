"""Segmentation end to end: a network, units, curve, report, masks from the command line."""

import dataclasses
import json

import drawn_scenes
import jax
import numpy as np
import pytest
from PIL import Image

import jaxsplit
from jaxsplit import bitstream, cli, data, networks
from jaxsplit.errors import WeightsError
from jaxsplit.evaluation.card import measured_curve, with_measured
from jaxsplit.evaluation.compare import MeasuredCurve, compare_curves
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.evaluate import evaluate_images
from jaxsplit.evaluation.intervals import measure_outputs
from jaxsplit.experiments.run import measure, run_backbone
from jaxsplit.tasks.stored import TaskFields, task_fields
from jaxsplit.train.backbone import BackboneConfig
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase

NAME = "small_segmenter"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    drawn_scenes.write_folder(root, {"train": 64, "val": 16})
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """The file of a network that was trained for seconds, and its card."""
    networks.register(NAME, drawn_scenes.SmallSegmenter(num_classes=len(drawn_scenes.NAMES)))
    config = BackboneConfig(
        NAME,
        f"folder:{folder}",
        drawn_scenes.PREPROCESSING,
        data.Augmentation(flip=True),
        epochs=12,
        batch_size=16,
        learning_rate=0.2,
        test_split="val",
        task=TaskFields(**task_fields(drawn_scenes.task())),
    )
    out = tmp_path_factory.mktemp("network")
    losses = []
    card = run_backbone(config, out, "", lambda i, n, found: losses.append(float(found["loss"])))
    assert losses[-1] < losses[0]
    return config, out / "weights.safetensors", card


@pytest.fixture(scope="module")
def backbone(trained):
    return jaxsplit.load_backbone(str(trained[1]))


@pytest.fixture(scope="module", params=[False, True], ids=["rates", "levels"])
def measured(request, backbone, folder, tmp_path_factory):
    """A family, its folder with curve, report and family, and what `measure` returns."""
    source = data.open_source(folder, "train")
    lambdas = {"r1": 3e-3, "r2": 3e-4, "r3": 1e-5}
    family = jaxsplit.train_family(
        backbone,
        "body",
        lambdas,
        data=source,
        unit=jaxsplit.BottleneckSpec(6, stride=2),
        variable_rate=request.param,
        phases=[Phase(80, Distortion())],
        batch_size=16,
        learning_rate=3e-2,
        progress=False,
    )
    out = tmp_path_factory.mktemp("levels" if request.param else "rates")
    test = data.open_source(folder, "val")
    baselines = () if request.param else ("jpeg",)
    found = measure(family, backbone, test, out, baselines=baselines)
    family = with_measured(family, found.curve, found.seen, test)
    family.save(out / "family")
    return family, out, found


def test_a_network_is_trained_by_its_task(trained, backbone, folder):
    config, _, card = trained
    assert {"miou", "pixel_accuracy", "test_images", "steps"} <= card.keys()
    assert card["miou"] > 0.6
    assert card["pixel_accuracy"] > 0.8
    assert backbone.task == drawn_scenes.task().fitted(config.preprocessing)
    images, masks = data.load_arrays(
        data.open_source(folder, "val"), backbone.preprocessing, backbone.task.target_reader
    )
    logits = networks.predict(backbone.network, backbone.variables, backbone.preprocessing, images)
    found = backbone.task.evaluate(logits, masks)["miou"].mean(0)
    assert backbone.task.metrics["miou"].value(found) == pytest.approx(card["miou"])


def test_the_first_weights_are_those_of_a_network_below(backbone, trained):
    from jaxsplit.train.backbone import _first_variables

    config, _, _ = trained
    below = dataclasses.replace(backbone, name="segmenter")
    module = backbone.module
    source = data.open_source(config.data, config.train_split)
    first = _first_variables(config, module, source, below)
    for path, leaf in jax.tree.leaves_with_path(first):
        ours = dict(jax.tree.leaves_with_path(backbone.variables))[path]
        assert np.array_equal(leaf, ours) == ("logits" not in str(path)), path
    wider = drawn_scenes.untrained()
    variables = jax.tree.map(lambda x: np.concatenate([x, x], -1), wider.variables)
    with pytest.raises(WeightsError, match="segmenter has other shapes than this network"):
        _first_variables(config, module, source, dataclasses.replace(below, variables=variables))


def test_the_curve_has_both_metrics_and_the_agreement(measured):
    family, out, found = measured
    curve = found.curve
    written = json.loads((out / "curve.json").read_text())
    names = {"miou", "miou_interval", "pixel_accuracy", "pixel_accuracy_interval"}
    assert names <= written["uncompressed"].keys()
    for point in written["points"]:
        assert names | {"agreement", "agreement_interval"} <= point.keys()
    assert Curve.read(out / "curve.json") == curve
    best = curve.points[-1]
    assert best.metrics["miou"].mean > 0.8 * curve.unsplit["miou"].mean
    assert best.metrics["agreement"].mean > curve.points[0].metrics["agreement"].mean
    assert "mIoU" in found.table
    assert ("jpeg" in curve.baselines) == (family.levels is None)
    again = MeasuredCurve.open(out)
    assert compare_curves(again, again).bd_rate_percent == 0
    of_card = measured_curve(family, "ours")
    assert of_card.quality == "miou"
    np.testing.assert_allclose(of_card.rate_quality(), curve.rate_quality())
    sender, _ = family.codec()
    image = drawn_scenes.scene(70)[0]
    assert len(sender(image, quality=0.5)) == len(sender(image, max_bytes=100_000)) == 1


def test_the_report_shows_images_and_masks(measured):
    _, out, found = measured
    assert len(found.seen.drawn.images) == 4
    page = (out / "report.html").read_text()
    assert page.count('src="data:image/png') == 4 * 4
    assert page.count('src="data:image/jpeg') == 4
    for one in found.seen.drawn.images:
        assert len(one.rates) == 3
        for rate in one.rates:
            assert f"{rate.rate_id}: {rate.bytes:,} bytes" in page
    assert "rgb(90, 160, 230)" in page


@pytest.fixture
def pictures(tmp_path):
    """Two images of other sizes than the network's, and one of its own."""
    paths = []
    for i, size in enumerate([(64, 96), (48, 48), drawn_scenes.SIZE]):
        Image.fromarray(drawn_scenes.scene(70 + i, size)[0]).save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    return paths


def run(capsys, *arguments):
    code = cli.main([str(one) for one in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_masks_are_written_at_the_image_s_own_size(measured, trained, pictures, tmp_path, capsys):
    _, out, _ = measured
    with_family = ("--family", out / "family", "--weights", trained[1])
    coded = tmp_path / "s.jspl"
    code, _, error = run(capsys, "encode", *pictures, *with_family, "--rate", "r3", "-o", coded)
    assert not code, error
    header, frames = bitstream.read_container(coded.read_bytes())
    sizes = [(64, 96), (48, 48), drawn_scenes.SIZE]
    assert header.original in sizes
    assert [frame.size for frame in frames] == sizes
    masks = tmp_path / "masks"
    code, text, error = run(
        capsys, "decode", coded, *with_family, "--json", "--out", masks, "--over", *pictures
    )
    assert not code, error
    for i, (entry, size) in enumerate(zip(json.loads(text), sizes, strict=True)):
        with Image.open(masks / f"s-{i}-mask.png") as mask:
            assert (mask.mode, mask.size) == ("P", size[::-1])
            found = np.asarray(mask)
        with Image.open(masks / f"s-{i}-overlay.png") as overlay:
            assert (overlay.mode, overlay.size) == ("RGB", size[::-1])
        truth = drawn_scenes.scene(70 + i, size)[1]
        known = (truth != drawn_scenes.UNKNOWN) & (found != 255)
        assert known.mean() > 0.6
        assert (found[known] == truth[known]).mean() > 0.75
        assert entry["shares"]["sky"] == pytest.approx((found[found != 255] == 1).mean(), abs=1e-4)
    code, text, _ = run(capsys, "decode", coded, *with_family)
    assert not code
    assert "sky 0." in text.splitlines()[0]


def test_frames_of_python_carry_the_size_too(measured, pictures):
    family, _, _ = measured
    sender, receiver = family.codec()
    frames = sender(pictures, rate="r2")
    same = [len(frame) for frame in sender(np.stack([drawn_scenes.scene(72)[0]] * 2), rate="r2")]
    assert len(frames[2]) == same[0]  # the network's own size costs nothing
    placements = receiver.placements(frames)
    assert [one.image for one in placements] == [(64, 96), (48, 48), drawn_scenes.SIZE]
    shown = family.backbone_of().task.show(receiver(frames), placements)
    assert shown[0].pictures["mask"].size == (96, 64)


def test_a_classification_writes_no_pictures(tmp_path, capsys):
    family = "resnet8_small-fashion_mnist/stage1.block1"
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    coded = tmp_path / "a.jspl"
    given = ("--family", family, "--rate", "r1", "-o", coded)
    assert not run(capsys, "encode", tmp_path / "a.png", *given)[0]
    assert bitstream.read_container(coded.read_bytes())[0].original is None
    code, _, error = run(capsys, "decode", coded, "--family", family, "--out", tmp_path / "m")
    assert code == 2
    assert "a classification has no pictures" in error


def test_padding_counts_in_no_metric(tmp_path):
    """A network that sees letterboxed images is measured on their pixels alone."""
    drawn_scenes.write_folder(tmp_path, {"val": 6}, size=(24, 48))  # below them 8 rows of padding
    source = data.open_source(tmp_path, "val")
    below = drawn_scenes.untrained()
    preprocessing = dataclasses.replace(drawn_scenes.PREPROCESSING, fit="letterbox")
    windows = data.windows(source, preprocessing)
    assert windows[:, :24].all()
    assert not windows[:, 24:].any()
    assert data.windows(source, drawn_scenes.PREPROCESSING) is None

    def run(head, tail):  # logits differ in the padding alone: there it is another class
        outputs = np.zeros((6, *drawn_scenes.SIZE, 4), np.float32)
        outputs[:, :24, :, head], outputs[:, 24:, :, tail] = 1, 1
        return lambda part: outputs[part]

    task = below.task.fitted(preprocessing)
    _, masks = data.load_arrays(source, preprocessing, task.target_reader)
    assert (masks[:, 24:] == 255).all()
    cropped = data.load_arrays(source, drawn_scenes.PREPROCESSING, task.target_reader)[1]
    assert not np.array_equal(masks, cropped)  # one source, two geometries
    unsplit = measure_outputs(task, run(0, 1), masks, 6, 4, windows=windows)
    coded = measure_outputs(task, run(0, 2), masks, 6, 4, unsplit.predicted, windows)
    assert coded.values(task)["agreement"].mean == 1
    assert coded.values(task) == unsplit.values(task)
    assert (coded.predicted[:, 24:] == 255).all()
    counted = measure_outputs(task, run(0, 1), masks, 6, 4)
    other = measure_outputs(task, run(0, 2), masks, 6, 4, counted.predicted)
    assert other.values(task)["agreement"].mean < 1  # as it is where padding counts


def test_an_evaluation_ignores_padding(tmp_path):
    drawn_scenes.write_folder(tmp_path, {"val": 6}, size=(24, 48))
    source = data.open_source(tmp_path, "val")
    preprocessing = dataclasses.replace(drawn_scenes.PREPROCESSING, fit="letterbox")
    below = drawn_scenes.untrained()
    backbone = networks.make_backbone(
        "letterboxed", below.module, below.variables, preprocessing, drawn_scenes.task()
    )
    family = jaxsplit.train_family(
        backbone,
        "body",
        [1e-3],
        data=source,
        phases=[Phase(2, Distortion())],
        batch_size=4,
        progress=False,
    )
    curve, seen = evaluate_images(family, backbone, source)
    assert set(curve.points[0].metrics) == {"miou", "pixel_accuracy", "agreement"}
    for one in seen.drawn.images:
        for picture in (one.unsplit, one.rates[0].picture):
            assert (np.asarray(picture)[24:] == 255).all()
            assert (np.asarray(picture)[:24] != 255).all()
