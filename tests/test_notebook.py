"""notebook.ipynb runs from top to bottom. Needs nbclient and ipykernel (requirements-dev.txt)."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (requirements-dev.txt)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (requirements-dev.txt)")


def read_notebook():
    import nbformat

    return nbformat.read(ROOT / "notebook.ipynb", as_version=4)


def test_runs_from_top_to_bottom(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = read_notebook()
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3
    assert "<video" in notebook.cells[-2].outputs[-1]["data"]["text/html"]


def test_is_committed_small_and_without_paths_of_one_machine():
    text = (ROOT / "notebook.ipynb").read_text(encoding="utf-8")
    assert len(text) < 2_000_000
    assert "/home/" not in text
    assert "/root/" not in text
