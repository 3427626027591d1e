import json
import os
import re
from pathlib import Path

import pytest

import split_data
from video_module.data import hmdb51, records, ucf101
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


def test_groups_file(tmp_path):
    (tmp_path / "g.csv").write_text("path,label,source_video\na/1.avi,a,X\n./b/2.avi,b,Y\n")
    source_of = records.groups_source(tmp_path / "g.csv")
    assert [source_of("a/1.avi", "a"), source_of("b/2.avi", "b")] == ["X", "Y"]
    with pytest.raises(InputError, match=r"g\.csv: no row for video 'a/3\.avi'; add one, or move the file"):
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
    with pytest.raises(InputError, match=r"twice\.csv:3: column source of a/1\.avi differs from an earlier row"):
        records.groups_source(tmp_path / "twice.csv")


def test_group_regex():
    assert records.regex_source(r"^(cam\d+)_")("cam07_x.mp4", "a") == "cam07"
    assert records.regex_source(r"(?P<day>\d+)_(?P<source>\w+)\.")("12_door.mp4", "a") == "door"
    with pytest.raises(InputError, match=re.escape(r"--group_regex '^(cam\d+)_' does not match the file name")):
        records.regex_source(r"^(cam\d+)_")("other.mp4", "a")
    with pytest.raises(InputError, match="group_regex"):
        records.regex_source("(")


def test_an_empty_side_may_hold_what_systems_leave(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / ".DS_Store").touch()
    assert records.load_videos(tmp_path / "val", num_workers=1, allow_none=True) == []


def test_load_videos_trusts_the_record_and_notices_a_missing_file(drawn_clips, tmp_path):
    out = tmp_path / "data"
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(out)])
    videos = records.load_videos(out / "train", num_workers=1)
    record = json.loads((out / "split.json").read_text())
    assert [v.num_frames for v in videos] == [e["num_frames"] for e in record["videos"] if e["split"] == "train"]
    (out / "train" / videos[0].path).unlink()
    with pytest.raises(InputError, match="1 missing in all"):
        records.load_videos(out / "train", num_workers=1)


def test_a_bare_folder_is_probed_and_a_broken_video_in_it_is_an_error(drawn_clips, tmp_path, make_video):
    videos = records.load_videos(drawn_clips, num_workers=2)
    assert len(videos) == 36
    assert all(video.num_frames > 20 for video in videos)
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "bad.avi").write_text("text")
    way = "delete or repair it, or write the folder with split_data.py, which leaves it out"
    with pytest.raises(InputError, match=rf"bad.avi: not a video.*; {way}$"):
        records.load_videos(tmp_path / "set", num_workers=1)
    (tmp_path / "set" / "a" / "worse.avi").write_text("text")
    with pytest.raises(
        InputError, match=r"bad.avi: not a video.*; 1 more: a/worse.avi; delete or repair them"
    ) as error:
        records.load_videos(tmp_path / "set", num_workers=1)
    assert "\n" not in str(error.value)


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
