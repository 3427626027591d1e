import json
import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

import split_data
from tests.conftest import link
from video_module.data import hmdb51, records, splits, ucf101
from video_module.data.records import VideoRecord
from video_module.errors import InputError


@pytest.mark.parametrize(
    ("name", "label", "source"),
    [
        ("TrumanShow_wave_f_nm_np1_fr_med_26.avi", "wave", "TrumanShow"),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "April_09"),
        (
            "Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi",
            "golf",
            "Golf_Tips_-_Hit_The_Driver_300+_Yards!!!",
        ),
        ("metacafe_coolsoccer_run_f_cm_np10_le_bad_2.avi", "run", "metacafe_coolsoccer"),
        ("NotAnotherTeenMovieslowclap_clap_u_cm_np5_fr_med_3.avi", "clap", "NotAnotherTeenMovieslowclap"),
    ],
)
def test_hmdb51_names(name, label, source):
    assert hmdb51.parse_name(name, label).source == source
    assert records.name_source(name, label) == source


def test_hmdb51_tags():
    parsed = hmdb51.parse_name("Some_Film_ride_horse_f_cm_np10_ri_goo_125.avi", "ride_horse")
    fields = (parsed.body, parsed.motion, parsed.num_people, parsed.view, parsed.quality, parsed.number)
    assert fields == ("f", "cm", 10, "ri", "goo", 125)


def test_other_names():
    assert hmdb51.parse_name("brushing_hair.avi", "brush_hair") is None
    assert ucf101.parse_source("v_HandstandPushups_g01_c04.avi") == "v_HandstandPushups_g01"
    assert records.name_source("holiday.mp4", "run") == "run/holiday.mp4"  # its own source, apart from other classes'


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


def test_a_renamed_class_folder_keeps_the_film():
    assert records.name_source("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "Brush Hair") == "April_09"


def test_names_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / "wave").mkdir()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "wave") + b"/\xef\xf0.avi")).touch()
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(InputError, match="not valid UTF-8; rename the file"):
        records.scan(tmp_path, num_workers=1)


def test_mkv_has_no_frame_count_to_hold_against_it(make_video):
    """OpenCV's figure is duration times rate, far too high where the rate varies."""
    from video_module.data.decoding import read_info

    path = make_video(30, name="a.avi")
    assert read_info(path).header_num_frames == 30
    assert read_info(path.rename(path.with_suffix(".mkv"))).header_num_frames == 0
    assert records.probe_video(path.with_suffix(".mkv")) == (30, 25.0)


def test_one_class_is_refused():
    with pytest.raises(InputError, match="at least two classes"):
        splits.split_grouped(fake_videos(9, ("a",)), [], val_fraction=0.2, test_fraction=0.2, seed=0)


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


def test_notes_say_why_a_side_lacks_classes():
    """Validation is carved out of the official train side: what it lacks is no matter of the fold."""
    videos = [
        VideoRecord(path=f"{label}/{number}.avi", label=label, source=f"{label}{number}", num_frames=9, fps=25)
        for label, count in (("a", 9), ("b", 1))
        for number in range(count)
    ]
    listed = {(v.label, Path(v.path).name): "test" if v.path == "a/0.avi" else "train" for v in videos}
    split = splits.split_official(videos, [], listed, protocol="hmdb51", fold=1, val_fraction=0.2, seed=0)
    assert split.notes == [
        "val has no video of 1 class (too few sources): b; that takes more recordings, or a larger --val_fraction",
        "test has no video of 1 class (none in the fold): b",
    ]


def test_official_split_tells_what_is_missing():
    videos = fake_videos(40, ("a", "b"))
    split = splits.split_official(videos[3:], [], official(videos), protocol="ucf101", fold=2, val_fraction=0.2, seed=0)
    assert "1 of the" in " ".join(split.notes)
    assert f"2 of the {sum(v == 'train' for v in official(videos).values())} train videos" in " ".join(split.notes)


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


