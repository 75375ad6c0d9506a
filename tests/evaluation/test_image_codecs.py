"""Real files of every codec: their sizes add up, better qualities cost more, batches are full."""

import io

import numpy as np
import pytest
from PIL import Image
from points import make_codec

from jaxsplit.errors import ConfigError
from jaxsplit.evaluation import image_codecs
from jaxsplit.evaluation.image_codecs import (
    COARSE,
    DEFAULT_QUALITIES,
    QUALITIES,
    check_codec,
    header_bytes,
    smallest_reaching,
    sweep,
    sweep_to,
)
from jaxsplit.evaluation.intervals import wilson_interval

CODECS = ["jpeg", "webp", "avif"]
OPTIONS = {"jpeg": {"optimize": True}, "webp": {"method": 6}, "avif": {"max_threads": 1}}
NONE = np.zeros(7, np.int32)


def _images(count=7, size=(28, 20), channels=1):
    """Smooth blobs with some noise, so that every quality loses something."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[: size[0], : size[1]]
    phase = random.uniform(0, 6, (count, 1, 1, channels))
    waves = np.sin(x[None, ..., None] / 3 + phase) * np.cos(y[None, ..., None] / 4 - phase)
    noisy = 128 + 90 * waves + random.normal(0, 8, waves.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _zeros(batch):
    return np.zeros((len(batch), 3))


def _encode(image, codec, **options):
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, codec, **options)
    return file.getvalue()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("channels", [1, 3])
def test_predict_sees_full_batches_of_nearly_the_images(codec, channels):
    images, seen = _images(channels=channels), []

    def predict(batch):
        seen.append(batch.copy())
        return _zeros(batch)

    sweep(images, NONE, NONE, predict, codec, [90], batch_size=3)
    assert [(batch.shape, batch.dtype) for batch in seen] == [((3, 28, 20, channels), np.uint8)] * 3
    received = np.concatenate(seen)
    assert not received[7:].any()
    errors = np.abs(received[:7].astype(int) - images)
    # Colour noise is lost with the 4:2:0 chroma, so only grey comes back closely.
    assert 0 < errors.mean() < (5 if channels == 1 else 25)


@pytest.mark.parametrize("codec", CODECS)
def test_accuracy_counts_real_images_once(codec):
    images = np.zeros((7, 16, 16, 1), np.uint8)
    images[3:] = 255
    labels = np.array([0, 0, 0, 1, 1, 1, 0], np.int32)
    uncut = np.array([0, 0, 0, 1, 1, 1, 1], np.int32)

    def predict(batch):
        bright = batch.mean((1, 2, 3)) / 255
        return np.stack([1 - bright, bright], 1)

    for batch_size in (1, 2, 7, 100):
        [point] = sweep(images, labels, uncut, predict, codec, [50], batch_size)
        assert (point.top1, point.agreement) == (6 / 7, 1)
        assert point.top1_interval == wilson_interval(6, 7)
        assert point.agreement_interval == wilson_interval(7, 7)
        [point] = sweep(images, labels, 1 - labels, predict, codec, [50], batch_size)
        assert (point.top1, point.agreement) == (6 / 7, 1 / 7)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_are_those_of_real_files(codec, channels):
    images = _images(channels=channels)
    files = [_encode(image, codec, quality=40, **OPTIONS[codec]) for image in images]
    [point] = sweep(images, NONE, NONE, _zeros, codec, [40], 4)
    assert point.bytes_per_image == np.mean([len(file) for file in files])
    assert point.header_bytes_per_image == np.mean([header_bytes(file) for file in files])
    assert 0 < point.payload_bytes_per_image < point.bytes_per_image


@pytest.mark.parametrize("codec", CODECS)
def test_batches_and_threads_do_not_change_a_point(codec):
    images, labels = np.tile(_images(), (20, 1, 1, 1)), np.arange(140) % 3
    points = [sweep(images, labels, labels, _zeros, codec, [5, 50], size) for size in (1000, 64, 1)]
    assert points[0] == points[1] == points[2]
    assert [point.quality for point in points[0]] == [5, 50]


@pytest.mark.parametrize("codec", CODECS)
def test_payload_grows_with_quality_and_the_default_qualities_are_allowed(codec):
    points = sweep(_images(), NONE, NONE, _zeros, codec)
    assert tuple(point.quality for point in points) == DEFAULT_QUALITIES[codec]
    sizes = [point.payload_bytes_per_image for point in points]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 3 * sizes[0]
    for quality in (QUALITIES[codec][0], QUALITIES[codec][-1]):
        assert sweep(_images(1), NONE[:1], NONE[:1], _zeros, codec, [quality])


def test_smallest_reaching_takes_bytes_not_order_nor_quality():
    points = [
        make_codec("jpeg", 50, 400.0, 320.0, 0.90, 0.95),
        make_codec("jpeg", 20, 350.0, 320.0, 0.91, 0.95),
        make_codec("jpeg", 10, 340.0, 320.0, 0.80, 0.95),
    ]
    assert smallest_reaching(points, 0.85) is points[1]
    assert smallest_reaching(points, 0.80) is points[2]
    assert smallest_reaching(points, 0.91) is points[1]
    assert smallest_reaching(points, 0.92) is None
    assert smallest_reaching([], 0.0) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": "png"}, "unknown image codec 'png'; choose: jpeg, webp, avif"),
        ({"qualities": [0]}, "jpeg quality 0 is not an integer from 1 to 95"),
        ({"qualities": [96]}, "jpeg quality 96"),
        ({"qualities": [50.5]}, "jpeg quality 50.5"),
        ({"images": np.zeros((2, 8, 8, 1), np.float32)}, "expected uint8"),
        ({"images": np.zeros((2, 8, 8, 2), np.uint8)}, "expected uint8"),
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "expected uint8"),
        ({"targets": np.zeros(3, np.int32)}, "targets are"),
        ({"unsplit": np.zeros(3, np.int32)}, "predictions of the unsplit network are"),
        ({"batch_size": 0}, "batch size"),
        ({"predict": lambda batch: np.zeros(len(batch))}, "expected logits"),
        ({"predict": lambda batch: np.zeros((1, 10))}, "expected outputs"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    arguments = {
        "images": np.zeros((2, 8, 8, 1), np.uint8),
        "targets": np.zeros(2, np.int32),
        "unsplit": np.zeros(2, np.int32),
        "predict": _zeros,
        "qualities": [50],
    }
    with pytest.raises(ConfigError, match=message):
        sweep(**(arguments | changes))


@pytest.mark.parametrize("measure", ["top1", "agreement"])
@pytest.mark.parametrize("codec", CODECS)
def test_no_codec_is_charged_for_the_coarseness_of_the_grid(codec, measure, monkeypatch):
    def point(quality):
        shares = {"top1": 0.9, "agreement": 0.9, measure: round(quality / 110, 4)}
        return make_codec(codec, quality, 200.0 + quality, 30.0, **shares)

    def fake(images, labels, uncut, predict, codec, qualities=None, task=None):
        return tuple(point(q) for q in qualities or DEFAULT_QUALITIES[codec])

    monkeypatch.setattr(image_codecs, "sweep", fake)
    targets = [0.12, 0.5, 0.51, 0.8, 0.99]
    points = sweep_to(np.zeros(0), NONE, NONE, _zeros, codec, targets, measure)
    every = [point(q) for q in QUALITIES[codec]]
    for target in targets:
        found = smallest_reaching(points, target, measure)
        assert found == smallest_reaching(every, target, measure)
    assert [p.quality for p in points] == sorted({p.quality for p in points})
    assert len(points) <= len(DEFAULT_QUALITIES[codec]) + 5 * len(targets)
    few = sweep_to(np.zeros(0), NONE, NONE, _zeros, codec, targets, measure, coarse=True)
    assert len(few) < len(points)
    for target in targets:
        near = smallest_reaching(few, target, measure), smallest_reaching(every, target, measure)
        assert None in near or 0 <= near[0].quality - near[1].quality < COARSE


def test_an_avif_does_not_depend_on_the_cores_of_the_machine(monkeypatch):
    images = np.tile(_images(2, (120, 160), 3), (1, 2, 2, 1))
    points = []
    for count in (1, 2, 8):
        monkeypatch.setattr("PIL.AvifImagePlugin._get_default_max_threads", lambda n=count: n)
        points.append(sweep(images, NONE[:2], NONE[:2], _zeros, "avif", [50]))
    assert points[0] == points[1] == points[2]


def test_a_pillow_without_a_codec_is_one_clear_line(monkeypatch):
    for codec in CODECS:
        check_codec(codec)
    monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
    check_codec("webp")
    with pytest.raises(ConfigError, match="Pillow was built without AVIF; leave avif out"):
        sweep(_images(), NONE, NONE, _zeros, "avif")
