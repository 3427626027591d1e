"""`test_model.py --results` on made results with known answers."""

import json
from pathlib import Path

import numpy as np
import pytest

import test_model
from video_module.errors import InputError
from video_module.report import metrics, results

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
        "checkpoint_digest": f"checkpoint{fold}",
        "training": training(),
        **changes,
    }


def training(num_train: int = 2856, num_val: int = 714, **settings) -> dict:
    """What a fold's results record of the model's training."""
    return {
        "num_train_videos": num_train,
        "num_val_videos": num_val,
        "epoch": 21,
        "program_version": "0.2.0",
        "settings": {"num_epochs": 30, "augment": "light", "seed": 777, "lr": 0.001, **settings},
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
    assert "percent (± sample standard deviation of the three folds: their spread, not an error bar)" in printed
    assert "mean of the 3 official splits, 4 clips x 3 crops" in printed
    for published in ("51.6", "74.5", "74.8", "80.9", "73.3", "76.4-79.7", "88.1"):
        assert published in printed
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
        ({"protocol": "grouped", "fold": None}, "these for protocol grouped"),
        ({"protocol": "ucf101"}, "these for protocol ucf101"),
        ({"num_videos": 1529}, "fold 1 was tested on 1,529 of its 1,530 test videos"),
        ({"train_overlap": {"is_leak": True, "num_clips": 3}}, "fold 1 was tested with --allow_leak"),
        ({"train_overlap": None}, "the training videos of folds 1, 2 and 3 are unknown"),
        ({"training": training(1767, 455)}, "fold 1 was trained on 2,222 of its 3,570 training videos"),
    ],
)
def test_other_rows_stand_alone_and_say_why(write, capsys, changes, reason):
    test_model.main(["--results", *write(*(result(fold, 0.7) | changes for fold in (1, 2, 3)))])
    printed = capsys.readouterr().out
    assert "0.7000  0.0000" in printed
    assert "not comparable with published numbers" in printed
    assert reason in printed
    assert "VideoMAE" not in printed


def combined(paths: list[str], folder: Path) -> dict:
    test_model.main(["--results", *paths, "--output_dir", str(folder)])
    return json.loads((folder / "folds.json").read_text())  # the results are not named after folds


def test_leaks_that_cannot_be_detected_are_not_called_none(write, tmp_path, capsys):
    """Of weights of unknown origin, and of official folds whose model file records sources without clips."""
    no_clips = {"num_sources": 150, "num_videos": 457, "num_clips": None, "is_leak": False}
    results = [result(1, 0.7), result(2, 0.7, train_overlap=None), result(3, 0.7, train_overlap=no_clips)]
    assert combined(write(*results), tmp_path)["leaks"] == ["none", "unknown", "unknown"]
    told = "leaks unknown: folds 2 and 3 (their model files do not record the training videos)"
    assert told in capsys.readouterr().out
    leaking = {"num_sources": 150, "num_videos": 457, "num_clips": 5, "is_leak": True}
    results[1] = result(2, 0.7, train_overlap=leaking)
    assert combined(write(*results), tmp_path)["leaks"] == ["none", "allowed", "unknown"]
    printed = capsys.readouterr().out
    assert "fold 2 was tested with --allow_leak on videos its model was trained on" in printed
    assert "leaks unknown: fold 3 (its model file does not record the training videos)" in printed


@pytest.mark.parametrize(
    ("of_third", "warning"),
    [
        (training(num_epochs=8, augment="none", seed=1), "num_epochs 30, 30, 8; augment light, light, none"),
        (training(3570, 0), "validation share 20%, 20%, 0%"),
        (training() | {"program_version": "0.3.0"}, "program_version 0.2.0, 0.2.0, 0.3.0"),
        (training(class_weights=[1.0, 2.0]), "class_weights"),
        (training(mixup=0.8), "mixup not recorded, not recorded, 0.8"),
        (training(2850, 720, seed=1, batch_size=4, C=0.1), None),
        (None, "how the model of fold 3 was trained is unknown"),
    ],
)
def test_folds_of_different_recipes_are_marked(write, tmp_path, capsys, of_third, warning):
    results = [result(fold, 0.7, training=training()) for fold in (1, 2, 3)]
    results[2]["training"] = of_third
    together = combined(write(*results), tmp_path)
    expected = [] if warning is None else [warning]
    if of_third:
        expected = [f"settings differ between the folds: {text}" for text in expected]
    assert together["warnings"] == expected
    printed = capsys.readouterr().out
    assert all(f"warning: {text}" in printed for text in expected)
    assert ("warning" in printed) == bool(expected)
    # The settings are those that all folds share
    names = {text.partition(" ")[0] for text in (warning or "").split("; ")}
    assert not names & set(together["training"]["settings"])


