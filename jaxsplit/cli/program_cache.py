"""The compiled programs of `encode` and `decode`, kept in the user's cache folder between runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

#: "off", "0" or "no" keeps nothing.
VARIABLE = "JAXSPLIT_PROGRAM_CACHE"
#: Bytes of the programs of one machine and one version of jaxlib; a family's are about 1 MB.
_MOST = 64 * 2**20
_MACHINES = 4  # and versions whose programs are kept


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Finds compiled programs again that an earlier process kept, and keeps those compiled inside.

    Changes nothing where jax has a cache already (`JAX_COMPILATION_CACHE_DIR`), `VARIABLE` turns it
    off, or the folder can't be written, or others may write to it or to those of jaxsplit above it:
    programs in it are run.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    off = os.environ.get(VARIABLE, "").lower() in ("off", "0", "no", "false")
    theirs = getattr(jax.config, "jax_compilation_cache_dir", None)
    folder = None if off or theirs else _writable_folder()
    if folder is None:
        yield
        return
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": _MOST,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_persistent_cache_enable_xla_caches": "none",  # they know no bound
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # else jax keeps using this folder


def user_folder() -> Path:
    """Returns the folder of caches of this user and program, which may be missing.

    Linux: `$XDG_CACHE_HOME/jaxsplit`, else `~/.cache/jaxsplit`; macOS:
    `~/Library/Caches/jaxsplit`; Windows: `%LOCALAPPDATA%\\jaxsplit`.
    """
    name, parent = "XDG_CACHE_HOME", "~/.cache"
    if sys.platform == "darwin":
        parent = "~/Library/Caches"
    elif os.name == "nt":
        name, parent = "LOCALAPPDATA", "~/AppData/Local"
    given = os.environ.get(name, "")
    return (Path(given) if os.path.isabs(given) else Path(parent).expanduser()) / "jaxsplit"


def _writable_folder() -> Path | None:
    """Makes the folder of this machine's programs; None where that fails or others may write."""
    try:
        programs = user_folder() / "programs"
        folder = programs / _machine()
        for each in (
            programs.parent,
            programs,
            folder,
        ):  # who may write to one may replace the next
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.name == "posix" and not _is_mine_alone(each):
                return None
        os.utime(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            return None
        newest = sorted(programs.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in newest[_MACHINES:]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder


def _is_mine_alone(folder: Path) -> bool:
    """Returns whether the folder, and a link in its place, is this user's and only they write."""
    found = folder.stat()
    owners = {found.st_uid, folder.lstat().st_uid}
    return owners == {os.getuid()} and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _machine() -> str:
    """Returns jaxlib's version and a digest of what this CPU can do.

    jax's own keys hold the version, the flags and the devices; a home may be shared by machines.
    """
    import jaxlib.version

    what = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        what += [next((line for line in lines if line.startswith(("flags", "Features"))), "")]
    digest = hashlib.sha256("\n".join(what).encode()).hexdigest()[:12]
    return f"{jaxlib.version.__version__}-{digest}"
