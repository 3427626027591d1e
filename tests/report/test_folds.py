"""`test_model.py --results` on made results with known answers."""

import json
from pathlib import Path

import pytest

import test_model
from video_module.errors import InputError

CLASSES = [f"class {number}" for number in range(51)]


def result(fold: int, top1: float, **changes) -> dict:
    """The X_results.json of a fold, as far as it is read."""
    figures = dict.fromkeys(
        ("video_top5", "clip_top1", "mean_class_accuracy", "macro_f1", "log_loss", "ece"), fold / 10
    )
    return {
        "video_top1": top1,
        **figures,
        "per_class_accuracy": dict.fromkeys(CLASSES, 0.5),
        "num_videos": 1530,
        "num_sources": 300,
        "views": {"sampling": "uniform", "num_clips": 4, "num_crops": 3},
        "clip": {"num_frames": 32, "crop": 224},
        "split_digest": f"digest{fold}",
        "protocol": "hmdb51",
        "fold": fold,
        "train_overlap": {"num_sources": 150, "num_videos": 457, "num_clips": 0, "is_leak": False},
        "model": "swin3d_b",
        "weights": "KINETICS400_V1",
        "precision": "fp32",
        "split": "test",
        **changes,
    }


@pytest.fixture
def write(tmp_path):
    def write(*results: dict) -> list[str]:
        paths = [tmp_path / f"run{number}_results.json" for number in range(len(results))]
        for path, content in zip(paths, results, strict=True):
            path.write_text(json.dumps(content))
        return list(map(str, paths))

    return write


def test_three_official_folds_stand_beside_the_published(write, tmp_path, capsys):
    paths = write(result(1, 0.74), result(3, 0.76), result(2, 0.72))
    test_model.main(["--results", *paths, "--output_dir", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    lines = {line.split("  ")[1].strip(): line for line in printed.splitlines() if line.startswith("  ")}
    assert lines["video top-1"].split()[2:] == ["0.7400", "0.0200", "0.7400", "0.7600", "0.7200"]
    assert lines["log-loss"].split()[1:3] == ["0.2000", "0.1000"]
    assert "74.0 ± 2.0" in printed
    assert "mean of the 3 official splits, 4 clips x 3 crops" in printed
    for published in ("51.6", "74.5", "74.8", "80.9", "73.3", "76.4-79.7", "88.1"):
        assert published in printed
    assert lines["R3D-50 from scratch"].endswith("official split 1 alone")
    written = json.loads((tmp_path / "out" / "folds.json").read_text())
    assert written["folds"] == [1, 3, 2]
    assert written["figures"]["video_top1"] == {
        "mean": pytest.approx(0.74),
        "sd": pytest.approx(0.02),
        "values": [0.74, 0.76, 0.72],
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": "grouped", "fold": None}, "these of protocol grouped"),
        ({"protocol": "ucf101"}, "these of protocol ucf101"),
        ({"num_videos": 1529}, "fold 1 was tested on 1,529 of its 1,530 videos"),
        ({"train_overlap": {"is_leak": True}}, "run0_results.json was tested with --allow_leak"),
    ],
)
def test_other_rows_stand_alone_and_say_why(write, capsys, changes, reason):
    test_model.main(["--results", *write(*(result(fold, 0.7) | changes for fold in (1, 2, 3)))])
    printed = capsys.readouterr().out
    assert "0.7000   0.0000" in printed
    assert "not comparable with published numbers" in printed
    assert reason in printed
    assert "VideoMAE" not in printed


def test_a_model_without_pretraining_says_so(write, capsys):
    test_model.main(["--results", *write(*(result(fold, 0.2, weights="none") for fold in (1, 2, 3)))])
    assert "swin3d_b from scratch (here)" in capsys.readouterr().out


def test_two_of_the_three_folds_stand_alone(write, capsys):
    test_model.main(["--results", *write(result(3, 0.7), result(1, 0.8))])
    printed = capsys.readouterr().out
    assert "VideoMAE" not in printed
    assert "means of folds 1, 2 and 3, these of 1 and 3" in printed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "swin3d_t"}, "model swin3d_b and swin3d_t"),
        ({"weights": "none"}, "weights KINETICS400_V1 and none"),
        ({"precision": "int8"}, "precision fp32 and int8"),
        ({"split": "val"}, "split test and val"),
        ({"views": {"sampling": "uniform", "num_clips": 12, "num_crops": 3}}, r"views \{'num_clips': 4\} and \{'num_"),
        ({"views": {"sampling": "windows", "clip_step": 8, "num_crops": 1}}, "views "),
        ({"clip": {"num_frames": 16, "crop": 224}}, r"clip \{'num_frames': 32\} and \{'num_frames': 16\}"),
        ({"per_class_accuracy": {**dict.fromkeys(CLASSES[1:]), "run": 1}}, r"classes \['class 0'\] and \['run'\]"),
        ({"per_class_accuracy": dict.fromkeys(CLASSES[::-1])}, "in another order"),
        ({"protocol": "ucf101"}, "protocol hmdb51 and ucf101"),
        ({"split_digest": "digest1", "fold": 2}, "run0_results.json and .*run1_results.json are both of split digest1"),
        ({"fold": 1}, "are both of fold 1: a fold counts once"),
        ({"split_digest": None}, "run1_results.json: tested on a folder that no split.json describes"),
    ],
)
def test_what_does_not_mix_is_refused(write, changes, reason):
    with pytest.raises(InputError, match=reason):
        test_model.main(["--results", *write(result(1, 0.7), result(2, 0.7) | changes)])


def test_the_same_file_twice_is_refused(write):
    path = write(result(1, 0.7))[0]
    with pytest.raises(InputError, match="a fold counts once"):
        test_model.main(["--results", path, path])
    with pytest.raises(InputError, match="at least two folds, got 1"):
        test_model.main(["--results", path])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no json", "not a results file"),
        ("[1]", "not a results file"),
        ('{"video_top1": 0.5}', "not a results file of test_model.py .KeyError.'video_top5'"),
        ("old", "records no protocol, as older versions did; run test_model.py again"),
    ],
)
def test_files_that_are_no_results(write, tmp_path, content, reason):
    if content == "old":
        content = json.dumps({key: value for key, value in result(2, 0.7).items() if key != "protocol"})
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(InputError, match=reason):
        test_model.main(["--results", *write(result(1, 0.7)), str(tmp_path / "bad.json")])


def test_results_need_no_model_and_write_nothing_unasked(write, tmp_path):
    paths = write(result(1, 0.7), result(2, 0.8))
    before = sorted(tmp_path.iterdir())
    test_model.main(["--results", *paths])
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(SystemExit):
        test_model.parse_args(["--results", *paths, "--compare", *paths])
    assert not Path("swin3d_b.pth").exists()