def test_the_summary_holds_what_to_state_with_the_number(write, tmp_path, capsys):
    accuracies = [dict.fromkeys(CLASSES, 0.5) | {"class 0": recall} for recall in (0.2, 0.4, 0.9)]
    results = [
        result(fold, 0.7, per_class_accuracy=row, training=training(seed=fold))
        for fold, row in zip((1, 2, 3), accuracies, strict=True)
    ]
    together = combined(write(*results), tmp_path)
    assert together["training"] == {
        "num_train_videos": [2856] * 3,
        "num_val_videos": [714] * 3,
        "epoch": [21] * 3,
        "epoch_chosen_by": "validation videos",
        "program_version": ["0.2.0"] * 3,
        "seed": [1, 2, 3],
        "settings": {"num_epochs": 30, "augment": "light", "lr": 0.001},
    }
    assert together["clip"] == {"num_frames": 32, "crop": 224}
    assert together["sd"] == "sample standard deviation over the folds (n - 1)"
    assert (together["comparable_with_published"], together["not_comparable_because"]) == (True, None)
    assert together["per_class_accuracy"]["class 0"] == {
        "mean": pytest.approx(0.5),
        "sd": pytest.approx(0.36056, abs=1e-5),
        "values": [0.2, 0.4, 0.9],
    }
    assert "trained for 30 epochs on 2,856 videos; 714 others chose the epoch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("records", "chosen_by", "told"),
    [
        ([training(3570, 0)] * 3, "last epoch", "trained for 30 epochs on 3,570 videos; the last epoch was kept"),
        (
            [training(), training(2857, 713), training()],
            "validation videos",
            "trained for 30 epochs on 2,856 / 2,857 / 2,856 videos; 714 / 713 / 714 others chose the epoch",
        ),
        ([training(probe=True)] * 3, None, "last layer fitted to 3,570 videos"),
        ([training(None, None)] * 3, None, "trained for 30 epochs; the number of training videos is not recorded"),
        ([None] * 3, None, "how the models of folds 1, 2 and 3 were trained is unknown"),
    ],
)
def test_how_the_epoch_was_chosen_is_told(write, tmp_path, capsys, records, chosen_by, told):
    results = [result(fold, 0.7, training=record) for fold, record in zip((1, 2, 3), records, strict=True)]
    assert combined(write(*results), tmp_path)["training"]["epoch_chosen_by"] == chosen_by
    assert told in capsys.readouterr().out


def test_the_verdict_is_in_the_summary(write, tmp_path):
    together = combined(write(*(result(fold, 0.7, num_videos=150) for fold in (1, 2, 3))), tmp_path)
    assert together["comparable_with_published"] is False
    assert together["not_comparable_because"] == "fold 1 was tested on 150 of its 1,530 test videos"


def test_a_class_without_test_videos_in_a_fold_is_averaged_over_the_others(write, tmp_path):
    rows = [dict.fromkeys(CLASSES, 0.5) | {"class 0": recall} for recall in (None, 0.4, 0.6)]
    results = [result(fold, 0.7, per_class_accuracy=row) for fold, row in zip((1, 2, 3), rows, strict=True)]
    found = combined(write(*results), tmp_path)["per_class_accuracy"]["class 0"]
    assert (found["mean"], found["values"]) == (pytest.approx(0.5), [None, 0.4, 0.6])
    results[1]["per_class_accuracy"]["class 0"] = None
    assert combined(write(*results), tmp_path)["per_class_accuracy"]["class 0"]["sd"] is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x_fold1", "x_fold2"], "x_folds"),
        (["x_fold1_onnx", "x_fold2_onnx"], "x_folds_onnx"),
        (["x_fold1", "x_fold2_onnx"], "folds"),
        (["one", "two"], "folds"),
    ],
)
def test_a_summary_is_named_after_its_folds(tmp_path, capsys, names, expected):
    paths = []
    for fold, name in enumerate(names, start=1):
        paths.append(tmp_path / f"{name}_results.json")
        paths[-1].write_text(json.dumps(result(fold, 0.7)))
    flags = ["--results", *map(str, paths), "--output_dir", str(tmp_path / "out")]
    test_model.main(flags)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{expected}.json"]
    assert "replaced" not in capsys.readouterr().out
    test_model.main(flags)
    assert f"note: replaced {tmp_path / 'out' / expected}.json of an earlier summary" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x_folds.json", "the summary of several results; pass these one by one"),
        ("x_fold1.pth", "x_fold1.pth: not a results file of test_model.py; expected X_results.json"),
    ],
)
def test_one_file_of_another_kind_is_named(tmp_path, name, reason):
    (tmp_path / name).write_bytes(b'{"figures": {}}')
    with pytest.raises(InputError, match=reason):
        test_model.main(["--results", str(tmp_path / name)])


