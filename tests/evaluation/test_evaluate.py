"""Evaluation counts the bytes of real frames and runs the tail on decoded symbols."""

import dataclasses
import itertools
import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxsplit import data, networks, ops
from jaxsplit.codec import Receiver, Sender
from jaxsplit.codec.rate_control import rates_for
from jaxsplit.cost import split_cost
from jaxsplit.errors import BitstreamError, DataError, FamilyError, JaxsplitWarning
from jaxsplit.evaluation.card import with_measured
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.evaluate import evaluate, evaluate_images, predictor
from jaxsplit.evaluation.intervals import wilson_interval
from jaxsplit.evaluation.per_image import PerImage
from jaxsplit.experiments import run
from jaxsplit.io import checkpoint
from jaxsplit.networks.inference import batch_size
from jaxsplit.reports import curve_table
from jaxsplit.tasks import UNNAMED_CLASSES, Classification
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.curve import train_curve, train_family
from jaxsplit.train.features import compute
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units import BottleneckSpec

RATE_IDS = ("high", "mid", "low")


@pytest.fixture(scope="module")
def curve(tiny_family, tiny_backbone, tiny_test_source):
    return evaluate(tiny_family, tiny_backbone, tiny_test_source)


@pytest.fixture(scope="module")
def symbols(tiny_family, tiny_backbone, tiny_images):
    sender = Sender(tiny_family, tiny_backbone, batch_size((12, 12, 1)))
    return {rate_id: sender.symbols(tiny_images, rate_id) for rate_id in RATE_IDS}


def test_there_is_a_point_for_every_rate_in_the_familys_order(curve, tiny_family):
    assert [point.rate_id for point in curve.points] == list(RATE_IDS)
    assert [point.lmbda for point in curve.points] == [rate.lmbda for rate in tiny_family.rates]
    assert {point.n_images for point in curve.points} == {curve.n_images} == {200}


def test_the_uncompressed_accuracy_is_the_uncut_networks(
    curve, tiny_backbone, tiny_images, tiny_test_source
):
    x = tiny_backbone.preprocessing.normalize(tiny_images)
    logits = jax.jit(tiny_backbone.module.apply)(tiny_backbone.variables, x)
    right = logits.argmax(-1) == tiny_test_source.labels
    assert curve.uncompressed_top1 == pytest.approx(float(right.mean()), abs=1e-6)
    np.testing.assert_allclose(predictor(tiny_backbone)(tiny_images), logits, 1e-4, 1e-4)


def test_bytes_are_the_mean_length_of_the_frames(curve, tiny_family, tiny_backbone, tiny_images):
    sender = Sender(tiny_family, tiny_backbone, batch_size((12, 12, 1)))
    for point in curve.points:
        lengths = [len(frame) for frame in sender.encode(tiny_images, point.rate_id)]
        assert point.bytes_per_image == np.mean(lengths)
        assert point.bits_per_pixel == pytest.approx(8 * np.mean(lengths) / 144)


def test_accuracy_is_of_the_tail_on_the_rounded_latents(
    curve, symbols, tiny_family, tiny_backbone, tiny_test_source
):
    for point in curve.points:
        rate = tiny_family[point.rate_id]
        split = tiny_family.split(tiny_backbone, point.rate_id)

        @jax.jit
        def server(symbols, rate=rate, split=split):
            latent = symbols.astype(jnp.float32) + rate.tables.offsets.reshape(1, 1, 1, -1)
            features = split.decode(rate.variables, latent)
            return split.tail(tiny_backbone.variables, features)

        logits = np.sort(server(symbols[point.rate_id]), axis=-1)
        right = server(symbols[point.rate_id]).argmax(-1) == tiny_test_source.labels
        # The order of sums may decide where two classes are as good as equal.
        unclear = (logits[:, -1] - logits[:, -2] < 1e-3).mean()
        assert abs(point.top1 - right.mean()) <= unclear + 1e-6


