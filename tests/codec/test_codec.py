"""Device and server: the split's own symbols are sent, and what was sent arrives."""

import contextlib
import copy
import dataclasses
import io
import multiprocessing
import pickle
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bitstream import mutations

from jaxsplit import bitstream, codec, networks
from jaxsplit.codec import Receiver, Sender
from jaxsplit.entropy import build_tables, tables_by_position
from jaxsplit.errors import (
    BitstreamError,
    ConfigError,
    FamilyError,
    OtherFamilyError,
    OtherTablesError,
)
from jaxsplit.family import FamilyRate
from jaxsplit.split import make_split

RATE_IDS = ("high", "mid", "low")


@pytest.fixture(scope="module")
def sender(tiny_family, tiny_backbone):
    return Sender(tiny_family, tiny_backbone, batch_size=16)


@pytest.fixture(scope="module")
def receiver(tiny_family, tiny_backbone):
    return Receiver(tiny_family, tiny_backbone, batch_size=16)


def with_unit(family, rate_id, change):
    """The family with one rate's trees changed: change(variables) in place."""
    rates = []
    for rate in family.rates:
        if rate.rate_id == rate_id:
            variables = jax.tree.map(np.array, rate.variables)
            change(variables)
            rate = dataclasses.replace(rate, variables=variables)
        rates.append(rate)
    return dataclasses.replace(family, rates=tuple(rates))