def test_a_model_without_pretraining_says_so(write, capsys):
    test_model.main(["--results", *write(*(result(fold, 0.2, weights="none") for fold in (1, 2, 3)))])
    assert "swin3d_b from scratch (here)" in capsys.readouterr().out


def test_two_of_the_three_folds_stand_alone(write, capsys):
    test_model.main(["--results", *write(result(3, 0.7), result(1, 0.8))])
    printed = capsys.readouterr().out
    assert "VideoMAE" not in printed
    assert "means of folds 1, 2 and 3, this one of 1 and 3" in printed


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
        (
            {"split_digest": "digest1", "fold": 2},
            "run0_results.json and .*run1_results.json are both results of split digest1",
        ),
        ({"fold": 1}, "are both results of fold 1; pass each fold once"),
        (
            {"checkpoint_digest": "checkpoint1"},
            "run0_results.json and .*run1_results.json are results of one model, checkpoint1; each fold needs its own",
        ),
        ({"split_digest": None}, "run1_results.json: tested on a folder without split.json"),
    ],
)
def test_what_does_not_mix_is_refused(write, changes, reason):
    with pytest.raises(InputError, match=reason):
        test_model.main(["--results", *write(result(1, 0.7), result(2, 0.7) | changes)])


def test_the_same_file_twice_is_refused(write):
    path = write(result(1, 0.7))[0]
    with pytest.raises(InputError, match="pass each fold once"):
        test_model.main(["--results", path, path])
    with pytest.raises(InputError, match="at least two folds, got 1"):
        test_model.main(["--results", path])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no json", "not a results file"),
        ("[1]", "not a results file"),
        ('{"figures": {}}', "the summary of several results; pass these one by one, as X_fold1_results.json"),
        ('{"video_top1": 0.5}', "not a results file of test_model.py .KeyError.'video_top5'"),
        ("old", "written by an older version, without protocol; run test_model.py again"),
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


