"""What README shows is run as it stands there."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torchvision.models import get_model_weights

from video_module.data.decoding import count_frames, read_frames
from video_module.data.encoding import write_video
from video_module.data.sampling import clip_indices, uniform_starts
from video_module.data.transforms import center_crop, resize_frame
from video_module.inference.predictor import load_predictor
from video_module.models.cost import measure_cost
from video_module.models.registry import DEFAULT_MODEL, MODELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def program() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    [block] = [block for block in blocks if "onnxruntime.InferenceSession" in block]
    return block


def run(program: str, folder: Path) -> str:
    # -I: neither this project nor its folder can be imported
    return subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_few_lines_without_this_project_classify_videos(program, exported, drawn_data, tmp_path):
    assert len([line for line in program.splitlines() if line]) <= 11
    assert "video_module" not in program.replace('["video_module"]', "")
    shutil.copy(exported, tmp_path / "model.onnx")
    predictor = load_predictor(exported)
    clip = predictor.clip
    for video in sorted((drawn_data / "test").rglob("*.avi")):
        shutil.copy(video, tmp_path / "clip.mp4")  # the name in README; OpenCV goes by the content
        num_frames, _ = count_frames(video)
        [start] = uniform_starts(num_frames, clip, 1)
        frames = read_frames(video, clip_indices(start, num_frames, clip))
        frames = center_crop(np.stack([resize_frame(frame, clip) for frame in frames]), clip)
        scores = predictor.predict_clips(frames[None])[0]
        assert run(program, tmp_path) == predictor.class_names[scores.argmax()], scores


def test_they_take_videos_of_one_frame(program, exported, tmp_path):
    shutil.copy(exported, tmp_path / "model.onnx")
    write_video(tmp_path / "clip.mp4", iter([np.zeros((90, 120, 3), np.uint8)]), fps=25)
    assert run(program, tmp_path) in load_predictor(exported).class_names


def test_the_python_interface(exported, drawn_data, tmp_path):
    [program] = [
        block for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "load_predictor" in block
    ]
    shutil.copy(exported, tmp_path / "model.onnx")
    video = next((drawn_data / "test").rglob("*.avi"))
    shutil.copy(video, tmp_path / "clip.mp4")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['torch'] = None\n{program}"
    first, second = run(code, tmp_path).splitlines()
    assert ast.literal_eval(first) == load_predictor(exported).predict_video(video).top_k(3)
    assert all(len(segment) == 4 for segment in ast.literal_eval(second))


def test_the_table_of_models_is_right():
    """Costs as measured, clips and names of weights as registered, views as torchvision documents its accuracies."""
    [table] = re.findall(r"torchvision's `--num_clips` \|\n(.*?)\n\n", README, flags=re.DOTALL)
    rows = re.findall(r"^\| `(\w+)`(?: \(default\))? \| (.*) \|$", table, flags=re.MULTILINE)
    rows = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    assert list(rows) == list(MODELS)
    for name, (parameters, gmacs, clip, weights, views) in rows.items():
        spec, cost = MODELS[name], measure_cost(name)
        assert (parameters, gmacs) == (f"{cost.num_parameters / 1e6:.2f}", f"{cost.gmacs:.2f}")
        assert clip == f"{spec.clip.num_frames}x{spec.clip.crop}x{spec.clip.crop}"
        names = [f"`{weight}`" for weight in spec.weights] + ["a file"] * bool(spec.weights_files)
        assert weights == (", ".join(names) or "none")
        documented = {get_model_weights(name)[weight].meta["_docs"] for weight in spec.weights}
        clips = {re.search(r"clips_per_video=(\d+)", text)[1] for text in documented}
        assert {views} == (clips or {""})
    assert f"`{DEFAULT_MODEL}` (default)" in README


def test_every_link_leads_somewhere():
    """Anchors as GitHub makes them of headings, and files of this repository; pictures too."""
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert len(links) > 15
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("http"):
            assert (ROOT / link).is_file(), link


def test_what_is_folded_opens_again():
    """Every <details> has a summary and an end, and is none of another's."""
    marks = re.findall(r"^<(/?details)>$", README, flags=re.MULTILINE)
    assert marks == ["details", "/details"] * (len(marks) // 2)
    assert len(marks) == 2 * README.count("\n<summary>") == 2 * README.count("</summary>\n\n")
