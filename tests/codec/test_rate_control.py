"""A sender is asked for a rate, for a limit on bytes or for a quality, and keeps to it."""

import dataclasses

import numpy as np
import pytest

from jaxsplit import bitstream
from jaxsplit.codec import Receiver, Sender
from jaxsplit.errors import ConfigError, FamilyError

# Rates of the tiny family, best first, with figures as an evaluation might have given them.
FIGURES = {"high": (40.0, 0.76), "mid": (25.0, 0.72), "low": (12.0, 0.60)}
UNCUT = 0.8


def with_figures(family, figures=FIGURES, uncut=UNCUT):
    rates = []
    for rate in family.rates:
        size, top1 = figures[rate.rate_id]
        measured = {"bytes_per_image": size, "top1": top1, "uncompressed_top1": uncut}
        rates.append(dataclasses.replace(rate, measured=measured))
    return dataclasses.replace(family, rates=tuple(rates))


@pytest.fixture(scope="module")
def sender(tiny_family, tiny_backbone):
    return Sender(with_figures(tiny_family), tiny_backbone, batch_size=16)


@pytest.fixture(scope="module")
def sizes(sender, tiny_images):
    """Rate → bytes of each of 40 images' frames, int [40]."""
    return {
        rate: np.array([len(frame) for frame in sender.encode(tiny_images[:40], rate)])
        for rate in FIGURES
    }


def names(sender, frames):
    """The rate of each frame."""
    rates = sender.family.rates
    return [rates[bitstream.unpack_frame(f, len(rates))[0].rate_index].rate_id for f in frames]


def test_a_rate_by_its_name(sender, tiny_images):
    assert sender(tiny_images[:5], rate="mid") == sender.encode(tiny_images[:5], "mid")
    with pytest.raises(FamilyError, match="no rate 'x'"):
        sender(tiny_images[:5], rate="x")


def test_every_frame_fits_and_no_better_rate_would(sender, sizes, tiny_images):
    images = tiny_images[:40]
    # Between the rates, so that images differ in which of them fits.
    limit = int(np.median(sizes["mid"]))
    frames = sender(images, max_bytes=limit)
    used = names(sender, frames)
    assert len(set(used)) > 1
    order = list(FIGURES)
    for image, (frame, rate) in enumerate(zip(frames, used, strict=True)):
        assert len(frame) <= limit
        assert frame == sender.encode(images[image : image + 1], rate)[0]
        assert all(sizes[better][image] > limit for better in order[: order.index(rate)])


def test_a_limit_may_be_met_exactly_and_a_large_one_takes_the_best(sender, sizes, tiny_images):
    size = int(sizes["high"][0])
    assert names(sender, sender(tiny_images[:1], max_bytes=size)) == ["high"]
    assert names(sender, sender(tiny_images[:1], max_bytes=size - 1)) != ["high"]
    assert names(sender, sender(tiny_images[:9], max_bytes=10_000)) == ["high"] * 9


def test_the_best_is_by_the_measured_quality_not_by_bytes(tiny_family, tiny_backbone, tiny_images):
    figures = {"high": (40.0, 0.70), "mid": (25.0, 0.75), "low": (12.0, 0.75)}
    sender = Sender(with_figures(tiny_family, figures), tiny_backbone, 16)
    # The two that are equally good: the shorter one.
    assert names(sender, sender(tiny_images[:3], max_bytes=10_000)) == ["low"] * 3
    assert names(sender, sender(tiny_images[:3], quality=0.75 / UNCUT)) == ["low"] * 3


def test_an_image_that_fits_at_no_rate_is_an_error_with_its_size(sender, sizes, tiny_images):
    least = np.min(list(sizes.values()), axis=0)
    image = int(np.argmax(least))
    with pytest.raises(FamilyError, match=f"the image takes at least {least[image]} bytes"):
        sender(tiny_images[image : image + 1], max_bytes=int(least[image]) - 1)