def write_folds(folder: Path, *, num_folds: int = 5, only: tuple[int, ...] = (), **changes) -> list[str]:
    """Results of a cross-validation of 100 videos of two classes, five of each source.

    Every third video is taken for the other class. Fold 1 tests eight sources, the others three each.
    """
    fold_of = [1] * 8 + [2 + number // 3 for number in range(12)]
    paths = []
    for fold in only or range(1, num_folds + 1):
        own = [number for number in range(100) if fold_of[number // 5] == fold]
        labels = np.array([number % 2 for number in own])
        best = np.array([label ^ (number % 3 == 0) for number, label in zip(own, labels, strict=True)])
        scores = np.where(np.eye(2)[best] > 0, 0.8, 0.2)
        sources = [f"cam {number // 5}" for number in own]
        figures = metrics.summarise([row[None] for row in scores], scores, labels, ["run", "wave"], sources=sources)
        recorded = result(fold, figures["video_top1"], protocol="grouped", num_folds=num_folds, folds_digest="all five")
        kept = {key: value for key, value in recorded.items() if key not in figures}
        written = results.write_results(
            folder / f"x_fold{fold}",
            figures | kept | changes,
            paths=[f"{('run', 'wave')[number % 2]}/{number}.avi" for number in own],
            sources=sources,
            labels=labels,
            video_scores=scores,
            class_names=["run", "wave"],
        )
        paths.append(str(written[0]))
    return paths


def test_folds_that_test_every_video_once_are_pooled(tmp_path, capsys):
    test_model.main(["--results", *write_folds(tmp_path), "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    pooled = json.loads((tmp_path / "x_folds.json").read_text())["pooled"]
    assert pooled["video_top1"] == pytest.approx(0.66)  # 34 of 100 are wrong, whatever folds they are in
    assert pooled["mean_class_accuracy"] == pytest.approx(0.66)
    assert pooled["log_loss"] == pytest.approx(0.66 * -np.log(0.8) + 0.34 * -np.log(0.2), abs=1e-6)
    assert (pooled["num_videos"], pooled["num_sources"]) == (100, 20)
    assert pooled["per_class"]["run"] == {"precision": 0.66, "recall": 0.66, "f1": 0.66, "support": 50}
    low, high = pooled["intervals"]["video_top1"]
    # Of five videos in a row one or two are wrong, so the sources differ little
    assert 0.6 < low < 0.65 < 0.67 < high < 0.72
    assert "clip_top1" not in pooled
    rows = {line[2:25].strip(): line.split() for line in printed.splitlines()}
    top1 = rows["video top-1"]
    assert top1[2:5] == ["0.6600", f"[{low:.4f},", f"{high:.4f}]"]
    folds = [float(cell) for cell in top1[7:]]
    assert len(folds) == 5
    assert float(top1[5]) == pytest.approx(np.mean(folds), abs=1e-4)
    assert rows["videos"][1:] == ["100", "40", "15", "15", "15", "15"]
    assert len(rows["clip top-1"]) == 2 + 2 + 5  # its mean and deviation, and no pooled one
    assert "most confused: run as wave (17 of 50), wave as run (17 of 50)" in printed
    assert "missing" not in printed
    written = [tmp_path / f"x_folds{end}" for end in (".json", "_confusion.csv", "_confusion.png")]
    assert printed.splitlines()[-3:] == [f"  {path}" for path in written]
    assert written[1].read_text().split() == ["label", "\\", "prediction,run,wave", "run,33,17", "wave,17,33"]
    assert written[2].read_bytes().startswith(b"\x89PNG")


def test_pooled_folds_say_which_are_missing(tmp_path, capsys):
    test_model.main(["--results", *write_folds(tmp_path, only=(1, 3, 4))])
    assert "2 folds of 5 missing: 2, 5" in capsys.readouterr().out


def test_folds_of_official_protocols_are_not_pooled(write, tmp_path):
    """Their test sides overlap, and published numbers are means; so no predictions are needed either."""
    paths = write(result(1, 0.74), result(2, 0.72), result(3, 0.76))
    test_model.main(["--results", *paths, "--output_dir", str(tmp_path)])
    assert json.loads((tmp_path / "folds.json").read_text())["pooled"] is None
    assert not list(tmp_path.glob("*_confusion.*"))


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda folder: (folder / "x_fold2_predictions.csv").unlink(), "x_fold2_predictions.csv: no such file"),
        (
            lambda folder: (folder / "x_fold3_predictions.csv").write_bytes(
                (folder / "x_fold2_predictions.csv").read_bytes()
            ),
            "is tested in two folds",
        ),
        (lambda folder: write_folds(folder, only=(2,), folds_digest="others"), "folds_digest all five and others"),
        (lambda folder: write_folds(folder, only=(2,), num_folds=6), "cannot be combined: num_folds 5 and 6"),
        (lambda folder: edit(folder / "x_fold2_predictions.csv", "0.8", "x"), "could not convert string to float"),
        (lambda folder: edit(folder / "x_fold2_predictions.csv", ",wave\n", ",jump\n"), "from a different run than"),
    ],
)
def test_what_cannot_be_pooled_is_refused(tmp_path, break_it, reason):
    paths = write_folds(tmp_path)
    break_it(tmp_path)
    with pytest.raises(InputError, match=reason):
        test_model.main(["--results", *paths])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_equal_scores_are_pooled_as_they_were_predicted(tmp_path):
    """Six digits of the table do not tell which of two classes is ahead; the prediction does."""
    paths = write_folds(tmp_path)
    for path in tmp_path.glob("*_predictions.csv"):
        edit(path, "0.800000", "0.500000")
        edit(path, "0.200000", "0.500000")
    test_model.main(["--results", *paths, "--output_dir", str(tmp_path)])
    assert json.loads((tmp_path / "x_folds.json").read_text())["pooled"]["video_top1"] == pytest.approx(0.66)