def test_a_network_agrees_with_itself(tiny_family, tiny_backbone, tiny_test_source, monkeypatch):
    images, labels = data.load_arrays(tiny_test_source, tiny_backbone.preprocessing)
    logits = predictor(tiny_backbone)(images)
    monkeypatch.setattr(Receiver, "predict", lambda self, symbols, rate_id: logits)
    curve = evaluate(tiny_family, tiny_backbone, tiny_test_source, rate_ids=["low"])
    (point,) = curve.points
    assert point.agreement == point.agreement_interval[1] == 1
    assert point.agreement_interval[0] == pytest.approx(200 / (200 + 1.96**2), rel=1e-5)
    assert point.top1 == curve.uncompressed_top1 == (logits.argmax(-1) == labels).mean()
    assert point.top1_interval == curve.uncompressed_top1_interval
    assert point.top5 == curve.uncompressed_top5
    assert point.top5_interval == curve.uncompressed_top5_interval
    assert point.top5_interval == wilson_interval(round(200 * point.top5), 200)


def test_agreement_and_top5_are_counted_image_by_image(
    curve, symbols, tiny_family, tiny_backbone, tiny_images, tiny_test_source
):
    uncut = predictor(tiny_backbone)(tiny_images).argmax(-1)
    receiver = Receiver(tiny_family, tiny_backbone, batch_size((12, 12, 1)))
    for point in curve.points:
        logits = receiver.predict(symbols[point.rate_id], point.rate_id)
        pairs = zip(logits, tiny_test_source.labels, strict=True)
        # The label's place: how many classes are likelier.
        places = [int((row > row[label]).sum()) for row, label in pairs]
        assert point.agreement == np.mean(logits.argmax(-1) == uncut)
        assert point.top5 == np.mean(np.array(places) < 5)
        assert point.top1 <= point.top5 <= 1
        for share, (low, high) in (
            (point.top1, point.top1_interval),
            (point.agreement, point.agreement_interval),
        ):
            assert low < share < high
            assert high - low < 0.15


def test_five_classes_or_less_have_no_top5():
    labels = np.array([0, 1, 5, 3])
    for classes, expected in ((6, 0.75), (4, None)):
        # Class k is the k-th likeliest, and so label 5 is the sixth.
        logits = np.tile(-np.arange(classes, dtype=np.float32), (4, 1))
        found = UNNAMED_CLASSES.evaluate(logits, labels)
        assert ("top5" in found) == (expected is not None)
        assert expected is None or found["top5"].mean() == expected
    # Of equal logits the first classes count, as they do for argmax.
    assert UNNAMED_CLASSES.evaluate(np.zeros((4, 6)), labels)["top5"].mean() == 0.75


def test_the_curve_says_what_it_was_measured_with_and_on(
    curve, tiny_family, tiny_backbone, tiny_test_source
):
    origin = curve.origin
    assert origin.backbone_fingerprint == tiny_backbone.fingerprint
    assert (origin.backbone, origin.cut) == (tiny_backbone.name, tiny_family.cut)
    assert (origin.data, origin.split) == (tiny_test_source.name, tiny_test_source.split)
    assert origin.data_fingerprint == tiny_test_source.listing
    assert origin.classes == len(tiny_test_source.class_names)
    assert origin.jax == jax.__version__


def test_percentiles_are_lengths_of_frames(curve, symbols, tiny_family, tiny_backbone):
    sender = Sender(tiny_family, tiny_backbone)
    for point in curve.points:
        frames = sender.frames(symbols[point.rate_id], point.rate_id)
        lengths = np.array([len(frame) for frame in frames])
        for bound, share in ((point.bytes_p5, 0.05), (point.bytes_p95, 0.95)):
            assert bound in lengths
            assert (lengths <= bound).mean() >= share > (lengths < bound).mean()


def test_costs_are_those_of_the_cut_and_of_what_is_stored(
    curve, tiny_family, tiny_backbone, tmp_path
):
    tiny_family.save(tmp_path)
    folders = {path.name.split("-")[0]: path for path in (tmp_path / "rates").iterdir()}
    numbers = sum(leaf.size for leaf in jax.tree.leaves(tiny_backbone.variables))
    for point in curve.points:
        cost = split_cost(tiny_family.split(tiny_backbone, point.rate_id), tiny_backbone)
        assert (point.device_macs, point.server_macs) == (cost.device_macs, cost.server_macs)
        assert (point.device_params, point.server_params) == (
            cost.device_params,
            cost.server_params,
        )
        assert point.device_share == cost.device_share
        stored = jax.tree.leaves(checkpoint.load_tree(folders[point.rate_id]))
        assert point.unit_bytes == sum(leaf.nbytes for leaf in stored)
        assert point.unit_share == point.unit_bytes / (4 * numbers)


