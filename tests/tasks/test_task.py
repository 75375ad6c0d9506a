"""An own task's metrics reach the training, the curve, the card, rate control and the reports."""

import dataclasses
import json
import shutil
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxsplit import data
from jaxsplit.codec import Sender
from jaxsplit.codec.rate_control import rates_for
from jaxsplit.errors import ConfigError, DataError
from jaxsplit.evaluation.bd_rate import bd_rate
from jaxsplit.evaluation.card import with_measured
from jaxsplit.evaluation.compare import MeasuredCurve, compare_curves
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.intervals import metric_value
from jaxsplit.evaluation.per_image import checksums
from jaxsplit.experiments.run import measure
from jaxsplit.reports import curve_plot, curve_table
from jaxsplit.reports.search import render
from jaxsplit.search import DesignConfig, search
from jaxsplit.tasks import Classification, Metric
from jaxsplit.train.curve import train_curve
from jaxsplit.train.step import Phase

NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker")
CLASSES = (*NAMES, "Bag", "Ankle boot")


@dataclasses.dataclass(frozen=True)
class Balanced(Classification):
    """Mean of the classes' recalls, a mean of ratios as an intersection over union is."""

    name = "balanced classification"
    quality = "recall"
    metrics = MappingProxyType(
        {
            "recall": Metric("recall", "%", name="mean recall", ratios=True),
            "top1": Metric("top-1", "%"),
        }
    )

    def measure(self, outputs, targets):
        members = jax.nn.one_hot(targets, len(self.class_names))
        found = members * (outputs.argmax(-1) == targets)[:, None]
        return {"recall": jnp.stack([found, members], axis=1)}

    def evaluate(self, outputs, targets):
        recall = np.asarray(self.measure(outputs, targets)["recall"])
        return {"recall": recall, "top1": np.asarray(outputs.argmax(-1) == targets)}


@dataclasses.dataclass(frozen=True)
class Counting(Classification):
    """How far the predicted number is from the true one: less is better."""

    name = "counting"
    quality = "error"
    metrics = MappingProxyType({"error": Metric("error", "places", higher_is_better=False)})

    def measure(self, outputs, targets):
        return {"error": abs(outputs.argmax(-1) - targets)}

    evaluate = measure

    def describe(self, outputs):
        return [{"count": int(row.argmax())} for row in outputs]


def recall(predicted, labels):
    """Of predictions [N]: the mean over classes that occur."""
    return np.mean([(predicted[labels == k] == k).mean() for k in np.unique(labels)])


def error(predicted, labels):
    """Of predictions [N]: the mean distance."""
    return abs(predicted - labels).mean()


TASKS = {"recall": (Balanced, recall), "error": (Counting, error)}


@pytest.fixture(scope="module", params=TASKS)
def measured(request, tiny_family, tiny_backbone, tiny_test_source, tmp_path_factory):
    """The tiny family evaluated for a task: task, its function, folder, what `measure` returns."""
    task, value = TASKS[request.param]
    task = task(CLASSES)
    backbone = dataclasses.replace(tiny_backbone, task=task)
    folder = tmp_path_factory.mktemp(request.param)
    found = measure(tiny_family, backbone, tiny_test_source, folder, baselines=("jpeg",))
    return backbone, value, folder, found


def test_the_curve_has_the_task_s_metrics(measured):
    backbone, value, folder, found = measured
    name, seen = backbone.task.quality, found.seen
    assert found.curve.quality == name
    assert found.curve.unsplit[name].mean == pytest.approx(value(seen.unsplit, seen.labels))
    for point, predicted in zip(found.curve.points, seen.predicted, strict=True):
        low, high = point.metrics[name].interval
        assert low < point.metrics[name].mean < high
        assert point.metrics[name].mean == pytest.approx(value(predicted, seen.labels))
        assert point.agreement == pytest.approx(value(predicted, seen.unsplit))
    assert Curve.read(folder / "curve.json") == found.curve
    written = json.loads((folder / "curve.json").read_text())
    assert list(written["metrics"]) == list(backbone.task.metrics)
    assert {name, f"{name}_interval"} <= written["points"][0].keys()


