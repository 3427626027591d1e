import json
import os
from pathlib import Path

import pytest

from tests.conftest import link
from video_module import files
from video_module.errors import InputError
from video_module.inference.inputs import Inputs, Shard
from video_module.inference.outputs import (
    ResultLog,
    check_annotations,
    check_log,
    name_in_table,
    plan_outputs,
    write_annotations,
)

RUN = {"model_digest": "abc", "clip_step": None}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_output_files_mirror_the_input_folders(tmp_path):
    videos = tuple(tmp_path / "in" / name for name in ("a/x.avi", "a/x.mp4", "b/x.avi"))
    inputs = Inputs(videos=videos, root=tmp_path / "in")
    outputs = plan_outputs(inputs, {"save_json": (tmp_path / "out", ".json"), "save_csv": (None, ".csv")})
    assert [plan["save_json"].relative_to(tmp_path / "out").as_posix() for plan in outputs.values()] == [
        "a/x.avi.json",  # keeps its suffix, because x.mp4 would also become x.json
        "a/x.mp4.json",
        "b/x.json",
    ]


def test_relative_and_absolute_paths_can_be_mixed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = Inputs(videos=(Path("a/x.avi"), tmp_path / "b/y.avi"), root=tmp_path)
    outputs = plan_outputs(inputs, {"save_json": (Path("out"), ".json")})
    assert [plan["save_json"].as_posix() for plan in outputs.values()] == ["out/a/x.json", "out/b/y.json"]


def test_two_videos_with_the_same_output_are_refused(tmp_path):
    videos = tuple(tmp_path / name for name in ("a.avi", "a.mp4", "a.avi.mkv"))
    with pytest.raises(InputError, match=r"a\.avi and .*a\.avi\.mkv would both be written to .*a\.avi\.json"):
        plan_outputs(Inputs(videos=videos, root=tmp_path), {"save_json": (tmp_path / "out", ".json")})


@pytest.mark.skipif(os.name == "nt", reason="paths must be shorter on Windows")
@pytest.mark.parametrize("stem", ["a" * 251, "ж" * 125, "\udcff" * 251])
def test_long_names_get_unique_shorter_outputs(stem, tmp_path):
    """Such names used to fail in the middle of a run."""
    videos = tuple(tmp_path / "in" / name for name in (f"{stem}.avi", f"{stem[:-1]}b.avi", "x.avi"))
    inputs = Inputs(videos=videos, root=tmp_path / "in")
    written = [paths["save_json"] for paths in plan_outputs(inputs, {"save_json": (tmp_path, ".json")}).values()]
    assert len(set(written)) == 3
    assert written[2] == tmp_path / "x.json"
    for path in written:
        assert path.name[:1] in (stem[0], "x", "-") and path.suffix == ".json"
        files.write_json(path, {})
        assert path.is_file()


def test_nothing_is_written_outside_the_output_folder(tmp_path, monkeypatch):
    (tmp_path / "p" / "q").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "p" / "q")
    inputs = Inputs(videos=(Path("b.avi"), Path("../../s/a.avi")), root=tmp_path)
    outputs = plan_outputs(inputs, {"save_json": (Path("out"), ".json")})
    assert [plan["save_json"].as_posix() for plan in outputs.values()] == ["out/p/q/b.json", "out/s/a.json"]


def test_annotated_videos_are_not_written_to_input_folders(tmp_path):
    """The next run would read them as inputs."""
    inputs = Inputs(videos=(tmp_path / "in" / "x.avi",), root=tmp_path / "in", folders=(tmp_path / "in",))
    for place in (tmp_path / "in", tmp_path / "in" / "out"):
        with pytest.raises(InputError, match="is inside an input folder"):
            plan_outputs(inputs, {"save_video": (place, ".mp4")})
        plan_outputs(inputs, {"save_json": (place, ".json")})
    plan_outputs(inputs, {"save_video": (tmp_path / "out", ".mp4")})


def test_no_video_is_overwritten(tmp_path):
    video = tmp_path / "x.mp4"
    with pytest.raises(InputError, match="would be overwritten"):
        plan_outputs(Inputs(videos=(video,)), {"save_video": (video, ".mp4")})
    with pytest.raises(InputError, match="would be overwritten"):
        plan_outputs(Inputs(videos=(video,), root=tmp_path), {"save_video": (tmp_path, ".mp4")})


def test_no_video_is_overwritten_under_another_name(tmp_path):
    """On case-insensitive file systems, X.MP4 is x.mp4; a hard link simulates that here."""
    video = tmp_path / "x.mp4"
    video.touch()
    os.link(video, tmp_path / "X2.mp4")
    inputs = Inputs(videos=(video,))
    with pytest.raises(InputError, match="would be overwritten"):
        plan_outputs(inputs, {"save_video": (tmp_path / "X2.mp4", ".mp4")})
    with pytest.raises(InputError, match="is one of the videos"):
        check_log(tmp_path / "X2.mp4", inputs)


def test_a_log_is_resumed(tmp_path):
    path = tmp_path / "deep" / "r.jsonl"
    with ResultLog(path, shard=Shard(), run=RUN) as log:
        assert log.done == set()
        log.append(Path("a.avi"), {"top_k": []})
        log.append(Path("é.avi"), {"top_k": []})
        log.append(Path("broken.avi"), {"error": "broken"})
    with open(path, "a") as file:
        file.write('{"video": "c.avi", "top')  # as if killed while writing a line
    with ResultLog(path, shard=Shard(), run=RUN) as log:
        assert log.done == {"a.avi", "é.avi"}
        log.append(Path("c.avi"), {"top_k": []})
    assert [line["video"] for line in lines(path)] == ["a.avi", "é.avi", "broken.avi", "c.avi"]
    assert lines(path)[0]["run"] == RUN


