import json

import pytest

from video_module.benchmark.__main__ import format_table, main
from video_module.errors import InputError


def test_predict(trained, exported, tmp_path, capsys):
    main(
        ["predict", "--model", str(trained), str(exported), "--no-compile", "--duration_s", "4"]
        + ["--save_json", str(tmp_path / "predict.json")]
    )
    report = json.loads((tmp_path / "predict.json").read_text())
    assert report["machine"]["num_cores"] >= 1
    assert [row["file"] for row in report["rows"]] == ["nano.pth", "nano.onnx"]
    assert [row["on"] for row in report["rows"]] == ["torch eager, cpu", "onnxruntime, cpu"]
    assert min(row["over best"] for row in report["rows"]) == 1.0
    for row in report["rows"]:
        assert 0 < row["one clip, ms"] <= row["p95"]
        assert row["times real time"] > 0
    [column] = [name for name in report["rows"][0] if "of video" in name]
    assert column.startswith("4 s of video (")
    printed = capsys.readouterr().out
    assert "torch eager" in printed
    assert report["machine"]["processor"] in printed


@pytest.mark.slow
def test_predict_of_random_weights(tmp_path):
    main(
        ["predict", "--model_type", "swin3d_nano", "--no-compile", "--duration_s", "3"]
        + ["--save_json", str(tmp_path / "predict.json")]
    )
    rows = json.loads((tmp_path / "predict.json").read_text())["rows"]
    assert [row["file"].removeprefix("swin3d_nano") for row in rows] == [
        ".pth",
        "_fp32.onnx",
        "_fp16.onnx",
        "_int8.onnx",
    ]


def test_predict_refuses_files_with_other_clips(trained, exported, tmp_path):
    from video_module.engine.checkpoint import load_checkpoint, save_checkpoint

    checkpoint = load_checkpoint(trained)
    checkpoint.clip = type(checkpoint.clip).from_dict({**checkpoint.clip.to_dict(), "frame_stride": 2})
    save_checkpoint(tmp_path / "other.pth", checkpoint)
    with pytest.raises(InputError, match=r"other\.pth: its clips differ"):
        main(["predict", "--model", str(exported), str(tmp_path / "other.pth"), "--no-compile"])


def test_format_table():
    assert (
        format_table([{"a": "x", "long": 1.23456}, {"a": "yy", "long": None}])
        == "  a    long\n  x   1.235\n  yy      -"
    )


def test_loader(tmp_path, capsys):
    main(
        ["loader", "--num_videos", "7", "--num_repeats", "1", "--model_type", "swin3d_nano"]
        + ["--save_json", str(tmp_path / "loader.json")]
    )
    rows = json.loads((tmp_path / "loader.json").read_text())["rows"]
    named = {row["what"].strip(): row for row in rows}
    training, evaluation = named["training loader, light"], named["evaluation loader, 4 x 3 views"]
    assert (
        named["bare read and resize"]["of the bare read"]
        == named["bare read and resize of a video"]["of the bare read"]
        == 1
    )
    assert named["the original's way"]["times the original"] == 1
    assert training["times the original"] == pytest.approx(named["the original's way"]["ms"] / training["ms"])
    assert evaluation["ms"] > 0
    assert training["per s and worker"] == pytest.approx(1000 / training["ms"])
    assert "training loader" in capsys.readouterr().out


def test_loader_with_several_folders(drawn_clips, drawn_data, tmp_path):
    folders = [str(drawn_clips), str(drawn_data / "train")]
    main(
        ["loader", "--num_videos", "6", "--num_repeats", "1", "--model_type", "swin3d_nano", "--data_dir", *folders]
        + ["--save_json", str(tmp_path / "loader.json")]
    )
    first, second = json.loads((tmp_path / "loader.json").read_text())["rows"]
    assert [first["what"], second["what"]] == [f"training clip of {folder}" for folder in folders]
    assert first["times the first"] == 1
    assert second["times the first"] == pytest.approx(second["ms"] / first["ms"])