def test_more_lambda_means_fewer_bits_and_no_better_an_answer(curve):
    for better, worse in itertools.pairwise(curve.points):
        assert worse.lmbda > better.lmbda
        assert worse.bytes_per_image < better.bytes_per_image
        assert worse.estimated_bits_per_image < 0.9 * better.estimated_bits_per_image
        # Of 200 images and a training of seconds; the two predict different classes for about half.
        assert worse.top1 <= better.top1 + 3 * (0.5 / curve.n_images) ** 0.5
    assert curve.points[0].top1 > 0.25  # of ten classes, through 13 bytes


def test_the_prior_estimates_what_the_tables_charge(curve, symbols, tiny_family):
    for point in curve.points:
        tables = tiny_family[point.rate_id].tables
        charged = tables.information_bits(symbols[point.rate_id]) / len(symbols[point.rate_id])
        assert charged == pytest.approx(point.estimated_bits_per_image, rel=0.01, abs=0.05)


def test_estimate_tables_and_bytes_rise_in_this_order(curve, symbols, tiny_family):
    for point in curve.points:
        tables = tiny_family[point.rate_id].tables
        ours = tables.information_bits(symbols[point.rate_id]) / len(symbols[point.rate_id])
        assert point.table_bits_per_image == pytest.approx(ours)
        assert point.estimated_bits_per_image <= 1.002 * point.table_bits_per_image + 0.05
        assert point.table_bits_per_image <= 8 * point.bytes_per_image
        # Of a frame's bytes at most 0.6 is the payload's end, and one its length here.
        assert point.bytes_per_image <= point.table_bits_per_image / 8 + 0.6 + 1


def test_a_coder_that_wastes_bytes_is_an_error(
    tiny_family, tiny_backbone, tiny_test_source, monkeypatch
):
    pack, read = Sender.frames, Receiver.symbols

    def padded(*arguments):
        return [frame + bytes(9) for frame in pack(*arguments)]

    def tolerant(self, frames, rate_id):
        return read(self, [frame[:-9] for frame in frames], rate_id)

    monkeypatch.setattr(Sender, "frames", padded)
    monkeypatch.setattr(Receiver, "symbols", tolerant)
    with pytest.raises(BitstreamError, match=r"rate high: .* the coder wastes bytes"):
        evaluate(tiny_family, tiny_backbone, tiny_test_source)


def test_real_bytes_stay_within_three_percent_and_three_bytes_of_the_estimate(curve):
    for point in curve.points:
        assert point.bytes_per_image <= point.estimated_bits_per_image / 8 * 1.03 + 3


@pytest.mark.parametrize("rate_id", RATE_IDS)
def test_rounding_costs_no_more_than_noise_on_unseen_images(
    tiny_family, tiny_backbone, tiny_images, rate_id
):
    rate = tiny_family[rate_id]
    split = tiny_family.split(tiny_backbone, rate_id)
    offsets = rate.tables.offsets.reshape(1, 1, 1, -1)

    @jax.jit
    def mean_bits(images):
        x = tiny_backbone.preprocessing.normalize(images)
        latent = split.encode(rate.variables, split.head(tiny_backbone.variables, x))
        keys = jax.random.split(jax.random.key(0), 16)
        noisy = jax.lax.map(
            lambda key: split.bits(rate.variables, ops.add_uniform_noise(latent, key)).mean(), keys
        )
        rounded = split.bits(rate.variables, jnp.round(latent - offsets) + offsets)
        return noisy.mean(), rounded.mean()

    noisy, rounded = mean_bits(tiny_images)
    assert rounded <= 1.01 * noisy


def test_every_rate_is_announced_before_it_is_evaluated(tiny_family, tiny_backbone):
    heard = []
    source = data.open_source("embedded", split="test", max_samples=10)
    small = evaluate(
        tiny_family.select(["low"]), tiny_backbone, source, lambda *said: heard.append(said)
    )
    assert heard[-2:] == [("compiling the unit of low",), ("evaluating low, 1 of 1", 10, 10)]
    assert small.n_images == 10


