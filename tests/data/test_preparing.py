"""The store of prepared clips: each made once, whatever interrupts it; and the split of a table of actions."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

import split_data
from tests.data.test_cutting import nth, segment, shown
from tests.data.test_times import write_timed
from video_module.data import cutting, decoding, preparing, records
from video_module.data.encoding import write_video
from video_module.data.segments import Segment
from video_module.errors import InputError

ROOT = Path(__file__).parents[2]


def prepared(segments: list[Segment], store: Path, **settings) -> preparing.Prepared:
    return preparing.prepare(segments, store, **{"short_side": None, "num_workers": 2} | settings)


def test_a_file_without_seeks_is_read_once(tmp_path, monkeypatch):
    """Frames that are reordered in .avi have no times of their own, so that seeks are not exact."""
    original = write_timed(tmp_path / "x.avi", list(range(250)), codec="libx264", bf="2", g="50")
    passes = []
    monkeypatch.setattr(cutting, "frames_from", lambda *args: passes.append(args) or decoding.frames_from(*args))
    rows = [segment(original, start, start + 1.6) for start in (6, 0.4, 3, 4, 2, 8.4)]  # some overlap
    made = prepared(rows, tmp_path / "store")
    assert len(passes) == 1
    assert [video.start_s for video in made.videos] == [row.start_s for row in rows]
    for video in made.videos:
        first = round(25 * video.start_s)
        assert shown(tmp_path / "store" / video.path) == nth(250)[first : first + 40]


def test_whole_files_are_linked_unless_they_are_larger(tmp_path, make_video):
    small, large = make_video(10, name="small.avi"), make_video(10, name="large.avi", height=96, width=128)
    store = tmp_path / "store"
    made = prepared([segment(small), segment(large)], store, short_side=48)
    assert [video.path for video in made.videos] == ["a/small.avi", "a/large.mp4"]
    assert (store / "a/small.avi").samefile(small)
    assert decoding.read_info(store / "a/large.mp4").height == 48
    made = prepared([segment(large)], tmp_path / "other")
    assert (tmp_path / "other" / made.videos[0].path).samefile(large)


def test_a_record_tells_where_a_clip_comes_from(tmp_path, make_video):
    made = prepared([segment(make_video(50, name="day 1.mp4"), 0.4, 1.2)], tmp_path / "store")
    [video] = made.videos
    assert video.path == "a/day 1_400-1200.mp4"
    assert (video.cut_from, video.start_s, video.end_s, video.source) == ("day 1.mp4", 0.4, 1.2, "day 1.mp4")
    assert (video.num_frames, video.fps, video.num_damaged_frames) == (20, 25, 0)
    assert (made.num_found, made.duration_before_s, made.duration_after_s) == (0, 2.0, pytest.approx(0.8))
    assert made.bytes_after == (tmp_path / "store" / video.path).stat().st_size


def test_files_of_one_name_stay_apart(tmp_path, make_video):
    for folder in ("d1", "d2", "d3"):
        (tmp_path / folder).mkdir()
    original = make_video(20, name="x.mp4")
    names = ["d1/cam.mp4", "d2/cam.mp4", "d3/CAM.mp4", "d1_cam.mp4", "alone.mp4", "d1/cam.avi", f"{'é' * 100}.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(original.read_bytes())
    rows = [Segment(file=tmp_path / name, name=name, label="a", start_s=0.0, end_s=0.4, source=name) for name in names]
    made = prepared(rows, tmp_path / "store")
    paths = [video.path.removeprefix("a/").removesuffix("_0-400.mp4") for video in made.videos]
    assert len({path.lower() for path in paths}) == len(names)
    assert paths[1:3] == ["d2_cam", "d3_CAM"]
    assert paths[4] == "alone"


def test_segments_of_one_name_are_not_written_at_once(tmp_path, make_video):
    """The same part with another source, and parts that differ by less than the names tell."""
    original = make_video(50, name="x.mp4")
    one = segment(original, 0.4, 0.8)
    rows = [one, replace(one, source="other"), segment(original, 0.4001, 0.8001), segment(original, 0.4, 1.2)]
    made = prepared(rows, tmp_path / "store")
    assert [video.num_frames for video in made.videos] == [10, 10, 10, 20]
    assert made.videos[0].path == made.videos[1].path
    assert len({video.path for video in made.videos}) == 3
    assert prepared(rows, tmp_path / "store").num_found == 4


def test_a_second_run_makes_nothing_again(tmp_path, make_video, monkeypatch):
    original = make_video(50, name="x.mp4")
    rows = [segment(original, 0, 0.4), segment(original, 0.4, 1.0), segment(make_video(9, name="y.mp4"))]
    first = prepared(rows, tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "write_clips", lambda *_, **__: pytest.fail("made again"))
        patch.setattr(preparing, "probe_video", lambda *_: pytest.fail("decoded again"))
        second = prepared(rows, tmp_path / "store")
    assert second.videos == first.videos
    assert (first.num_found, second.num_found) == (0, 3)
    assert (second.bytes_before, second.duration_before_s) == (first.bytes_before, first.duration_before_s)
    # What changed is made anew: a clip that was tampered with, an original, the size
    (tmp_path / "store" / first.videos[0].path).write_bytes(b"x")
    assert prepared(rows, tmp_path / "store").num_found == 2
    make_video(55, name="x.mp4")
    assert prepared(rows, tmp_path / "store").num_found == 1
    assert prepared(rows, tmp_path / "store", short_side=32).num_found == 0
    assert prepared(rows, tmp_path / "store", short_side=32).videos[0].num_frames == 10


def test_what_a_killed_run_left_is_cleared_and_the_rest_kept(tmp_path, make_video):
    original = make_video(50, name="x.mp4")
    rows = [segment(original, 0, 0.4), segment(original, 0.4, 1.0)]
    first = prepared(rows[:1], tmp_path / "store")
    leftover = tmp_path / "store" / "a" / ".x_400-1000.partial-1.mp4"
    leftover.write_bytes(b"half")
    with open(tmp_path / "store" / "prepared.jsonl", "a") as log:
        log.write('{"key": "[1, ')
    second = prepared(rows, tmp_path / "store")
    assert second.num_found == 1
    assert second.videos[0] == first.videos[0]
    assert not leftover.exists()
    assert prepared(rows, tmp_path / "store").num_found == 2


def test_a_run_that_is_killed_at_once_leaves_a_store_of_ours(tmp_path, make_video, monkeypatch):
    rows = [segment(make_video(50, name="x.mp4"), 0, 0.4)]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(preparing, "write_clips", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        prepared(rows, tmp_path / "store")
    preparing.check_store(tmp_path / "store", [], [])
    assert len(prepared(rows, tmp_path / "store").videos) == 1


def test_damaged_footage_is_counted_or_set_aside(tmp_path):
    whole = write_timed(tmp_path / "x.mp4", list(range(200)), g="10")
    with av.open(str(whole)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(whole.read_bytes())
    for position, size in packets[100:150]:
        content[position : position + size] = bytes(size)
    whole.write_bytes(bytes(content))
    made = prepared([segment(whole, 0, 2), segment(whole, 4, 6), segment(whole, 6.4, 7.6)], tmp_path / "store")
    assert [video.start_s for video in made.videos] == [0, 6.4]
    assert shown(tmp_path / "store" / made.videos[1].path) == nth(200)[160:190]
    [rejected] = made.rejected
    assert rejected.path == "x.mp4, 4 to 6 s"
    assert "of 50 frames decode" in rejected.reason or "no frame decodes" in rejected.reason
    assert list((tmp_path / "store" / "a").glob("*4000*")) == []


def test_folders_of_others_are_not_written_to(tmp_path, make_video):
    video = segment(make_video(9, name="x.mp4"))
    (tmp_path / "data_clips").mkdir()
    (tmp_path / "data_clips" / "thesis.txt").touch()
    with pytest.raises(
        InputError, match=r"data_clips: split_data\.py puts clips here, but the folder holds other files"
    ):
        preparing.check_store(preparing.store_beside(tmp_path / "data"), [video], [tmp_path / "data"])
    with pytest.raises(InputError, match=r"contains videos to split, and is in"):
        preparing.check_store(tmp_path / "y_clips", [video], [tmp_path])
    assert preparing.store_beside(Path()).is_absolute()


# ---- from the table to the split


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Six recordings of 10 s with two segments of each of two classes, and actions.csv."""
    rows = ["path,label,start_s,end_s"]
    for number in range(6):
        write_timed(tmp_path / f"day{number}.mp4", list(range(250)), g="50")
        for place, label in enumerate("abab"):
            rows.append(f"day{number}.mp4,{label},{2 * place},{2 * place + 0.8}")
    (tmp_path / "actions.csv").write_text("\n".join(rows))
    return tmp_path


