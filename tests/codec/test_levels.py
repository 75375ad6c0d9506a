"""Sender and receiver of one tree for all rates: levels, positions and exact budgets."""

import dataclasses
import io
import math
from types import MappingProxyType

import jax
import numpy as np
import pytest

from jaxsplit import bitstream
from jaxsplit.codec.rate_control import rates_for
from jaxsplit.errors import BitstreamError, BudgetError, ConfigError, FamilyError
from jaxsplit.family import Levels, RateFamily
from jaxsplit.split import make_split
from jaxsplit.tasks import Classification, Metric
from jaxsplit.units import BottleneckSpec, VariableRate

CUT, LEVELS = "stage2.block1", 64
SPEC = VariableRate(BottleneckSpec(channels=8), (1e-5, 1e-2))
NAMES = {"low": 0, "mid": 30, "high": 63}


@pytest.fixture(scope="module")
def family(tiny_backbone):
    split = make_split(tiny_backbone, CUT, SPEC)
    levels = Levels.of_prior(SPEC, jax.device_get(split.init(jax.random.key(0))))
    return RateFamily(
        backbone=tiny_backbone.name,
        backbone_fingerprint=tiny_backbone.fingerprint,
        weights=None,
        preprocessing=tiny_backbone.preprocessing,
        cut=CUT,
        rates=tuple(levels.named(level, name) for name, level in NAMES.items()),
        bound=tiny_backbone,
        levels=levels,
    )


@pytest.fixture(scope="module")
def ends(family):
    return family.codec(batch_size=8)


@pytest.fixture(scope="module")
def images(tiny_images):
    return tiny_images[:20]


def levels_of(sender, frames):
    count, version = sender.header.n_rates, sender.header.version
    return [bitstream.unpack_frame(x, count, version=version)[0].rate_index for x in frames]


def sizes(frames):
    return np.array([len(frame) for frame in frames])


def test_a_position_a_name_and_a_level_are_rates(family, ends, images):
    sender, receiver = ends
    assert levels_of(sender, sender(images[:2], 0.37)) == [23, 23]
    for same in ("0.4761904", 30 / 63, "level30"):
        assert sender(images, same) == sender(images, "mid")
    assert (family.index("high"), family.name(63), family.name(5)) == (63, "high", "level5")
    assert family[0.0].lmbda == pytest.approx(1e-2)
    assert family[1].lmbda == pytest.approx(1e-5)
    assert receiver(sender(images, 0.37)).shape[0] == len(images)


@pytest.mark.parametrize("rate", [-0.1, 1.01, math.nan, "2"])
def test_positions_are_from_0_to_1(ends, images, rate):
    with pytest.raises(ConfigError, match="a position is from 0, the fewest bytes, to 1"):
        ends[0](images[:1], rate)


@pytest.mark.parametrize("rate", ["r9", "level64", "level007", "level-1", "", True, [0.3]])
def test_other_names_are_refused(ends, images, rate):
    with pytest.raises(FamilyError, match=r"has no rate .*; it has low, mid, high"):
        ends[0](images[:1], rate)


def test_bytes_rise_with_the_level(ends, images):
    means = [sizes(ends[0](images, level / 63)).mean() for level in range(0, LEVELS, 9)]
    assert means == sorted(means)
    assert means[-1] > 5 * means[0]


def test_frames_of_many_levels_decode_together_as_alone(ends, images):
    sender, receiver = ends
    frames = [
        frame for level in range(0, LEVELS, 3) for frame in sender(images[:1], f"level{level}")
    ]
    together = receiver(frames)
    for frame, outputs in zip(frames, together, strict=True):
        np.testing.assert_allclose(receiver([frame])[0], outputs, rtol=1e-5, atol=1e-5)