def test_groups_file(tmp_path):
    (tmp_path / "g.csv").write_text("path,label,source_video\na/1.avi,a,X\n./b/2.avi,b,Y\n")
    source_of = records.groups_source(tmp_path / "g.csv")
    assert [source_of("a/1.avi", "a"), source_of("b/2.avi", "b")] == ["X", "Y"]
    with pytest.raises(InputError, match=r"g\.csv: has no row for the video 'a/3\.avi'"):
        source_of("a/3.avi", "a")
    (tmp_path / "bad.csv").write_text("file,group\n1,2\n")
    with pytest.raises(InputError, match="needs the columns path and source"):
        records.groups_source(tmp_path / "bad.csv")
    (tmp_path / "excel.csv").write_bytes("\ufeffpath,source\r\na\\1.avi,Ё\r\n".encode())
    assert records.groups_source(tmp_path / "excel.csv")("a/1.avi", "a") == "Ё"
    (tmp_path / "old.csv").write_bytes("path,source\na/1.avi,Ё\n".encode("cp1251"))
    with pytest.raises(InputError, match=r"old\.csv: not UTF-8 text"):
        records.groups_source(tmp_path / "old.csv")
    (tmp_path / "twice.csv").write_text("path,source\na/1.avi,X\na/1.avi,Y\n")
    with pytest.raises(InputError, match=r"twice\.csv:3: a/1\.avi had another source in an earlier row"):
        records.groups_source(tmp_path / "twice.csv")


def test_group_regex():
    assert records.regex_source(r"^(cam\d+)_")("cam07_x.mp4", "a") == "cam07"
    assert records.regex_source(r"(?P<day>\d+)_(?P<source>\w+)\.")("12_door.mp4", "a") == "door"
    with pytest.raises(InputError, match=re.escape(r"--group_regex '^(cam\d+)_' does not match the file name")):
        records.regex_source(r"^(cam\d+)_")("other.mp4", "a")
    with pytest.raises(InputError, match="group_regex"):
        records.regex_source("(")


# ---- the script, on files


def snapshot(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("link", ["hard", "sym", "copy"])
def test_layout_and_record(drawn_clips, tmp_path, link):
    out = tmp_path / "data"
    split_data.main(
        ["--input_dir", str(drawn_clips), "--output_dir", str(out), "--link", link, "--test_fraction", "0.2"]
    )
    record = json.loads((out / "split.json").read_text())
    assert snapshot(out) == sorted([*(entry["path"] for entry in record["videos"]), "obj.names", "split.json"])
    assert sum(record["counts"].values()) == len(record["videos"]) == 36
    assert (record["protocol"], record["leaks"], record["num_sources"], record["rejected"]) == ("grouped", 0, 6, [])
    assert (out / "obj.names").read_text().split() == ["jump", "pull", "push", "sit", "stand", "wave"]
    entry = record["videos"][0]
    clip = out / entry["path"]
    assert {"hard": clip.stat().st_nlink >= 2, "sym": clip.is_symlink(), "copy": clip.stat().st_nlink == 1}[link]
    assert entry["num_frames"] == records.probe_video(clip)[0]


def test_falls_back_to_copies_and_says_so(drawn_clips, tmp_path, monkeypatch, capsys):
    def no_link(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_link)
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "data")])
    assert "36 files were copied" in capsys.readouterr().out
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "data").rglob("*.avi"))


def test_rerun_replaces_an_earlier_split_and_nothing_else(drawn_clips, tmp_path):
    out = tmp_path / "data"
    arguments = ["--input_dir", str(drawn_clips), "--output_dir", str(out)]
    split_data.main(arguments)
    first = snapshot(out)
    split_data.main([*arguments, "--seed", "1"])
    assert len(snapshot(out)) == len(first)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"not written by split_data.py"):
        split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (out / "model.pth").write_text("trained on it")
    with pytest.raises(InputError, match=r"holds model\.pth beside an earlier split"):
        split_data.main(arguments)
    with pytest.raises(InputError, match="overlaps"):
        split_data.main(["--input_dir", str(out / "train"), "--output_dir", str(out)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mine"]


def test_a_split_goes_where_a_link_leads(drawn_clips, tmp_path):
    (tmp_path / "disk").mkdir()
    link(tmp_path / "data", tmp_path / "disk")
    for seed in ("1", "2"):
        split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "data"), "--seed", seed])
        assert (tmp_path / "data").is_symlink()
        assert json.loads((tmp_path / "disk" / "split.json").read_text())["seed"] == int(seed)
    shutil.rmtree(tmp_path / "disk")
    with pytest.raises(InputError, match=r"data: a broken link to .*disk"):
        split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "data")])


