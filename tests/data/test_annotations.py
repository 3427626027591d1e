"""Tables as people and other programs write them, and what is said of their mistakes."""

import random
import re
from contextlib import suppress
from pathlib import Path

import pytest

from tests.data.test_times import write_timed
from video_module.data.annotations import read_annotations
from video_module.data.segments import Segment
from video_module.errors import InputError


@pytest.fixture
def folder(make_video, tmp_path) -> Path:
    """tables/ beside videos/ with a.mp4 and b c.mp4, of 50 frames at 25 frames/s."""
    make_video(50, name="a.mp4")
    for name in ("tables", "videos"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.mp4").rename(tmp_path / "videos" / "a.mp4")
    (tmp_path / "videos" / "b c.mp4").write_bytes((tmp_path / "videos" / "a.mp4").read_bytes())
    return tmp_path


def read(folder: Path, content: str | bytes, **settings) -> list[Segment]:
    return read_all(folder, content, **settings)[0]


def read_all(folder: Path, content: str | bytes, **settings):
    table = folder / "tables" / "t.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_annotations(table, num_workers=2, **settings)


def plain(segments: list[Segment]) -> list[tuple]:
    return [(segment.file.name, segment.label, segment.start_s, segment.end_s) for segment in segments]


EXPECTED = [("a.mp4", "walk", 0.5, 1.25), ("a.mp4", "run fast", 1.25, 2.0), ("b c.mp4", "walk", None, None)]


@pytest.mark.parametrize(
    "content",
    [
        "path,label,start_s,end_s\n../videos/a.mp4,walk,0.5,1.25\n../videos/a.mp4,run fast,1.25,2\n"
        "../videos/b c.mp4,walk,,\n",
        "Label;PATH;END_S;Start_S;score\nwalk;../videos/a.mp4;1,25;0,5;0,9\nrun fast;../videos/a.mp4;2;1,25;\n\n"
        'walk;"../videos/b c.mp4";;;\n',
        "\ufeffpath\tlabel\tstart_s\tend_s\r\n..\\videos\\a.mp4\twalk\t0.5\t1.25\r\n"
        "../videos/./a.mp4\trun fast\t1.25\t2\r\n../videos/b c.mp4\twalk\t\t\r\n",
        "path, label, start_frame, end_frame\n../videos/a.mp4, walk, 13, 32\n../videos/a.mp4, run fast, 32, 50\n"
        "../videos/b c.mp4, walk\n",
    ],
    ids=["comma", "semicolon and decimal commas", "tab, BOM, CRLF, backslashes", "frames"],
)
def test_the_same_table_in_many_ways(folder, content):
    first, *rest = read(folder, content)
    assert first.start_s == pytest.approx(0.5, abs=0.021)
    assert first.end_s == pytest.approx(1.25, abs=0.031)
    assert plain(rest)[1:] == EXPECTED[2:]
    assert rest[0].label == "run fast"
    assert rest[0].end_s == 2.0
    assert {segment.source for segment in (first, rest[0])} == {"../videos/a.mp4"}
    assert rest[1].source == "../videos/b c.mp4"


def test_paths_may_be_relative_to_the_input_folder(folder):
    assert plain(read(folder, "path,label\na.mp4,walk\nb c.mp4,run\n", input_dir=folder / "videos")) == [
        ("a.mp4", "walk", None, None),
        ("b c.mp4", "run", None, None),
    ]


@pytest.mark.parametrize("separator", [" ", ",", ";", "\t"])
@pytest.mark.parametrize(
    ("classes", "numbers"),
    [("walk\nrun fast\n", ("0", "1")), ("0 walk\n1 run fast\n", ("0", "1")), ("1 walk\r\n2 run fast\r\n", ("1", "2"))],
)
def test_lists_of_other_projects(folder, separator, classes, numbers):
    (folder / "classes.txt").write_text(classes)
    content = f"../videos/a.mp4{separator}{numbers[0]}\n../videos/b c.mp4{separator}{numbers[1]}\n"
    assert plain(read(folder, content, class_list=folder / "classes.txt")) == [
        ("a.mp4", "walk", None, None),
        ("b c.mp4", "run fast", None, None),
    ]


def test_numbers_without_a_class_list_are_told_of(folder):
    _, _, notes = read_all(folder, "../videos/a.mp4 0\n../videos/b c.mp4 1\n")
    assert "all labels are numbers; --class_list names the classes" in notes


def test_sources_and_sides_come_from_their_columns(folder):
    content = "path,label,source_video,split\n../videos/a.mp4,walk,day1,TRAIN\n../videos/b c.mp4,run,day1,test\n"
    segments = read(folder, content)
    assert [(segment.source, segment.split) for segment in segments] == [("day1", "train"), ("day1", "test")]
    segments = read(folder, "path,label\n../videos/a.mp4,walk\n", source_of=lambda path, label: f"{label}!")
    assert [segment.source for segment in segments] == ["walk!"]


def test_names_that_tell_the_recording_are_understood(folder):
    """Cuts of one film must not part because they are listed rather than in class folders."""
    video = (folder / "videos" / "a.mp4").read_bytes()
    names = ["v_Archery_g08_c01.avi", "v_Archery_g08_c02.avi", "TrumanShow_wave_f_nm_np1_fr_med_26.avi", "own.avi"]
    for name in names:
        (folder / "tables" / name).write_bytes(video)
    table = "".join(f"{name} {label}\n" for name, label in zip(names, ("Archery", "Archery", "wave", "x"), strict=True))
    segments, _, notes = read_all(folder, table)
    assert [segment.source for segment in segments] == ["v_Archery_g08", "v_Archery_g08", "TrumanShow", "own.avi"]
    assert not any("each file counts as its own" in note for note in notes)
    segments = read(folder, f"path,label,end_s\n{names[2]},wave,1\n{names[2]},run,2\n")
    assert [segment.source for segment in segments] == ["TrumanShow", "TrumanShow"]  # one recording, one source
    _, _, notes = read_all(folder, "own.avi x\n")
    assert any(
        "each file counts as its own; if several are cut from one recording, add a column source" in n for n in notes
    )
    _, _, notes = read_all(folder, "path,label,end_s\nown.avi,x,1\n")
    assert not any("each file counts as its own" in note for note in notes)


HEAD = "path,label,start_s,end_s,split\n"
A = "../videos/a.mp4"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "t.csv: empty; expected a first line with the columns path and label"),
        ("\n \n", "t.csv: empty"),
        (HEAD, "t.csv: no rows below the header"),
        ("file,action\na.mp4,walk\n", "expected a first line with the columns path and label .*'file,action'"),
        ("a/frames 120 3\n", "or lines of a video's path and its label; got 'a/frames 120 3'"),
        (f"path,label,start,end\n{A},walk,0,1\n", r"column start: not a known column for times"),
        (f"path,label,begin_ms\n{A},walk,0\n", r"column begin_ms: not a known column for times"),
        (f"path,label,label\n{A},walk,0\n", r"two columns are named label"),
        (f"{HEAD}nowhere.mp4,walk,0,1,\n", r"t\.csv:2: nowhere\.mp4: no such file in .*tables$"),
        (f"{HEAD}../videos/A.MP4,walk,0,1,\n", r"t\.csv:2: .*no such file in .*; did you mean a\.mp4\?"),
        (f"{HEAD}../videos/a,walk,0,1,\n", r"did you mean a\.mp4\?"),
        (f"{HEAD}/nowhere/a.mp4,walk,0,1,\n", r"t\.csv:2: /nowhere/a\.mp4: no such file$"),
        (f"{HEAD},walk,0,1,\n", r"t\.csv:2: path is empty"),
        (f"{HEAD}../videos,walk,0,1,\n", r"t\.csv:2: \.\./videos: is a folder; frames stored as images cannot be read"),
        (f"{HEAD}t.csv,walk,0,1,\n", r"t\.csv:2: t\.csv: not a video file"),
        (f"{HEAD}{A},,0,1,\n", r"t\.csv:2: label is empty"),
        (f"{HEAD}{A},a/b,0,1,\n", r"t\.csv:2: label 'a/b': labels become folder names"),
        (f"{HEAD}{A},..,0,1,\n", r"t\.csv:2: label '\.\.': labels become folder names"),
        (f"{HEAD}{A},{'x' * 300},0,1,\n", r"too long for the name of a folder"),
        (f"{HEAD}{A},walk,1,0.5,\n", r"t\.csv:2: ends at 0\.5, not after its start at 1"),
        (f"{HEAD}{A},walk,1,1,\n", r"t\.csv:2: ends at 1, not after its start at 1"),
        (f"{HEAD}{A},walk,1,2.6,\n", r"t\.csv:2: ends at 2\.6 s, after the end of its file, 2\.00 s"),
        (f"{HEAD}{A},walk,2.2,2.4,\n", r"t\.csv:2: starts at 2\.2 s, after the end of its file, 2\.00 s"),
        (f"{HEAD}{A},walk,1.005,1.03,\n", r"t\.csv:2: no frame from 1\.005 to 1\.03 s, at 25 frames/s"),
        (f"{HEAD}{A},walk,-1,1,\n", r"t\.csv:2: start_s must be 0 or more, got -1"),
        (f"{HEAD}{A},walk,nan,1,\n", r"t\.csv:2: start_s must be 0 or more, got nan"),
        (f"{HEAD}{A},walk,0:1O,1,\n", r"t\.csv:2: start_s must be seconds, as 65\.5 or 1:05\.5, got '0:1O'"),
        (f"{HEAD}{A},walk,0:61,1:70,\n", r"t\.csv:2: start_s must be seconds"),
        (f"{HEAD}{A},walk,0:01.5,0:01,\n", r"t\.csv:2: ends at 0:01, not after its start at 0:01\.5"),
        (f"path,label,start_frame\n{A},walk,1.5\n", r"start_frame must be a whole number, got '1\.5'"),
        (f"path,label,end_frame\n{A},walk,63\n", r"ends at 2\.52 s, after the end of its file, 2\.00 s"),
        (f"{HEAD}{A},walk,0,1,trian\n", r"t\.csv:2: split 'trian': expected train, val or test"),
        (f"{HEAD}{A},walk,0,1,train\n{A},run,1,2,\n", r"t\.csv:3: split is empty; fill it in every row, or in none"),
        (f"{HEAD}{A},walk,0,5,1,5,\n", r"t\.csv:2: 6 cells, where the first line has 5|7 cells"),
        (
            f"{HEAD}{A},walk,0,1,train\n{A},walk,0,1,test\n",
            r"t\.csv:3: same as line 2, but the column source or split differs",
        ),
        ("path,label\r\n\u0430.mp4,\u0431\r\n".encode("cp1251"), r"t\.csv: not UTF-8 text"),
        (f"path,label\n{A},walk\n".encode("utf-16"), r"t\.csv: not UTF-8 text"),
        (f'path,label\n"{A},walk\n{A},run\n', r"t\.csv:2: a cell contains a line break; is a quote left open?"),
        ("path,label\n" + "x" * 200_000 + ",walk\n", r"t\.csv:2: field larger than field limit"),
    ],
)
def test_mistakes_are_named_by_line(folder, content, message):
    with pytest.raises(InputError, match=message):
        read(folder, content)