def test_symbols_arrive_whatever_the_batch(family, images):
    """The same bytes at any place of a batch, with features given or computed."""
    for size in (1, 8):
        sender, receiver = family.codec(batch_size=size)
        frames = sender(images, "mid")
        alone = [sender(images[i : i + 1], "mid")[0] for i in range(len(images))]
        assert frames == alone
        symbols = sender.quantize(sender.features(images), "mid")
        assert sender.frames(symbols, "mid") == frames
        np.testing.assert_array_equal(receiver.symbols(frames, "mid"), symbols)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_budget_is_kept_and_used(ends, images, share):
    """Never over it, and in the mean at least 97 %, or all but 3 bytes of it."""
    sender, receiver = ends
    low, high = (sizes(sender(images, name)) for name in ("low", "high"))
    budget = int(low.max() + share * (high.min() - low.max()))
    frames = sender(images, max_bytes=budget)
    assert sizes(frames).max() <= budget
    assert sizes(frames).mean() >= min(0.97 * budget, budget - 3)
    for level, frame, image in zip(levels_of(sender, frames), frames, images, strict=True):
        assert sender(image, f"level{level}") == [frame]
    assert receiver(frames).shape[0] == len(images)


def test_means_rise_with_the_budget(ends, images):
    sender, _ = ends
    low, high = (int(sizes(sender(images, name)).max()) for name in ("low", "high"))
    means = [
        sizes(sender(images, max_bytes=n)).mean() for n in np.linspace(low, high, 9).astype(int)
    ]
    assert means == sorted(means)


def test_a_budget_takes_one_head_and_at_most_eight_passes(family, images, monkeypatch):
    sender, _ = family.codec(batch_size=len(images))
    heads, passes = [], []
    head, at_levels = sender._head, sender._at_levels
    monkeypatch.setattr(sender, "_head", lambda x: (heads.append(1), head(x))[1])
    monkeypatch.setattr(sender, "_at_levels", lambda *x: (passes.append(1), at_levels(*x))[1])
    for budget in (1, 100, 200, 10_000):
        heads.clear()
        passes.clear()
        sender(images, max_bytes=budget, over_budget="shortest")
        assert len(heads) == 1
        assert len(passes) <= 8


def test_an_image_over_the_budget_is_an_error_or_its_shortest_frame(ends, images):
    sender, _ = ends
    least = sender(images, "low")
    with pytest.raises(BudgetError, match=r"takes at least .* bytes, more than max_bytes = 1"):
        sender(images, max_bytes=1)
    assert sender(images, max_bytes=1, over_budget="shortest") == least
    with pytest.raises(ConfigError, match="expected one of error, shortest"):
        sender(images, max_bytes=1, over_budget="send")


def test_the_shortest_frame_may_be_of_another_level_than_the_lowest(family, images, monkeypatch):
    sender, _ = family.codec()
    sizes = [50, *range(11, 10 + LEVELS)]
    monkeypatch.setattr(
        sender, "_frames", lambda _, rates, *__: [bytes(sizes[x.index]) for x in rates]
    )
    for budget, length in ((5, 11), (11, 11), (30, 30)):
        (frame,) = sender(images[0], max_bytes=budget, over_budget="shortest")
        assert len(frame) == length


@pytest.mark.parametrize("level", [-1, LEVELS])
def test_levels_that_the_family_lacks_have_no_symbols(ends, images, level):
    sender, _ = ends
    with pytest.raises(FamilyError, match=f"has no level {level}"):
        sender.level_symbols(sender.latents(images[:1]), level)


def test_rates_of_their_own_units_have_no_levels(tiny_family, tiny_backbone, images):
    sender, _ = tiny_family.codec(tiny_backbone)
    with pytest.raises(FamilyError, match="share no latents"):
        sender.latents(images[:1])
    with pytest.raises(FamilyError, match="has no level 0"):
        sender.level_symbols(np.zeros((1, 4, 4, 8), np.float32), 0)