def test_a_log_with_only_a_partial_line(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"vid')
    with ResultLog(tmp_path / "r.jsonl", shard=Shard(), run=RUN) as log:
        log.append(Path("a.avi"), {})
    assert len(lines(tmp_path / "r.jsonl")) == 1


def test_a_log_is_resumed_with_another_number_of_processes(tmp_path):
    path = tmp_path / "r.jsonl"
    for index, video in enumerate(("a.avi", "b.avi")):
        with ResultLog(path, shard=Shard(index=index, count=2), run=RUN) as log:
            log.append(Path(video), {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r-00000-of-00002.jsonl", "r-00001-of-00002.jsonl"]
    (tmp_path / "r-notes.jsonl").write_text("not ours\n")
    with ResultLog(path, shard=Shard(), run=RUN) as log:
        assert log.done == {"a.avi", "b.avi"}
        assert log.path == path


def test_logs_of_other_runs_are_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    with ResultLog(path, shard=Shard(), run=RUN) as log:
        log.append(Path("a.avi"), {})
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"made with another clip_step \(None; this run: 8\)"):
        ResultLog(path, shard=Shard(), run={**RUN, "clip_step": 8})
    for text in ("notes", '{"video": "a.avi", "run": "x"}\n', '{"video": "a.avi"}\nnotes'):
        path.with_name("notes.jsonl").write_text(text)
        with pytest.raises(InputError, match="choose another file"):
            ResultLog(path.with_name("notes.jsonl"), shard=Shard(), run=RUN)
        assert path.with_name("notes.jsonl").read_text() == text
    path.with_name("other.jsonl").write_text("text\n")
    with pytest.raises(InputError, match=r"other\.jsonl, line 1: not written by run_model\.py"):
        ResultLog(path.with_name("other.jsonl"), shard=Shard(), run=RUN)
    assert path.read_bytes() == before


def test_each_line_is_synced_to_disk(tmp_path, monkeypatch):
    """Each line is complete before fsync(), so that a power failure loses no answer."""
    kept = []
    monkeypatch.setattr(os, "fsync", lambda number: kept.append(os.fstat(number).st_size))
    path, sizes = tmp_path / "r.jsonl", []
    with ResultLog(path, shard=Shard(), run=RUN) as log:
        for name in ("a.avi", "b.avi"):
            log.append(Path(name), {"top_k": []})
            sizes.append(path.stat().st_size)
    assert kept == sizes
    assert path.read_bytes().count(b"\n") == 2


def test_a_table_names_videos_relative_to_its_folder(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    for video, table, name in (
        ("a/x.avi", "a/t.csv", "x.avi"),
        (tmp_path / "a" / "b" / "x.avi", "a/t.csv", "b/x.avi"),
        ("a/x.avi", tmp_path / "out" / "t.csv", "../a/x.avi"),
        ("x.avi", "t.csv", "x.avi"),
    ):
        assert name_in_table(Path(video), Path(table)) == name


def test_names_in_a_table_in_a_linked_folder(tmp_path):
    for folder in ("deep/er/real", "videos"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "videos" / "x.avi").touch()
    (tmp_path / "deep" / "er" / "real" / "y.avi").touch()
    link(tmp_path / "linked", tmp_path / "deep" / "er" / "real")
    table = tmp_path / "linked" / "t.csv"
    assert (table.parent / name_in_table(tmp_path / "videos" / "x.avi", table)).is_file()
    assert name_in_table(tmp_path / "linked" / "y.avi", table) == "y.avi"


def segment(start_s: float, end_s: float, label: str, *, is_uncertain: bool = False) -> dict:
    return {"start_s": start_s, "end_s": end_s, "label": label, "score": 0.87654, "is_uncertain": is_uncertain}


def test_a_table_has_no_uncertain_segments(tmp_path):
    answers = [
        ("b/x.avi", [segment(0, 1.2345, "run"), segment(1.2345, 4, "uncertain", is_uncertain=True)]),
        ("a, 2.avi", [segment(0, 3, "uncertain")]),  # a class with that name
    ]
    assert write_annotations(tmp_path / "t.csv", answers) == 2
    assert (tmp_path / "t.csv").read_bytes() == (
        b'path,start_s,end_s,label,score\r\nb/x.avi,0.000,1.234,run,0.877\r\n"a, 2.avi",0.000,3.000,uncertain,0.877\r\n'
    )
    assert write_annotations(tmp_path / "none.csv", [("x.avi", answers[0][1][1:])]) == 0
    assert not (tmp_path / "none.csv").exists()


def test_a_table_with_non_ascii_text_starts_with_a_bom(tmp_path):
    write_annotations(tmp_path / "t.csv", [("día.avi", [segment(0, 1, "бег")])])
    assert (tmp_path / "t.csv").read_bytes().startswith(b"\xef\xbb\xbfpath,")
    assert "día.avi,0.000,1.000,бег" in (tmp_path / "t.csv").read_text(encoding="utf-8-sig")


def test_an_existing_table_is_not_overwritten(tmp_path):
    """It may contain hours of manual corrections."""
    (tmp_path / "t.csv").write_text("path,label\n")
    with pytest.raises(InputError, match=r"--save_annotations .*t\.csv: already exists and may contain corrections"):
        check_annotations(tmp_path / "t.csv", Inputs(videos=(tmp_path / "x.avi",)))
    with pytest.raises(InputError, match="is one of the videos"):
        check_annotations(tmp_path / "x.avi", Inputs(videos=(tmp_path / "x.avi",)))
    check_annotations(tmp_path / "new.csv", Inputs(videos=(tmp_path / "x.avi",)))
