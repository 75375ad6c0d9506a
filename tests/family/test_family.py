"""A family as a folder: what is read is what was written, and a killed save leaves the last one."""

import copy
import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import tensorstore
from flax import traverse_util

from jaxsplit import networks
from jaxsplit.codec import Receiver, Sender
from jaxsplit.entropy import build_tables
from jaxsplit.errors import BitstreamError, CoderError, ConfigError, FamilyError
from jaxsplit.family import FamilyRate, RateFamily
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.family.summary import Card
from jaxsplit.io import checkpoint
from jaxsplit.split import make_split
from jaxsplit.units.bottleneck import BottleneckSpec


@pytest.fixture(params=["orbax", "packed"])
def packed(request):
    """Returns whether the folder has a file for each rate, and not a folder of orbax."""
    return request.param == "packed"


@pytest.fixture
def folder(tiny_family, tmp_path, packed):
    """The tiny family on disk."""
    folder = tmp_path / "family"
    tiny_family.save(folder, packed=packed)
    return folder


def changed(family, rate_id="high"):
    """The family with one weight of one rate changed."""
    rates = []
    for rate in family.rates:
        if rate.rate_id == rate_id:
            variables = jax.tree.map(np.array, rate.variables)
            variables["params"]["decoder"]["depthwise"][...] += 1
            rate = dataclasses.replace(rate, variables=variables)
        rates.append(rate)
    return dataclasses.replace(family, rates=tuple(rates))


def edit_index(folder, change):
    index = json.loads((folder / "family.json").read_text())
    change(index)
    (folder / "family.json").write_text(json.dumps(index))


def write_tree(path, variables, tables):
    """In place of a rate's file or folder."""
    tree = {"variables": variables, "tables": tables}
    if path.is_dir():
        checkpoint.save_tree(path, tree)
        return
    flat = traverse_util.flatten_dict(tree, sep="/")
    safetensors.numpy.save_file({name: np.ascontiguousarray(x) for name, x in flat.items()}, path)


def read_tree(path):
    """Contents of a rate's file or folder."""
    if path.is_dir():
        return checkpoint.load_tree(path)
    return traverse_util.unflatten_dict(safetensors.numpy.load_file(path), sep="/")