@pytest.mark.parametrize("rate_id", RATE_IDS)
def test_both_ends_do_what_the_split_does(
    tiny_family, tiny_backbone, tiny_images, sender, receiver, rate_id
):
    rate = tiny_family[rate_id]
    split = tiny_family.split(tiny_backbone, rate_id)
    offsets = rate.tables.offsets.reshape(1, 1, 1, -1)

    @jax.jit
    def device(images):
        features = split.head(tiny_backbone.variables, images)
        return split.encode(rate.variables, features)

    @jax.jit
    def server(symbols):
        features = split.decode(rate.variables, symbols.astype(jnp.float32) + offsets)
        return split.tail(tiny_backbone.variables, features)

    images = tiny_images[:50]
    latent = device(tiny_backbone.preprocessing.normalize(images)) - offsets
    symbols = sender.symbols(images, rate_id)
    assert symbols.dtype == np.int32
    # The sender folds the normalization in: only a latent at the edge of two symbols may differ.
    clear = np.abs(latent - np.floor(latent) - 0.5) > 1e-3
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(symbols[clear], np.round(latent)[clear])
    logits = receiver.decode(sender.encode(images, rate_id))
    np.testing.assert_allclose(logits, server(symbols), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(logits, receiver.predict(symbols, rate_id))


@pytest.mark.parametrize("rate_id", RATE_IDS)
def test_the_symbols_that_arrive_are_those_that_were_sent(
    tiny_family, tiny_images, sender, receiver, rate_id
):
    symbols = sender.symbols(tiny_images, rate_id)
    frames = sender.frames(symbols, rate_id)
    np.testing.assert_array_equal(receiver.symbols(frames, rate_id), symbols)
    tables = tiny_family[rate_id].tables
    for frame, one in zip(frames, symbols, strict=True):
        # Two bytes of frame, one byte of the coder's end, and its rounding of 27 symbols.
        assert len(frame) <= tables.information_bits(one) / 8 + 1 + 2 + 0.001


def test_a_trained_rate_uses_its_symbols(sender, tiny_images):
    symbols = sender.symbols(tiny_images, "high")
    assert (symbols.std(axis=(0, 1, 2)) > 0.5).all()


def test_frames_of_all_rates_arrive_in_any_order(sender, receiver, tiny_images):
    images = tiny_images[:9]
    alone = {rate: receiver.decode(sender.encode(images, rate)) for rate in RATE_IDS}
    frames = {rate: sender.encode(images, rate) for rate in RATE_IDS}
    order = [RATE_IDS[i % 3] for i in range(len(images))]
    mixed = receiver.decode([frames[rate][i] for i, rate in enumerate(order)])
    np.testing.assert_array_equal(mixed, [alone[rate][i] for i, rate in enumerate(order)])


def test_after_a_warm_up_nothing_is_traced_or_compiled(
    tiny_family, tiny_backbone, tiny_images, compiles, monkeypatch
):
    traced = []
    for part in ("head", "tail"):
        whole = getattr(networks.LinenNetwork, part)

        def counted(*arguments, whole=whole, part=part):
            traced.append(part)
            return whole(*arguments)

        monkeypatch.setattr(networks.LinenNetwork, part, counted)
    jax.clear_caches()  # as in a fresh process
    images = tiny_images[:1]
    sender = Sender(tiny_family, tiny_backbone).warm_up()
    receiver = Receiver(tiny_family, tiny_backbone).warm_up()
    assert traced == ["head", "tail"]  # once: all rates here have one architecture
    with compiles() as programs:
        frames = [sender(images, rate=rate)[0] for rate in RATE_IDS]
        receiver(frames)
    assert (programs, traced) == ([], ["head", "tail"])


def test_each_end_places_its_own_part_of_the_network(sender, receiver):
    placed = {"sender": set(), "receiver": set()}
    for end, runtime in (("sender", sender.warm_up()), ("receiver", receiver.warm_up())):
        for path, leaf in jax.tree.leaves_with_path(runtime._variables):
            if isinstance(leaf, jax.Array):
                placed[end].add(path[1].key)  # the block
    blocks = set(sender.backbone.variables["params"])
    assert placed["sender"] | placed["receiver"] == blocks
    assert not placed["sender"] & placed["receiver"]


def test_frames_are_taken_as_a_reader_gives_them(sender, receiver, tiny_images):
    rates = [rate.rate_id for rate in sender.family.rates]
    sent = [frame for rate in rates for frame in sender.encode(tiny_images[:2], rate)]
    stream = bitstream.pack_header(sender.header) + b"".join(sent)
    reader = bitstream.Reader(io.BytesIO(stream), stream=True)
    receiver.check(reader.header)
    read = list(reader)
    np.testing.assert_array_equal(receiver.decode(read), receiver.decode(sent))
    foreign = dataclasses.replace(read[0], rate_index=len(rates))
    with pytest.raises(BitstreamError, match=f"a frame of rate {len(rates)}"):
        receiver.decode([foreign])


def test_features_are_the_heads_and_give_the_same_symbols(
    tiny_family, tiny_backbone, tiny_images, sender
):
    images = tiny_images[:20]
    features = sender.features(images)
    head = jax.jit(tiny_family.split(tiny_backbone, "high").head)
    expected = head(tiny_backbone.variables, tiny_backbone.preprocessing.normalize(images))
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    for rate_id in RATE_IDS:
        symbols = sender.quantize(features, rate_id)
        np.testing.assert_array_equal(symbols, sender.symbols(images, rate_id))


def test_no_frames_give_no_logits(sender, receiver, tiny_images):
    assert receiver.decode([]).shape == (0, 10)
    assert receiver.symbols([], "high").shape == (0, 3, 3, 3)
    assert sender.encode(tiny_images[:0], "high") == []


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_images_do_not_depend_on_their_neighbours_or_on_padding(
    sender, receiver, tiny_images, count
):
    symbols = sender.symbols(tiny_images[:count], "high")
    np.testing.assert_array_equal(symbols, sender.symbols(tiny_images[:64], "high")[:count])
    logits = receiver.predict(symbols, "high")
    assert logits.shape == (count, 10)
    np.testing.assert_array_equal(
        logits, receiver.predict(sender.symbols(tiny_images[:64], "high"), "high")[:count]
    )


def test_another_batch_size_moves_at_most_a_symbol_in_a_thousand_by_one(
    tiny_family, tiny_backbone, tiny_images, sender
):
    single = Sender(tiny_family, tiny_backbone, batch_size=1).symbols(tiny_images, "high")
    difference = np.abs(single - sender.symbols(tiny_images, "high"))
    assert difference.max() <= 1
    assert difference.mean() <= 1e-3


def test_another_rate_is_another_argument_of_the_same_programs(
    sender, receiver, tiny_images, compiles
):
    receiver.decode(sender.encode(tiny_images[:16], "high"))
    with compiles() as programs:
        for rate_id in RATE_IDS:
            receiver.decode(sender.encode(tiny_images[:16], rate_id))
    assert not programs


def test_rates_of_other_forms_stand_beside_each_other(
    tiny_family, tiny_backbone, tiny_images, sender
):
    spec = dataclasses.replace(tiny_family.rates[0].spec, channels=2)
    split = make_split(tiny_backbone, tiny_family.cut, spec)
    variables = jax.tree.map(np.asarray, jax.jit(split.init)(jax.random.key(3)))
    tables = build_tables(variables["params"]["prior"])
    narrow = FamilyRate("narrow", None, spec, variables, tables)
    family = dataclasses.replace(tiny_family, rates=(tiny_family["high"], narrow))
    ends = Sender(family, tiny_backbone, 16), Receiver(family, tiny_backbone, 16)
    frames = [ends[0].encode(tiny_images[:1], rate)[0] for rate in ("narrow", "high")]
    assert ends[1].decode(frames).shape == (2, 10)
    assert ends[0].header.rates[1].shape == (3, 3, 2)
    np.testing.assert_array_equal(
        ends[1].symbols(frames[1:], "high"), sender.symbols(tiny_images[:1], "high")
    )


def test_the_header_names_the_family_and_its_tables(tiny_family, tiny_backbone, sender, receiver):
    header = sender.header
    assert header == receiver.header
    assert header.image == (12, 12, 1)
    bound = tiny_family.bind(tiny_backbone)
    assert header.family == bound.fingerprint[:32]
    for info, rate in zip(header.rates, tiny_family.rates, strict=True):
        assert info.rate_id == rate.rate_id
        assert info.tables == rate.tables.fingerprint[:32]
        assert info.shape == (3, 3, 3)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 12, 12, 1), np.float32),
        np.zeros((2, 12, 12, 1), np.int32),
        np.zeros((2, 1, 12, 12), np.uint8),
        np.zeros((2, 28, 28), np.uint8),
        np.zeros((2, 12, 12, 2), np.uint8),
    ],
    ids=lambda images: f"{images.dtype}{images.shape}",
)
def test_arrays_that_are_no_images_are_refused(sender, images):
    words = r"takes files, Pillow's images, or arrays uint8 \[N, H, W, 1 or 3\]"
    with pytest.raises(FamilyError, match=words):
        sender.encode(images, "high")
    with pytest.raises(FamilyError, match=words):
        sender.features(images)


