"""Tests of run_model.py: lists of videos, resumed logs, several processes, and live sources."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from PIL import Image

import run_model
import split_data
from tests.data.test_times import write_timed
from video_module.data.drawing import draw_recording
from video_module.errors import InputError

ROOT = Path(__file__).parents[1]


def start(*arguments: str | Path, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "run_model.py", *map(str, arguments)]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1", **environment}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, encoding="utf-8", **pipes)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def videos(drawn_data) -> list[Path]:
    return sorted((drawn_data / "train").rglob("*.avi"))


def test_video_names_on_stdin(exported, videos, tmp_path):
    process = start("--video_path", "-", "--model", exported, "--save_jsonl", tmp_path / "r.jsonl")
    out, err = process.communicate("".join(f"{video}\n" for video in videos[:3]), timeout=60)
    assert process.returncode == 0, err
    assert [line["video"] for line in lines(tmp_path / "r.jsonl")] == [str(video) for video in videos[:3]]
    assert sum(str(video) in out for video in videos[:3]) == 3


def test_a_killed_run_resumes_and_logs_every_video_once(exported, videos, tmp_path):
    """After being killed up to five times, the log equals that of an uninterrupted run."""
    folder = videos[0].parents[1]
    log = tmp_path / "r.jsonl"
    arguments = ["--video_path", folder, "--model", exported, "--save_jsonl", log, "--save_csv", tmp_path / "csv"]
    arguments += ["--clip_step", "1"]
    numbers = []
    for more in (1, 3, 2, 1, 4):
        process = start(*arguments)
        deadline, before = time.monotonic() + 60, numbers[-1] if numbers else 0
        while process.poll() is None and time.monotonic() < deadline:
            if log.is_file() and log.read_bytes().count(b"\n") >= before + more:
                break
            time.sleep(0.002)
        process.kill()
        process.communicate(timeout=60)
        numbers.append(log.read_bytes().count(b"\n"))
        if numbers[-1] == len(videos):
            break  # it finished before it could be killed
    assert numbers == sorted(set(numbers))  # each run made progress
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert re.search(r"\d+ of \d+ videos are already done", out)
    run_model.main([*map(str, arguments[:4]), "--clip_step", "1", "--save_jsonl", str(tmp_path / "whole.jsonl")])
    assert lines(log) == lines(tmp_path / "whole.jsonl")
    assert len(lines(log)) == len(videos)
    assert len(list((tmp_path / "csv").rglob("*.csv"))) == len(videos)


def test_several_processes_share_the_videos(exported, videos, tmp_path):
    folder = videos[0].parents[1]
    arguments = ["--video_path", folder, "--model", exported, "--save_jsonl", tmp_path / "r.jsonl"]
    processes = [start(*arguments, RANK=str(rank), WORLD_SIZE="3") for rank in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    parts = [[line["video"] for line in lines(file)] for file in sorted(tmp_path.glob("*.jsonl"))]
    assert len(parts) == 3
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert sorted(video for part in parts for video in part) == [str(video) for video in videos]


def test_a_broken_video_is_logged_with_its_error(exported, videos, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.avi").write_text("text")
    (tmp_path / "in" / "b.avi").write_bytes(videos[0].read_bytes())
    arguments = ["--video_path", str(tmp_path / "in"), "--model", str(exported)]
    with pytest.raises(InputError, match="1 of 2 videos could not be read"):
        run_model.main([*arguments, "--save_jsonl", str(tmp_path / "r.jsonl")])
    broken, whole = lines(tmp_path / "r.jsonl")
    assert "not a video" in broken["error"]
    assert whole["top_k"]
    assert whole["segments"]
    assert "windows" not in whole


def test_all_outputs_at_once(exported, drawn_data, tmp_path, capsys):
    video = next((drawn_data / "test").rglob("*.avi"))
    kinds = {flag: tmp_path / f"out{suffix}" for flag, suffix in run_model.OUTPUTS.items()}
    flags = [word for flag, path in kinds.items() for word in (f"--{flag}", str(path))]
    run_model.main(["--video_path", str(video), "--model", str(exported), "--min_score", "0", *flags])
    content = json.loads(kinds["save_json"].read_text())
    assert content["timeline"]["min_score"] == 0
    assert kinds["save_vtt"].read_text().count("-->") == len(content["segments"])
    assert kinds["save_csv"].read_text().count("\n") == len(content["windows"]) + 1
    assert kinds["save_video"].stat().st_size > 1000
    assert kinds["save_timeline"].read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert all(str(path) in out for path in kinds.values())


@pytest.mark.parametrize(("min_score", "is_uncertain"), [("0", False), ("1", True)])
def test_segments_are_printed_before_the_mean(exported, drawn_data, capsys, min_score, is_uncertain):
    video = next((drawn_data / "test").rglob("*.avi"))
    run_model.main(["--video_path", str(video), "--model", str(exported), "--min_score", min_score])
    first, mean = capsys.readouterr().out.split("mean of the whole video\n")
    answer = r"\(uncertain: \w+ \d+%\)" if is_uncertain else r"\w+ \(\d+%\)"
    assert re.search(rf"\n +0\.00 - \d+\.\d\d s  {answer}\n", first)
    assert ("(uncertain: no class reaches --min_score 1)" in first) == is_uncertain
    assert mean.count("%") == 5


def table_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_a_table_has_the_segments_of_all_videos(exported, videos, tmp_path, capsys):
    folder = tmp_path / "recordings"
    for number, video in enumerate(videos[:3]):
        (folder / f"day {number}").mkdir(parents=True)
        (folder / f"day {number}" / "x.avi").write_bytes(video.read_bytes())
    (folder / "broken.avi").write_text("text")
    table = tmp_path / "tables" / "found.csv"
    flags = ["--video_path", str(folder), "--model", str(exported), "--save_annotations", str(table)]
    with pytest.raises(InputError, match="1 of 4 videos could not be read"):
        run_model.main([*flags, "--min_score", "0", "--save_json", str(tmp_path / "json")])
    rows = table_rows(table)
    assert [row["path"] for row in rows] == [f"../recordings/day {number}/x.avi" for number in range(3)]
    for number, row in enumerate(rows):
        [segment] = json.loads((tmp_path / "json" / f"day {number}" / "x.json").read_text())["segments"]
        assert (row["label"], float(row["score"])) == (segment["label"], pytest.approx(segment["score"], abs=1e-3))
        assert float(row["start_s"]) == 0
        assert float(row["end_s"]) == pytest.approx(segment["end_s"], abs=1e-3)
    assert f"\n  {table}\n" in capsys.readouterr().out
    with pytest.raises(InputError, match="may contain corrections"):
        run_model.main(flags)


def test_a_note_mentions_uncertain_segments(exported, videos, tmp_path, capsys):
    flags = ["--video_path", str(videos[0]), "--model", str(exported), "--min_score", "1"]
    run_model.main([*flags, "--save_annotations", str(tmp_path / "found.csv")])
    printed = capsys.readouterr().out
    assert "note: no table: found only 1 uncertain segment; use --min_score 0 to include" in printed
    assert not list(tmp_path.iterdir())


def test_the_table_of_a_resumed_run_has_all_videos(exported, videos, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    shared = ["--video_path", str(folder), "--model", str(exported), "--min_score", "0"]
    for number, video in enumerate(videos[:2]):
        (folder / f"{number}.avi").write_bytes(video.read_bytes())
        table = tmp_path / f"{number}.csv"
        run_model.main([*shared, "--save_jsonl", str(tmp_path / "log.jsonl"), "--save_annotations", str(table)])
    assert len(lines(tmp_path / "log.jsonl")) == 2
    assert [row["path"] for row in table_rows(table)] == ["recordings/0.avi", "recordings/1.avi"]


def test_a_corrected_table_can_be_split(exported, tmp_path, capsys):
    """Label recordings with a model, correct the table and split it into training data."""
    for number in range(4):
        draw_recording(tmp_path / "recordings" / f"{number}.avi", ("wave", "sit", "jump"), seed=1, source=number)
    table = tmp_path / "recordings" / "found.csv"
    run_model.main(
        ["--video_path", str(table.parent), "--model", str(exported), "--save_annotations", str(table)]
        + ["--min_score", "0"]
    )
    rows = table_rows(table)
    assert [row["path"] for row in rows] == [f"{number}.avi" for number in range(4)]
    # The model, trained for two epochs, finds one action per video. Cut it into three, and write the table as a
    # spreadsheet with decimal commas does.
    corrected = [
        (row["path"], round(float(row["end_s"]) * part / 3, 2), round(float(row["end_s"]) * (part + 1) / 3, 2), label)
        for row in rows
        for part, label in enumerate(("wave", "sit", "jump"))
    ]
    text = "".join(
        f"{path};{start_s};{end_s};{label};0.9\r\n".replace(".", ",").replace(",avi", ".avi")
        for path, start_s, end_s, label in corrected
    )
    table.write_bytes(b"\xef\xbb\xbf" + f"path;start_s;end_s;label;score\r\n{text}".encode())
    split_data.main(["--annotations", str(table), "--output_dir", str(tmp_path / "data"), "--num_folds", "2"])
    printed = capsys.readouterr().out
    assert "ignored columns: score" in printed
    content = json.loads((tmp_path / "data" / "fold1" / "split.json").read_text())
    assert content["rejected"] == []
    found = {(v["cut_from"], v["start_s"], v["end_s"], v["label"]) for v in content["videos"]}
    assert found == set(corrected)
    # Each recording is a source and is tested in one fold.
    for fold in (1, 2):
        content = json.loads((tmp_path / "data" / f"fold{fold}" / "split.json").read_text())
        assert len({v["source"] for v in content["videos"] if v["split"] == "test"}) == 2


def test_images_are_refused(exported, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "curves.png")
    with pytest.raises(InputError, match=r"curves\.png: is an image, not a video"):
        run_model.main(["--video_path", str(tmp_path / "curves.png"), "--model", str(exported)])


def test_damaged_frames_are_reported_and_saved(exported, tmp_path, capsys):
    path = write_timed(tmp_path / "x.mp4", list(range(40)), bf="0", g="1")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[20]
        data[entry.pos : entry.pos + entry.size] = bytes(entry.size)
    path.write_bytes(data)
    command = ["--video_path", str(path), "--model", str(exported), "--save_json", str(tmp_path / "x.json")]
    run_model.main(command)
    assert f"note: {path}: 1 frame lost or damaged" in capsys.readouterr().out
    answer = json.loads((tmp_path / "x.json").read_text())
    assert (answer["num_frames"], answer["num_damaged_frames"]) == (39, 1)
    assert answer["duration_s"] == pytest.approx(40 / 25)
    assert answer["fps"] == pytest.approx(39 / answer["duration_s"])


def test_missing_timestamps_are_reported(exported, tmp_path, capsys):
    path = write_timed(tmp_path / "x.h264", list(range(40)), codec="libx264")
    run_model.main(["--video_path", str(path), "--model", str(exported)])
    assert f"note: {path}: no timestamps; assuming 25 frames/s" in capsys.readouterr().out


def test_a_file_in_real_time(exported, tmp_path, capsys):
    video = tmp_path / "recording.avi"
    draw_recording(video, ("wave", "sit"), seed=1, source=1, seconds_each=1.5)
    log = tmp_path / "live.jsonl"
    run_model.main(["--video_path", str(video), "--model", str(exported), "--realtime", "--save_jsonl", str(log)])
    out = capsys.readouterr().out
    assert re.search(r"\d+ frames, \d+ dropped; \d+ windows, [\d.]+ a second; latency median [\d.]+ s", out)
    assert len(lines(log)) == int(re.search(r"(\d+) windows", out)[1])
    for line in lines(log):
        assert line["latency_s"] > 0
        assert line["top_k"][0]["score"] <= 1


def test_stop_after_s(exported, drawn_data):
    video = next((drawn_data / "test").rglob("*.avi"))
    with pytest.raises(InputError, match="before a whole clip of the model was seen"):
        run_model.main(["--video_path", str(video), "--model", str(exported), "--realtime", "--stop_after_s", "0.05"])


def test_failed_videos_and_missing_outputs_are_redone(exported, videos, tmp_path):
    """A resumed run repeats videos that failed or whose other output files are missing."""
    folder, log = tmp_path / "in", tmp_path / "r.jsonl"
    folder.mkdir()
    (folder / "a.avi").write_bytes(videos[0].read_bytes())
    (folder / "b.avi").write_text("text")
    arguments = ["--video_path", str(folder), "--model", str(exported), "--save_jsonl", str(log)]
    with pytest.raises(InputError, match="1 of 2 videos"):
        run_model.main(arguments)
    with pytest.raises(InputError, match="1 of 1 videos"):
        run_model.main(arguments)
    (folder / "b.avi").write_bytes(videos[1].read_bytes())
    run_model.main([*arguments, "--save_csv", str(tmp_path / "csv")])
    assert [(Path(line["video"]).name, "error" in line) for line in lines(log)] == [
        *(("a.avi", False), ("b.avi", True), ("b.avi", True)),
        *(("a.avi", False), ("b.avi", False)),
    ]
    assert sorted(file.name for file in (tmp_path / "csv").iterdir()) == ["a.csv", "b.csv"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows arbitrary bytes in file names")
def test_a_file_name_that_is_not_unicode_is_skipped_and_logged(exported, videos, tmp_path):
    folder, log = tmp_path / "in", tmp_path / "r.jsonl"
    folder.mkdir()
    for name in (b"a\xff.avi", b"b.avi"):
        (folder / os.fsdecode(name)).write_bytes(videos[0].read_bytes())
    process = start("--video_path", folder, "--model", exported, "--save_jsonl", log)
    _, err = process.communicate(timeout=120)
    assert "1 of 2 videos could not be read" in err
    assert "Traceback" not in err
    assert [("error" in line, Path(line["video"]).name) for line in lines(log)] == [
        (True, os.fsdecode(b"a\xff.avi")),
        (False, "b.avi"),
    ]


@pytest.mark.parametrize("flags", [[], ["--realtime"]])
def test_a_log_does_not_overwrite_other_files(exported, videos, tmp_path, flags):
    video, notes = tmp_path / "v.avi", tmp_path / "notes.txt"
    video.write_bytes(videos[0].read_bytes())
    notes.write_text("my notes")
    for log, reason in ((video, "is one of the videos"), (notes, "choose another file")):
        before = log.read_bytes()
        with pytest.raises(InputError, match=reason):
            run_model.main(["--video_path", str(video), "--model", str(exported), "--save_jsonl", str(log), *flags])
        assert log.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--realtime", "--save_csv", "x.csv"], "--save_csv requires files"),
        (["--realtime", "--save_annotations", "x.csv"], "--save_annotations requires files"),
        (["--stop_after_s", "3"], "--stop_after_s requires a camera"),
        (["--min_score", "2"], r"min_score must be in 0\.\.1"),
        (["--obj_names", "requirements-dev.txt"], "have different classes"),
    ],
)
def test_incompatible_flags_are_errors(exported, drawn_data, flags, reason):
    video = next((drawn_data / "test").rglob("*.avi"))
    with pytest.raises(InputError, match=reason):
        run_model.main(["--video_path", str(video), "--model", str(exported), *flags])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_no_display_is_an_error_of_one_line(exported, drawn_data):
    video = next((drawn_data / "test").rglob("*.avi"))
    for display in ("", ":987"):  # none, and one that does not exist
        process = start("--video_path", video, "--model", exported, "--show", DISPLAY=display, WAYLAND_DISPLAY="")
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert err.splitlines() == ["error: --show: no display to open a window on; use --save_video"]