def test_an_interval_narrows_with_the_images(measured):
    _, _, _, found = measured
    name = found.curve.quality
    metric, once = found.curve.metrics[name], found.seen.statistics(name).rates[0]
    few, many = (metric_value(np.concatenate([once] * times), metric) for times in (1, 16))
    assert few.mean == pytest.approx(many.mean)
    width = [high - low for low, high in (few.interval, many.interval)]
    assert 2.5 < width[0] / width[1] < 6


def test_curves_of_files_are_compared_in_the_metric_s_direction(measured, tmp_path):
    backbone, _, folder, found = measured
    curve = found.curve
    cheaper = dataclasses.replace(
        curve,
        points=tuple(
            dataclasses.replace(point, bytes_per_image=0.9 * point.bytes_per_image)
            for point in curve.points
        ),
    )
    cheaper.write(tmp_path / "curve.json")
    sides = MeasuredCurve.open(folder), MeasuredCurve.open(tmp_path)
    result = compare_curves(*sides)
    sign = backbone.task.metric(curve.quality).sign
    qualities = [
        [(size, sign * value) for size, value in one.rate_quality()] for one in (curve, cheaper)
    ]
    assert result.bd_rate_percent == pytest.approx(bd_rate(*qualities)) == pytest.approx(-10)
    assert result.overlap.low < result.overlap.high
    text = result.render()
    assert text.startswith(f"{backbone.task.metric(curve.quality).label} of")
    itself = compare_curves(sides[0], sides[0])
    assert (itself.interval.low, itself.interval.high) == (0, 0)
    assert compare_curves(sides[0], sides[0], quality="agreement").bd_rate_percent == 0
    unlike = {name: Metric("x", "") for name in curve.metrics}
    other = MeasuredCurve("other", dataclasses.replace(curve, metrics=unlike), None)
    with pytest.raises(ConfigError, match="other metrics"):
        compare_curves(sides[0], other)


def test_the_reports_name_the_metric(measured):
    backbone, _, folder, found = measured
    metric = backbone.task.metric(backbone.task.quality)
    point = found.curve.points[0]
    assert metric.label in found.table
    assert metric.show(point.metrics[backbone.task.quality].mean) in found.table
    assert metric.label in curve_table.render_details(found.curve)
    page = (folder / "report.html").read_text()
    assert metric.title in page
    assert metric.show(found.curve.unsplit[backbone.task.quality].mean) in page
    with Image.open(folder / "curve.png") as picture:
        assert picture.size == (1200, 800)


def test_card_and_rate_control_ask_the_task(measured, tiny_family, tiny_images, tiny_test_source):
    backbone, _, _, found = measured
    name, task = backbone.task.quality, backbone.task
    family = with_measured(tiny_family, found.curve, found.seen, tiny_test_source)
    unsplit = family.rates[0].measured[f"uncompressed_{name}"]
    assert unsplit == family.card["evaluation"][f"uncompressed_{name}"]
    sign = task.metric(name).sign
    best = max(family.rates, key=lambda rate: sign * rate.measured[name])
    assert rates_for(family, max_bytes=100, task=task)[0] == best.rate_id
    if sign < 0:  # nothing is wrong any more
        exact = dataclasses.replace(best, measured={**best.measured, name: 0})
        rates = [exact if rate is best else rate for rate in family.rates]
        assert rates_for(dataclasses.replace(family, rates=tuple(rates)), quality=1, task=task)
    ratios = {rate.rate_id: rate.measured[name] / unsplit for rate in family.rates}
    kept = {rate_id: ratio if sign > 0 else 1 / ratio for rate_id, ratio in ratios.items()}
    middle = sorted(kept.values())[1]
    assert middle < 1
    good = [rate for rate in family.rates if kept[rate.rate_id] >= middle]
    cheapest = min(good, key=lambda rate: rate.measured["bytes_per_image"]).rate_id
    assert rates_for(family, quality=middle, task=task) == [cheapest]
    sender = Sender(family, backbone)
    assert sender(tiny_images[:2], quality=middle) == sender.encode(tiny_images[:2], cheapest)


