"""What README shows is run as it stands there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from video_module.data.decoding import count_frames, read_frames
from video_module.data.encoding import write_video
from video_module.data.sampling import clip_indices, uniform_starts
from video_module.data.transforms import center_crop, resize_frame
from video_module.inference.predictor import load_predictor

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def program() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    [block] = [block for block in blocks if "onnxruntime" in block]
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
