"""Tests of the scripts together, from drawn clips to predictions."""

import csv
import json

import test_model
from video_module.data.decoding import count_frames
from video_module.data.leaks import shared_sources
from video_module.data.records import VideoRecord


def test_results_of_checkpoint_and_onnx_agree(trained, exported, drawn_data, tmp_path):
    results, out = {}, tmp_path / "out"
    for model, name in ((trained, "nano"), (exported, "nano_onnx")):
        test_model.main(
            ["--test_dir", str(drawn_data / "test"), "--checkpoint", str(model), "--output_dir", str(out)]
            + ["--num_workers", "0", "--device", "cpu"]
        )
        results[model.suffix] = json.loads((out / f"{name}_results.json").read_text())
    ends = ("confusion.csv", "confusion.png", "predictions.csv", "results.json", "worst.png")
    names = {f"{name}_{end}" for name in ("nano", "nano_onnx") for end in ends}
    assert {path.name for path in out.iterdir()} == names  # files of one model do not replace those of the other
    torch_figures, onnx_figures = results[".pth"], results[".onnx"]
    assert torch_figures["video_top1"] == onnx_figures["video_top1"]
    assert abs(torch_figures["log_loss"] - onnx_figures["log_loss"]) < 1e-4
    assert torch_figures["views"] == {"sampling": "uniform", "num_clips": 4, "num_crops": 3}
    assert torch_figures["num_videos"] == 6
    assert torch_figures["split_digest"] == json.loads((drawn_data / "split.json").read_text())["digest"]
    assert torch_figures["command"].startswith("python test_model.py --test_dir")
    with open(out / "nano_predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert right / len(rows) == torch_figures["video_top1"]


def test_test_videos_share_no_source_with_training(drawn_data):
    videos = json.loads((drawn_data / "split.json").read_text())["videos"]
    sides = [[VideoRecord(**v) for v in videos if (v["split"] == "test") == test] for test in (False, True)]
    shared = shared_sources(*sides)
    assert (shared.sources_within_class, shared.sources_across_classes) == (0, 0)
    assert all(sides)


def test_report_and_attention(trained, drawn_data, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")  # as set by other launchers; without torchrun, one process does everything
    folder = tmp_path / "nano_attention"
    folder.mkdir()
    for name in ("notes.txt", "07_of_an_earlier_run.mp4", "107_of_it.mp4", "3_of_mine.mp4"):
        (folder / name).write_text("x")
    test_model.main(
        ["--test_dir", str(drawn_data / "test"), "--checkpoint", str(trained), "--output_dir", str(tmp_path)]
        + ["--num_workers", "0", "--device", "cpu", "--num_clips", "1", "--num_crops", "1"]
        + ["--report", str(tmp_path / "report.html"), "--attention", "2"]
    )
    names = sorted(path.name for path in folder.iterdir())
    # Videos of earlier runs are deleted, and the user's own files stay.
    assert [name[:3] for name in names] == ["01_", "02_", "3_o", "not"]
    assert all(count_frames(folder / name)[0] > 20 for name in names[:2])
    report = (tmp_path / "report.html").read_text()
    assert "video top-1" in report
    assert "http" not in report.replace('http-equiv="Content-Security-Policy"', "")
