"""Every notebook runs from end to end in its fast mode, and is stored without outputs."""

import os
from pathlib import Path

import nbclient
import nbformat
import pytest

import jaxsplit

FOLDER = Path(__file__).parent.parent / "colab"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


pytestmark = pytest.mark.usefixtures("hasty")


def read(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_there_are_notebooks():
    assert "quickstart.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_without_outputs(name):
    notebook = read(name)
    assert notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    # Where the package is missing, and only there, the first cell installs it.
    assert "find_spec" in code[0].source
    assert "%pip install" in code[0].source
    assert any("JAXSPLIT_FAST" in cell.source for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSPLIT_FAST", "1")
    # The kernel starts in an empty folder, and is to find the package that is tested.
    paths = [str(Path(jaxsplit.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    notebook = read(name)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises what a cell raises
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs)
    assert "| uncut |" in printed  # the table of a curve
    assert "Warning" not in printed
