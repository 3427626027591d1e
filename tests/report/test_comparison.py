"""`test_model.py --compare` on made results with known answers."""

import json
from pathlib import Path

import numpy as np
import pytest

import test_model
from video_module.errors import InputError
from video_module.report import metrics, results

CLASSES = ["run", "wave"]
LABELS = np.repeat([0, 1], 12)
SOURCES = [f"film {number // 2 % 6}" for number in range(24)]  # six films, two clips of each class
PATHS = [f"{CLASSES[label]}/clip {number}, cut.avi" for number, label in enumerate(LABELS)]


def write_run(stem: Path, wrong: set[int], order=slice(None), **changes) -> Path:
    """Results and predictions of a model that is wrong on the given videos, of all videos in `order` or of some."""
    best = np.array([1 - label if number in wrong else label for number, label in enumerate(LABELS)])
    scores = np.where(np.eye(2)[best] > 0, 0.8, 0.2)
    paths, sources = np.array(PATHS)[order].tolist(), np.array(SOURCES)[order].tolist()
    rows = [row[None] for row in scores[order]]
    figures = metrics.summarise(rows, scores[order], LABELS[order], CLASSES, sources=sources)
    recorded = {
        "views": {"sampling": "uniform", "num_clips": 4, "num_crops": 3},
        "clip": {},
        "split_digest": "digest",
        "protocol": "grouped",
        "fold": None,
        "train_overlap": None,
        "model": stem.name,
        "weights": "none",
        "precision": "fp32",
        "split": "test",
    }
    stem.parent.mkdir(exist_ok=True)
    written = results.write_results(
        stem,
        figures | recorded | changes,
        paths=paths,
        sources=sources,
        labels=LABELS[order],
        video_scores=scores[order],
        class_names=CLASSES,
    )
    return written[0]


@pytest.fixture
def compare(tmp_path, capsys):
    def compare(*paths: Path) -> tuple[dict, str]:
        flags = ["--output_dir", str(tmp_path / "out")]
        test_model.main(["--compare", *map(str, paths), *flags])
        [written] = (tmp_path / "out").iterdir()
        content = json.loads(written.read_text())
        written.unlink()
        compare.written = written.name
        return content, capsys.readouterr().out

    return compare


def test_a_case_done_by_hand(compare, tmp_path):
    """The first is wrong on 0, 1, 2, 3, 4, 12, 13, the second on 4 and 14, in another order of videos."""
    first = write_run(tmp_path / "one", {0, 1, 2, 3, 4, 12, 13})
    second = write_run(tmp_path / "two", {4, 14}, order=slice(None, None, -1))
    compared, printed = compare(first, second)
    figures = compared["figures"]
    assert figures["video_top1"]["difference"] == pytest.approx(5 / 24)
    assert figures["mean_class_accuracy"]["difference"] == pytest.approx((4 / 12 + 1 / 12) / 2)
    assert [row["video"] for row in compared["better"]] == [PATHS[number] for number in (0, 1, 2, 3, 12, 13)]
    assert compared["worse"] == [
        {"video": PATHS[14], "label": "wave", "first": "wave", "second": "run", "source": SOURCES[14]}
    ]
    assert compared["mcnemar"] == {"num_first_only": 1, "num_second_only": 6, "p_value": 2 * (1 + 7) / 2**7}
    # by film: film 0 gains 4 of its 4, film 1 gains 2 and loses 1, the other four change nothing
    gains = np.array([4, 1, 0, 0, 0, 0]) / 4
    draws = np.random.default_rng(5).integers(6, size=(5000, 6))
    low, high = np.percentile(gains[draws].mean(axis=1), [2.5, 97.5])
    assert figures["video_top1"]["interval"] == pytest.approx([low, high], abs=0.05)
    assert "better in the second (6)" in printed
    assert f"{PATHS[14]}: wave -> run" in printed
    assert "+0.2083" in printed
    assert "only 6 recordings" in printed
    assert "views differ" not in printed
    assert "difference: second minus first" in printed
    assert compare.written == "one_vs_two.json"


def test_the_other_way_round_is_the_negative(compare, tmp_path):
    first, second = write_run(tmp_path / "one", {0, 1, 5, 14}), write_run(tmp_path / "two", {4, 14, 20})
    there, back = compare(first, second)[0], compare(second, first)[0]
    for key, figure in there["figures"].items():
        assert figure["difference"] == -back["figures"][key]["difference"]
        assert figure["interval"] == pytest.approx([-end for end in reversed(back["figures"][key]["interval"])])
    assert there["better"] == [{**row, "first": row["second"], "second": row["first"]} for row in back["worse"]]
    assert there["mcnemar"]["p_value"] == back["mcnemar"]["p_value"]


