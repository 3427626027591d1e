import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import test_model
from video_module import __version__
from video_module.data import dataset, leaks, records
from video_module.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from video_module.engine.evaluation import score_videos, score_views
from video_module.errors import InputError
from video_module.inference.predictor import load_predictor
from video_module.report.results import results_stem


@pytest.fixture(params=["trained", "exported"])
def model(request) -> Path:
    """The .pth and the .onnx file of one model."""
    return request.getfixturevalue(request.param)


def test_scores_do_not_depend_on_batches_and_workers(model, drawn_data):
    predictor = load_predictor(model, device="cpu")
    videos = records.load_videos(drawn_data / "test", num_workers=1)
    views = dataset.EvaluationViews(drawn_data / "test", videos, predictor.clip, dataset.Views(num_clips=2))

    def scores(*, batch_size: int, num_workers: int) -> np.ndarray:
        loader = dataset.EvaluationLoader(views, num_workers=num_workers)
        return score_videos(predictor.score_clips, loader, batch_size=batch_size).video_scores

    first = scores(batch_size=8, num_workers=0)
    assert np.array_equal(first, scores(batch_size=8, num_workers=2))
    for batch_size in (1, 5):
        assert np.allclose(first, scores(batch_size=batch_size, num_workers=0), rtol=0, atol=1e-5)


def test_batches_in_pinned_memory_score_alike(trained, drawn_data, monkeypatch):
    """Such batches are assembled in a thread while the network computes. The test only pretends to pin them."""
    predictor = load_predictor(trained, device="cpu")
    videos = records.load_videos(drawn_data / "test", num_workers=1)
    views = dataset.EvaluationViews(drawn_data / "test", videos, predictor.clip, dataset.Views(num_clips=2))
    loader = dataset.EvaluationLoader(views, num_workers=2)
    plain = score_views(predictor.score_clips, loader, batch_size=5)
    pinned, empty = [], torch.empty

    def pin(*size: int, pin_memory: bool, dtype: torch.dtype) -> torch.Tensor:
        pinned.append(pin_memory)
        return empty(*size, dtype=dtype)

    monkeypatch.setattr(torch, "empty", pin)
    score_clips = lambda clips: np.copy(clips.reshape(len(clips), -1)[:, :7])
    expected = score_views(score_clips, loader, batch_size=5)
    assert not pinned
    got = score_views(score_clips, loader, batch_size=5, pin_memory=True)
    assert pinned == [True] * -(-sum(map(len, plain)) // 5)
    assert all(np.array_equal(one, other) for one, other in zip(expected, got, strict=True))


def run(test_dir: Path, model: Path, output_dir: Path, *flags: str) -> dict:
    num_clips = () if "windows" in flags else ("--num_clips", "2")
    test_model.main(
        ["--test_dir", str(test_dir), "--checkpoint", str(model), "--output_dir", str(output_dir), "--device", "cpu"]
        + ["--num_workers", "0", *num_clips, "--num_crops", "1", *flags]
    )
    return json.loads((output_dir / f"{results_stem(model, None).name}_results.json").read_text())


def test_a_run_repeats_to_the_bit(model, drawn_data, tmp_path):
    first, second = (run(drawn_data / "test", model, tmp_path / name) for name in ("one", "two"))
    assert first | {"command": ""} == second | {"command": ""}
    tables = [
        (tmp_path / name / f"{results_stem(model, None).name}_predictions.csv").read_bytes() for name in ("one", "two")
    ]
    assert tables[0] == tables[1]


def test_intervals_of_unknown_recordings_are_said_to_be_narrow(exported, drawn_data, tmp_path):
    for number, path in enumerate(sorted((drawn_data / "test").rglob("*.avi"))):
        (tmp_path / "test" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "test" / path.parent.name / f"{number}.avi")
    note = run(tmp_path / "test", exported, tmp_path / "out")["interval_note"]
    assert note.endswith("the recordings are unknown: if videos share a recording, the intervals are too narrow")
    assert "unknown" not in run(drawn_data / "test", exported, tmp_path / "out")["interval_note"]


def test_earlier_results_are_not_replaced_in_silence(exported, drawn_data, tmp_path, capsys):
    run(drawn_data / "test", exported, tmp_path)
    assert "earlier test" not in capsys.readouterr().out
    with pytest.raises(InputError):
        run(drawn_data / "train", exported, tmp_path)
    assert "earlier test" not in capsys.readouterr().out  # what is refused replaces nothing
    run(drawn_data / "test", exported, tmp_path)
    expected = (
        "nano_onnx_results.json and the files beside it, from an earlier test, will be replaced once this test is "
        "done; use another --output"
    )
    assert expected in capsys.readouterr().out


def test_results_of_another_fold_are_not_replaced(exported, official_data, drawn_data, tmp_path):
    """One model on several folds: the name is the model's, and does not tell the fold."""
    run(official_data / "test", exported, tmp_path / "out")
    before = (tmp_path / "out" / "nano_onnx_results.json").read_bytes()
    path = official_data / "split.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fold": 3, "digest": "another"}))
    reason = r"nano_onnx_results\.json: holds the results of fold 2, and this is fold 3; use another --output_dir"
    with pytest.raises(InputError, match=reason):
        run(official_data / "test", exported, tmp_path / "out")
    assert (tmp_path / "out" / "nano_onnx_results.json").read_bytes() == before


