"""Tests of `python -m video_module.demo` with few clips and one epoch."""

import csv
import json

import pytest

from video_module.data.decoding import count_frames
from video_module.demo import __main__ as demo
from video_module.errors import InputError

SHORTER = {"train_model": " --num_epochs 1", "convert_model": " --num_verify_clips 4", "test_model": " --num_clips 1"}


def test_every_stage_of_the_demo(tmp_path, monkeypatch, capsys):
    run_script = demo.run_script
    monkeypatch.setattr(demo, "NUM_SOURCES", 6)
    monkeypatch.setattr(demo, "CLIPS_PER_SOURCE", 1)
    monkeypatch.setattr(demo, "RECORDING_ACTIONS", ("wave", "sit"))
    monkeypatch.setattr(
        demo, "run_script", lambda script, command: run_script(script, command + SHORTER.get(script, ""))
    )
    out = tmp_path / "demo output"
    demo.main(["--output_dir", str(out)])
    printed = capsys.readouterr().out

    results = json.loads((out / "swin3d_nano_results.json").read_text())
    assert results["num_videos"] == 6  # one of six sources with six actions
    assert f"video top-1      {results['video_top1']:.3f}  (6 test videos of unseen scenes)" in printed

    # The model is bad after one epoch, so replace its predictions: all but one class are correct.
    with open(out / "swin3d_nano_predictions.csv", newline="") as file:
        header, *rows = csv.reader(file)
    label, prediction = header.index("label"), header.index("prediction")
    for row in rows:
        row[prediction] = "wave" if row[label] == "sit" else row[label]
    with open(out / "swin3d_nano_predictions.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    (out / "swin3d_nano_results.json").write_text(json.dumps(results | {"video_top1": 5 / 6}))
    demo.summarise(out, {}, 0.0)
    printed = capsys.readouterr().out
    assert "sit/stand        0.500  (one motion, forwards or backwards" in printed
    assert "pull/push        1.000  (one motion, forwards or backwards" in printed

    prediction = json.loads((out / "swin3d_nano_run.json").read_text())
    assert prediction["num_frames"] == count_frames(out / "swin3d_nano_annotated.mp4")[0] > 60
    assert prediction["segments"][-1]["end_s"] == prediction["duration_s"]
    names = {path.name for path in out.iterdir()}
    assert {"swin3d_nano.pth", "swin3d_nano.onnx", "swin3d_nano_curves.png", "label_distribution.png"} <= names


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="not empty, and not written by the demo; choose another folder"):
        demo.main(["--output_dir", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