def split(folder: Path, *flags: str) -> dict:
    split_data.main(["--annotations", str(folder / "actions.csv"), "--output_dir", str(folder / "data"), *flags])
    return json.loads((folder / "data" / "split.json").read_text())


def test_a_table_becomes_a_split(recordings, capsys):
    record = split(recordings, "--test_fraction", "0.2", "--background", "nothing", "--num_workers", "2")
    assert (record["protocol"], record["leaks"], record["num_sources"]) == ("grouped", 0, 6)
    assert sum(record["counts"].values()) == 36
    assert all(record["counts"].values())
    entry = next(item for item in record["videos"] if item["label"] == "b")
    assert entry["cut_from"] == entry["source"]
    assert entry["path"].endswith(
        f"/b/{entry['source'].removesuffix('.mp4')}_{1000 * entry['start_s']:.0f}-{1000 * entry['end_s']:.0f}.mp4"
    )
    [first, *_] = records.load_videos(recordings / "data" / "train", num_workers=1)
    assert (first.num_frames, first.fps) == (20, 25)
    assert (recordings / "data" / entry["path"]).samefile(recordings / "data_clips" / entry["path"].partition("/")[2])
    out = capsys.readouterr().out
    assert re.search(r"data_clips: 36 clips in \d+\.\d s; ", out)
    assert "MB (1.0 min) of video became" in out
    split(recordings, "--test_fraction", "0.2", "--background", "nothing")
    assert "36 clips (36 of them from an earlier run)" in capsys.readouterr().out