def test_what_results_record(model, drawn_data, tmp_path, capsys):
    figures = run(drawn_data / "test", model, tmp_path)
    assert "no test video comes from a recording in the model's train and val splits" in capsys.readouterr().out
    record = json.loads((drawn_data / "split.json").read_text())
    assert (figures["split_digest"], figures["protocol"], figures["fold"]) == (record["digest"], "grouped", None)
    assert figures["train_overlap"] == {
        "num_sources": 0,
        "num_videos": 0,
        "num_clips": 0,
        "by_name_alone": False,
        "is_leak": False,
    }
    assert (figures["model"], figures["weights"], figures["num_sources"]) == ("swin3d_nano", "none", 1)
    training = figures["training"]
    counts = [training["num_train_videos"], training["num_val_videos"]]
    assert counts == [record["counts"]["train"], record["counts"]["val"]]
    assert (training["epoch"], training["settings"]["num_epochs"]) in {(1, 2), (2, 2)}
    assert training["program_version"] == figures["program_version"] == __version__
    with open(tmp_path / f"{results_stem(model, None).name}_predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    sources = {video["path"]: video["source"] for video in record["videos"]}
    assert {f"test/{row['video']}": row["source"] for row in rows}.items() <= sources.items()
    assert {row["label"] for row in rows} == set(figures["per_class"])


def test_a_lower_precision_is_recorded_and_shown(trained, drawn_data, tmp_path, capsys):
    figures = [run(drawn_data / "test", trained, tmp_path, *flags) for flags in ((), ("--precision", "bf16"))]
    assert [one["precision"] for one in figures] == ["fp32", "bf16"]
    assert "swin3d_nano, bf16 on cpu, 6 classes" in capsys.readouterr().out
    assert 0 < abs(figures[0]["log_loss"] - figures[1]["log_loss"]) < 0.05


def test_a_precision_that_cannot_be_had_is_refused(trained, exported, drawn_data, tmp_path):
    with pytest.raises(InputError, match=r"--precision bf16: .*nano\.onnx was set by its export"):
        run(drawn_data / "test", exported, tmp_path / "out", "--precision", "bf16")
    with pytest.raises(InputError, match="precision tf32 requires CUDA"):
        run(drawn_data / "test", trained, tmp_path / "out", "--precision", "tf32")
    assert not (tmp_path / "out").exists()


def test_windows_are_named_as_such(exported, drawn_data, tmp_path, capsys):
    """Windows are counted one by one, as in the original project."""
    windows = ["--sampling", "windows", "--clip_step", "3"]
    figures = run(drawn_data / "test", exported, tmp_path, *windows)
    printed = capsys.readouterr().out
    assert figures["window_top1"] == figures["clip_top1"]
    assert figures["num_clips"] > figures["num_videos"]
    rows = {line[2:52].strip(): line.split()[-1] for line in printed.splitlines() if line.startswith("  ")}
    assert rows["clip top-1 (per window, as the original counted)"] == f"{figures['window_top1']:.4f}"
    assert rows["mean class accuracy per window"] == f"{figures['window_mean_class_accuracy']:.4f}"
    assert "window_top1" not in run(drawn_data / "test", exported, tmp_path)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--sampling", "windows", "--num_clips", "4"], "--num_clips requires --sampling uniform"),
        (["--clip_step", "3"], "--clip_step requires --sampling windows"),
        (["--results", "a.json", "--test_dir", "t"], "--test_dir cannot be combined with --results"),
        (["--compare", "a.json", "--checkpoint", "t"], "--checkpoint cannot be combined with --compare"),
        (["--compare", "a.json", "--num_clips", "2"], "--num_clips cannot be combined with --compare"),
        (["--results", "a.json", "--report", "r.html"], "--report cannot be combined with --results"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(flags, reason, capsys):
    with pytest.raises(SystemExit) as end:
        test_model.parse_args(flags)
    assert end.value.code == 2
    # What runs no model has no use for a flag of testing one
    reason += ", which runs no model" if "combined" in reason else ""
    assert capsys.readouterr().err == f"error: {reason} (--help shows the flags)\n"


def test_four_clips_of_a_video_are_scored_where_none_is_asked_for():
    assert test_model.parse_args([]).num_clips == 4
    assert test_model.parse_args(["--num_clips", "1"]).num_clips == 1


# ---- leaks


def test_testing_on_training_videos_is_refused(model, drawn_data, tmp_path, capsys):
    reason = (
        r"train: 24 test videos come from 4 recordings in the model's train and val splits; "
        r"the model was trained or validated on 24 of them"
    )
    with pytest.raises(InputError, match=reason + "; .* or add --allow_leak"):
        run(drawn_data / "train", model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    figures = run(drawn_data / "train", model, tmp_path / "out", "--allow_leak")
    assert figures["train_overlap"] == {
        "num_sources": 4,
        "num_videos": 24,
        "num_clips": 24,
        "by_name_alone": False,
        "is_leak": True,
    }
    assert "leak (allowed): 24 test videos" in capsys.readouterr().out


def test_a_copy_elsewhere_is_the_same_video(exported, drawn_data, tmp_path, monkeypatch):
    """The copy lies in a folder without split.json, given by a relative path."""
    (tmp_path / "copy" / "sit").mkdir(parents=True)
    video = next((drawn_data / "train" / "sit").rglob("*.avi"))
    shutil.copy(video, tmp_path / "copy" / "sit")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"copy: 1 test video comes from 1 recording .* trained or validated on 1 of them"
    ):
        run(Path("copy"), exported, tmp_path)


def with_record(trained: Path, path: Path, **record: list[str]) -> Path:
    """Save the trained model as if it had been trained on other videos."""
    checkpoint = load_checkpoint(trained)
    save_checkpoint(path, Checkpoint(**{**vars(checkpoint), **record}))
    return path


@pytest.mark.parametrize("version", [1, 2])
def test_a_plain_folder_of_numbered_files_is_tested(trained, drawn_data, tmp_path, capsys, version):
    """The model was trained on sit/0001.avi; wave/0001.avi is another video."""
    hashed = leaks.hash_clip("sit/0001.avi") if version == 2 else hashlib.sha256(b"0001").hexdigest()[:12]
    sources = [leaks.hash_source("sit/0001.avi")]
    model = with_record(trained, tmp_path / "plain.pth", train_sources=sources, train_clips=[hashed])
    (tmp_path / "test" / "wave").mkdir(parents=True)
    shutil.copy(next((drawn_data / "test" / "wave").rglob("*.avi")), tmp_path / "test" / "wave" / "0001.avi")
    overlap = run(tmp_path / "test", model, tmp_path)["train_overlap"]
    assert (overlap["num_sources"], overlap["is_leak"]) == (0, False)
    told = "1 test videos have the same file names as videos in the model's train and val splits; they may be different"
    assert (told in capsys.readouterr().out) == (version == 1)


@pytest.fixture
def official_data(drawn_data, tmp_path) -> Path:
    """A copy of drawn_data that claims to be a fold of HMDB51."""
    shutil.copytree(drawn_data, tmp_path / "fold2")
    record = json.loads((drawn_data / "split.json").read_text())
    (tmp_path / "fold2" / "split.json").write_text(json.dumps(record | {"protocol": "hmdb51", "fold": 2}))
    return tmp_path / "fold2"


def test_official_folds_may_share_films_but_no_clip(trained, official_data, tmp_path, capsys):
    videos = records.load_videos(official_data / "test", num_workers=1)
    sources = sorted({leaks.hash_source(video.source) for video in videos})
    model = with_record(trained, tmp_path / "films.pth", train_sources=sources, train_clips=["0" * 11])
    figures = run(official_data / "test", model, tmp_path)
    assert (figures["protocol"], figures["fold"]) == ("hmdb51", 2)
    assert figures["train_overlap"] == {
        "num_sources": 1,
        "num_videos": 6,
        "num_clips": 0,
        "by_name_alone": False,
        "is_leak": False,
    }
    assert (
        "6 test videos come from 1 recording in the model's train and val splits; the model was trained or validated "
        "on 0 of them (official folds share recordings across classes)\n" in capsys.readouterr().out
    )
    model = with_record(
        trained, tmp_path / "clip.pth", train_sources=sources, train_clips=[leaks.hash_clip(videos[3].path)]
    )
    with pytest.raises(InputError, match="the model was trained or validated on 1 of them"):
        run(official_data / "test", model, tmp_path)


def test_files_that_record_less_still_load_and_say_so(trained, official_data, tmp_path, capsys):
    content = torch.load(trained, weights_only=True)
    del content["train_clips"]
    torch.save(content, tmp_path / "old.pth")
    assert run(official_data / "test", tmp_path / "old.pth", tmp_path)["train_overlap"]["num_clips"] is None
    model = with_record(trained, tmp_path / "none.pth", train_sources=[], train_clips=[])
    capsys.readouterr()
    assert run(official_data / "test", model, tmp_path)["train_overlap"] is None
    assert "none.pth does not record its training videos" in capsys.readouterr().out


# ---- input that cannot be tested


def test_an_empty_class_folder_is_named(exported, drawn_data, tmp_path):
    shutil.copytree(drawn_data / "test", tmp_path / "test")
    (tmp_path / "test" / "laugh").mkdir()
    with pytest.raises(InputError, match=r"test.laugh: no videos in this class folder"):
        run(tmp_path / "test", exported, tmp_path)


def test_a_class_that_the_model_does_not_know_is_named(exported, drawn_data, tmp_path):
    shutil.copytree(drawn_data / "test", tmp_path / "test")
    (tmp_path / "test" / "wave").rename(tmp_path / "test" / "greet")
    with pytest.raises(InputError, match=r"greet.*avi: class 'greet' .* not one of the 6 known .*jump, pull"):
        run(tmp_path / "test", exported, tmp_path)


def test_a_missing_video_is_named(exported, drawn_data, tmp_path):
    shutil.copytree(drawn_data, tmp_path / "data")
    video = next((tmp_path / "data" / "test").rglob("*.avi"))
    video.unlink()
    with pytest.raises(InputError, match=rf"{video.name}: listed in .*split\.json but missing"):
        run(tmp_path / "data" / "test", exported, tmp_path)


def test_absent_classes_are_told(exported, drawn_data, tmp_path, capsys):
    shutil.copytree(drawn_data / "test", tmp_path / "test")
    shutil.rmtree(tmp_path / "test" / "wave")
    figures = run(tmp_path / "test", exported, tmp_path)
    assert figures["per_class"]["wave"]["support"] == 0
    assert "1 of 6 classes have no test video" in capsys.readouterr().out


def test_scores_that_are_no_numbers_stop_the_run(trained, drawn_data, tmp_path):
    checkpoint = load_checkpoint(trained)
    checkpoint.weights["head.bias"] = torch.full_like(checkpoint.weights["head.bias"], float("nan"))
    save_checkpoint(tmp_path / "nan.pth", checkpoint)
    with pytest.raises(InputError, match=r"nan\.pth: the scores are not finite"):
        run(drawn_data / "test", tmp_path / "nan.pth", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["nan.pth"]