@pytest.mark.parametrize("name", TASKS)
def test_training_reports_the_task_s_metrics(name, tiny_config, tiny_backbone):
    task, seen = TASKS[name][0](CLASSES), {}
    config = dataclasses.replace(
        tiny_config,
        phases=(Phase(4, tiny_config.phases[0].distortion),),
        evaluate_every=2,
        max_eval_samples=60,
    )
    backbone = dataclasses.replace(tiny_backbone, task=task)
    train_curve(config, backbone, progress=lambda done, total, values: seen.update(values))
    assert seen[f"eval_{name}"].shape == (3,)
    assert (seen[f"eval_{name}"] >= 0).all()


@pytest.mark.parametrize("name", TASKS)
def test_a_search_ranks_by_the_task_s_metric(name, tiny_backbone, tmp_path):
    task = TASKS[name][0](CLASSES)
    config = DesignConfig(
        "resnet8_small",
        cuts=("stage2.block1",),
        channels=(2, 4),
        strides=(2,),
        lambdas=(1e-4,),
        minutes=0.01,
        rungs=1,
        max_samples=64,
        max_eval_samples=64,
        batch_size=32,
        most_drop={"recall": 0.2, "error": 1.5}[name],  # 1.5 places
    )
    found = search(config, dataclasses.replace(tiny_backbone, task=task), tmp_path)
    metric = task.metric(name)
    assert {result.metric for result in found.results} == {metric}
    assert found.to_dict()["uncut"].keys() == {name, "macs"}
    scores = [result.score for result in found.front]
    nearest = max(result.score for result in found.results)
    assert max(scores) == nearest
    least = metric.sign * found.unsplit_quality - config.most_drop
    assert min(scores) >= min(least, nearest)
    stored = json.loads((tmp_path / "search.json").read_text())
    assert all(name in result for result in stored["rungs"][-1]["results"])
    assert metric.label in render(found)


def test_codecs_are_compared_by_what_was_measured_of_them(tiny_family, tiny_backbone):
    source = data.open_source("embedded", max_samples=10)
    with pytest.raises(ConfigError, match="compared by top1 or agreement, not by 'top5'"):
        measure(tiny_family, tiny_backbone, source, None, compare_at="top5")


def test_where_less_is_better_the_plot_shows_the_good_points_of_codecs(measured, tmp_path):
    _, _, _, found = measured
    name = found.curve.quality
    metric, scale = found.curve.metrics[name], found.curve.metrics[name].scale
    codecs = {"jpeg": found.curve.baselines["jpeg"]}
    [axes] = curve_plot.draw_curve(found.curve, codecs).axes
    low, high = axes.get_ylim()
    values = [scale * point.metrics[name].mean for point in found.curve.points]
    assert low < min(values) < max(values) < high
    worst = min(codecs["jpeg"], key=lambda point: metric.sign * point.metrics[name].mean)
    terrible = {name: 0.0 if metric.higher_is_better else 1e6, "agreement": 0.0}
    far = dataclasses.replace(worst, bytes_per_image=1e9, metrics=terrible)
    [axes] = curve_plot.draw_curve(found.curve, {"jpeg": [*codecs["jpeg"], far]}).axes
    assert axes.get_xlim()[1] < 1e8


@pytest.mark.parametrize("kind", ["names", "flat"])
def test_damaged_statistics_are_refused(measured, tmp_path, kind):
    _, _, folder, found = measured
    for name in ("curve.json", "images.npz"):
        shutil.copy(folder / name, tmp_path)
    quality = found.curve.quality
    with np.load(tmp_path / "images.npz") as archive:
        arrays = dict(archive)
    shape = arrays["labels"].shape
    wrong = {"names": np.full(shape, "x"), "flat": np.zeros((*shape, 7))}[kind]
    arrays |= {f"unsplit.{quality}": wrong, f"rates.{quality}": np.stack([wrong] * 3)}
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(DataError):
        MeasuredCurve.open(tmp_path)


def test_predictions_of_any_kind_have_checksums():
    halves = np.array([0.25, 0.75])
    assert len(set(checksums(halves).tolist())) == 2
    assert checksums(halves).tolist() == checksums(halves[:, None]).tolist()
    masks = np.arange(8, dtype=np.int8).reshape(2, 2, 2)
    assert checksums(masks).tolist() == checksums(masks.astype(np.int64)).tolist()
