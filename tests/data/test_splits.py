import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

import split_data
from tests.data.test_times import write_timed
from video_module.data import hmdb51, preparing, records, segments, splits, ucf101
from video_module.data.records import VideoRecord
from video_module.errors import InputError


def fake_videos(num_sources: int, labels: tuple[str, ...], seed: int = 0) -> list[VideoRecord]:
    """Sources of unequal size, each in some of the classes."""
    rng = random.Random(seed)
    return [
        VideoRecord(path=f"{label}/{source}_{number}.avi", label=label, source=f"s{source}", num_frames=30, fps=25)
        for source in range(num_sources)
        for label in rng.sample(labels, rng.randint(1, len(labels)))
        for number in range(rng.randint(1, 6))
    ]


@pytest.mark.parametrize("seed", range(5))
def test_grouped_split_parts_no_source_and_nears_the_fractions(seed):
    videos = fake_videos(200, ("a", "b", "c"), seed)
    split = splits.split_grouped(videos, [], val_fraction=0.2, test_fraction=0.1, seed=seed)
    sides: dict[str, set[str]] = {}
    for video in split.videos:
        sides.setdefault(video.source, set()).add(video.split)
    assert all(len(side) == 1 for side in sides.values())
    assert split.leaks == 0
    totals = Counter(video.label for video in videos)
    for name, fraction in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        counts = Counter(video.label for video in split.videos_in(name))
        assert all(abs(counts[label] / totals[label] - fraction) < 0.05 for label in totals), (name, counts)


def test_split_depends_on_the_seed_and_not_on_the_order():
    videos = fake_videos(60, ("a", "b"))
    shuffled = random.Random(1).sample(videos, len(videos))
    fractions = {"val_fraction": 0.2, "test_fraction": 0.2}
    first, second = (splits.split_grouped(order, [], seed=7, **fractions) for order in (videos, shuffled))
    assert first.digest == second.digest
    assert first.to_json() == second.to_json()
    assert splits.split_grouped(videos, [], seed=8, **fractions).digest != first.digest


def test_every_class_is_trained_however_few_sources_it_has():
    for seed in range(300):
        rng = random.Random(seed)
        videos = [
            VideoRecord(path=f"c{label}/{source}_{n}.avi", label=f"c{label}", source=f"s{source}", num_frames=9, fps=25)
            for label in range(rng.randint(2, 5))
            for source in rng.sample(range(5), rng.randint(1, 3))
            for n in range(rng.randint(1, 8))
        ]
        split = splits.split_grouped(videos, [], val_fraction=0.2, test_fraction=0.1, seed=seed)
        trained = {video.label for video in split.videos_in("train")}
        assert trained == {video.label for video in videos}, f"seed {seed}"


def test_one_class_is_refused():
    with pytest.raises(InputError, match="at least two classes"):
        splits.split_grouped(fake_videos(9, ("a",)), [], val_fraction=0.2, test_fraction=0.2, seed=0)


@pytest.mark.parametrize("num_folds", [2, 3, 5, 10])
def test_folds_test_every_video_once_and_keep_sources_and_classes_even(num_folds):
    videos = fake_videos(60, ("a", "b", "c"))
    made = splits.split_folds(videos, [], num_folds=num_folds, val_fraction=0.2, seed=3)
    assert [split.fold for split in made] == list(range(1, num_folds + 1))
    assert Counter(video.path for split in made for video in split.videos_in("test")) == Counter(
        video.path for video in videos
    )
    totals = Counter(video.label for video in videos)
    for split in made:
        assert split.leaks == 0
        assert {video.path for video in split.videos} == {video.path for video in videos}
        assert {video.label for video in split.videos_in("train")} == set(totals)
        assert not split.notes
        tested = Counter(video.label for video in split.videos_in("test"))
        assert all(abs(tested[label] - total / num_folds) <= 2.5 for label, total in totals.items()), tested
        validating = Counter(video.label for video in split.videos_in("val"))
        assert all(abs(validating[label] - 0.2 * total) <= 3.5 for label, total in totals.items()), validating