def contents(path):
    """The files of a rate that hold something."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in files if file.is_file() and file.stat().st_size]


def refused(folder, match):
    """Loading gives a FamilyError of one line."""
    with pytest.raises(FamilyError, match=match) as error:
        RateFamily.load(folder)
    assert "\n" not in str(error.value)


def test_a_family_comes_back_as_it_was(tiny_family, folder, packed):
    measured = {"top1": 0.5, "bytes_per_image": 12.25}
    first = dataclasses.replace(tiny_family.rates[0], measured=measured)
    family = dataclasses.replace(tiny_family, rates=(first, *tiny_family.rates[1:]))
    family.save(folder, packed=packed)
    loaded = RateFamily.load(folder)
    assert loaded.fingerprint == tiny_family.fingerprint  # measurements are not its identity
    for name in ("backbone", "backbone_fingerprint", "weights", "preprocessing", "cut"):
        assert getattr(loaded, name) == getattr(family, name)
    for ours, theirs in zip(loaded.rates, family.rates, strict=True):
        for name in ("rate_id", "lmbda", "spec", "tables", "measured", "digest"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert jax.tree.structure(ours.variables) == jax.tree.structure(theirs.variables)
        jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
        np.testing.assert_array_equal(ours.tables.offsets, theirs.tables.offsets)


def test_a_reloaded_family_gives_the_same_bytes(tiny_family, tiny_backbone, tiny_images, folder):
    loaded = RateFamily.load(folder)
    for rate_id in ("high", "low"):
        ours, theirs = (
            Sender(family, tiny_backbone, 16).encode(tiny_images[:20], rate_id)
            for family in (loaded, tiny_family)
        )
        assert ours == theirs


def test_only_small_trees_are_on_disk(tiny_family, tiny_backbone, folder):
    values = sum(x.size for x in jax.tree.leaves(tiny_backbone.variables))
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    # A backbone of float32 would take four bytes a value, and all rates together take less.
    assert stored < 4 * values / 2
    for path in (folder / "rates").iterdir():
        tree = read_tree(path)
        assert set(tree) == {"variables", "tables"}
        assert set(tree["variables"]) == {"params", "batch_stats"}
        assert set(tree["variables"]["params"]) == {"encoder", "decoder", "prior"}
    index = (folder / "family.json").read_text()
    assert tiny_backbone.fingerprint in index
    assert len(index) < 10_000


def test_the_fingerprint_is_of_all_that_both_ends_share(tiny_family):
    high, mid, low = tiny_family.rates
    offsets = high.tables.offsets + np.float32(0.125)
    tables = build_tables(high.variables["params"]["prior"], offsets)
    spec = dataclasses.replace(high.spec, output_activation="none")
    assert high.spec.decoder_multiplier is None
    wider = dataclasses.replace(high.spec, decoder_multiplier=high.spec.multiplier)
    others = [
        dataclasses.replace(tiny_family, cut="stem"),
        dataclasses.replace(tiny_family, backbone_fingerprint="0" * 64),
        dataclasses.replace(
            tiny_family,
            preprocessing=dataclasses.replace(tiny_family.preprocessing, mean=(0.0,)),
        ),
        dataclasses.replace(tiny_family, rates=(low, mid, high)),
        tiny_family.select(["high", "mid"]),
        changed(tiny_family),
        dataclasses.replace(
            tiny_family, rates=(dataclasses.replace(high, tables=tables), mid, low)
        ),
        dataclasses.replace(tiny_family, rates=(dataclasses.replace(high, spec=spec), mid, low)),
        dataclasses.replace(tiny_family, rates=(dataclasses.replace(high, spec=wider), mid, low)),
        dataclasses.replace(
            tiny_family, rates=(dataclasses.replace(high, rate_id="higher"), mid, low)
        ),
    ]
    fingerprints = {family.fingerprint for family in others}
    assert len(fingerprints | {tiny_family.fingerprint}) == len(others) + 1
    relabelled = dataclasses.replace(high, lmbda=None, measured={"top1": 1.0})
    same = dataclasses.replace(tiny_family, rates=(relabelled, mid, low))
    assert same.fingerprint == tiny_family.fingerprint


def test_a_shipped_family_is_still_the_one_that_was_shipped():
    """Streams name its fingerprint: what is added to a spec must not change it."""
    shipped = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    assert shipped.fingerprint.startswith("0b9e91e62e6ab287be54f9e91e0dd2a3")


# Which backbone it belongs to.


def test_another_backbone_is_refused_by_name_or_fingerprint(
    tiny_family, tiny_backbone, other_backbone
):
    ours, theirs = tiny_backbone.fingerprint[:12], other_backbone.fingerprint[:12]
    with pytest.raises(FamilyError, match=f"are {theirs}, but the family was trained on {ours}"):
        tiny_family.bind(other_backbone)
    deeper = dataclasses.replace(tiny_backbone, name="resnet20_small")
    with pytest.raises(FamilyError, match="trained on resnet8_small, not on resnet20_small"):
        tiny_family.bind(deeper)
    assert tiny_family.bind(tiny_backbone).fingerprint == tiny_family.fingerprint


def test_a_family_without_a_backbone_is_bound_to_the_first_one(
    tiny_family, tiny_backbone, other_backbone, tmp_path
):
    dataclasses.replace(tiny_family, backbone_fingerprint=None).save(tmp_path)
    unbound = RateFamily.load(tmp_path)
    assert unbound.backbone_fingerprint is None
    bound = unbound.bind(other_backbone)
    assert bound.backbone_fingerprint == other_backbone.fingerprint
    with pytest.raises(FamilyError, match="give it those weights"):
        bound.bind(tiny_backbone)


def test_a_trained_family_knows_its_backbone_and_a_loaded_one_says_what_to_pass(
    tiny_family, tiny_backbone, tiny_images, tmp_path
):
    sender, receiver = tiny_family.codec(batch_size=16)
    assert sender.backbone.fingerprint == receiver.backbone.fingerprint == tiny_backbone.fingerprint
    frames = sender(tiny_images[:3], "mid")
    assert frames == sender.encode(tiny_images[:3], rate="mid")
    assert receiver(frames).shape == (3, 10)
    # Neither a folder nor a pickle holds the network.
    tiny_family.save(tmp_path)
    loaded = RateFamily.load(tmp_path)
    for family in (loaded, pickle.loads(pickle.dumps(tiny_family))):
        with pytest.raises(FamilyError, match=r"pass the network, as in family\.codec\(backbone\)"):
            family.codec()
    assert loaded.bind(tiny_backbone).codec()[0].backbone.fingerprint == tiny_backbone.fingerprint
    assert Receiver(tiny_family)(frames).shape == (3, 10)
    with pytest.raises(BitstreamError, match=r"whole \.jspl file: give its frames"):
        receiver(b"JSPL and more")
    with pytest.raises(BitstreamError, match="2 more: it is damaged, or another"):
        receiver(frames[0] + b"12")


# Its rates.


def test_rates_are_found_and_selected_by_name(tiny_family):
    assert tiny_family["mid"].rate_id == "mid"
    chosen = tiny_family.select(["low", "high"])
    assert [rate.rate_id for rate in chosen.rates] == ["low", "high"]
    assert list(tiny_family.select("low")) == ["low"]
    assert (list(tiny_family), len(tiny_family)) == (["high", "mid", "low"], 3)
    assert "mid" in tiny_family
    assert "x" not in tiny_family
    with pytest.raises(FamilyError, match="no rate 'x'; it has high, mid, low"):
        tiny_family.select(["high", "x"])
    with pytest.raises(FamilyError, match="no rate 1; it has high, mid, low"):
        tiny_family[1]


@pytest.mark.parametrize("rate_id", ["", "../x", "a/b", "a b", "-a", ".a", "é", "a" * 65, "a\n"])
def test_names_that_are_no_names_are_refused(tiny_family, rate_id):
    with pytest.raises(ConfigError, match="not a name of a rate"):
        dataclasses.replace(tiny_family.rates[0], rate_id=rate_id)


def test_a_family_has_rates_with_different_names(tiny_family):
    for rates in ((), tiny_family.rates[:1] * 2):
        with pytest.raises(ConfigError, match="different names"):
            dataclasses.replace(tiny_family, rates=rates)


# Saving.


def test_saving_fewer_rates_removes_the_others(tiny_family, folder, packed):
    assert len(list((folder / "rates").iterdir())) == 3
    chosen = tiny_family.select(["mid"])
    chosen.save(folder, packed=packed)
    (left,) = (folder / "rates").iterdir()
    assert left.name.startswith("mid-")
    assert RateFamily.load(folder).fingerprint == chosen.fingerprint


def test_saving_again_replaces_a_rate(tiny_family, folder, packed):
    changed(tiny_family).save(folder, packed=packed)
    assert len(list((folder / "rates").iterdir())) == 3
    assert RateFamily.load(folder).fingerprint == changed(tiny_family).fingerprint


def test_saving_again_repairs_a_damaged_rate(tiny_family, folder, packed):
    for file in contents(next((folder / "rates").glob("high-*"))):
        file.write_bytes(b"")
    refused(folder, "damaged")
    tiny_family.save(folder, packed=packed)
    assert RateFamily.load(folder).fingerprint == tiny_family.fingerprint


class Killed(BaseException):
    """An error that no `except Exception` catches, like a kill."""


def _die(*_args, **_kwargs):
    raise Killed


STAGES = ["first rate", "half a rate", "last rate", "index", "cleaning"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_save_leaves_a_whole_family(tiny_family, folder, packed, monkeypatch, stage):
    new = changed(changed(tiny_family), "mid")
    replace, save_tree, calls = os.replace, checkpoint.save_tree, []
    dies_at = {"first rate": 1, "half a rate": 1, "last rate": 2}.get(stage)

    def replace_or_die(partial, path):
        calls.append(path)
        if packed and len(calls) == dies_at:
            if stage == "half a rate":
                partial.write_bytes(partial.read_bytes()[: partial.stat().st_size // 2])
            raise Killed
        if path.name == "family.json" and stage == "index":
            raise Killed
        replace(partial, path)

    def save_or_die(path, tree):
        calls.append(path)
        if len(calls) == dies_at:
            if stage == "half a rate":
                partial = path.with_name(f"{path.name}.orbax-checkpoint-tmp")
                partial.mkdir()
                (partial / "half").write_bytes(b"half")
            raise Killed
        # Orbax replaces files of its own.
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            save_tree(path, tree)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        patch.setattr(checkpoint, "save_tree", save_or_die)
        if stage == "cleaning":
            patch.setattr(*((Path, "unlink") if packed else (shutil, "rmtree")), _die)
        with pytest.raises(Killed):
            new.save(folder, packed=packed)
    survivor = new if stage == "cleaning" else tiny_family
    assert RateFamily.load(folder).fingerprint == survivor.fingerprint
    # The next save finishes the work and removes what was left over.
    new.save(folder, packed=packed)
    assert RateFamily.load(folder).fingerprint == new.fingerprint
    assert len(list((folder / "rates").iterdir())) == 3


def test_a_family_is_saved_anew_in_the_other_form(tiny_family, folder, packed):
    loaded = RateFamily.load(folder)
    loaded.save(folder, packed=not packed)
    assert RateFamily.load(folder).fingerprint == tiny_family.fingerprint
    assert all(path.is_dir() == packed for path in (folder / "rates").iterdir())


def test_a_packed_family_is_the_same_bytes_and_less_than_half(tiny_family, tmp_path):
    def saved(name, packed):
        tiny_family.save(tmp_path / name, packed=packed)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return [path.read_bytes() for path in files]

    first, again, orbax = saved("a", True), saved("b", True), saved("c", False)
    assert first == again
    assert sum(map(len, first)) < 0.6 * sum(map(len, orbax))


def test_a_folder_that_cannot_be_written_is_named(tiny_family, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FamilyError, match=r"cannot write the family to .*file/family") as error:
        tiny_family.save(tmp_path / "file" / "family")
    assert "\n" not in str(error.value)


# Loading what is not a family.


def test_a_folder_without_a_family_is_named(tmp_path):
    refused(tmp_path, r"no family at .*family.json is missing")
    refused(tmp_path / "missing", "no family at")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "family")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\x00\xff"])
def test_a_damaged_index_is_an_error(folder, text):
    (folder / "family.json").write_text(text)
    refused(folder, "family")


def test_a_truncated_index_is_an_error(folder):
    text = (folder / "family.json").read_text()
    for length in range(0, len(text) - 2, 97):
        (folder / "family.json").write_text(text[:length])
        refused(folder, "cannot read")


def test_another_format_version_is_an_error(folder):
    edit_index(folder, lambda index: index.update(format=5))
    refused(folder, "has format 5; this version reads 1 to 4")


@pytest.mark.parametrize("key", ["backbone", "preprocessing", "cut", "rates"])
def test_an_index_that_lacks_a_key_is_an_error(folder, key):
    edit_index(folder, lambda index: index.pop(key))
    refused(folder, f"damaged: .*{key}")


@pytest.mark.parametrize(
    "key", ["rate_id", "lambda", "spec", "measured", "digest", "place", "self_test"]
)
def test_a_rate_that_lacks_a_key_is_an_error(folder, packed, key):
    key = ("file" if packed else "folder") if key == "place" else key
    edit_index(folder, lambda index: index["rates"][1].pop(key))
    refused(folder, f"damaged: .*{key}")


@pytest.mark.parametrize(
    "change",
    [
        lambda rate: rate["spec"].update(unknown=1),
        lambda rate: rate["spec"].update(channels="three"),
        lambda rate: rate["spec"].update(channels=0),
        lambda rate: rate.update(spec=None),
        lambda rate: rate.update({"file" if "file" in rate else "folder": 7}),
        lambda rate: rate.update(measured=[0.5]),
        lambda rate: rate.update(rate_id="../x"),
        lambda rate: rate.update(rate_id=None),
        lambda rate: rate.update(self_test="no hexadecimal digits"),
        lambda rate: rate.update(self_test=7),
    ],
)
def test_values_that_do_not_fit_are_errors(folder, change):
    edit_index(folder, lambda index: change(index["rates"][0]))
    refused(folder, "damaged")


def test_a_missing_rate_is_an_error(folder):
    path = next((folder / "rates").glob("mid-*"))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    refused(folder, r"damaged: .*no (such file|checkpoint)")


def test_the_format_decides_how_a_rate_is_read(tiny_family, folder, packed, tmp_path):
    path = next((folder / "rates").glob("mid-*"))
    tiny_family.save(tmp_path / "other", packed=not packed)
    other = next((tmp_path / "other" / "rates").glob("mid-*"))
    if packed:  # a folder may be of any size once it is read
        path.unlink()
        shutil.copytree(other, path)
    else:
        shutil.rmtree(path)
        shutil.copy(other, path)
    refused(folder, "damaged")
    tiny_family.save(tmp_path / "new", packed=packed)
    assert RateFamily.load(tmp_path / "new").fingerprint == tiny_family.fingerprint


@pytest.mark.parametrize(
    "outside", ["../elsewhere", "/tmp", "rates/../../elsewhere", ".", "rates/.."]
)
def test_a_rate_outside_of_the_family_is_not_read(folder, packed, outside):
    path = next((folder / "rates").glob("high-*"))
    copy = shutil.copytree if path.is_dir() else shutil.copy
    copy(path, folder.parent / "elsewhere")
    key = "file" if packed else "folder"
    edit_index(folder, lambda index: index["rates"][0].update({key: outside}))
    refused(folder, "lies outside of the family")


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped"])
def test_a_damaged_rate_is_an_error(folder, damage):
    for file in contents(next((folder / "rates").glob("high-*"))):
        content = bytearray(file.read_bytes())
        if damage == "truncated":
            del content[len(content) // 2 :]
        elif damage == "emptied":
            content.clear()
        else:
            content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    refused(folder, "damaged|changed")


def test_a_rate_that_claims_more_memory_than_a_rate_takes_is_an_error(tiny_family, tmp_path):
    """The claim is read, and no memory taken: tensorstore would end the process."""
    tiny_family.save(tmp_path)
    rate = next((tmp_path / "rates").glob("high-*"))
    store = tensorstore.KvStore.open(f"file://{rate}/|ocdbt:").result()
    key = next(key for key in store.list().result() if key.endswith(b"/.zarray"))
    form = json.loads(store.read(key).result().value)
    store.write(key, json.dumps({**form, "shape": [10**10] * len(form["shape"])}).encode()).result()
    refused(tmp_path, r"its arrays take [\d,.]+ GB")


def test_a_rate_that_was_changed_after_saving_is_an_error(tiny_family, folder):
    path = next((folder / "rates").glob("high-*"))
    rate = changed(tiny_family)["high"]
    write_tree(path, rate.variables, rate.tables.to_arrays())
    refused(folder, "rate high of .* was changed after it was saved")


def test_a_coder_that_changed_is_found_when_the_family_is_loaded(folder):
    def other(index):
        rate = index["rates"][1]
        rate["self_test"] = index["rates"][0]["self_test"]

    edit_index(folder, other)
    with pytest.raises(CoderError, match="does not reproduce the self-test"):
        RateFamily.load(folder)


def test_tables_that_are_none_are_an_error(tiny_family, folder):
    path = next((folder / "rates").glob("high-*"))
    rate = tiny_family["high"]
    tables = {**rate.tables.to_arrays(), "counts": np.zeros_like(rate.tables.counts)}
    write_tree(path, rate.variables, tables)
    refused(folder, "damaged: coding tables")


def test_a_family_without_a_card_is_read(tiny_family, folder):
    edit_index(folder, lambda index: index.pop("card"))
    old = RateFamily.load(folder)
    assert (old.fingerprint, old.card) == (tiny_family.fingerprint, {})


def test_lists_of_numbers_stand_on_a_line_and_texts_stay(tiny_family, tmp_path):
    card = {"check": [1, -2, 3.5e-7], "limits": "[1,\n 2]", "nested": [[1, 2], []]}
    dataclasses.replace(tiny_family, card=card).save(tmp_path)
    assert RateFamily.load(tmp_path).card == card
    assert '"check": [ 1, -2, 3.5e-07 ],' in (tmp_path / "family.json").read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(cut={}),
        lambda index: index["backbone"].update(weights=[1]),
        lambda index: index["backbone"].update(name=None),
        lambda index: index["rates"][0].update({"lambda": "1e-3"}),
        lambda index: index["rates"][0]["spec"].update(multiplier=1.5),
    ],
)
def test_an_index_of_other_types_is_an_error(folder, change):
    edit_index(folder, change)
    refused(folder, "damaged")


@pytest.mark.parametrize("card", [[], "text", None])
def test_a_card_that_is_no_object_is_an_error(folder, card):
    edit_index(folder, lambda index: index.update(card=card))
    refused(folder, "damaged: card is .*; expected a mapping")


def test_a_spec_survives_the_index(tiny_family, tiny_backbone, tmp_path):
    spec = BottleneckSpec(
        channels=2,
        stride=3,
        kernel=4,
        padding=2,
        decoder_kernel=5,
        decoder_padding=1,
        multiplier=2,
        step=0.25,
        activation="none",
        latent_activation="relu",
        output_activation="none",
        batch_norm=False,
        crop=False,
    )
    split = make_split(tiny_backbone, tiny_family.cut, spec)
    variables = jax.tree.map(np.asarray, jax.jit(split.init)(jax.random.key(0)))
    tables = build_tables(variables["params"]["prior"])
    rate = FamilyRate("odd", None, spec, variables, tables)
    dataclasses.replace(tiny_family, rates=(rate,)).save(tmp_path)
    loaded = RateFamily.load(tmp_path)["odd"]
    assert loaded.spec == spec
    assert loaded.lmbda is None
    assert networks.fingerprint(loaded.variables) == networks.fingerprint(variables)


def test_other_preprocessing_is_refused(tiny_family, tiny_backbone):
    """It would run, and round other symbols, under the same fingerprints."""
    other = dataclasses.replace(tiny_backbone.preprocessing, interpolation="bicubic")
    with pytest.raises(FamilyError, match=r"bicubic.*was trained with.*bilinear"):
        tiny_family.bind(dataclasses.replace(tiny_backbone, preprocessing=other))


def test_parameters_in_half_precision_take_half_of_the_bytes(tiny_family, tmp_path):
    half = tiny_family.half()
    for rate, rounded in zip(tiny_family.rates, half.rates, strict=True):
        leaves = zip(*map(jax.tree.leaves, (rate.variables, rounded.variables)), strict=True)
        for leaf, found in leaves:
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, np.float16(leaf))
        assert rounded.tables == rate.tables
        assert not rounded.measured
    tiny_family.save(tmp_path / "whole", packed=True)
    half.save(tmp_path / "half", packed=True)
    loaded = RateFamily.load(tmp_path / "half")
    assert loaded.fingerprint == half.fingerprint != tiny_family.fingerprint
    sizes = {}
    for name, family in (("whole", tiny_family), ("half", half)):
        sizes[name] = 0
        for rate in family.rates:
            (file,) = (tmp_path / name).glob(f"rates/{rate.rate_id}-*")
            arrays = safetensors.numpy.load_file(file)
            assert rate.stored_bytes == sum(array.nbytes for array in arrays.values())
            learned = [array for key, array in arrays.items() if key.startswith("variables/")]
            sizes[name] += sum(array.nbytes for array in learned)
    assert sizes["half"] < 0.51 * sizes["whole"]


def test_a_parameter_that_float16_cannot_hold_is_refused(tiny_family):
    high = tiny_family.rates[0]
    large = jax.tree.map(lambda x: np.full_like(x, 1e5), high.variables)
    family = dataclasses.replace(
        tiny_family, rates=(dataclasses.replace(high, variables=large),), card={}
    )
    with pytest.raises(FamilyError, match="too large for float16"):
        family.half()


# Values.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["encoder", "decoder", "prior", "batch_stats"])
def test_parameters_that_are_not_finite_are_neither_saved_nor_loaded(
    tiny_family, tmp_path, monkeypatch, packed, part, value
):
    first, *others = tiny_family.rates
    variables = jax.tree.map(np.array, first.variables)
    tree = variables["batch_stats"] if part == "batch_stats" else variables["params"][part]
    jax.tree.leaves(tree)[-1].flat[-1] = value
    damaged = dataclasses.replace(first, variables=variables)
    family = dataclasses.replace(tiny_family, rates=(*others, damaged))
    words = f"rate high has values in .*{part}.* that are infinite or not numbers"
    with pytest.raises(FamilyError, match=words):
        family.save(tmp_path / "family", packed=packed)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:  # as an earlier version did
        patch.setattr("jaxsplit.family.family.check_finite", lambda rate: None)
        family.save(tmp_path, packed=packed)
    refused(tmp_path, words)


def test_copies_share_the_network_and_pickles_have_none(tiny_family, tiny_backbone):
    for copied in (copy.copy(tiny_family), copy.deepcopy(tiny_family)):
        assert copied.bound is tiny_backbone
        assert copied.fingerprint == tiny_family.fingerprint
    assert copy.deepcopy(tiny_family).card is not tiny_family.card
    assert pickle.loads(pickle.dumps(tiny_family)).bound is None


def test_a_card_is_shown_in_short_lines():
    card = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").card
    lines = repr(card).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) < 20
    assert "  n_images: 2000" in lines
    assert repr(Card(a="\x1b[2J")) == "a: \\x1b[2J"
    assert json.loads(json.dumps(card)) == card
