"""Checkpoints in a user's folders: only checkpoints are ever deleted."""

import os

import numpy as np
import pytest

from jaxsplit.errors import CheckpointError
from jaxsplit.io import checkpoint

TREE = {"x": np.arange(3)}


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").write_text("cat")
    (tmp_path / "link").symlink_to(photos)
    (tmp_path / "file").write_text("")
    for place in (photos, tmp_path / "link", tmp_path / "file"):
        with pytest.raises(CheckpointError, match="something else is there"):
            checkpoint.save_tree(place, TREE)
    assert (photos / "cat.png").read_text() == "cat"


def test_steps_that_are_no_checkpoints_and_links_stay(tmp_path):
    for name in ("step_7", "step_notes", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("a user's")
    (tmp_path / "step_8").symlink_to(tmp_path / "elsewhere")
    checkpoint.save_tree(tmp_path / "step_1", TREE)
    checkpoint.save_tree(tmp_path / "step_9", TREE)
    (tmp_path / "step_5.orbax-checkpoint-tmp").mkdir()
    checkpoint.save_step(tmp_path, 3, TREE, keep=1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"step_3", "step_7", "step_8", "step_notes", "elsewhere"}
    assert (tmp_path / "elsewhere" / "mine.txt").exists()


def test_a_name_that_is_no_text_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"caf\\xe9.*: rename it in UTF-8"):
        checkpoint.save_tree(tmp_path / os.fsdecode(b"caf\xe9"), TREE)
    assert not list(tmp_path.iterdir())
