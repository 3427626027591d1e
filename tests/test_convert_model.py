"""Tests of exporting the user's own weights with given clip settings and class names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import convert_model
import run_model
from video_module.config import ClipConfig
from video_module.data.labels import write_class_names
from video_module.errors import InputError
from video_module.inference import export
from video_module.inference.predictor import load_predictor
from video_module.models.recognizer import build_model

NAMES = [f"class {number}" for number in range(7)]
CLIP = ClipConfig(num_frames=4, frame_stride=2, target_fps=12, resize=40, crop=32, mean=(0.5,) * 3, std=(0.25,) * 3)
CLIP_FLAGS = ["--clip_len", "4", "--frame_stride", "2", "--target_fps", "12", "--resize", "40", "--img_size", "32"]
CLIP_FLAGS += ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]


@pytest.fixture(scope="module")
def donor():
    return build_model("swin3d_nano", num_classes=len(NAMES), seed=4, clip=CLIP).eval()


@pytest.fixture
def folder(donor, tmp_path, monkeypatch) -> Path:
    """Return the current directory, with weights from another project and lists of classes."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": donor.state_dict(), "epoch": 3}, "theirs.pth")
    write_class_names(Path("names.txt"), NAMES)
    write_class_names(Path("five.txt"), NAMES[:5])
    return tmp_path


def convert(*flags: str) -> None:
    convert_model.main(["--model_type", "swin3d_nano", "--num_verify_clips", "4", *flags])


@pytest.mark.slow
def test_a_weights_file_is_exported_and_used_by_run_model(folder, donor, drawn_data, capsys):
    convert("--weights", "theirs.pth", "--obj_names", "names.txt", *CLIP_FLAGS)
    assert "theirs.onnx" in capsys.readouterr().out.partition("wrote")[2]
    predictor = load_predictor("theirs.onnx")
    assert (predictor.class_names, predictor.clip, predictor.weights) == (NAMES, CLIP, "theirs.pth")
    clips = np.random.default_rng(0).integers(0, 256, (2, *CLIP.shape), np.uint8)
    with torch.inference_mode():
        expected = donor(torch.from_numpy(clips)).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(predictor.score_clips(clips), expected, rtol=0, atol=1e-4)
    video = next((drawn_data / "test" / "wave").iterdir())
    run_model.main(["--video_path", str(video), "--model", "theirs.onnx", "--save_json", "out.json"])
    assert json.loads(Path("out.json").read_text())["top_k"][:3] == predictor.predict_video(video).top_k(3)


def test_clip_settings_default_to_those_of_the_model(folder, monkeypatch):
    torch.save(build_model("swin3d_nano", num_classes=len(NAMES)).backbone.state_dict(), "own_size.pth")
    seen = []
    monkeypatch.setattr(export, "export_files", lambda checkpoint, *_, **__: seen.append(checkpoint) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert("--weights", "own_size.pth", "--obj_names", "names.txt")
    assert seen[0].clip == ClipConfig(num_frames=8, frame_stride=4, resize=72, crop=64)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "theirs.pth"], r"--weights theirs\.pth: pass its classes with --obj_names"),
        (
            ["--weights", "theirs.pth", "--obj_names", "five.txt", *CLIP_FLAGS],
            r"theirs\.pth: its last layer has 7 classes, but 5 were given",
        ),
        (["--weights", "none.pth", "--obj_names", "names.txt"], r"--weights none\.pth: neither a file nor known"),
        (["--weights", "none.pth"], r"--weights none\.pth: neither a file nor known"),
        (["--weights", "theirs.pth", "--obj_names", "no.txt"], r"no\.txt"),
        ([], "swin3d_nano: no weights to export; pass a file"),
        (["--weights", "theirs.pth", "--obj_names", "names.txt", "--resize", "40"], "--resize 40 is smaller than crop"),
    ],
)
def test_bad_arguments_are_errors(folder, flags, message):
    with pytest.raises(InputError, match=message) as error:
        convert(*flags)
    assert "\n" not in str(error.value)
    assert not list(folder.glob("*.onnx"))


def test_weights_without_a_last_layer_are_refused(folder, donor):
    trunk = {key: value for key, value in donor.backbone.state_dict().items() if not key.startswith("head.")}
    torch.save(trunk, "trunk.pth")
    with pytest.raises(InputError, match=r"trunk\.pth: contains no last layer \(head\.weight, head\.bias\); train one"):
        convert("--weights", "trunk.pth", "--obj_names", "names.txt", *CLIP_FLAGS)


def test_class_names_for_published_weights_are_refused(folder):
    with pytest.raises(InputError, match=r"--obj_names names\.txt requires a file as --weights, got KINETICS400_V1"):
        convert_model.main(["--model_type", "x3d_s", "--obj_names", "names.txt"])


@pytest.mark.parametrize("flags", [["--weights", "a.pth"], ["--obj_names", "names.txt"], ["--mean", "0", "0", "0"]])
def test_weights_and_clip_flags_with_a_checkpoint_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        convert_model.parse_args(["--checkpoint", "x.pth", *flags])
    assert f"{flags[0]} requires --model_type" in capsys.readouterr().err
