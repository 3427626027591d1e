"""Run the Python programs in examples/. tests/web/test_api.py runs those that need a server."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

import test_model
from tests.report.test_folds import result
from video_module.data.decoding import count_frames, read_frames
from video_module.data.encoding import write_video
from video_module.data.sampling import clip_indices, uniform_starts
from video_module.data.transforms import center_view
from video_module.inference.predictor import load_predictor
from video_module.inference.windows import iter_windows

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def program() -> str:
    return (EXAMPLES / "onnx_alone.py").read_text(encoding="utf-8")


def run(program: str, folder: Path) -> str:
    # With -I, this project cannot be imported.
    return subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_onnx_example_matches_the_predictor(program, exported, drawn_data, tmp_path):
    assert "video_module" not in program.replace('["video_module"]', "")
    shutil.copy(exported, tmp_path / "model.onnx")
    predictor = load_predictor(exported)
    clip = predictor.clip
    for video in sorted((drawn_data / "test").rglob("*.avi")):
        shutil.copy(video, tmp_path / "clip.mp4")  # the example's file name; OpenCV detects the format by content
        num_frames, _ = count_frames(video)
        [start] = uniform_starts(num_frames, clip, 1)
        frames = read_frames(video, clip_indices(start, num_frames, clip))
        frames = np.stack([center_view(frame, clip) for frame in frames])
        scores = predictor.predict_clips(frames[None])[0]
        assert run(program, tmp_path) == predictor.class_names[scores.argmax()], scores


@pytest.mark.parametrize(
    ("settings", "size", "fps"),
    [
        ({}, (90, 121), 30),
        ({"resize": [72, 97], "crop": 64}, (90, 120), 30),
        ({"target_fps": 12.5}, (90, 120), 30),
        ({"frame_stride": 1, "target_fps": 60.0}, (121, 90), 25),
    ],
)
def test_onnx_example_reads_the_predictors_frames(program, exported, tmp_path, monkeypatch, settings, size, fps):
    """Also for models with other resizing or target_fps, and for other frame rates."""
    model = onnx.load(exported)
    [entry] = [entry for entry in model.metadata_props if entry.key == "video_module"]
    meta = json.loads(entry.value)
    meta["clip"] |= settings
    entry.value = json.dumps(meta)
    onnx.save(model, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    video = tmp_path / "clip.mp4"
    blocks = (rng.integers(0, 255, (9, 11, 3)).astype(np.uint8) for _ in range(90))
    write_video(video, (cv2.resize(block, size[::-1]) for block in blocks), fps=fps)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(program, names)
    clip = load_predictor(tmp_path / "model.onnx").clip
    num_frames, info = count_frames(video)
    [start] = uniform_starts(num_frames, clip, 1, fps=info.fps)
    indices = clip_indices(start, num_frames, clip, fps=info.fps)
    assert names["wanted"].tolist() == indices.tolist()
    expected = np.stack([center_view(frame, clip) for frame in read_frames(video, np.unique(indices))])
    expected = expected[np.unique(indices, return_inverse=True)[1]]
    difference = np.abs(np.stack(names["frames"]).astype(int) - expected)
    assert difference.max() <= 3 and difference.mean() < 0.5  # INTER_LINEAR rounds differently


@pytest.mark.parametrize(("num_frames", "target_fps"), [(40, None), (40, 30.0), (5, None), (3, 400.0)])
def test_onnx_example_with_a_short_video(program, exported, tmp_path, monkeypatch, num_frames, target_fps):
    """For example 40 frames with a clip that spans 57 or 47: the predictor makes one window of the whole video."""
    model = onnx.load(exported)
    [entry] = [entry for entry in model.metadata_props if entry.key == "video_module"]
    meta = json.loads(entry.value)
    meta["clip"] |= {"frame_stride": 8, "target_fps": target_fps}
    entry.value = json.dumps(meta)
    onnx.save(model, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    blocks = (rng.integers(0, 255, (6, 8, 3)).astype(np.uint8) for _ in range(num_frames))
    write_video(tmp_path / "clip.mp4", (cv2.resize(block, (120, 90)) for block in blocks), fps=25)
    predictor = load_predictor(tmp_path / "model.onnx")
    [window] = iter_windows(tmp_path / "clip.mp4", predictor.clip, clip_step=None)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(program, names)
    difference = np.abs(np.stack(names["frames"]).astype(int) - window.frames)
    assert difference.max() <= 3 and difference.mean() < 0.5  # a wrong frame differs by 50 and more
    scores = predictor.predict_clips(np.stack(names["frames"])[None])[0]
    np.testing.assert_allclose(scores, predictor.predict_video(tmp_path / "clip.mp4").scores, atol=0.02)


def test_onnx_example_with_a_video_of_one_frame(program, exported, tmp_path):
    shutil.copy(exported, tmp_path / "model.onnx")
    write_video(tmp_path / "clip.mp4", iter([np.zeros((90, 120, 3), np.uint8)]), fps=25)
    assert run(program, tmp_path) in load_predictor(exported).class_names


def test_a_row_of_a_table(tmp_path):
    program = (EXAMPLES / "latex_row.py").read_text(encoding="utf-8")
    paths = [tmp_path / f"hmdb51_fold{fold}_results.json" for fold in (1, 2, 3)]
    for fold, path in enumerate(paths, start=1):
        path.write_text(json.dumps(result(fold, 0.7 + fold / 100)))
    test_model.main(["--results", *map(str, paths), "--output_dir", str(tmp_path)])
    assert run(program, tmp_path) == r"swin3d\_b, KINETICS400\_V1 & 32 & $72.0 \pm 1.0$ \\"
    paths[2].write_text(json.dumps(result(3, 0.73, num_videos=150)))
    test_model.main(["--results", *map(str, paths), "--output_dir", str(tmp_path)])
    assert run(program, tmp_path).startswith("% not comparable with published numbers: fold 3 was tested on 150 of")


def test_predict_example(exported, drawn_data, tmp_path):
    program = (EXAMPLES / "predict.py").read_text(encoding="utf-8")
    shutil.copy(exported, tmp_path / "model.onnx")
    video = next((drawn_data / "test").rglob("*.avi"))
    shutil.copy(video, tmp_path / "clip.mp4")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['torch'] = None\n{program}"
    first, second = run(code, tmp_path).splitlines()
    assert ast.literal_eval(first) == load_predictor(exported).predict_video(video).top_k(3)
    assert all(len(segment) == 4 for segment in ast.literal_eval(second))
