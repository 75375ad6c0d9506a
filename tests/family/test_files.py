"""Families in a user's folders: only files of the family itself are ever deleted."""

import dataclasses
import errno
import json
import os

import jax
import numpy as np
import pytest

from jaxsplit.cli import main
from jaxsplit.errors import FamilyError
from jaxsplit.family import RateFamily
from jaxsplit.family.pretrained import load_pretrained

NAME = "resnet8_small-fashion_mnist/stage1.block1"


@pytest.fixture(scope="module")
def family():
    return load_pretrained(NAME).select(["r1", "r5"])


@pytest.fixture(scope="module")
def other(family):
    """A family of other parameters, whose files have other names."""
    trees = [jax.tree.map(lambda x: x * np.float32(1.5), rate.variables) for rate in family.rates]
    pairs = zip(family.rates, trees, strict=True)
    return family.with_rates(dataclasses.replace(rate, variables=x) for rate, x in pairs)


def theirs(folder):
    """Files of a user's in `rates/`, one with a name like those of a family's files."""
    (folder / "rates" / "sub").mkdir(parents=True)
    files = {folder / "rates" / name for name in ("eur.csv", "sub/usd.csv", "r1-0123456789ab")}
    for file in files:
        file.write_text(file.name)
    return files


def files_of(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_of_something_else_is_refused(family, tmp_path, packed):
    files = theirs(tmp_path)
    with pytest.raises(FamilyError, match="it holds rates, but no family") as error:
        family.save(tmp_path, packed=packed)
    assert "\n" not in str(error.value)
    assert files_of(tmp_path) == files
    (tmp_path / "family.json").write_text('{"format": 2, "rates": ["parents", "children"]}')
    with pytest.raises(FamilyError, match="names no rates"):
        family.save(tmp_path, packed=packed)
    assert files_of(tmp_path) == {*files, tmp_path / "family.json"}


def test_pack_refuses_it_before_it_measures(tmp_path, capsys):
    files = theirs(tmp_path)
    data = f"folder:{tmp_path / 'nowhere'}"
    assert main(["pack", "--family", NAME, "-o", str(tmp_path), "--data", data]) == 2
    assert "it holds rates, but no family; name a new folder" in capsys.readouterr().err
    assert files_of(tmp_path) == files


@pytest.mark.parametrize("packed", [True, False])
def test_beside_a_users_files_only_rates_of_the_old_index_go(family, other, tmp_path, packed):
    family.save(tmp_path, packed=packed)
    old = {path.name for path in (tmp_path / "rates").iterdir()}
    files = theirs(tmp_path / "more")
    (tmp_path / "more" / "rates").rename(tmp_path / "more" / "mine")
    for path in (tmp_path / "more" / "mine").iterdir():
        path.rename(tmp_path / "rates" / path.name)
    kept = {path.name for path in files} | {"sub"}
    other.save(tmp_path, packed=True)
    names = {path.name for path in (tmp_path / "rates").iterdir()}
    assert names & (kept | old) == kept - {"usd.csv"}
    assert (tmp_path / "rates" / "sub" / "usd.csv").read_text() == "usd.csv"
    assert RateFamily.load(tmp_path).fingerprint == other.fingerprint


@pytest.mark.parametrize("place", ["rates/eur.csv", "rates/../eur.csv", "/eur.csv", "eur.csv"])
def test_an_index_that_names_other_files_deletes_none(family, other, tmp_path, place):
    family.save(tmp_path, packed=True)
    for path in (tmp_path / "rates" / "eur.csv", tmp_path / "eur.csv"):
        path.write_text("a user's")
    index = json.loads((tmp_path / "family.json").read_text())
    index["rates"].append({**index["rates"][0], "file": place})
    (tmp_path / "family.json").write_text(json.dumps(index))
    other.save(tmp_path, packed=True)
    assert (tmp_path / "eur.csv").exists()
    assert {path.suffix for path in (tmp_path / "rates").iterdir()} == {".csv", ".safetensors"}
    assert len(list((tmp_path / "rates").iterdir())) == 3


def test_no_link_is_followed(family, other, tmp_path):
    family.save(tmp_path / "family", packed=True)
    (tmp_path / "family" / "rates").rename(tmp_path / "elsewhere")
    (tmp_path / "family" / "rates").symlink_to(tmp_path / "elsewhere")
    before = files_of(tmp_path / "elsewhere")
    with pytest.raises(FamilyError, match="its rates folder is a link, which is not followed"):
        other.save(tmp_path / "family", packed=True)
    assert files_of(tmp_path / "elsewhere") == before
    # A rate that is a link, as in a cache of downloads: the link goes, its target stays.
    other.save(tmp_path / "two", packed=True)
    (rate, _) = sorted((tmp_path / "two" / "rates").iterdir())
    rate.rename(tmp_path / "blob")
    rate.symlink_to(tmp_path / "blob")
    family.save(tmp_path / "two")
    assert not rate.is_symlink()
    assert (tmp_path / "blob").is_file()


def test_a_save_without_room_leaves_the_family_and_nothing_else(
    family, other, tmp_path, monkeypatch
):
    family.save(tmp_path, packed=True)
    before = files_of(tmp_path)
    count, sync = 0, os.fsync

    def full(number):
        nonlocal count
        count += 1
        if count == 3:  # the log, a rate, the other rate
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FamilyError, match="No space left"):
            other.save(tmp_path, packed=True)
    assert files_of(tmp_path) == before
    assert RateFamily.load(tmp_path).fingerprint == family.fingerprint
