"""The notebooks run from the first cell to the last, with fewer steps of training and fewer images to measure."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.end_to_end.commands import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOWN = {"01": 6, "02": 5, "03": 4, "04": 2, "05": 4}
"""Pictures in each."""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_its_pictures(path, monkeypatch):
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        assert "outputs" not in cell or not cell.outputs, "Notebooks are kept without outputs."
        for name, fewer in {"STEPS": 30, "COUNT": 100}.items():
            cell.source = re.sub(rf"^{name} = \d+$", f"{name} = {fewer}", cell.source, flags=re.MULTILINE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # The first cell finds the package, and installs nothing.
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == SHOWN[path.stem[:2]]
    assert not [output for output in outputs if output.get("name") == "stderr" and "Traceback" in output["text"]]