def test_folds_know_what_belongs_together():
    videos = fake_videos(40, ("a", "b"))
    settings = {"num_folds": 4, "val_fraction": 0.2}
    made = splits.split_folds(videos, [], seed=7, **settings)
    again = splits.split_folds(random.Random(1).sample(videos, len(videos)), [], seed=7, **settings)
    other = splits.split_folds(videos, [], seed=8, **settings)
    assert [split.to_json() for split in made] == [split.to_json() for split in again]
    assert len({split.folds_digest for split in made}) == 1
    assert len({split.digest for split in made}) == 4
    assert made[0].folds_digest != other[0].folds_digest
    content = made[2].to_json()
    assert (content["protocol"], content["fold"], content["num_folds"]) == ("grouped", 3, 4)
    assert content["fractions"] == {"train": 0.55, "val": 0.2, "test": 0.25}
    assert splits.split_grouped(videos, [], val_fraction=0.2, test_fraction=0.2, seed=7).to_json()["num_folds"] is None


def sources_of_classes(**sources: str) -> list[VideoRecord]:
    """A video of each class for each letter, which names its source."""
    return [
        VideoRecord(path=f"{label}/{source}.avi", label=label, source=source, num_frames=9, fps=25)
        for label, letters in sources.items()
        for source in letters
    ]


def test_no_class_is_untrained_in_any_fold():
    num_made = 0
    for seed in range(300):
        rng = random.Random(seed)
        videos = sources_of_classes(
            **{f"c{label}": "".join(rng.sample("stuvwxyz", rng.randint(2, 5))) for label in range(rng.randint(2, 6))}
        )
        num_folds = rng.randint(3, 5)
        if len({video.source for video in videos}) < num_folds:
            continue
        for split in splits.split_folds(videos, [], num_folds=num_folds, val_fraction=0.2, seed=seed):
            assert {v.label for v in split.videos_in("train")} == {v.label for v in videos}, f"seed {seed}"
            assert split.videos_in("test"), f"seed {seed}"
        num_made += 1
    assert num_made > 200


@pytest.mark.parametrize(
    ("sources", "num_folds", "reason"),
    [
        (
            {"a": "stu", "b": "stu"},
            4,
            "--num_folds 4: the videos come from 3 recordings, and each of them stays in one fold; use at most 3 folds",
        ),
        ({"a": "stuv", "b": "w"}, 3, "all videos of class 'b' come from one recording, so the fold that tests them"),
        ({"a": "stuv"}, 3, "at least two classes"),
        # each two of the sources have a class of their own, and two folds cannot part all three pairs
        ({"a": "st", "b": "tu", "c": "su"}, 2, "all recordings of class '.' ended up in one fold; try another --seed"),
    ],
)
def test_folds_that_cannot_be_are_refused(sources, num_folds, reason):
    with pytest.raises(InputError, match=reason):
        splits.split_folds(sources_of_classes(**sources), [], num_folds=num_folds, val_fraction=0.2, seed=0)


def test_folds_leave_something_to_train_on():
    with pytest.raises(InputError, match=r"val_fraction 0\.5 and a test side of 1/2 leave no videos for training"):
        splits.split_folds(fake_videos(9, ("a", "b")), [], num_folds=2, val_fraction=0.5, seed=0)


def test_classes_of_few_sources_are_named_once():
    videos = sources_of_classes(a="pqrstu", b="pqr", c="qs")
    made = splits.split_folds(videos, [], num_folds=5, val_fraction=0.2, seed=0)
    notes = {note for split in made for note in split.notes if note.startswith("2 classes")}
    assert notes == {
        "2 classes with fewer than 5 recordings, so some folds have no test video of them: b (3), c (2); the result "
        "pooled over all folds includes all their videos"
    }
    assert not any("test_fraction" in note for split in made for note in split.notes)


def official(videos: list[VideoRecord]) -> dict[tuple[str, str], str]:
    """Every fifth video tests, as official files might say it."""
    return {(v.label, Path(v.path).name): "test" if i % 5 == 0 else "train" for i, v in enumerate(videos)}


def test_official_split_keeps_its_test_side_and_carves_val_by_source():
    videos = fake_videos(80, ("a", "b"))
    assignment = official(videos)
    split = splits.split_official(videos, [], assignment, protocol="hmdb51", fold=1, val_fraction=0.2, seed=0)
    assert {(v.label, Path(v.path).name) for v in split.videos_in("test")} == {
        k for k, v in assignment.items() if v == "test"
    }
    assert {v.source for v in split.videos_in("train")}.isdisjoint({v.source for v in split.videos_in("val")})
    assert split.videos_in("val")
    assert split.leaks > 0  # these "official" files part no sources; that is told, not mended
    assert split.leaks == split.shared.sources_within_class