def test_images_of_any_kind_are_sent(sender, receiver, tiny_images):
    images = tiny_images[:3]
    frames = sender(images, "mid")
    for same in (list(images), images[..., 0], (image for image in images)):
        assert sender(same, "mid") == frames
    for one in (images[0], images[0, ..., 0], {"image": images[0], "label": 3}):
        assert sender(one, "mid") == frames[:1]
    larger = np.zeros((40, 50, 3), np.uint8)
    sent = [sender(image, "mid")[0] for image in (images[0], larger)]
    assert sender([images[0], larger], "mid") == sent
    assert sender([], "mid") == []


def test_one_frame_and_frames_of_any_iterable_are_decoded(sender, receiver, tiny_images):
    frames = sender(tiny_images[:3], "mid")
    outputs = receiver(frames)
    for same in ((frame for frame in frames), tuple(map(bytearray, frames))):
        np.testing.assert_array_equal(receiver(same), outputs)
    np.testing.assert_array_equal(receiver(frames[1]), outputs[1:2])
    np.testing.assert_array_equal(
        receiver.symbols(frames[1], "mid")[0], sender.symbols(tiny_images[1], "mid")[0]
    )
    for wrong, words in ((3, "frames are a int"), ("ab", "a frame is a str"), ([[b""]], "a list")):
        with pytest.raises(BitstreamError, match=f"{words}; expected"):
            receiver(wrong)


@pytest.mark.parametrize("size", [0, -1, 2.0, "2", True, None])
def test_a_batch_size_is_a_positive_integer(tiny_family, tiny_backbone, size):
    with pytest.raises(ConfigError, match=r"batch_size is .*, expected a positive integer"):
        Sender(tiny_family, tiny_backbone, batch_size=size)