def test_a_model_against_itself(compare, tmp_path):
    path = write_run(tmp_path / "one", {0, 5})
    compared, printed = compare(path, path)
    assert compared["figures"]["video_top1"] == {
        "first": 22 / 24,
        "second": 22 / 24,
        "difference": 0.0,
        "interval": None,
    }
    assert compared["mcnemar"]["p_value"] == 1.0
    assert "does not make them certain" in printed


def test_other_views_are_told(compare, tmp_path):
    views = {"sampling": "windows", "clip_step": 7, "num_crops": 1}
    first, second = write_run(tmp_path / "one", {0}), write_run(tmp_path / "two", {1}, views=views)
    told = "the views differ (4 clips x 3 crops; windows every 7 frames x 1 crop), so the difference may be due to "
    assert f"{told}the models, the views or both" in compare(first, second)[1]
    first = write_run(tmp_path / "one", {0}, checkpoint_digest="same")
    second = write_run(tmp_path / "two", {1}, views=views, checkpoint_digest="same")
    assert "so the difference is due to the views" in compare(first, second)[1]


def test_long_lists_are_cut_on_screen_only(compare, tmp_path):
    first, second = write_run(tmp_path / "one", set(range(13))), write_run(tmp_path / "two", set())
    compared, printed = compare(first, second)
    assert len(compared["better"]) == 13
    assert "… and 3 more" in printed


@pytest.mark.parametrize("digests", [("digest", "other"), ("digest", None), (None, None)])
def test_the_test_videos_must_agree_and_not_the_split(compare, tmp_path, digests):
    """The rest of the split is what each model was trained on, with --val_fraction 0, for example."""
    paths = [
        write_run(tmp_path / name, {0}, split_digest=digest)
        for name, digest in zip(("one", "two"), digests, strict=True)
    ]
    compared, printed = compare(*paths)
    assert compared["figures"]["video_top1"]["difference"] == 0
    assert [compared[name]["split_digests"] for name in ("first", "second")] == [[digest] for digest in digests]
    assert "trained on" not in printed


def test_different_numbers_of_training_videos_are_told(compare, tmp_path):
    def trained_on(num_train: int, num_val: int) -> dict:
        counts = {"num_train_videos": num_train, "num_val_videos": num_val}
        return {"training": counts | {"epoch": 3, "program_version": "0.2.0", "settings": {}}}

    first = write_run(tmp_path / "one", {0}, **trained_on(280, 70))
    second = write_run(tmp_path / "two", {0}, split_digest="other", **trained_on(350, 0))
    compared, printed = compare(first, second)
    assert "the first was trained on 280 videos, the second on 350" in printed
    assert (compared["first"]["num_train_videos"], compared["second"]["num_val_videos"]) == ([280], [0])
    assert "trained on" not in compare(first, first)[1]


def edit(path: Path, old: str, new: str) -> None:
    table = path.with_name(path.name.replace("_results.json", "_predictions.csv"))
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


def test_predictions_that_do_not_fit_are_refused(compare, tmp_path):
    first, second = write_run(tmp_path / "one", {0}), write_run(tmp_path / "two", {1})
    edit(second, PATHS[3], "run/another.avi")
    with pytest.raises(InputError, match=r"were scored on different videos; only one of them has run/another\.avi"):
        compare(first, second)
    edit(second, "run/another.avi", PATHS[3])
    edit(second, f'"{PATHS[3]}",run,run', f'"{PATHS[3]}",wave,wave')
    with pytest.raises(InputError, match=r"clip 3, cut\.avi: .*one_results\.json labels it run, .* wave"):
        compare(first, second)
    write_run(tmp_path / "other", {1, 2})
    (tmp_path / "other_predictions.csv").rename(tmp_path / "two_predictions.csv")
    with pytest.raises(InputError, match=r"two_predictions\.csv: from a different run than .*two_results\.json"):
        compare(first, second)
    (tmp_path / "two_predictions.csv").write_text("video,label,prediction,score,run,wave\n")
    with pytest.raises(InputError, match="not a table with the columns video, label, prediction, score, source"):
        compare(first, second)
    (tmp_path / "two_predictions.csv").write_text("")
    with pytest.raises(InputError, match="not a table with the columns"):
        compare(first, second)
    (tmp_path / "two_predictions.csv").unlink()
    with pytest.raises(InputError, match=r"two_predictions\.csv: no such file"):
        compare(first, second)
    second.rename(tmp_path / "two.json")
    with pytest.raises(InputError, match=r"two\.json: expected a file named X_results\.json"):
        compare(first, tmp_path / "two.json")


