"""The notebook: it runs as it stands, and is committed as it ran."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "studies" / "tour.ipynb"


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.service
@pytest.mark.slow
def test_notebook_runs_from_two_models_to_an_applied_matrix(tmp_path: Path) -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert "student on test: 0." in outputs[-1].text


def test_notebook_is_committed_with_what_it_showed() -> None:
    assert TOUR.stat().st_size < 300_000
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    shown = [cell for cell in code_cells(notebook) if cell.outputs]
    assert len(shown) == 5
    assert [output for cell in shown for output in cell.outputs if "image/png" in output.get("data", {})]
    assert "/tmp/" not in str([cell.outputs for cell in shown])