def test_official_split_tells_what_is_missing():
    videos = fake_videos(40, ("a", "b"))
    split = splits.split_official(videos[3:], [], official(videos), protocol="ucf101", fold=2, val_fraction=0.2, seed=0)
    num_test = sum(side == "test" for side in official(videos).values())
    assert split.notes == [
        f"missing or rejected: 2 of {len(videos) - num_test} train videos, 1 of {num_test} test videos "
        f"({min(video.path for video in videos[:3])}, for example)"
    ]


def test_an_incomplete_official_set_is_warned_of_once(drawn_clips, tmp_path, capsys):
    """Published numbers are for all of it."""
    names = {label: [path.name for path in sorted((drawn_clips / label).iterdir())] for label in ("sit", "wave")}
    splits_dir, clips = tmp_path / "splits", tmp_path / "clips"
    splits_dir.mkdir()
    for label, files in (names | {"run": ["Film_run_f_cm_np1_fr_med_0.avi"]}).items():
        for fold in (1, 2, 3):
            lines = [f"{name} {2 if number % 3 == fold - 1 else 1} " for number, name in enumerate(files)]
            (splits_dir / f"{label}_test_split{fold}.txt").write_text("\n".join(lines))
    for label in names:
        shutil.copytree(drawn_clips / label, clips / label)
    flags = ["--input_dir", str(clips), "--protocol", "hmdb51", "--splits_dir", str(splits_dir)]
    split_data.main([*flags, "--output_dir", str(tmp_path / "all"), "--fold", "all"])
    printed = capsys.readouterr().out
    assert printed.count("warning") == 1
    reason = "so results will not be comparable with published numbers\n"
    assert f"\nwarning: 1 of the 3 classes of hmdb51 is missing, {reason}" in printed
    (splits_dir / "run_test_split1.txt").unlink()
    # Files that no fold uses need no recording, and their copies do not matter
    (clips / "wave" / "unused.avi").write_bytes(next((clips / "sit").iterdir()).read_bytes())
    next((clips / "sit").iterdir()).unlink()
    split_data.main([*flags, "--output_dir", str(tmp_path / "one"), "--group_regex", "Drawn_(Film_\\d+)"])
    assert f"\nwarning: 1 of the 12 videos of hmdb51 fold 1 is missing or rejected, {reason}" in capsys.readouterr().out


def test_reads_official_files(tmp_path):
    (tmp_path / "wave_test_split2.txt").write_text("A_(1)_wave_x.avi 1 \nB wave.avi 2 \nC.avi 0 \n\n")
    assert hmdb51.read_official_split(tmp_path, 2) == {
        ("wave", "A_(1)_wave_x.avi"): "train",
        ("wave", "B wave.avi"): "test",
    }
    (tmp_path / "trainlist01.txt").write_bytes(b"Archery/v_Archery_g08_c01.avi 1\r\n")
    (tmp_path / "testlist01.txt").write_bytes(b"Archery/v_Archery_g01_c01.avi\r\n")
    assert ucf101.read_official_split(tmp_path, 1) == {
        ("Archery", "v_Archery_g08_c01.avi"): "train",
        ("Archery", "v_Archery_g01_c01.avi"): "test",
    }
    (tmp_path / "wave_test_split3.txt").write_text("A.avi 7\n")
    with pytest.raises(InputError, match=r"split3.txt:1: expected a file name and 0, 1 or 2"):
        hmdb51.read_official_split(tmp_path, 3)