def test_sender_and_receiver_name_a_level_as_the_family_does(family, ends, images):
    sender, receiver = ends
    assert [sender._rate(rate).rate_id for rate in (0.0, "level30")] == ["low", "mid"]
    with pytest.raises(BitstreamError, match="expected frames of rate low; got mid"):
        receiver.symbols(sender(images[:1], "mid"), "low")


def test_rates_of_their_own_units_can_send_their_shortest_too(tiny_family, tiny_backbone, images):
    measured = {"bytes_per_image": 1.0, "top1": 0.5, "uncompressed_top1": 0.8}
    rates = [dataclasses.replace(rate, measured=measured) for rate in tiny_family.rates]
    sender, _ = dataclasses.replace(tiny_family, rates=tuple(rates)).codec(tiny_backbone)
    found = sizes(sender(images[:4], max_bytes=1, over_budget="shortest"))
    each = [sizes(sender(images[:4], rate.rate_id)) for rate in rates]
    np.testing.assert_array_equal(found, np.min(each, axis=0))


def test_a_quality_is_interpolated_between_measured_rates(family, images):
    kept = {"low": (40.0, 0.4), "mid": (120.0, 0.6), "high": (300.0, 0.8)}
    rates = [
        dataclasses.replace(
            rate,
            measured={"bytes_per_image": size, "top1": top1, "uncompressed_top1": 0.8},
        )
        for rate, (size, top1) in zip(family.rates, kept.values(), strict=True)
    ]
    sender, _ = dataclasses.replace(family, rates=tuple(rates)).codec()
    wanted = {0.5: 0, 0.75: 30, 1.0: 63, 0.625: 15, 0.76: 32, 0.3: 0}
    for quality, level in wanted.items():
        assert set(levels_of(sender, sender(images[:1], quality=quality))) == {level}
    with pytest.raises(FamilyError, match="carries no figures"):
        family.codec()[0](images[:1], quality=0.5)


def test_no_error_at_all_is_not_interpolated(family):
    class Places(Classification):
        quality = "error"
        metrics = MappingProxyType({"error": Metric("error", "places", higher_is_better=False)})

    rates = [
        dataclasses.replace(
            rate, measured={"bytes_per_image": 9.0, "error": error, "uncompressed_error": 1.0}
        )
        for rate, error in zip(family.rates, (4.0, 2.0, 0.0), strict=True)
    ]
    measured = dataclasses.replace(family, rates=tuple(rates))
    assert rates_for(measured, quality=0.4, task=Places(("a", "b"))) == ["level18"]
    assert rates_for(measured, quality=0.6, task=Places(("a", "b"))) == ["high"]


def test_another_rate_compiles_nothing(family, images, compiles):
    sender, receiver = family.codec(batch_size=4)
    receiver(sender(images[:4], 0.0))
    with compiles() as programs:
        for rate in (0.1, 0.5, "high"):
            receiver(sender(images[:4], rate))
        receiver(sender(images[:4], max_bytes=10_000))
    assert not programs


def test_a_container_of_levels_is_read_by_the_family_alone(family, ends, images):
    sender, receiver = ends
    header = sender.header
    assert (header.version, header.n_rates, len(header.rates)) == (4, LEVELS, 1)
    frames = [
        bitstream.unpack_frame(x, LEVELS, version=4)[0] for x in sender(images, max_bytes=150)
    ]
    data = bitstream.write_container(header, frames)
    reader = bitstream.Reader(io.BytesIO(data))
    receiver.check(reader.header)
    assert receiver(reader).shape[0] == len(images)
    named = family.select(["mid", 0.9])  # other names are the same family
    assert [rate.rate_id for rate in named.rates] == ["mid", "level57"]
    assert named.codec()[1].header == header


def test_ready_ends_compile_nothing_more(family, images):
    sender, receiver = family.codec(batch_size=3)
    assert receiver.warm_up()(sender.warm_up()(images[:3], 0.2)).shape[0] == 3
    assert len(sender._rates) == LEVELS
