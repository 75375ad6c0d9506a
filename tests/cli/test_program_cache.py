"""Programs that a command keeps for the next one, and when it keeps none."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxsplit.cli import program_cache


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    """A user's cache folder, without jax's own cache of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def compile_one(compiles):
    """Compiles one program as a fresh process would; returns the kept files."""
    with compiles() as programs:
        with program_cache.kept():
            jax.jit(lambda x: 3 * x + 1)(np.arange(4.0)).block_until_ready()
        assert not jax.config.jax_compilation_cache_dir
    assert programs
    return sorted(program_cache.user_folder().rglob("*-cache"))


def test_a_program_is_kept_and_found_again(cache_home, compiles):
    hits = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
    )
    kept = compile_one(compiles)
    assert kept
    assert not hits
    assert program_cache.user_folder() == cache_home / "jaxsplit"
    assert all((path.parent.stat().st_mode & 0o777) == 0o700 for path in kept)
    jax.clear_caches()
    assert compile_one(compiles) == kept
    assert hits
    jax.clear_caches()
    jax.jit(lambda x: 5 * x)(np.arange(4.0))  # outside: nothing is kept
    assert sorted(program_cache.user_folder().rglob("*-cache")) == kept


def test_it_is_bounded(cache_home, compiles, monkeypatch):
    monkeypatch.setattr(program_cache, "_MOST", 1)
    assert compile_one(compiles) == []
    for number in range(6):  # of other machines
        other = cache_home / "jaxsplit" / "programs" / f"other{number}"
        other.mkdir()
        os.utime(other, (number, number))
    compile_one(compiles)
    kept = {path.name for path in (cache_home / "jaxsplit" / "programs").iterdir()}
    assert kept == {program_cache._machine(), "other3", "other4", "other5"}


@pytest.mark.parametrize("reason", ["off", "theirs", "a file", "no home"])
def test_nothing_is_kept(cache_home, compiles, monkeypatch, reason):
    folder = cache_home / "jaxsplit" / "programs"
    if reason == "off":
        monkeypatch.setenv(program_cache.VARIABLE, "off")
    elif reason == "theirs":
        jax.config.update("jax_compilation_cache_dir", str(cache_home / "theirs"))
        with program_cache.kept():
            assert jax.config.jax_compilation_cache_dir == str(cache_home / "theirs")
        jax.config.update("jax_compilation_cache_dir", None)
        return
    elif reason == "a file":
        folder.parent.write_text("")
    else:
        monkeypatch.setattr(program_cache, "user_folder", _no_home)
        with program_cache.kept():
            assert not jax.config.jax_compilation_cache_dir
        return
    assert compile_one(compiles) == []


@pytest.mark.parametrize("mode", [0o770, 0o702])
@pytest.mark.parametrize("depth", range(3))
def test_no_folder_of_programs_may_be_written_by_others(cache_home, mode, depth):
    found = program_cache._writable_folder()
    assert found
    folders = [found, found.parent, found.parent.parent]
    assert folders[2] == cache_home / "jaxsplit"
    folders[depth].chmod(mode)
    assert program_cache._writable_folder() is None
    with program_cache.kept():
        assert not jax.config.jax_compilation_cache_dir
    folders[depth].chmod(0o755)
    assert program_cache._writable_folder() == found


@pytest.mark.parametrize("depth", range(3))
def test_no_folder_of_programs_may_be_another_users(cache_home, monkeypatch, depth):
    folder = program_cache._writable_folder()
    theirs = [folder, folder.parent, folder.parent.parent][depth]
    stat = Path.lstat  # of a link, which its owner could turn
    other = os.stat_result((*stat(theirs)[:4], os.getuid() + 1, *stat(theirs)[5:]))
    monkeypatch.setattr(Path, "lstat", lambda path: other if path == theirs else stat(path))
    assert program_cache._writable_folder() is None


def test_new_folders_of_programs_are_private_under_any_umask(cache_home):
    before = os.umask(0)
    try:
        assert program_cache._writable_folder()
    finally:
        os.umask(before)


def _no_home():
    raise RuntimeError("Could not determine home directory.")


def test_each_system_has_its_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for platform, folder in (
        ("linux", "/home/me/.cache/jaxsplit"),
        ("darwin", "/home/me/Library/Caches/jaxsplit"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        assert str(program_cache.user_folder()) == folder
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # is to be ignored
    assert str(program_cache.user_folder()) == "/home/me/.cache/jaxsplit"


def test_a_command_imports_neither_what_trains_nor_what_draws():
    code = (
        "import sys, jaxsplit.codec, jaxsplit.family.pretrained, jaxsplit.cli.coding;"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"optax", "orbax", "tensorflow_datasets", "grain", "matplotlib", "ml_collections"}
    assert not heavy & set(done.stdout.split())
