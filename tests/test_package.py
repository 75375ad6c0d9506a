"""The wheel and the sdist hold what they should, and a run on a missing Python doesn't pass."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import jaxsplit

ROOT = Path(__file__).parent.parent

setuptools = pytest.importorskip("setuptools", minversion="77", reason='needs ".[test]"')


def tracked():
    command = ["git", "-C", str(ROOT), "ls-files"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a checkout")
    return [path for path in done.stdout.splitlines() if (ROOT / path).is_file()]


def build(kind, source, out):
    """Builds one of `wheel` and `sdist`; returns its path and what setuptools said."""
    program = f"import setuptools.build_meta as b; print('built', b.build_{kind}({str(out)!r}))"
    unwanted = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}  # which setuptools would warn of
    environment = {key: value for key, value in os.environ.items() if key not in unwanted}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=source,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return out / done.stdout.rpartition("built ")[2].strip(), done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, wheel of the sdist, what was said): as a registry's users get them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    for path in tracked():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    sdist, said = build("sdist", source, out)
    with tarfile.open(sdist) as archive:
        # Python 3.11.4 and newer know filters.
        archive.extractall(out, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    wheel, more = build("wheel", out / sdist.name.removesuffix(".tar.gz"), out)
    return sdist, wheel, said + more


def test_the_wheel_has_every_module_and_asset_and_no_test(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {path for path in tracked() if path.startswith("jaxsplit/")}
    expected |= {f"jaxsplit/{path}" for path in tracked() if path.startswith("configs/")}
    assert names == expected
    assert any(name.startswith("jaxsplit/assets/") for name in names)


def test_they_are_small_and_of_the_one_version(built):
    sdist, wheel, _ = built
    assert sdist.name == f"jaxsplit-{jaxsplit.__version__}.tar.gz"
    assert wheel.name == f"jaxsplit-{jaxsplit.__version__}-py3-none-any.whl"
    assert max(path.stat().st_size for path in (sdist, wheel)) < 15e6
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
        scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert f"Version: {jaxsplit.__version__}\n" in metadata
    assert "License-File: LICENSE" in metadata
    assert "jaxsplit = jaxsplit.cli:main" in scripts


def test_the_sdist_has_what_the_wheel_is_made_of_and_no_test(built):
    with tarfile.open(built[0]) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    written = {name for name in names if name.startswith("jaxsplit.egg-info/")}
    written |= {"PKG-INFO", "setup.cfg"}  # by setuptools
    expected = {path for path in tracked() if path.startswith(("jaxsplit/", "configs/"))}
    expected |= {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "MANIFEST.in"}
    assert names - written == expected


def test_nothing_is_warned_of(built):
    said = built[2].lower()
    assert not [line for line in said.splitlines() if "warning" in line or "deprecat" in line]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["3.13"], "Python 3.13: not found\n"),
        ([], "Python 3.14: not found\nnothing ran: none of Python 3.11 3.12 3.13 3.14 was found\n"),
    ],
)
def test_versions_that_are_not_here_fail(tmp_path, asked, said):
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n[ $1 = --version ]\n")  # all else fails, as without such a Python
    uv.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / ".ci" / "versions", *asked], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout.endswith(said)
