"""Whole files: atomic writes and one-line errors."""

import os
from pathlib import Path

import pytest

from jaxsplit.errors import ConfigError
from jaxsplit.io import files


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.jspl"
    files.write_whole(path, b"first")

    def full(number):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match=r"cannot write .*x\.jspl: No space left"):
            files.write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match="cannot write"):
        files.write_whole(tmp_path, b"a folder")
    files.write_whole(Path(os.devnull), b"no file")
    assert Path(os.devnull).is_char_device()
    assert list(tmp_path.iterdir()) == [path]
    link = tmp_path / "link.jspl"
    link.symlink_to(path)
    files.write_whole(link, b"third")
    assert (link.is_symlink(), path.read_bytes()) == (True, b"third")
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_checked_before_hours_of_work(tmp_path):
    files.check_writable(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="it is a file; give another folder"):
        files.check_writable(tmp_path / "file")


def test_a_missing_folder_is_refused_or_made(tmp_path):
    path = tmp_path / "new" / "file"
    with pytest.raises(ConfigError, match=r"there is no folder .*new; create it"):
        files.write_whole(path, b"content")
    files.write_whole(path, b"content", make_folder=True)
    assert path.read_bytes() == b"content"
    with pytest.raises(ConfigError, match="cannot write"):
        files.write_whole(path / "below" / "file", b"content", make_folder=True)