def test_another_backbone_is_refused(tiny_family, other_backbone, tiny_test_source):
    with pytest.raises(FamilyError, match="give it those weights"):
        evaluate(tiny_family, other_backbone, tiny_test_source)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (lambda names: names[:2], r"10 classes \(T-shirt/top, .* 2 are others"),
        (lambda names: (names[0], *names[:0:-1]), r"10 classes; number 1 is Trouser, .* Ankle"),
    ],
)
def test_other_classes_are_refused(
    tiny_family, tiny_config, tiny_backbone, tiny_test_source, names, problem
):
    task = Classification(names(tiny_backbone.class_names))
    network = networks.create(tiny_backbone.name, len(task.class_names))
    backbone = dataclasses.replace(tiny_backbone, network=network, task=task)
    with pytest.raises(DataError, match=problem):
        evaluate(tiny_family, backbone, tiny_test_source)
    with pytest.raises(DataError, match=problem):
        train_curve(tiny_config, backbone)


@pytest.fixture
def unlabelled(tiny_test_source, tmp_path, monkeypatch):
    """The first images of `tiny_test_source` in a folder without class folders."""
    monkeypatch.setattr("jaxsplit.errors._WARNED", set())
    for k in range(24):
        Image.fromarray(tiny_test_source[k]["image"][..., 0]).save(tmp_path / f"{k:02}.png")
    return data.open_source(f"folder:{tmp_path}")


def test_without_labels_bytes_and_agreement_are_all_that_is_measured(
    tiny_family, tiny_backbone, tiny_test_source, unlabelled, tmp_path
):
    out = tmp_path / "out"
    with pytest.warns(JaxsplitWarning, match=r"in .*: the agreement .* not top1, top5; for"):
        curve, seen, table = run.measure(
            tiny_family, tiny_backbone, unlabelled, out, baselines=["jpeg"]
        )
    keep = tiny_test_source.keep[:24]
    labelled = data.Source("first", "test", tiny_test_source._records, keep)
    expected = evaluate(tiny_family, tiny_backbone, labelled)
    for point, known in zip(curve.points, expected.points, strict=True):
        assert point.bytes_per_image == known.bytes_per_image
        assert point.metrics == {"agreement": known.metrics["agreement"]}
    assert (curve.quality, curve.unsplit) == ("agreement", {})
    assert {name for point in curve.baselines["jpeg"] for name in point.metrics} == {"agreement"}
    # Everywhere: the files, the tables, the plot, the report, the card, and what reads them.
    assert Curve.read(out / "curve.json") == curve
    assert PerImage.read(out / "images.npz").labels is None
    carded = with_measured(tiny_family, curve, seen, unlabelled)
    texts = [
        (out / "curve.json").read_text(),
        (out / "report.html").read_text(),
        *(table, curve_table.render_details(curve)),
        json.dumps([carded.card, *(rate.measured for rate in carded.rates)]),
    ]
    for text in texts:
        assert "agree" in text
        assert not re.search(r"top.?1|top.?5|accuracy|\bnan\b|\"labels\"", text, re.I)
    by_agreement = sorted(curve.points, key=lambda point: (-point.agreement, point.bytes_per_image))
    assert rates_for(carded, max_bytes=10**6) == [point.rate_id for point in by_agreement]
    with pytest.raises(DataError, match="no labels, which are needed here"):
        evaluate_images(tiny_family, tiny_backbone, unlabelled, compare_at="top1")


def _head(variables, images, cut):
    return images.reshape(-1, 6, 2, 6, 2).mean((2, 4))[..., None]


def _tail(variables, features, cut):
    return features.reshape(len(features), -1) @ variables


def small_backbone(class_names):
    """A network that compiles at once."""
    return networks.make_backbone(
        "small",
        networks.FunctionNetwork(_head, _tail, ("cut",)),
        jax.random.normal(jax.random.key(0), (36, len(class_names))),
        data.Preprocessing((12, 12), 1),
        class_names,
    )


def test_unlabelled_images_train_and_report_the_agreement(tiny_test_source, unlabelled):
    small = small_backbone(tiny_test_source.class_names)
    config = CurveConfig(
        backbone="",
        cut="cut",
        spec=BottleneckSpec(channels=1),
        rates=(Rate("r1", 1e-3),),
        phases=(Phase(4, Distortion()),),
        data=unlabelled.name,
        train_split="all",
        test_split="all",
        batch_size=8,
        evaluate_every=4,
        tables="prior",
        cache="none",
    )
    reported: dict[str, np.ndarray] = {}
    with pytest.warns(JaxsplitWarning, match="no labels"):
        train_curve(config, small, progress=lambda step, steps, metrics: reported.update(metrics))
    assert 0 <= reported["agreement"][0] <= 1
    assert 0 < reported["eval_agreement"][0] <= 1
    assert not {"top1", "eval_top1"} & reported.keys()
    assert compute(small, "cut", unlabelled).targets is None
    phase = Phase(4, Distortion(labels=1))
    with pytest.raises(DataError, match="no labels, which are needed here"):
        train_curve(dataclasses.replace(config, phases=(phase,)), small)


