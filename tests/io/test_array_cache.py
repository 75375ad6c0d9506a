"""Cached arrays: what is deleted of a folder."""

from pathlib import Path

import numpy as np

from jaxsplit.io.array_cache import ArrayCache
from jaxsplit.io.log import no_log


def make(folder: Path, about: str) -> ArrayCache:
    return ArrayCache(folder, {"about": about}, {"x": ((4, 2), "float32")}, 4, 1, 2)


def test_only_files_of_the_cache_are_cleared(tmp_path):
    cache = make(tmp_path, "one")
    with cache.locked(no_log):
        for part in cache.missing(no_log):
            cache.write(part, 2 * part, {"x": np.ones((2, 2), np.float32)})
    (tmp_path / "notes.bin").write_text("a user's")
    (tmp_path / "folder").mkdir()
    other, said = make(tmp_path, "two"), []
    with other.locked(no_log):
        assert other.missing(said.append) == [0, 1]
    assert "another setting (about differ)" in said[0]
    assert (tmp_path / "notes.bin").read_text() == "a user's"
    assert (tmp_path / "folder").is_dir()
