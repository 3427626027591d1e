import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import split_data
from video_module.data import leaks
from video_module.data.decoding import count_frames, iter_frames
from video_module.data.drawing import draw_frames, make_scene
from video_module.data.encoding import write_video
from video_module.data.leaks import (
    MAX_DISTANCE,
    NUM_BITS,
    SharedSources,
    fingerprint,
    near_pairs,
    random_split_leak,
    shared_sources,
)
from video_module.data.records import VideoRecord
from video_module.errors import InputError


def bits_of(path: Path) -> np.ndarray:
    return fingerprint(path, count_frames(path)[0])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> list[Path]:
    """The same action in eight scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(8):
        frames = draw_frames("push", make_scene(3, number), num_frames=40, rng=np.random.default_rng(number))
        write_video(folder / f"{number}.avi", frames, fps=25)
    return sorted(folder.iterdir())


def write_copy(path: Path, original: Path, *, scale: float = 1.0, first: int = 0) -> Path:
    frames = list(iter_frames(original))[first:]
    write_video(path, (cv2.resize(frame, None, fx=scale, fy=scale) for frame in frames), fps=25)
    return path


@pytest.mark.parametrize("change", [{"scale": 0.6}, {"scale": 2.0}, {"first": 2}])
def test_a_copy_is_near_its_original_and_no_other(scenes, tmp_path, change):
    copy = write_copy(tmp_path / "copy.mp4", scenes[2], **change)
    originals = np.stack([bits_of(path) for path in scenes])
    assert originals.shape == (8, NUM_BITS)
    [pair] = near_pairs(originals, bits_of(copy)[None])
    assert (pair.first, pair.second) == (2, 0)
    assert 0 < pair.distance < MAX_DISTANCE
    assert near_pairs(originals) == []


def test_near_pairs_over_several_blocks():
    rng = np.random.default_rng(0)
    bits = rng.random((2500, 100)) < 0.5
    bits[2400] = bits[7]
    bits[2401] = bits[1500] ^ (np.arange(100) < 10)
    assert [(pair.first, pair.second, pair.distance) for pair in near_pairs(bits)] == [
        (7, 2400, 0.0),
        (1500, 2401, 0.1),
    ]
    assert [(pair.first, pair.second) for pair in near_pairs(bits[:2400], bits[2400:])] == [(7, 0), (1500, 1)]


@pytest.fixture
def leaky(drawn_data, tmp_path) -> Path:
    """A clean split, to which a train video is added as a test video under another name, class and container."""
    data = tmp_path / "data"
    shutil.copytree(drawn_data, data)
    victim = next((data / "train" / "wave").iterdir())
    write_copy(data / "test" / "sit" / "holiday.mp4", victim, scale=0.8)
    return data


def test_audit_of_a_split_finds_the_copy(leaky, tmp_path, capsys):
    split_data.main(["--audit", str(leaky), "--save_to", str(tmp_path / "audit.json")])
    found = json.loads((tmp_path / "audit.json").read_text())
    assert [(pair["second"], pair["first"]) for pair in found["comparisons"]] == [
        ("val", "train"),
        ("test", "train"),
        ("test", "val"),
    ]
    test = found["comparisons"][1]
    assert test["sources"]["test_clips_within_class"] == test["sources"]["test_clips_across_classes"] == 0
    copies = [pair for pair in test["near_identical"] if pair["second"] == "sit/holiday.mp4"]
    assert copies[0]["first"].startswith("wave/")
    assert not copies[0]["same_class"]
    assert all(pair["second"] == "sit/holiday.mp4" for pair in test["near_identical"])
    assert "holiday.mp4" in capsys.readouterr().out


def test_audit_of_two_folders_by_names_alone(drawn_clips, tmp_path, capsys):
    for side, count in (("a", 4), ("b", 2)):
        for label in ("sit", "wave"):
            (tmp_path / side / label).mkdir(parents=True)
            for video in sorted((drawn_clips / label).iterdir())[-count:]:
                (tmp_path / side / label / video.name).write_bytes(b"not a video")
    moved = tmp_path / "b" / "sit"
    moved.rename(tmp_path / "b" / "wav")  # the same names under another class
    split_data.main(["--audit", str(tmp_path / "a"), str(tmp_path / "b"), "--no-content"])
    out = capsys.readouterr().out
    assert "same recording    2 within a class (2 recordings), 0 across classes (0)" in out
    # named for "sit" in a class "wav": the source cannot be told from the name, the name itself can be compared
    assert "same file name    2 within a class, 2 across classes" in out
    assert "not checked (--no-content)" in out


def test_a_random_split_by_clip_is_told_in_one_line(drawn_clips, tmp_path, capsys):
    for label in ("sit", "wave"):
        for number, video in enumerate(sorted((drawn_clips / label).iterdir())):
            side = tmp_path / "data" / ("train", "test", "val")[number % 3] / label
            side.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, side / f"Film_{label}_f_cm_np1_fr_med_{number}.avi")
    split_data.main(["--audit", str(tmp_path / "data"), "--no-content"])
    told = "4 of 4 test videos share a recording with train or val within their class, 0 across classes: the test will"
    assert told in capsys.readouterr().out


def test_a_clean_split_is_told_in_one_line(drawn_data, capsys):
    split_data.main(["--audit", str(drawn_data), "--no-content"])
    told = "\n0 of 6 test videos share a recording with train or val within their class, 0 across classes\n"
    assert told in capsys.readouterr().out


def test_a_folder_is_not_audited_against_itself(drawn_clips):
    with pytest.raises(InputError, match="given twice; --audit compares two folders"):
        split_data.main(["--audit", str(drawn_clips), f"{drawn_clips}/", "--no-content"])


def test_audit_of_one_folder_names_broken_files(drawn_clips, tmp_path, capsys):
    shutil.copytree(drawn_clips, tmp_path / "clips")
    (tmp_path / "clips" / "sit" / "broken.avi").write_bytes(b"text")
    split_data.main(["--audit", str(tmp_path / "clips")])
    out = capsys.readouterr().out
    assert "not compared: sit/broken.avi" in out
    assert "36 videos of 6 recordings; split at random" in out


def test_fractions_are_said_in_percent(drawn_clips, capsys):
    split_data.main(["--audit", str(drawn_clips), "--no-content", "--val_fraction", "0.125"])
    assert "(mean of 100 draws of 77.5 % train, 12.5 % val, 10 % test, with at least one" in capsys.readouterr().out


def test_audit_of_an_archive(drawn_clips, tmp_path, capsys):
    shutil.make_archive(str(tmp_path / "clips"), "zip", drawn_clips.parent, drawn_clips.name)
    split_data.main(["--audit", str(tmp_path / "clips.zip"), "--no-content"])
    assert "36 videos of 6 recordings" in capsys.readouterr().out


def records(sources: dict[str, list[str]]) -> list[VideoRecord]:
    return [
        VideoRecord(path=f"{label}/{number}.avi", label=label, source=source, num_frames=1, fps=1)
        for label, names in sources.items()
        for number, source in enumerate(names)
    ]


def test_random_split_leak():
    apart = random_split_leak(records({"a": [f"a{n}" for n in range(20)], "b": [f"b{n}" for n in range(20)]}))
    assert apart["test_share_within_class"] == apart["test_share_any_class"] == 0
    together = random_split_leak(records({"a": ["film"] * 20, "b": ["film"] * 10}))
    assert together["test_share_within_class"] == 1
    across = random_split_leak(records({"a": [f"f{n}" for n in range(20)], "b": [f"f{n}" for n in range(20)]}))
    assert across["test_share_within_class"] == 0
    # of 20 films two a class are drawn: a film's other clip is in train unless drawn too, 1 - 2 / 20
    assert across["test_share_any_class"] == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("test_fraction", [0.1, 0.99])
def test_random_split_leak_of_small_classes(test_fraction):
    """A tenth of few is none: one tests all the same, and one does not."""
    found = random_split_leak(records({"a": ["x"] * 4, "b": ["y"] * 2, "c": ["x"]}), test_fraction=test_fraction)
    assert found["test_share_within_class"] == found["test_share_any_class"] == 1
    apart = random_split_leak(records({"a": ["x", "y", "z"]}), test_fraction=test_fraction)
    assert apart["test_share_any_class"] == 0


@pytest.mark.parametrize(
    ("sources", "test_fraction"), [({"a": ["x"], "b": ["x"]}, 0.1), ({}, 0.1), ({"a": ["x"] * 20}, 0)]
)
def test_random_split_leak_of_which_nothing_can_be_said(sources, test_fraction):
    assert random_split_leak(records(sources), test_fraction=test_fraction) is None


def test_audit_of_a_folder_of_broken_files(tmp_path, capsys):
    for label in ("sit", "wave"):
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / "a.avi").write_text("no video")
    split_data.main(["--audit", str(tmp_path / "in"), "--save_to", str(tmp_path / "audit.json")])
    out = capsys.readouterr().out
    assert "no estimate for a random split: no class has two videos that decode" in out
    assert "near identical    0 pairs" in out
    assert json.loads((tmp_path / "audit.json").read_text())["random_split"] is None


@pytest.mark.parametrize(
    "flags",
    [["--audit", "a", "b", "c"], ["--input_dir", "a", "--audit", "b"], [], ["--input_dir", "a", "--save_to", "x"]],
)
def test_flags_that_do_not_go_together(flags):
    with pytest.raises(SystemExit, match="2"):
        split_data.main(flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--annotations", "t.csv", "--suggest_groups", "s.csv"], "--annotations cannot be combined with --suggest"),
        (["--suggest_groups", "s.csv"], "--suggest_groups requires --input_dir"),
        (["--input_dir", "v", "--suggest_groups", "/"], "--suggest_groups requires the name of a file"),
        (["--input_dir", "v", "--suggest_groups", "s.csv", "--num_folds", "3"], "--num_folds cannot be combined with"),
        (["--audit", "v", "--short_side", "64"], "--short_side cannot be combined with --audit"),
        (["--audit", "v", "--groups", "auto"], "--groups auto cannot be combined with --audit"),
        (
            ["--input_dir", "v", "--groups", "auto", "--protocol", "ucf101", "--splits_dir", "s"],
            "--groups auto requires",
        ),
        (["--input_dir", "v", "--val_fraction", "0.7", "--test_fraction", "0.3"], "--val_fraction and --test_fraction"),
        (["--input_dir", "v", "--val_fraction", "0.5", "--num_folds", "2"], "--val_fraction and one fold add up to 1"),
    ],
)
def test_what_would_be_ignored_or_fail_late_is_a_usage_error(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        split_data.main(flags)
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_the_split_is_the_same_whatever_the_order_of_the_listing(drawn_clips, tmp_path, monkeypatch):
    def digest(name: str) -> str:
        split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / name), "--seed", "5"])
        return json.loads((tmp_path / name / "split.json").read_text())["digest"]

    usual, iterdir, rglob = digest("usual"), Path.iterdir, Path.rglob
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(iterdir(self), reverse=True))
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: sorted(rglob(self, pattern), reverse=True))
    assert digest("reversed") == usual


def test_three_folds_share_their_files(drawn_clips, tmp_path, capsys):
    """All folds together take the space of one copy."""
    names = {label: sorted(path.name for path in (drawn_clips / label).iterdir()) for label in ("sit", "wave")}
    splits_dir = tmp_path / "splits"
    splits_dir.mkdir()
    for label, files in names.items():
        for fold in (1, 2, 3):
            lines = [f"{name} {2 if number % 3 == fold - 1 else 1} " for number, name in enumerate(files)]
            (splits_dir / f"{label}_test_split{fold}.txt").write_text("\n".join(lines))
    out = tmp_path / "data"
    split_data.main(
        ["--input_dir", str(drawn_clips), "--output_dir", str(out), "--protocol", "hmdb51", "--fold", "all"]
        + ["--splits_dir", str(splits_dir)]
    )
    files = list(out.rglob("*.avi"))
    assert len(files) == 3 * 12
    assert len({path.stat().st_ino for path in files}) == 12
    assert all(path.stat().st_nlink >= 4 for path in files)
    printed = capsys.readouterr().out
    assert printed.startswith("left out 24 videos that are in none of the three folds\n")
    assert "comparable" not in printed
    split_data.main(
        ["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "one"), "--protocol", "hmdb51"]
        + ["--fold", "2", "--splits_dir", str(splits_dir)]
    )
    assert capsys.readouterr().out.startswith("left out 24 videos that are not in fold 2\n")


# ---- sources of two sides, and what a model was trained on


def test_counts_within_and_across_classes():
    train = records({"wave": ["Film", "Film"], "run": ["Other"], "sit": ["Alone"]})
    test = records({"wave": ["Film", "Film"], "run": ["Film"], "sit": ["Other", "New"]})
    assert shared_sources(train, test) == SharedSources(
        sources_within_class=1, test_clips_within_class=2, sources_across_classes=2, test_clips_across_classes=2
    )


def test_nothing_shared():
    shared = shared_sources(records({"a": ["x"]}), records({"a": ["y"], "b": ["z"]}))
    assert set(vars(shared).values()) == {0}


def test_a_source_is_counted_once_however_many_classes_share_it():
    clips = records({"wave": ["Film"], "run": ["Film"]})
    assert shared_sources(clips, clips) == SharedSources(
        sources_within_class=1, test_clips_within_class=2, sources_across_classes=0, test_clips_across_classes=0
    )


TRAINED_SOURCES = {leaks.hash_source("Film"), leaks.hash_source("walk/0001.mp4")}
TRAINED_CLIPS = ["walk/0001.mp4", "wave/Film_wave_0.avi"]


def video(path: str, source: str) -> VideoRecord:
    return VideoRecord(path=path, label=path.partition("/")[0], source=source, num_frames=9, fps=25)


def test_files_of_one_number_in_two_classes_are_two_videos():
    assert leaks.hash_clip("walk/0001.mp4") != leaks.hash_clip("run/0001.mp4")
    assert leaks.hash_clip("walk/0001.mp4") == leaks.hash_clip("walk/0001.avi")  # of another encoding, say


@pytest.mark.parametrize(
    ("test", "protocol", "expected"),
    [
        (video("run/Film_run_3.avi", "Film"), "grouped", (1, 1, 0, True)),
        (video("run/Film_run_3.avi", "Film"), "hmdb51", (1, 1, 0, False)),  # across classes, as official folds do
        (video("wave/Film_wave_0.mp4", "Film"), "hmdb51", (1, 1, 1, True)),
        (video("walk/0001.mp4", "Other"), "grouped", (0, 0, 1, True)),  # another split may name its source otherwise
        (video("walk/0001.mp4", "Other"), None, (0, 0, 1, True)),
        (video("run/0001.mp4", "run/0001.mp4"), None, (0, 0, 0, False)),
    ],
)
def test_what_counts_as_a_leak(test, protocol, expected):
    clips = {leaks.hash_clip(path) for path in TRAINED_CLIPS}
    overlap = leaks.train_overlap([test], train_sources=TRAINED_SOURCES, train_clips=clips, protocol=protocol)
    assert (overlap.num_sources, overlap.num_videos, overlap.num_clips, overlap.is_leak) == expected
    assert not overlap.by_name_alone


@pytest.mark.parametrize(
    ("test", "protocol", "expected"),
    [
        (video("Wave it/Film_wave_0.mp4", "Film"), "hmdb51", (1, 1, 1, True)),  # official names are of one video each
        (video("walk/0001.mp4", "walk/0001.mp4"), None, (1, 1, 1, True)),  # its source says so
        (video("run/0001.mp4", "run/0001.mp4"), None, (0, 0, 1, False)),  # told, not refused
    ],
)
def test_names_alone_of_format_version_1(test, protocol, expected):
    clips = [hashlib.sha256(Path(path).stem.encode()).hexdigest()[:12] for path in TRAINED_CLIPS]
    overlap = leaks.train_overlap([test], train_sources=TRAINED_SOURCES, train_clips=clips, protocol=protocol)
    assert (overlap.num_sources, overlap.num_videos, overlap.num_clips, overlap.is_leak) == expected
    assert overlap.by_name_alone
    if not overlap.num_sources:
        assert "have the same file names as videos in the model's train and val splits; they may be different" in str(
            overlap
        )


def test_what_is_not_recorded_is_unknown():
    videos = [video("a/1.avi", "s")]
    assert leaks.train_overlap(videos, train_sources=(), train_clips=(), protocol=None) is None
    older = leaks.train_overlap(videos, train_sources={"x"}, train_clips=(), protocol=None)
    assert older.num_clips is None
    assert "themselves" not in str(older)


def test_clips_of_hmdb51_stay_small():
    clips = sorted({leaks.hash_clip(f"class {number % 51}/clip {number}.avi") for number in range(3570)})
    assert len(clips) == 3570
    assert len(str(clips)) < 60_000