def test_the_head_runs_once_for_all_rates(sender, tiny_images, monkeypatch):
    runs = []
    head = Sender._head
    monkeypatch.setattr(Sender, "_head", lambda self, x: runs.append(1) or head(self, x))
    sender(tiny_images[:16], max_bytes=30)
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("quality", "rate"), [(0.5, "low"), (0.75, "low"), (0.76, "mid"), (0.9, "mid"), (0.91, "high")]
)
def test_a_quality_takes_the_fewest_bytes_that_keep_it(sender, tiny_images, quality, rate):
    assert names(sender, sender(tiny_images[:2], quality=quality)) == [rate] * 2


def test_a_quality_that_no_rate_keeps_is_an_error_with_the_best(sender, tiny_images):
    with pytest.raises(FamilyError, match=r"no rate keeps 0.96 .*the best, high, keeps 0.95"):
        sender(tiny_images[:1], quality=0.96)


def test_agreement_counts_where_there_were_no_labels(tiny_family, tiny_backbone, tiny_images):
    rates = tuple(
        dataclasses.replace(rate, measured={"bytes_per_image": size, "agreement": share})
        for rate, size, share in zip(tiny_family.rates, (40, 25, 12), (0.9, 0.8, 0.7), strict=True)
    )
    sender = Sender(dataclasses.replace(tiny_family, rates=rates), tiny_backbone)
    assert names(sender, sender(tiny_images[:1], quality=0.8)) == ["mid"]


@pytest.mark.parametrize("request_", [{"max_bytes": 99}, {"quality": 0.5}])
@pytest.mark.parametrize("measured", [{}, {"top1": 0.5}, {"top1": "x", "uncompressed_top1": 0.8}])
def test_without_figures_a_rate_must_be_named(
    tiny_family, tiny_backbone, tiny_images, request_, measured
):
    family = with_figures(tiny_family)
    last = dataclasses.replace(family.rates[-1], measured=measured)
    family = dataclasses.replace(family, rates=(*family.rates[:-1], last))
    sender = Sender(family, tiny_backbone)
    with pytest.raises(FamilyError, match=r"low carries no figures .* jaxsplit pack"):
        sender(tiny_images[:1], **request_)
    assert len(sender(tiny_images[:1], rate="low")) == 1


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "got no rate, expected exactly one of rate, max_bytes and quality"),
        ({"rate": "low", "quality": 0.9}, "got rate and quality, expected exactly one"),
        ({"rate": "low", "max_bytes": 9, "quality": 0.9}, "got rate and max_bytes and quality"),
        ({"max_bytes": 0}, "max_bytes is 0, expected a positive integer"),
        ({"max_bytes": 9.5}, "max_bytes is 9.5"),
        ({"quality": 0.0}, "quality is 0.0, expected a share"),
        ({"quality": 98}, "quality is 98, expected a share"),
        ({"quality": float("nan")}, "quality is nan"),
    ],
)
def test_other_requests_are_refused(sender, tiny_images, request_, words):
    with pytest.raises(ConfigError, match=words):
        sender(tiny_images[:1], **request_)


def test_frames_of_mixed_rates_give_the_logits_of_each(
    sender, tiny_family, tiny_backbone, tiny_images, sizes
):
    receiver = Receiver(sender.family, tiny_backbone, 16)
    frames = sender(tiny_images[:40], max_bytes=int(np.median(sizes["mid"])))
    logits = receiver(frames)
    for image, rate in enumerate(names(sender, frames)):
        alone = receiver.decode(sender.encode(tiny_images[image : image + 1], rate))
        np.testing.assert_array_equal(logits[image], alone[0])


def test_no_images_give_no_frames(sender, tiny_images):
    for request_ in ({"rate": "low"}, {"max_bytes": 9}, {"quality": 0.5}):
        assert sender(tiny_images[:0], **request_) == []


def test_a_request_of_another_kind_compiles_nothing(sender, tiny_images, tiny_backbone, compiles):
    receiver = Receiver(sender.family, tiny_backbone, 16)
    receiver(sender(tiny_images[:16], max_bytes=30))
    with compiles() as programs:
        for request_ in ({"rate": "low"}, {"max_bytes": 20}, {"quality": 0.5}, {"rate": "high"}):
            receiver(sender(tiny_images[:16], **request_))
    assert not programs