def test_a_folder_whose_names_are_no_text_is_trained_on_and_measured_to_the_end(
    tiny_test_source, tmp_path
):
    root = tmp_path / os.fsdecode(b"donn\xe9es")
    for k in range(24):
        folder = root / os.fsdecode((b"caf\xe9", b"th\xe9")[k % 2])
        folder.mkdir(parents=True, exist_ok=True)
        name = os.fsdecode(b"\xe9t\xe9 %02d.png" % k)
        Image.fromarray(tiny_test_source[k]["image"][..., 0]).save(folder / name)
    (root / "classes.txt").write_bytes(b"th\xe9\ncaf\xe9\n")
    small = small_backbone(("th\\xe9", "caf\\xe9"))
    with pytest.warns(JaxsplitWarning, match="has no splits: train is"):
        family = train_family(
            small,
            "cut",
            {"r1": 1e-3},
            unit=BottleneckSpec(channels=1),
            data=f"folder:{root}",
            batch_size=8,
            phases=(Phase(4, Distortion()),),
            tables="prior",
            workdir=tmp_path / "run",
        )
    source = data.open_source(f"folder:{root}", "all")
    assert source.class_names == small.class_names
    curve, seen, _ = run.measure(family, small, source, tmp_path / "run", baselines=())
    with_measured(family, curve, seen, source).save(tmp_path / "family")
    texts = [
        path.read_text("utf-8")
        for name in ("run/curve.json", "run/report.html", "run/metrics.jsonl", "family/family.json")
        if (path := tmp_path / name)
    ]
    assert len(texts) == 4
    assert sum("donn\\xe9es" in text.replace("\\\\", "\\") for text in texts) == 3


def test_a_message_about_a_folders_classes_names_classes_txt(tiny_backbone, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "0.png")
    with pytest.raises(DataError, match=r"2 classes \(a, .*in its order, in classes\.txt"):
        tiny_backbone.task.check_source(data.open_source(f"folder:{tmp_path}"))


def test_a_frame_that_decodes_to_other_symbols_is_an_error(
    tiny_family, tiny_backbone, tiny_test_source, monkeypatch
):
    frames = Sender.frames

    def swapped(self, symbols, rate_id):
        first, second, *others = frames(self, symbols, rate_id)
        assert first != second
        return [second, first, *others]

    monkeypatch.setattr(Sender, "frames", swapped)
    with pytest.raises(BitstreamError, match="rate high: a frame decoded to other symbols"):
        evaluate(dataclasses.replace(tiny_family), tiny_backbone, tiny_test_source)


def test_what_each_image_cost_and_gave_is_what_the_curve_is_the_mean_of(
    curve, tiny_family, tiny_backbone, tiny_test_source
):
    again, seen = evaluate_images(tiny_family, tiny_backbone, tiny_test_source)
    assert again == curve
    assert seen.rate_ids == tuple(point.rate_id for point in curve.points)
    top1, agreement = (seen.statistics(name).rates.mean(1) for name in ("top1", "agreement"))
    for i, point in enumerate(curve.points):
        assert seen.bytes[i].mean() == pytest.approx(point.bytes_per_image)
        assert top1[i] == pytest.approx(point.top1)
        assert agreement[i] == pytest.approx(point.agreement)
    assert seen.statistics("top1").unsplit.mean() == pytest.approx(curve.uncompressed_top1)


def test_the_evaluation_is_shown_unless_it_is_silent(
    tiny_family, tiny_backbone, tiny_test_source, capsys
):
    arguments = tiny_family, tiny_backbone, tiny_test_source.take(20), None, ["mid"]
    evaluate(*arguments, progress=False)
    assert capsys.readouterr().err == ""
    evaluate(*arguments)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:3] == ["compiling and running the unsplit network", "compiling the unit of mid"]
