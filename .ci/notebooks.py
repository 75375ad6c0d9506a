"""Runs the notebooks and stores what they show: `python .ci/notebooks.py [NAME …]`.

They run in an empty folder with the package of this checkout, and at their full length, which is
some minutes on two CPU cores. A test compares code and version with the digest that is stored here,
so outputs of an older cell or an older release are seen.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat

import jaxsplit

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "colab"


def digest(notebook: Any) -> str:
    """Of the code and the package's version. Its sources would change it with every commit."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join([jaxsplit.__version__, *code]).encode()).hexdigest()[:16]


def execute(notebook: Any, folder: str | Path) -> None:
    """Runs all cells in `folder`; raises what a cell raises."""
    # The kernel, and what it starts, are to find this checkout's package and this Python.
    for name, first in (("PYTHONPATH", ROOT), ("PATH", Path(sys.executable).parent)):
        paths = [str(first), os.environ.get(name, "")]
        os.environ[name] = os.pathsep.join(filter(None, paths))
    client = nbclient.NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,  # outputs are to change with the code alone
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata["jaxsplit"] = {"code": digest(notebook)}
    notebook.metadata["language_info"] = {"name": "python"}  # whichever version ran it


def main(names: list[str]) -> None:
    """Runs the named notebooks, or all, and writes them in place."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, folder)
        nbformat.write(notebook, path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as quickstart")
    asked = parser.parse_args(sys.argv[1:]).names
    if unknown := set(asked) - {path.stem for path in FOLDER.glob("*.ipynb")}:
        parser.error(f"no notebook is called {', '.join(sorted(unknown))}")
    main(asked)
