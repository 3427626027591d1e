"""Tests that notebook.ipynb runs and that its stored outputs are up to date. Needs nbclient and ipykernel.

`python -m tests.test_notebook` runs it and stores the outputs (two minutes on two cores).
"""

import base64
import hashlib
import io
import json
import platform
import re
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebook.ipynb"
NUM_PICTURES = 7  # label distribution, examples, preview, curves, confusion, worst videos, timeline
MAX_BYTES = 2_000_000
pytestmark = pytest.mark.slow
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (requirements-dev.txt)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (requirements-dev.txt)")

import nbformat  # noqa: E402 (comes with nbclient)
from PIL import Image  # noqa: E402


def read_notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def digest(notebook) -> str:
    """Return a hash of the notebook's code, without outputs."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(repr(sources).encode()).hexdigest()


def execute(notebook, folder: Path, monkeypatch) -> None:
    """Run all cells in an empty folder, without storing times or information about this machine."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("TQDM_DISABLE", raising=False)  # the notebook itself must disable progress bars
    client = nbclient.NotebookClient(
        notebook,
        timeout=3600,  # seconds per cell, on a busy machine
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata.executed = digest(notebook)


def outputs_of(notebook) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures_of(notebook) -> list[bytes]:
    shown = [content for output in outputs_of(notebook) for content in output.get("data", {}).items()]
    return [base64.b64decode(data) for kind, data in shown if kind in ("image/png", "image/jpeg")]


def shown_text(notebook) -> str:
    """Return the text of all outputs, without videos and pictures."""
    texts = []
    for output in outputs_of(notebook):
        texts.append(output.get("text", ""))
        data = output.get("data", {})
        texts += [data.get("text/plain", ""), re.sub(r'"data:[^"]*"', "", data.get("text/html", ""))]
    return "\n".join(texts)


def complaints(notebook, *, folder: Path | None = None) -> list[str]:
    """Return errors, warnings, progress bars and information about this machine found in the outputs."""
    found = [f"{output.output_type}: {output}" for output in outputs_of(notebook) if output.output_type == "error"]
    found += [f"stderr: {output.text}" for output in outputs_of(notebook) if output.get("name") == "stderr"]
    text = shown_text(notebook)
    roots = "home|root|tmp|usr|opt|var|work|mnt|srv|Users|private|content"
    unwanted = {
        "a warning": r"(?i)warn|deprecat",
        "a progress bar": r"\d+%\|| it/s|s/it|\r",
        "an absolute path": rf"(?<![\w./:-])/(?:{roots})\b|[A-Z]:\\",
    }
    for name, pattern in unwanted.items():
        found += [
            f"{name}: {match[0]!r} in {line!r}" for line in text.split("\n") if (match := re.search(pattern, line))
        ]
    for name in [str(ROOT), sys.prefix, *([platform.node()] if len(platform.node()) > 3 else []), str(folder or ROOT)]:
        found += [f"of this machine: {line!r}" for line in text.split("\n") if name in line]
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the notebook, and return it with the folder it ran in."""
    folder, notebook = tmp_path_factory.mktemp("notebook"), read_notebook()
    with pytest.MonkeyPatch.context() as patch:
        execute(notebook, folder, patch)
    return notebook, folder


def test_notebook_runs_without_errors_and_warnings(run):
    notebook, folder = run
    assert complaints(notebook, folder=folder) == []
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_notebook_shows_pictures_and_a_video(run):
    check_pictures(run[0])


def check_pictures(notebook) -> None:
    pictures = [Image.open(io.BytesIO(content)).convert("L") for content in pictures_of(notebook)]
    assert len(pictures) == NUM_PICTURES
    for picture in pictures:
        assert min(picture.size) > 250
        assert len(picture.getcolors()) > 20  # not blank
    pages = "\n".join(output.get("data", {}).get("text/html", "") for output in outputs_of(notebook))
    [video] = re.findall(r'<video[^>]*>\s*<source src="data:video/mp4;base64,([^"]+)"', pages)
    assert b"ftyp" in base64.b64decode(video)[:16]  # an .mp4


def test_training_curves_are_updated_in_place(run):
    """Each epoch draws the curves, but only the last picture remains."""
    notebook, folder = run
    [cell] = [cell for cell in notebook.cells if "LiveCurves()" in cell.source and cell.cell_type == "code"]
    assert len([output for output in cell.outputs if "image/png" in output.get("data", {})]) == 1
    last = (folder / "notebook_output" / "model_curves.png").read_bytes()
    assert pictures_of(nbformat.v4.new_notebook(cells=[cell])) == [last]


def test_the_model_learns(run):
    _, folder = run
    results = json.loads((folder / "notebook_output" / "model_results.json").read_text())
    assert results["video_top1"] >= 0.5  # chance is 0.17
    assert results["num_videos"] == 90


def test_committed_outputs_belong_to_the_committed_code():
    notebook = read_notebook()
    assert notebook.metadata.executed == digest(notebook), "run: python -m tests.test_notebook"
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_committed_outputs_have_pictures_and_nothing_machine_specific():
    notebook = read_notebook()
    check_pictures(notebook)
    assert complaints(notebook) == []
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    assert set(notebook.metadata) == {"kernelspec", "language_info", "executed"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert notebook.metadata.kernelspec.name == "python3"


def test_committed_outputs_match_a_run(run):
    """Only the types of outputs are compared, because times and numbers differ between runs and machines."""

    def kinds(notebook) -> list[list[str]]:
        return [
            [output.get("name") or "+".join(sorted(output.data)) for output in cell.get("outputs", [])]
            for cell in notebook.cells
        ]

    assert kinds(read_notebook()) == kinds(run[0])


def test_pictures_in_the_text_exist():
    texts = "\n".join(cell.source for cell in read_notebook().cells if cell.cell_type == "markdown")
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", texts)
    assert links
    assert all((ROOT / link).is_file() for link in links)


def test_settings_for_hmdb51(tmp_path):
    """The commented lines for HMDB51 set the same variables as those for drawn clips, to valid arguments."""
    import run_model
    import split_data
    import train_model

    [settings] = [cell.source for cell in read_notebook().cells if "# Drawn clips\n" in cell.source]
    drawn, hmdb51 = {}, {}
    exec(settings, drawn)
    block = settings[settings.index("# HMDB51") :].split("\n")
    exec("\n".join(line[2:] for line in block if re.match(r"# [A-Z]+ = ", line)), hmdb51)
    names = {name for name in drawn if name.isupper()} - {"OUT"}
    assert names == {name for name in hmdb51 if name.isupper()} == {"CLIPS", "SPLIT", "MODEL", "TRAIN", "VIDEO"}
    for values in (drawn, hmdb51):
        split = split_data.parse_args(["--input_dir", str(values["CLIPS"]), *values["SPLIT"]])
        assert split.protocol == ("grouped" if values is drawn else "hmdb51")
        train_model.parse_args(["--model_type", values["MODEL"], *values["TRAIN"]])
        run_model.parse_args(["--video_path", str(values["VIDEO"]), "--model", "model.onnx"])
    others = [cell.source for cell in read_notebook().cells if cell.cell_type == "code" and cell.source != settings]
    for value in (drawn["MODEL"], "recording.avi", "--num_epochs"):
        assert not any(value in source for source in others), f"{value} is outside the settings cell"


def main() -> None:
    notebook = read_notebook()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        execute(notebook, Path(folder), patch)
        if found := complaints(notebook, folder=Path(folder)):
            sys.exit("\n".join(["not stored:", *found]))
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK.name}: {len(pictures_of(notebook))} pictures, {NOTEBOOK.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
