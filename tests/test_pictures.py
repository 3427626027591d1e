"""Tests of the pictures that scripts draw on request."""

import numpy as np
import pytest
from PIL import Image

import calc_label_distribution
import run_model
import test_model
import train_model
from video_module.errors import InputError


def height(path) -> int:
    return Image.open(path).height


def test_num_previews(drawn_data, tmp_path):
    flags = ["--data_dir", str(drawn_data), "--model_type", "swin3d_nano"]
    heights = []
    for number in (1, 2):
        path = tmp_path / f"{number}.png"
        train_model.main([*flags, "--preview", str(path), "--num_previews", str(number)])
        heights.append(height(path))
    # A video has a row as in evaluation, three rows of training epochs and a caption.
    assert 4 * 96 < heights[1] - heights[0] < 5 * 96 + 44


def test_examples_show_each_class(drawn_data, drawn_clips, tmp_path):
    for data in (drawn_data, drawn_clips):  # split or not
        path = tmp_path / f"{data.name}.jpg"
        calc_label_distribution.main(
            ["--data_dir", str(data), "--save_to", str(tmp_path / "l.json"), "--examples", str(path)]
        )
        sheet = np.asarray(Image.open(path))
        assert 6 * 90 < sheet.shape[0] < 9 * 90
        assert sheet.shape[1] > 6 * 120
    with pytest.raises(InputError, match=r"--examples .*: expected a name ending in .png or .jpg"):
        calc_label_distribution.main(
            ["--data_dir", str(drawn_data), "--save_to", str(tmp_path / "l.json"), "--examples", str(tmp_path / "x")]
        )


def test_examples_show_twelve_of_many_classes(make_video, tmp_path):
    for number in range(40):
        (tmp_path / "many" / f"class {number:02}").mkdir(parents=True)
        make_video(8, name=f"many/class {number:02}/{number}.avi", height=48, width=64 + 16 * (number % 3))
    calc_label_distribution.main(
        ["--data_dir", str(tmp_path / "many"), "--save_to", str(tmp_path / "l.json")]
        + ["--examples", str(tmp_path / "x.png")]
    )
    assert 12 * 60 < height(tmp_path / "x.png") < 12 * 94 + 200


def test_num_worst(trained, drawn_data, tmp_path):
    heights = []
    for number in (1, 3):
        test_model.main(
            ["--test_dir", str(drawn_data / "test"), "--checkpoint", str(trained), "--num_worst", str(number)]
            + ["--num_clips", "1", "--num_crops", "1", "--num_workers", "0", "--output_dir", str(tmp_path)]
        )
        heights.append(height(tmp_path / "nano_worst.png"))
    assert heights[1] - heights[0] == 2 * (144 + 44 + 20)  # frames, caption, margin


def test_timelines_of_several_videos(exported, drawn_data, tmp_path):
    videos = sorted((drawn_data / "test").rglob("*.avi"))[:2]
    run_model.main(
        ["--video_path", *map(str, videos), "--model", str(exported), "--save_timeline", str(tmp_path / "lines")]
    )
    pictures = sorted((tmp_path / "lines").rglob("*.png"))
    assert [path.stem for path in pictures] == sorted(video.stem for video in videos)
    assert all(Image.open(path).width == 1600 for path in pictures)