def test_what_systems_leave_does_not_make_a_folder_anothers(drawn_clips, tmp_path):
    """The Finder writes .DS_Store into each folder that it shows."""
    out = tmp_path / "data"
    arguments = ["--input_dir", str(drawn_clips), "--output_dir", str(out)]
    for _ in range(2):
        out.mkdir(exist_ok=True)
        (out / ".DS_Store").touch()
        (out / "Thumbs.db").touch()
        split_data.main(arguments)
    (out / ".git").mkdir()  # hidden too, but a user's
    with pytest.raises(InputError, match=r"holds \.git beside an earlier split"):
        split_data.main(arguments)


def test_an_empty_side_may_hold_what_systems_leave(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / ".DS_Store").touch()
    assert records.load_videos(tmp_path / "val", num_workers=1, allow_none=True) == []


@pytest.mark.parametrize("flags", [["--splits_dir", "nowhere"], ["--fold", "2"], ["--fold", "1"]])
def test_flags_of_the_official_protocols_are_not_ignored(flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        split_data.main(["--input_dir", "videos", *flags])
    assert f"error: {flags[0]} goes with --protocol hmdb51 or ucf101" in capsys.readouterr().err


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
    with pytest.raises(InputError, match=r"jig: holds no video, only files such as a\.rm"):
        split_data.main(["--input_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "data")])


def test_output_inside_the_input_is_refused(drawn_clips, tmp_path, monkeypatch):
    """It would become a class of its own at the next run."""
    link(tmp_path / "wave", drawn_clips / "wave")
    link(tmp_path / "sit", drawn_clips / "sit")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"data: overlaps \.; choose"):
        split_data.main(["--input_dir", "."])
    with pytest.raises(InputError, match=r"^\.: this is the folder of the videos itself; choose another --output_dir$"):
        split_data.main(["--input_dir", str(tmp_path), "--output_dir", "."])


def test_files_that_each_count_as_a_recording_are_told_of(drawn_clips, tmp_path, capsys):
    note = "note: no source in the names: each file counts as its own recording; if some are cuts of one, say so with"
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


def test_load_videos_trusts_the_record_and_notices_a_missing_file(drawn_clips, tmp_path):
    out = tmp_path / "data"
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(out)])
    videos = records.load_videos(out / "train", num_workers=1)
    record = json.loads((out / "split.json").read_text())
    assert [v.num_frames for v in videos] == [e["num_frames"] for e in record["videos"] if e["split"] == "train"]
    (out / "train" / videos[0].path).unlink()
    with pytest.raises(InputError, match="1 videos are missing"):
        records.load_videos(out / "train", num_workers=1)


def test_a_bare_folder_is_probed_and_a_broken_video_in_it_is_an_error(drawn_clips, tmp_path, make_video):
    videos = records.load_videos(drawn_clips, num_workers=2)
    assert len(videos) == 36
    assert all(video.num_frames > 20 for video in videos)
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "bad.avi").write_text("text")
    with pytest.raises(InputError, match=r"bad.avi: not a video"):
        records.load_videos(tmp_path / "set", num_workers=1)


def test_digest_is_that_of_the_listed_videos_only(drawn_clips, tmp_path, monkeypatch):
    out = tmp_path / "data"
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(out)])
    digest = json.loads((out / "split.json").read_text())["digest"]
    videos = records.load_videos(out / "train", num_workers=1)
    assert records.split_digest(out / "train", videos) == digest
    monkeypatch.chdir(out / "train")
    assert records.split_digest(Path(), records.load_videos(Path(), num_workers=1)) == digest
    extra = out / "train" / "wave" / "mine.avi"
    extra.write_bytes((out / "train" / videos[0].path).read_bytes())
    assert records.split_digest(out / "train", records.load_videos(out / "train", num_workers=1)) is None