def test_a_column_of_sides_is_obeyed_and_audited(recordings, capsys):
    lines = (recordings / "actions.csv").read_text().splitlines()
    sides = ["train", "train", "train", "val", "val", "test"]
    table = [f"{lines[0]},split"] + [f"{line},{sides[int(line[3])]}" for line in lines[1:]]
    (recordings / "actions.csv").write_text("\n".join(table))
    record = split(recordings)
    assert record["protocol"] == "table"
    assert record["counts"] == {"train": 12, "val": 8, "test": 4}
    assert record["leaks"] == 0
    assert {(item["source"], item["split"]) for item in record["videos"]} == {
        (f"day{number}.mp4", side) for number, side in enumerate(sides)
    }
    table[-1] = table[-1].replace("test", "val")
    (recordings / "actions.csv").write_text("\n".join(table))
    capsys.readouterr()
    record = split(recordings)
    assert record["leaks"] == 1
    assert (
        "note: the column split puts 1 recording on more than one side (day5.mp4): the model" in capsys.readouterr().out
    )


def test_nothing_is_written_for_a_wrong_table(recordings):
    with open(recordings / "actions.csv", "a") as table:
        table.write("\nday0.mp4,a,7,70\n")
    with pytest.raises(InputError, match=r"actions\.csv:26: ends at 70 s"):
        split(recordings)
    assert not (recordings / "data").exists() and not (recordings / "data_clips").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("day0.mp4,a,\nday1.mp4,a,\n", "at least two classes, found \\['a'\\]"),
        ("day0.mp4,a,train\nday1.mp4,b,val\n", "class 'b' has no training video: the column split"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_is_cut(recordings, rows, message):
    (recordings / "actions.csv").write_text(f"path,label,split\n{rows}")
    with pytest.raises(InputError, match=message):
        split(recordings)
    assert not (recordings / "data_clips").exists()


def test_output_inside_the_classes_is_refused(drawn_clips):
    with pytest.raises(InputError, match="overlaps"):
        split_data.main(
            ["--input_dir", str(drawn_clips), "--output_dir", str(drawn_clips / "data"), "--short_side", "64"]
        )


def test_a_folder_of_classes_is_prepared(drawn_clips, tmp_path, capsys):
    flags = ["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "data"), "--short_side", "64"]
    split_data.main(flags)
    record = json.loads((tmp_path / "data" / "split.json").read_text())
    assert (len(record["videos"]), record["num_sources"], record["leaks"]) == (36, 6, 0)
    assert all(entry["path"].endswith(".mp4") for entry in record["videos"])
    entry = record["videos"][0]
    assert decoding.read_info(tmp_path / "data" / entry["path"]).height == 64
    assert entry["num_frames"] == decoding.count_frames(drawn_clips / entry["cut_from"])[0]


def test_a_store_needs_a_folder_beside_it():
    with pytest.raises(InputError, match="--output_dir /: clips go to a folder beside it"):
        preparing.store_beside(Path("/"))


@pytest.mark.parametrize(
    ("num_found", "bytes_after", "expected"),
    [
        (0, 2_000_000, "0 clips in 1.5 min; 2.0 MB (10.0 min) of video"),
        (
            3,
            500_000,
            "0 clips (3 of them from an earlier run) in 1.5 min; 2.0 MB (10.0 min) of video became 0.5 MB (2.0",
        ),
    ],
)
def test_the_summary_of_prepared_clips(num_found, bytes_after, expected):
    made = preparing.Prepared(
        videos=[],
        rejected=[],
        num_found=num_found,
        seconds=90.0,
        bytes_before=2_000_000,
        duration_before_s=600.0,
        bytes_after=bytes_after,
        duration_after_s=120.0,
    )
    assert made.summary().startswith(expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --input_dir or --annotations to split videos"),
        (["--input_dir", "v", "--background", "x"], "--background requires --annotations"),
        (["--input_dir", "v", "--class_list", "x"], "--class_list requires --annotations"),
        (["--annotations", "t", "--groups", "x"], "--groups cannot be combined with --annotations"),
        (
            ["--annotations", "t", "--protocol", "hmdb51", "--splits_dir", "s"],
            "--annotations requires --protocol grouped",
        ),
        (
            ["--input_dir", "v", "--short_side", "9", "--protocol", "hmdb51", "--splits_dir", "s"],
            "--short_side requires --protocol grouped",
        ),
        (["--annotations", "t", "--audit", "x"], "--annotations cannot be combined with --audit"),
    ],
)
def test_flags_that_do_not_go_together(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        split_data.parse_args(flags)
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """By SIGKILL in the midst of encoding; what is finished is not made again."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (240, 320, 3)).astype(np.uint8) for _ in range(8)]
    rows = ["path,label,start_s,end_s"]
    for number in range(2):
        write_video(tmp_path / f"{number}.mp4", (noise[index % 8] for index in range(500)), fps=25)
        rows += [f"{number}.mp4,{'ab'[place % 2]},{2 * place},{2 * place + 1.9}" for place in range(10)]
    (tmp_path / "actions.csv").write_text("\n".join(rows))
    flags = ["--annotations", tmp_path / "actions.csv", "--output_dir", tmp_path / "data", "--num_workers", "1"]
    store = tmp_path / "data_clips"
    with subprocess.Popen([sys.executable, "split_data.py", *flags], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while len(list(store.glob("*/[!.]*.mp4"))) < 6:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert not (tmp_path / "data").exists()
    finished = {path: path.stat().st_mtime_ns for path in store.glob("*/[!.]*.mp4")}
    split_data.main([*map(str, flags)])
    kept = [path for path, time_ns in finished.items() if path.stat().st_mtime_ns == time_ns]
    assert len(kept) >= len(finished) - 1  # one may have been whole and not yet noted
    assert len(list(store.glob("*/*.mp4"))) == 20
    assert list(store.glob("*/.*")) == []


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path):
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk, on Linux")
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (240, 320, 3)).astype(np.uint8) for _ in range(8)]
    write_video(tmp_path / "x.mp4", (noise[index % 8] for index in range(500)), fps=25)
    rows = ["path,label,start_s,end_s"] + [f"{tmp_path}/x.mp4,{'ab'[n % 2]},{n},{n + 0.9}" for n in range(20)]
    (tmp_path / "actions.csv").write_text("\n".join(rows))
    (tmp_path / "disk").mkdir()
    command = f"{sys.executable} split_data.py --annotations {tmp_path}/actions.csv --output_dir {tmp_path}/disk/data"
    script = (
        f"mount -t tmpfs -o size=8m none {tmp_path}/disk && {command}; echo $?; ls -A {tmp_path}/disk/data_clips/*; "
        f"{command} > /dev/null; wc -l < {tmp_path}/disk/data_clips/prepared.jsonl"
    )
    result = subprocess.run(["unshare", "-m", "bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    if "mount" in result.stderr or "unshare" in result.stderr:
        pytest.skip("no disk can be mounted here")
    errors = [line for line in result.stderr.replace("\r", "\n").splitlines() if line.startswith("error")]
    assert len(errors) == 2 and "Traceback" not in result.stderr, result.stderr
    assert "data_clips: the disk is full; " in errors[0] and "of 20 clips are finished and kept" in errors[0]
    assert "\n1\n" in f"\n{result.stdout}"
    finished = [line for line in result.stdout.splitlines() if line.endswith(".mp4") and "/" not in line]
    assert finished and not any(line.startswith(".") for line in finished)
    assert int(result.stdout.split()[-1]) >= len(finished)
