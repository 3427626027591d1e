"""Model files of this format version, the previous one, and later ones. version1/ was written by version 0.1."""

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from video_module import __version__
from video_module.data import leaks
from video_module.data.records import VideoRecord
from video_module.engine.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint, save_checkpoint
from video_module.errors import InputError
from video_module.inference.export import metadata_of, save_onnx
from video_module.inference.predictor import describe, load_predictor
from video_module.models.recognizer import build_model

VERSION_1 = Path(__file__).parents[1] / "version1"
NAMES = sorted(hashlib.sha256(name.encode()).hexdigest()[:12] for name in ("0001", "0002"))


def test_a_checkpoint_of_version_1_loads_and_is_saved_as_version_2(tmp_path):
    assert "program_version" not in torch.load(VERSION_1 / "tiny.pth", weights_only=True)
    checkpoint = load_checkpoint(VERSION_1 / "tiny.pth")
    assert (checkpoint.model, checkpoint.class_names, checkpoint.epoch) == ("swin3d_nano", ["run", "walk"], 3)
    assert (checkpoint.clip.shape, checkpoint.split_digest) == ((2, 16, 16, 3), "0123456789abcdef")
    assert checkpoint.weights["head.weight"].tolist() == [[1.0] * 3] * 2
    assert checkpoint.train_clips == NAMES
    save_checkpoint(tmp_path / "new.pth", checkpoint)
    content = torch.load(tmp_path / "new.pth", weights_only=True)
    assert (content["format_version"], content["program_version"]) == (2, __version__)
    assert content["train_clips"] == NAMES  # hashes of version 1 cannot be converted


def test_an_onnx_file_of_version_1_is_served():
    predictor = load_predictor(VERSION_1 / "tiny.onnx")
    red = np.zeros((1, 2, 16, 16, 3), np.uint8)
    red[..., 0] = 255
    assert predictor.score_clips(red).tolist() == [[1.0, 0.0]]
    assert (predictor.class_names, list(predictor.train_clips)) == (["run", "walk"], NAMES)
    described = describe(VERSION_1 / "tiny.onnx")
    assert described["format_version"] == 1
    assert "program_version" not in described


@pytest.mark.parametrize("name", ["tiny.pth", "tiny.onnx"])
def test_both_kinds_of_version_1_know_names_alone(name):
    loaded = load_checkpoint(VERSION_1 / name) if name.endswith("pth") else load_predictor(VERSION_1 / name)
    videos = [
        VideoRecord(path=f"{label}/0002.mp4", label=label, source=f"{label}/0002.mp4", num_frames=9, fps=25)
        for label in ("run", "walk")
    ]
    other, same = (
        leaks.train_overlap([video], train_sources=loaded.train_sources, train_clips=loaded.train_clips, protocol=None)
        for video in videos
    )
    assert (other.num_clips, other.num_sources, other.is_leak) == (1, 0, False)  # the hash of 0002 names no class
    assert (same.num_clips, same.num_sources, same.is_leak) == (1, 1, True)


def test_what_later_programs_add_is_passed_over(trained, exported, tmp_path):
    content = torch.load(trained, weights_only=True) | {"temperature": 1.3, "threshold": None}
    torch.save(content, tmp_path / "later.pth")
    checkpoint = load_checkpoint(tmp_path / "later.pth")
    assert checkpoint.class_names == content["class_names"]
    metadata = metadata_of(checkpoint, precision="fp32", opset=18) | {"temperature": 1.3}
    save_onnx(onnx.load(exported), tmp_path / "later.onnx", metadata)
    assert load_predictor(tmp_path / "later.onnx").train_clips == tuple(checkpoint.train_clips)
    assert describe(tmp_path / "later.onnx")["program_version"] == __version__


def test_bare_weights_are_refused_with_the_command_that_exports_them(tmp_path):
    torch.save({"head.weight": torch.zeros(2, 3)}, tmp_path / "bare.pth")
    with pytest.raises(InputError, match=r"convert_model\.py --model_type MODEL --weights FILE"):
        load_checkpoint(tmp_path / "bare.pth")


def test_a_format_of_the_future_is_refused(trained, tmp_path):
    torch.save(torch.load(trained, weights_only=True) | {"format_version": 3}, tmp_path / "future.pth")
    with pytest.raises(InputError, match=r"format 3, expected 2 or older"):
        load_checkpoint(tmp_path / "future.pth")
    content = (VERSION_1 / "tiny.onnx").read_bytes()
    changed = content.replace(b'"format_version": 1', b'"format_version": 3')
    assert changed != content
    (tmp_path / "future.onnx").write_bytes(changed)
    with pytest.raises(InputError, match=r"format version 3, expected 2 or older"):
        load_predictor(tmp_path / "future.onnx")


@pytest.mark.parametrize(("number", "advises_space"), [(errno.ENOSPC, True), (errno.EROFS, False)])
def test_only_a_full_disk_is_told_to_need_space(number, advises_space, trained, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    checkpoint = load_checkpoint(trained)
    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(InputError, match=os.strerror(number)) as error:
        save_checkpoint(tmp_path / "x.pth", checkpoint)
    assert ("Free some space" in str(error.value)) == advises_space


def test_weights_under_other_names_are_told_in_a_line_that_can_be_read():
    model = build_model("swin3d_nano", num_classes=2)
    weights = {f"net.{name}": value for name, value in model.backbone.state_dict().items()}
    checkpoint = Checkpoint(model="swin3d_nano", weights=weights, clip=model.clip, class_names=["a", "b"])
    with pytest.raises(
        InputError, match=r"weights do not fit swin3d_nano: .*net\.patch_embed\.proj\.weight.* …$"
    ) as error:
        build_from_checkpoint(checkpoint)
    assert len(str(error.value)) < 260