def test_video(exported, drawn_data, tmp_path):
    video = next((drawn_data / "test").rglob("*.avi"))
    main(
        ["video", "--model", str(exported), "--video_path", str(video), "--num_repeats", "1", "--max_windows", "3"]
        + ["--save_json", str(tmp_path / "video.json")]
    )
    ours, original, read, bare_read, written, bare_written = json.loads((tmp_path / "video.json").read_text())["rows"]
    assert original["times the original"] == bare_read["over bare"] == bare_written["over bare"] == 1
    assert "3 of them timed" in original["what"]
    assert ours["times the original"] == pytest.approx(original["s"] / ours["s"])
    assert 0 < read["s"] < written["s"]


@pytest.mark.slow
def test_train(tmp_path, capsys):
    main(
        ["train", "--model_type", "swin3d_nano", "swin3d_t", "--clip_len", "4", "--img_size", "32"]
        + ["--effective_batch", "4", "--num_steps", "2", "--num_warmup", "1", "--num_videos", "8", "--num_workers", "1"]
        + ["--device", "cpu", "--save_json", str(tmp_path / "train.json")]
    )
    rows = {row["what"]: row for row in json.loads((tmp_path / "train.json").read_text())["rows"]}
    for name in ("swin3d_nano", "swin3d_t"):
        mine, read = rows[f"{name}: this trainer, fp32"], rows[f"{name}: the same from files"]
        assert 0 < mine["share of peak"] < 1  # no network exceeds a large matrix product
        assert read["over clips in memory"] == pytest.approx(read["clips/s"] / mine["clips/s"])
        num_passes = {"swin3d_nano": 32, "swin3d_t": 30 * 2}[name]  # epochs by repeats of the recipe
        assert mine["h for HMDB51"] == pytest.approx(2857 * num_passes / mine["clips/s"] / 3600)
    original = rows["swin3d_t: torchvision, fp32, 2 clips, Adam"]
    mine = rows["swin3d_t: this trainer, fp32"]
    assert mine["times the original"] == pytest.approx(mine["clips/s"] / original["clips/s"])
    assert "swin3d_t: this trainer" in capsys.readouterr().out


@pytest.mark.slow
def test_recipe(drawn_clips, tmp_path, capsys):
    """A recipe is reported once both parts have made its runs, and no run is repeated."""
    flags = ["recipe", "--data_dir", str(drawn_clips), "--seconds", "0.3", "--seeds", "1", "--num_parts", "2"]
    flags += ["--output_dir", str(tmp_path / "runs")]
    main([*flags, "--part", "0"])
    assert "the original's" not in capsys.readouterr().out
    main([*flags, "--part", "1"])
    printed = capsys.readouterr().out
    assert "the original's" in printed
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == sorted(f"{arm}_1_{fold}.json" for arm in ("recipe", "original") for fold in range(5))
    results = [json.loads((tmp_path / "runs" / name).read_text()) for name in runs]
    assert sum(len(result["hits"]) for result in results) == 2 * 36  # each recipe tests every video once
    sources = [set(result["sources"]) for result in results[:5]]
    assert sum(map(len, sources)) == len(set().union(*sources))
    before = {name: (tmp_path / "runs" / name).stat().st_mtime_ns for name in runs}
    main([*flags, "--part", "0", "--save_json", str(tmp_path / "recipe.json")])
    assert {name: (tmp_path / "runs" / name).stat().st_mtime_ns for name in runs} == before
    rows = json.loads((tmp_path / "recipe.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["the recipe", "the original's"]
    assert all(0 <= row["top-1"] <= 1 for row in rows)


@pytest.mark.slow
def test_probe(trained, capsys):
    main(["probe", "--weights", str(trained), "--num_videos", "2", "3", "--num_clips", "48"])
    printed = capsys.readouterr().out.splitlines()
    [header] = [number for number, line in enumerate(printed) if line.lstrip().startswith("videos per class")]
    rows = printed[header + 1 :]
    assert [row.split()[0] for row in rows] == ["2", "2", "2", "3", "3", "3"]
    for row, way in zip(rows, ["probe", "fine-tuned from it", "from scratch"] * 2, strict=True):
        assert way in row