def test_spreadsheets_are_named_as_such(folder):
    (folder / "t.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"t\.xlsx: this is a spreadsheet; save it as CSV"):
        read_annotations(folder / "t.xlsx", num_workers=1)


def test_numbers_beyond_the_class_list(folder):
    (folder / "c.txt").write_text("walk\nrun\n")
    with pytest.raises(InputError, match=r"t\.csv:1: label '2': the classes in --class_list are numbered 0 to 1; if"):
        read(folder, f"{A} 2\n", class_list=folder / "c.txt")
    with pytest.raises(InputError, match=r"t\.csv:1: label 'jump': the classes in --class_list are numbered"):
        read(folder, f"{A} jump\n", class_list=folder / "c.txt")
    assert plain(read(folder, f"{A} run\n", class_list=folder / "c.txt"))[0][1] == "run"


def test_ten_mistakes_at_a_time(folder):
    rows = "".join(f"no{number}.mp4,walk,0,1,\n" for number in range(14))
    with pytest.raises(InputError) as error:
        read(folder, HEAD + rows + f"{A},walk,0,1,\n{A},,0,1,\n")
    lines = str(error.value).splitlines()
    assert lines[0].endswith("t.csv: 15 mistakes")
    assert len(lines) == 12
    assert "t.csv:2: no0.mp4" in lines[1] and "t.csv:11: no9.mp4" in lines[10]
    assert lines[11].strip() == "and 5 more"


def test_times_may_have_minutes_and_hours(folder):
    assert plain(read(folder, f"{HEAD}{A},walk,0:01,0:00:01.5,\n")) == [("a.mp4", "walk", 1.0, 1.5)]


def test_what_can_be_told_without_the_file_is_told_at_once(folder):
    with pytest.raises(InputError, match=r"(?s)t\.csv: 2 mistakes.*t\.csv:2: nowhere.*t\.csv:3: ends at 1, not after"):
        read(folder, f"{HEAD}nowhere.mp4,walk,0,1,\n{A},walk,2,1,\n")


def test_an_end_a_little_late_is_the_end_of_the_file(folder):
    assert plain(read(folder, f"{HEAD}{A},walk,1,2.4,\n{A},walk,0.5,,\n{A},run,,0.5,\n")) == [
        ("a.mp4", "walk", 1.0, 2.0),
        ("a.mp4", "walk", 0.5, 2.0),
        ("a.mp4", "run", 0.0, 0.5),
    ]


def test_frames_have_the_times_of_their_file(tmp_path):
    (tmp_path / "tables").mkdir()
    times = [number + number // 2 for number in range(40)]
    write_timed(tmp_path / "tables" / "x.mp4", times)
    [segment] = read(tmp_path, "path,label,start_frame,end_frame\nx.mp4,a,10,20\n")
    assert (segment.start_s, segment.end_s) == (pytest.approx(15 / 25), pytest.approx(30 / 25))


@pytest.mark.parametrize(
    ("name", "there", "meant"),
    [
        ("tue day.mp4", "tue day (2).mp4", "tue day (2).mp4"),
        ("a.mp4", "A - Copy.MOV", "A - Copy.MOV"),
        ("tue.mp4", "tuesday.mp4", None),
        ("x (1).mp4", "x.mp4", "x.mp4"),
    ],
)
def test_a_file_that_goes_by_a_longer_or_shorter_name_is_suggested(folder, name, there, meant):
    (folder / "tables" / there).touch()
    with pytest.raises(InputError, match=rf"t\.csv:2: {re.escape(name)}: no such file in .*tables") as raised:
        read(folder, f"path,label\n{name},walk\n")
    assert str(raised.value).endswith(f"; did you mean {meant}?" if meant else "tables")


def test_a_folder_is_no_table(folder):
    with pytest.raises(InputError, match=r"tables: is a folder; expected a file$"):
        read_annotations(folder / "tables", num_workers=1)


def test_files_are_looked_for_in_the_input_folder_first(folder):
    table = "path,label\na.mp4,walk\nb c.mp4,run\n"
    for name in ("a.mp4", "b c.mp4"):
        (folder / "tables" / name).write_bytes((folder / "videos" / name).read_bytes())
    segments, _, notes = read_all(folder, table, input_dir=folder / "videos")
    assert {segment.file.parent.name for segment in segments} == {"videos"}
    note = f"{folder / 'empty'} has none of the files; found them next to the table"
    assert note not in notes
    (folder / "empty").mkdir()
    segments, _, notes = read_all(folder, table, input_dir=folder / "empty")
    assert {segment.file.parent.name for segment in segments} == {"tables"}
    assert note in notes


def test_what_may_be_a_slip_is_told(folder):
    _, _, notes = read_all(
        folder,
        f"{HEAD}{A},walk,0,1,\n{A},run,0.5,1.5,\n{A},Walk,1.5,2,\n../videos/b c.mp4,walk,,,\n"
        f"{A},run,0.5,1.5,\n{A},run,1.6,1.9,\n",
    )
    assert notes == [
        "1 row repeated exactly; used once",
        "labels that differ only in case, spaces, - or _ are different classes: Walk (line 4), walk (line 2)",
        "2 pairs of segments with different labels overlap: ../videos/a.mp4, 0 to 1 s (walk), and 0.5 s on (run)",
    ]


def test_a_label_close_to_another_is_told(folder):
    rows = ["fight"] * 20 + ["figth", "walk_2", "walk_2", "walk_3", "figh", "figh"]
    table = "path,label,start_s,end_s\n" + "".join(
        f"{A},{label},{number / 20},{(number + 1) / 20}\n" for number, label in enumerate(rows)
    )
    assert read_all(folder, table)[2] == [
        "line 22: label figth (1 row): did you mean fight (20 rows)?",
        "line 26: label figh (2 rows): did you mean fight (20 rows)?",
        "only one example of 1 class: walk_3",
    ]


def test_labels_that_differ_in_what_is_easily_mistyped_are_told(folder):
    rows = ["noFight", "No fight", "no-fight", "run", "NO_FIGHT", "noFight", "No fight", "run"]
    table = "path,label,start_s,end_s\n" + "".join(
        f"{A},{label},{number / 5},{(number + 1) / 5}\n" for number, label in enumerate(rows)
    )
    assert read_all(folder, table)[2] == [
        "labels that differ only in case, spaces, - or _ are different classes: NO_FIGHT (line 6), No fight (line 3), "
        "no-fight (line 4), noFight (line 2)"
    ]


def test_videos_that_cannot_be_read_are_rejected(folder):
    (folder / "tables" / "broken.mp4").write_text("text")
    table = f"{HEAD}broken.mp4,walk,0,1,\n{A},run,0,1,\nbroken.mp4,run,3,4,\n"
    segments, rejected, notes = read_all(folder, table)
    assert "class walk is left out: none of its files can be read" in notes
    assert plain(segments) == [("a.mp4", "run", 0.0, 1.0)]
    assert [(item.path, item.reason) for item in rejected] == [("broken.mp4", "not a video, or too damaged to read")]


def test_random_bytes_raise_nothing_else(folder):
    rng = random.Random(0)
    letters = [
        "path",
        "label",
        "start_s",
        ",",
        ";",
        "\t",
        '"',
        "\n",
        "\r",
        A,
        "walk",
        "1",
        "-",
        "\\",
        "\0",
        "\ufeff",
        " ",
    ]
    for _ in range(400):
        content = "".join(rng.choices(letters, k=rng.randint(1, 40)))
        with suppress(InputError):
            read(folder, rng.choice(["", "path,label\n", HEAD]) + content)