def test_unknown_rates_and_other_backbones_are_refused(
    tiny_family, other_backbone, sender, receiver, tiny_images
):
    with pytest.raises(FamilyError, match="no rate 'best'; it has high, mid, low"):
        sender.encode(tiny_images[:1], "best")
    with pytest.raises(FamilyError, match="no rate 'best'"):
        receiver.predict(np.zeros((1, 3, 3, 3), np.int32), "best")
    with pytest.raises(FamilyError, match="no rate 1; it has high, mid, low"):
        sender(tiny_images[:1], 1)
    for end in (Sender, Receiver):
        with pytest.raises(FamilyError, match="give it those weights"):
            end(tiny_family, other_backbone)
        with pytest.raises(ConfigError, match="a Backbone in place of the family"):
            end(other_backbone, tiny_family)
    with pytest.raises(FamilyError, match=r"uint8 \(12, 12, 1\); at rate mid they are int32"):
        receiver.predict(tiny_images, "mid")


def test_damaged_frames_are_bitstream_errors_or_other_symbols(sender, receiver, tiny_images):
    frame = sender.encode(tiny_images[:1], "high")[0]
    rng = np.random.default_rng(0)
    damaged = [b"", b"\0", frame[:-1], frame[:1], frame + b"\0", frame + frame, b"\xff" * 20]
    for broken in damaged:
        with pytest.raises(BitstreamError):
            receiver.decode([broken])
    for _ in range(100):
        broken = bytearray(frame)
        broken[rng.integers(len(frame))] ^= 1 << rng.integers(8)
        with contextlib.suppress(BitstreamError):
            assert receiver.decode([bytes(broken)]).shape == (1, 10)


def test_mutated_frames_are_symbols_of_the_right_shape_or_bitstream_errors(
    sender, receiver, tiny_images
):
    rng = np.random.default_rng(0)
    frames = [frame for rate_id in RATE_IDS for frame in sender.encode(tiny_images[:2], rate_id)]
    ended = {True: 0, False: 0}
    for _ in range(3000):
        damaged = mutations.mutate(frames[rng.integers(len(frames))], rng)
        rate_id = RATE_IDS[rng.integers(len(RATE_IDS))]
        shape = next(rate.shape for rate in receiver.header.rates if rate.rate_id == rate_id)
        try:
            symbols = receiver.symbols([damaged], rate_id)
        except BitstreamError:
            ended[False] += 1
        else:
            assert symbols.shape == (1, *shape)
            assert symbols.dtype == np.int32
            ended[True] += 1
    assert min(ended.values()) > 50


def test_a_flood_of_frames_takes_no_memory_but_its_logits(sender, receiver, tiny_images):
    frames = sender.encode(tiny_images[:1], RATE_IDS[0]) * 20_000
    receiver.decode(frames[:1])
    tracemalloc.start()
    try:
        logits = receiver.decode(frames)
        assert tracemalloc.get_traced_memory()[1] < logits.nbytes + (1 << 20)
    finally:
        tracemalloc.stop()


def test_a_frame_of_another_rate_is_refused_where_one_is_expected(sender, receiver, tiny_images):
    frames = sender.encode(tiny_images[:1], "mid")
    with pytest.raises(BitstreamError, match="expected frames of rate high; got mid"):
        receiver.symbols(frames, "high")


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_latents_of_any_size_cross(tiny_family, tiny_backbone, tiny_images, size):
    def change(variables):
        # Up in the first channel, down in the second; the third stays small.
        norm = variables["params"]["encoder"]["pointwise_norm"]
        norm["bias"][:2] = np.float32(size) * np.float32([1, -1])

    family = with_unit(tiny_family, "high", change)
    sender, receiver = (end(family, tiny_backbone, 16) for end in (Sender, Receiver))
    symbols = sender.symbols(tiny_images[:3], "high")
    assert (symbols[..., 0] > 9e3).all()
    assert (symbols[..., 1] < -9e3).all()
    assert (np.abs(symbols[..., 2]) < 100).all()
    frames = sender.frames(symbols, "high")
    np.testing.assert_array_equal(receiver.symbols(frames, "high"), symbols)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_that_are_not_finite_are_a_clear_error(
    tiny_family, tiny_backbone, tiny_images, value
):
    variables = jax.tree.map(np.array, tiny_backbone.variables)
    variables["params"]["stem"]["conv"]["kernel"][...] = value
    backbone = dataclasses.replace(tiny_backbone, variables=variables)
    with pytest.raises(FamilyError, match="rate high gives latents that are infinite"):
        Sender(tiny_family, backbone, 16).encode(tiny_images[:3], "high")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["encoder", "decoder", "prior"])
