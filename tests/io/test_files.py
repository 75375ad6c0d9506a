"""Whole files: atomic writes and one-line errors."""

import importlib.util
import os
import sys
import threading
import time
import types
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


def test_what_a_killed_write_left_is_reused(tmp_path):
    path = tmp_path / "x.jspl"
    files.partial_of(path).write_bytes(b"half of an older and longer content")
    files.write_whole(path, b"content")
    assert path.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_waits_for_another_of_the_same_file(tmp_path):
    """The partial file of a writer at work is not taken from it."""
    path = tmp_path / "x.jspl"
    second = threading.Thread(target=files.write_whole, args=(path, b"second"))
    with files.locked(files.partial_of(path)) as file:
        second.start()
        file.write(b"first")
        file.flush()
        time.sleep(0.2)
        assert second.is_alive()
        assert not path.exists()
        files.partial_of(path).replace(path)
        assert path.read_bytes() == b"first"
    second.join(10)
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_at_once_leave_one_whole_file(tmp_path):
    path, contents = tmp_path / "x", [bytes([i]) * 100_000 for i in range(8)]
    writers = [threading.Thread(target=files.write_whole, args=(path, c)) for c in contents * 4]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_no_link_in_place_of_a_partial_file_is_followed(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"kept")
    files.partial_of(tmp_path / "x").symlink_to(theirs)
    with pytest.raises(ConfigError, match="cannot write"):
        files.write_whole(tmp_path / "x", b"content")
    files.delete_whole(tmp_path / "x")
    assert theirs.read_bytes() == b"kept"
    assert list(tmp_path.iterdir()) == [theirs]


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with files.only_run(tmp_path):
        with pytest.raises(ConfigError, match="another process is training in") as error:
            files.only_run(tmp_path).__enter__()
        assert "\n" not in str(error.value)
    with files.only_run(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_without_fcntl_files_are_locked_as_on_windows(tmp_path, monkeypatch):
    """Windows locks bytes, and neither moves nor deletes a file that is open."""
    taken = {}

    def locking(number, mode, count):
        assert (mode, count, os.lseek(number, 0, os.SEEK_CUR)) == (1, 1, 2**40)
        place = os.fstat(number).st_ino
        if os.path.exists(f"/proc/self/fd/{taken.get(place)}") and taken[place] != number:
            raise PermissionError(13, "Permission denied")
        taken[place] = number

    def replace(old, new, real=os.replace):
        assert os.stat(old).st_ino not in open_files()
        real(old, new)

    def open_files():
        return {os.fstat(x).st_ino for x in taken.values() if os.path.exists(f"/proc/self/fd/{x}")}

    fake = types.SimpleNamespace(locking=locking, LK_NBLCK=1)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "replace", replace)
    spec = importlib.util.spec_from_file_location("files_on_windows", files.__file__)
    there = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(there)
    there.write_whole(tmp_path / "x", b"one")
    there.write_whole(tmp_path / "x", b"two")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"two"]
    with there.only_run(tmp_path), pytest.raises(ConfigError, match="another process is training"):  # noqa: SIM117
        with there.only_run(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