@pytest.mark.parametrize("flags", [["--splits_dir", "nowhere"], ["--fold", "2"], ["--fold", "1"]])
def test_flags_of_the_official_protocols_are_not_ignored(flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        split_data.main(["--input_dir", "videos", *flags])
    assert f"error: {flags[0]} requires --protocol hmdb51 or ucf101" in capsys.readouterr().err


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_all_that_will_be_written_is_checked_before_a_video_is_read(drawn_clips, tmp_path, monkeypatch, fold):
    monkeypatch.setattr(records, "scan", lambda *_, **__: pytest.fail("hours of probing"))
    monkeypatch.setattr(splits, "read_official", lambda *_: {})
    (tmp_path / "data" / f"fold{fold}").mkdir(parents=True)
    (tmp_path / "data" / f"fold{fold}" / "thesis.txt").touch()
    with pytest.raises(InputError, match=rf"fold{fold}: not empty, and not written by split_data\.py"):
        split_data.main(
            ["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "data")]
            + ["--protocol", "hmdb51", "--splits_dir", str(tmp_path), "--fold", "all"]
        )


def test_num_folds_writes_folders_of_their_own(drawn_clips, tmp_path, capsys):
    command = ["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "folds")]
    split_data.main([*command, "--num_folds", "3"])
    printed = capsys.readouterr().out
    contents = [json.loads((tmp_path / "folds" / f"fold{fold}" / "split.json").read_text()) for fold in (1, 2, 3)]
    assert [content["fold"] for content in contents] == [1, 2, 3]
    [digest] = {content["folds_digest"] for content in contents}
    assert f"3 folds of 36 videos of 6 recordings, 6 classes, digest {digest}" in printed
    row = ["3", "18", "6", "12", "2", "2", contents[2]["digest"]]
    assert row in [line.split() for line in printed.splitlines()]
    tested = [file.name for file in (tmp_path / "folds").glob("fold*/test/*/*")]
    assert sorted(tested) == sorted(file.name for file in drawn_clips.glob("*/*.avi"))
    split_data.main([*command, "--num_folds", "3"])  # replaces its own
    with pytest.raises(
        InputError, match="fold3: left over from an earlier split into more than 2 folds; move it first"
    ):
        split_data.main([*command, "--num_folds", "2"])


def test_too_many_folds_are_refused_before_a_video_is_read(drawn_clips, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "scan", lambda *_, **__: pytest.fail("hours of probing"))
    monkeypatch.setattr(preparing, "prepare", lambda *_, **__: pytest.fail("hours of cutting"))
    table = tmp_path / "t.csv"
    table.write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in drawn_clips.glob("*/*.avi")))
    for flags in (["--input_dir", str(drawn_clips)], ["--annotations", str(table), "--group_regex", r"Film_\d+"]):
        with pytest.raises(InputError, match="--num_folds 7: the videos come from 6 recordings"):
            split_data.main([*flags, "--output_dir", str(tmp_path / "folds"), "--num_folds", "7"])
    table.write_text("path,label,split\n" + f"{next(drawn_clips.glob('*/*.avi'))},wave,test\n")
    with pytest.raises(InputError, match=r"t\.csv: its column split already says which videos are tested; remove"):
        split_data.main(["--annotations", str(table), "--output_dir", str(tmp_path / "folds"), "--num_folds", "2"])


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--num_folds", "1"], "must be at least 2, got 1"),
        (["--num_folds", "5", "--test_fraction", "0.2"], "--num_folds cannot be combined with --test_fraction"),
        (["--num_folds", "5", "--protocol", "hmdb51", "--splits_dir", "s"], "for official folds use --fold all"),
        (["--num_folds", "5", "--fold", "2"], "--fold requires --protocol hmdb51 or ucf101"),
    ],
)
def test_flags_that_do_not_go_with_folds(flags, reason, capsys):
    with pytest.raises(SystemExit, match="2"):
        split_data.main(["--input_dir", "videos", *flags])
    assert reason in capsys.readouterr().err