@pytest.mark.parametrize("side", [Sender, Receiver])
def test_units_that_are_not_finite_are_refused_before_anything_runs(
    tiny_family, tiny_backbone, part, side, value
):
    def change(variables):
        jax.tree.leaves(variables["params"][part])[0].flat[0] = value

    family = with_unit(tiny_family, "high", change)  # in memory, never saved
    with pytest.raises(FamilyError, match=f"rate high has values in .*{part}.* infinite or not"):
        side(family, tiny_backbone)
    side(family.select(["mid"]), tiny_backbone)


def test_features_and_symbols_that_do_not_fit_are_refused(sender, tiny_images):
    features = sender.features(tiny_images[:2])
    for wrong in (features.astype(np.float64), features[:, :-1], features[..., :-1]):
        with pytest.raises(FamilyError, match=r"features are .* they are float32"):
            sender.quantize(wrong, "high")
    features[1, 0, 0, 0] = np.nan
    with pytest.raises(FamilyError, match="infinite or not numbers"):
        sender.quantize(features, "high")
    symbols = sender.symbols(tiny_images[:2], "high")
    for wrong in (
        symbols.astype(np.int64),
        symbols.astype(np.float32),
        symbols[:, :-1],
        symbols[..., :-1],
        symbols[0],
    ):
        with pytest.raises(FamilyError, match="at rate high they are int32"):
            sender.frames(wrong, "high")


def test_a_receiver_refuses_the_header_of_another_family(
    tiny_family, tiny_backbone, sender, receiver
):
    receiver.check(sender.header)
    other = Sender(tiny_family.select(["high", "mid"]), tiny_backbone)
    with pytest.raises(OtherFamilyError, match="decode it with the family that encoded it"):
        receiver.check(other.header)
    first, *rest = sender.header.rates
    for change in ({"tables": "0" * 32}, {"shape": (1, 1, 1)}, {"rate_id": "other"}):
        rates = (dataclasses.replace(first, **change), *rest)
        with pytest.raises(OtherTablesError, match="encoded with other tables"):
            receiver.check(dataclasses.replace(sender.header, rates=rates))


def test_both_ends_use_the_coder_of_the_rate(tiny_family, sender, receiver):
    for rate in tiny_family.rates:
        assert sender._rate(rate.rate_id).coder is rate.coder
        assert receiver._rate(rate.rate_id).coder is rate.coder


def test_what_does_not_change_is_computed_once(sender, receiver, monkeypatch):
    images = np.zeros((1, 12, 12, 1), np.uint8)
    (frame,) = sender(images, rate="mid")
    expected = receiver([frame])
    assert sender.header == receiver.header
    monkeypatch.setattr(networks, "fingerprint", None)  # no array is hashed again,
    for module in (codec.sender, codec.receiver):  # and no program looked up
        for name in ("symbols", "latents", "levels", "outputs", "head"):
            monkeypatch.setattr(module, f"{name}_program", None, raising=False)
    assert sender.header is sender.header
    assert sender(images, rate="mid") == [frame]
    np.testing.assert_array_equal(receiver([frame]), expected)


def test_a_family_s_digest_follows_its_arrays(tiny_family):
    """A family that is changed in place after it was saved is saved again as a whole."""
    rate = tiny_family.rates[0]
    own = dataclasses.replace(rate, variables=jax.tree.map(np.array, rate.variables))
    family = dataclasses.replace(tiny_family, rates=(own,))
    before = own.digest, family.fingerprint
    jax.tree.leaves(own.variables)[0][...] += 1
    assert own.digest != before[0]
    assert family.fingerprint != before[1]