# ---- two models over several folds

# Which films each official fold tests: they overlap.
FILMS = {1: (0, 1, 2, 3), 2: (2, 3, 4, 5), 3: (0, 2, 4, 5)}


def write_folds(stem: Path, wrong: set[int], *, folds: tuple[int, ...] = (1, 2, 3), **changes) -> list[Path]:
    paths = []
    for fold in folds:
        tested = [number for number in range(24) if number // 2 % 6 in FILMS[fold]]
        own = {"protocol": "hmdb51", "fold": fold, "split_digest": f"{stem.name} {fold}", "model": "swin3d_nano"}
        own |= {"checkpoint_digest": f"{stem.name} {fold}"}
        paths.append(write_run(stem.with_name(f"{stem.name}_fold{fold}"), wrong, tested, **own | changes))
    return paths


def test_two_models_are_compared_over_folds(compare, tmp_path):
    """Fold by fold, in whichever order, with one interval for the mean: a film counts alike in all folds."""
    wrong = {0, 1, 2, 4, 8, 12, 13}
    first = write_folds(tmp_path / "one", wrong)
    second = write_folds(tmp_path / "two", {4, 14})
    compared, printed = compare(*first, *second[::-1])
    gains = np.array([(number in wrong) - (number in {4, 14}) for number in range(24)])
    film = np.arange(24) // 2 % 6
    by_fold = [np.mean([gain for gain, one in zip(gains, film, strict=True) if one in FILMS[fold]]) for fold in FILMS]
    figure = compared["figures"]["video_top1"]
    assert figure["difference"] == pytest.approx(np.mean(by_fold)) == pytest.approx(figure["second"] - figure["first"])
    assert [row["difference"] for row in compared["folds"]] == pytest.approx(by_fold)
    assert [row["fold"] for row in compared["folds"]] == [1, 2, 3]
    assert [row["results"][1] for row in compared["folds"]] == list(map(str, second))
    draws = np.random.default_rng(5).integers(6, size=(5000, 6))
    weights = np.stack([np.bincount(row, minlength=6) for row in draws])
    sums = np.stack([gains[film == one].sum() for one in range(6)])
    means = []
    for row in weights:
        shares = [
            (row * sums)[list(films)].sum() / (4 * row[list(films)].sum())
            for films in FILMS.values()
            if row[list(films)].sum()
        ]
        means.append(np.mean(shares))
    assert figure["interval"] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.05)
    assert compared["mcnemar"] is None
    assert (compared["num_videos"], compared["num_tests"], compared["num_sources"]) == (24, 48, 6)
    assert "mean of 3 folds" in printed and "jointly over the folds" in printed
    assert "difference: second minus first" in printed
    assert compare.written == "one_folds_vs_two_folds.json"
    rows = {line.split("  ")[1]: line for line in printed.splitlines() if line.startswith("  fold")}
    assert f"{by_fold[1]:+.4f}" in rows["fold 2"]


def test_a_fold_of_one_model_wants_the_same_of_the_other(compare, tmp_path):
    first, second = write_folds(tmp_path / "one", {0}), write_folds(tmp_path / "two", {1})
    with pytest.raises(InputError, match=r"--compare requires two results files, or .* got 5"):
        compare(*first, *second[:2])
    with pytest.raises(InputError, match=r"--compare requires two results files, or .* got 1"):
        compare(first[0])
    with pytest.raises(InputError, match="are both results of"):
        compare(first[0], first[0], *second[:2])
    with pytest.raises(InputError, match=r"one_fold3_results\.json and .*two_fold2_results\.json were scored"):
        compare(first[0], first[2], *second[:2])
    other = write_folds(tmp_path / "other", {1}, folds=(2,), model="swin3d_t")
    with pytest.raises(InputError, match="cannot be combined: model swin3d_nano and swin3d_t"):
        compare(*first[:2], second[0], *other)