def test_files_that_are_passed_over_are_named(drawn_clips, tmp_path, capsys):
    shutil.copytree(drawn_clips, tmp_path / "in")
    for number in range(7):
        (tmp_path / "in" / "wave" / f"note{number}.txt").touch()
    split_data.main(["--input_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "data")])
    line = next(line for line in capsys.readouterr().out.splitlines() if "not videos" in line)
    assert line.startswith("skipped 7 files")
    assert line.endswith("wave/note3.txt, wave/note4.txt, …)")
    (tmp_path / "in" / "jig").mkdir()
    (tmp_path / "in" / "jig" / "a.rm").touch()
    with pytest.raises(InputError, match=r"jig: contains no video, only files such as a\.rm"):
        split_data.main(["--input_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "data")])


def test_files_that_each_count_as_a_recording_are_told_of(drawn_clips, tmp_path, capsys):
    note = "note: file names do not say which videos share a recording, so each file counts as its own;"
    clips = tmp_path / "clips"
    for label in ("wave", "sit"):
        (clips / label).mkdir(parents=True)
        for number, path in enumerate(sorted((drawn_clips / label).iterdir())):
            shutil.copy(path, clips / label / f"cam{number}{path.suffix}")
    command = ["--input_dir", str(clips), "--output_dir", str(tmp_path / "data")]
    split_data.main(command)
    assert capsys.readouterr().out.count(note) == 1
    split_data.main([*command, "--group_regex", r"^(cam\d)"])
    names = [path.relative_to(clips).as_posix() for path in sorted(clips.rglob("*.avi"))]
    (tmp_path / "groups.csv").write_text("path,source\n" + "".join(f"{name},{name}\n" for name in names))
    split_data.main([*command, "--groups", str(tmp_path / "groups.csv")])  # so it was said
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "data")])  # names that tell it
    assert note not in capsys.readouterr().out


def test_class_folders_that_are_named_alike_are_told(drawn_clips, tmp_path, capsys):
    clips = tmp_path / "clips"
    for label, source in (("Sit down", "sit"), ("sit_down", "stand"), ("wave", "wave")):
        shutil.copytree(drawn_clips / source, clips / label)
    note = "note: labels that differ only in case, spaces, - or _ are different classes: Sit down, sit_down\n"
    for flags in ([], ["--short_side", "64"]):
        split_data.main(["--input_dir", str(clips), "--output_dir", str(tmp_path / "data"), *flags])
        assert capsys.readouterr().out.count(note) == 1


def test_the_rows_of_each_class_are_counted(drawn_clips, tmp_path, capsys):
    files = [*sorted((drawn_clips / "wave").iterdir()), *sorted((drawn_clips / "sit").iterdir())[:4]]
    table = tmp_path / "t.csv"
    table.write_text("path,label\n" + "".join(f"{file},{file.parent.name}\n" for file in files))
    split_data.main(["--annotations", str(table), "--output_dir", str(tmp_path / "data")])
    assert capsys.readouterr().out.splitlines()[0] == f"{table}: 10 rows: wave 6, sit 4"
    counts = {f"c{number}": 99 - number for number in range(20)}
    rows = [segments.Segment(file=table, name="x", label=label) for label in counts for _ in range(counts[label])]
    assert segments.count_labels(rows) == "1,790 rows: c0 99, c1 98, c2 97, …, c17 82, c18 81, c19 80"


def test_broken_files_are_listed_and_left_out(make_video, tmp_path):
    for number in range(6):
        for label in ("a", "b"):
            (tmp_path / "in" / label).mkdir(parents=True, exist_ok=True)
            make_video(12, name="x.avi").rename(tmp_path / "in" / label / f"clip {number} [#{number}].avi")
    (tmp_path / "in" / "a" / "zero.mp4").write_bytes(b"")
    (tmp_path / "in" / "a" / "text.avi").write_text("not a video")
    whole = make_video(60, name="x.mp4", height=120, width=160).read_bytes()
    broken = bytearray(whole)
    start = whole.index(b"mdat") + 4
    broken[start + 1500 :] = bytes(len(broken) - start - 1500)  # the header in front still claims 60 frames
    (tmp_path / "in" / "b" / "cut.mp4").write_bytes(bytes(broken))
    split_data.main(["--input_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "split.json").read_text())
    reasons = {item["path"]: item["reason"] for item in record["rejected"]}
    assert set(reasons) == {"a/zero.mp4", "a/text.avi", "b/cut.mp4"}
    assert "0 bytes" in reasons["a/zero.mp4"]
    assert "of 60 frames decode" in reasons["b/cut.mp4"] or "no frame" in reasons["b/cut.mp4"]
    assert len(record["videos"]) == 12


def test_split_json_holds_what_training_needs_to_pick_frames_by_time(tmp_path, capsys):
    times = [number + number // 2 for number in range(24)]
    for number in range(4):
        for label in ("a", "b"):
            (tmp_path / "in" / label).mkdir(parents=True, exist_ok=True)
            write_timed(tmp_path / "in" / label / f"{number}.mp4", times if label == "a" else list(range(24)))
    split_data.main(["--input_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")])
    content = json.loads((tmp_path / "out" / "split.json").read_text())
    for entry in content["videos"]:
        edges_s = [time / 25 for time in [*times, times[-1] + 2]] if entry["label"] == "a" else None
        assert entry["num_frames"] == 24
        assert entry["num_damaged_frames"] == 0
        assert entry["edges_s"] == (None if edges_s is None else pytest.approx(edges_s, abs=0.05))
    [first, *_] = records.load_videos(tmp_path / "out" / "train", num_workers=1)
    assert first.edges_s is None or len(first.edges_s) == 25


def test_a_split_json_of_an_earlier_version_still_loads(drawn_clips, tmp_path):
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "out")])
    path = tmp_path / "out" / "split.json"
    videos = records.load_videos(tmp_path / "out" / "train", num_workers=1)
    content = json.loads(path.read_text())
    for entry in content["videos"]:
        for key in ("num_damaged_frames", "edges_s", "has_times"):
            del entry[key]
    path.write_text(json.dumps(content))
    assert records.load_videos(tmp_path / "out" / "train", num_workers=1) == videos