def placed(family, latents):
    """The family with one table at all positions of a latent, of another size than its own."""
    tables = tables_by_position(np.zeros((1, *latents), np.int32), tables=1)
    rates = tuple(dataclasses.replace(rate, tables=tables) for rate in family.rates)
    return dataclasses.replace(family, rates=rates)


def other_spec(family, **changes):
    high, *others = family.rates
    spec = dataclasses.replace(high.spec, **changes)
    return dataclasses.replace(family, rates=(dataclasses.replace(high, spec=spec), *others))


@pytest.mark.parametrize("end", [Sender, Receiver])
@pytest.mark.parametrize(
    "change",
    [
        lambda family: placed(family, (2, 3, 3)),
        lambda family: other_spec(family, channels=4),
        lambda family: other_spec(family, kernel=5),
        lambda family: other_spec(family, decoder_multiplier=10**6),
        lambda family: dataclasses.replace(family, cut="stage3.block1"),
        lambda family: with_unit(family, "mid", lambda tree: tree["params"].pop("decoder")),
        lambda family: with_unit(family, "mid", lambda tree: tree.pop("batch_stats")),
    ],
)
def test_a_family_that_does_not_fit_is_refused_before_an_image_is_sent(
    tiny_family, tiny_backbone, end, change
):
    with pytest.raises(FamilyError, match="damaged or belongs to another network"):
        end(change(tiny_family), tiny_backbone)


@pytest.mark.parametrize("end", [Sender, Receiver])
def test_tables_of_the_latents_places_fit(tiny_family, tiny_backbone, sender, end):
    symbols = sender.symbols(np.zeros((1, 12, 12, 1), np.uint8), "high")
    end(placed(tiny_family, symbols.shape[1:]), tiny_backbone)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
@pytest.mark.parametrize("used", [False, True])
def test_copies_and_pickles_give_the_same_bytes_and_outputs(
    tiny_family, tiny_backbone, tiny_images, copied, used
):
    images = tiny_images[:3]
    ends = Sender(tiny_family, tiny_backbone, 16), Receiver(tiny_family, tiny_backbone, 16)
    frames = ends[0].encode(images, "high")
    expected = ends[1].decode(frames)
    if not used:
        ends = Sender(tiny_family, tiny_backbone, 16), Receiver(tiny_family, tiny_backbone, 16)
    sender, receiver, family = map(copied, (*ends, tiny_family))
    assert sender is not ends[0]
    assert sender.header == ends[0].header
    assert (sender.batch_size, receiver.batch_size) == (16, 16)
    assert sender.encode(images, "high") == frames
    np.testing.assert_array_equal(receiver.decode(frames), expected)
    assert family.fingerprint == tiny_family.fingerprint
    assert Sender(family, tiny_backbone, 16).encode(images, "high") == frames
    for rate in (*family.rates, *sender.family.rates):
        assert not rate.tables.counts.flags.writeable


def test_ends_work_in_a_process_that_is_spawned(sender, receiver, tiny_images):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        frames = pool.apply(sender, (tiny_images[:2],), {"rate": "high"})
        outputs = pool.apply(receiver, (frames,))
    assert frames == sender(tiny_images[:2], rate="high")
    # This process compiles hastily, see conftest.py, so sums have another order.
    np.testing.assert_allclose(outputs, receiver(frames), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_a_clear_error(
    tiny_family, tiny_backbone, tiny_images, sender, value
):
    variables = jax.tree.map(np.array, tiny_backbone.variables)
    # Behind the cut, which no sender notices.
    jax.tree.leaves(variables["params"]["logits"])[0].flat[0] = value
    backbone = dataclasses.replace(tiny_backbone, variables=variables)
    receiver = Receiver(tiny_family, backbone, 16)
    symbols = sender.symbols(tiny_images[:3], "high")
    frames = sender.frames(symbols, "high")
    for run in (lambda: receiver.predict(symbols, "high"), lambda: receiver.decode(frames)):
        with pytest.raises(FamilyError, match="rate high gives outputs that are infinite or not"):
            run()
