"""Likely mistakes in what is labelled, and the stretches in between that nobody labelled."""

import shutil

import pytest

import split_data
from tests.data.test_cutting import segment
from tests.data.test_times import write_timed
from video_module.data.segments import add_background, describe_copies
from video_module.errors import InputError


def test_background_lies_between_the_labelled_segments(tmp_path):
    files = [write_timed(tmp_path / f"{number}.mp4", list(range(1000))) for number in range(4)]  # 40 s each
    rows = [
        segment(file, start_s, start_s + 2, label)
        for file in files
        for start_s, label in ((5, "a"), (12, "b"), (20, "a"), (21, "b"), (30, "a"))
    ]
    found, notes = add_background(rows, "nothing", seed=3)
    assert notes == []
    assert len(found) == 10  # 12 and 8
    assert {each.label for each in found} == {"nothing"}
    assert sorted(sum(each.file == file for each in found) for file in files) == [2, 2, 3, 3]
    for each in found:
        assert each.source == each.file.name
        assert each.start_s >= 0 and each.end_s <= 40
        assert each.end_s - each.start_s == pytest.approx(2, abs=0.002)
        near = [row for row in rows if row.file == each.file]
        assert all(each.end_s <= row.start_s - 0.499 or each.start_s >= row.end_s + 0.499 for row in near)
        others = [other for other in found if other.file == each.file and other is not each]
        assert all(each.end_s <= other.start_s or each.start_s >= other.end_s for other in others)
    assert add_background(rows, "nothing", seed=3)[0] == found
    assert add_background(rows, "nothing", seed=4)[0] != found


def test_background_that_does_not_fit_is_told(tmp_path):
    file = write_timed(tmp_path / "x.mp4", list(range(250)))
    rows = [segment(file, 0, 4, "a"), segment(file, 4, 7, "b"), segment(file, 7, 10, "a")]
    with pytest.raises(
        InputError,
        match=r"^--background nothing: no unlabelled stretch is long enough: one takes 4 s or more \(your shortest "
        r"segment lasts 3 s, and half a second is left on either side\), but the longest lasts 0 s; leave out "
        r"--background, or leave more time unlabelled$",
    ):
        add_background(rows, "nothing", seed=0)
    rows = [segment(file, 2.4, 4.5, "a"), segment(file, 7.3, 9.4, "b")]
    with pytest.raises(InputError, match=r"takes 3\.1 s or more .* lasts 2\.1 s, .* the longest lasts 2\.8 s"):
        add_background(rows, "nothing", seed=0)
    assert add_background([segment(file, 2.6, 4.7, "a"), rows[1]], "nothing", seed=0)[0]  # there is room before 2.6 s
    rows = [segment(file, 0, 2, "a"), segment(file, 3, 5, "b"), segment(file, 8.5, 10, "a"), segment(file, 8, 10, "b")]
    found, notes = add_background(rows, "nothing", seed=0)
    assert len(found) == 1
    assert found[0].start_s == pytest.approx(5.5, abs=0.6)
    expected = "found room for only 1 of 2 background segments: between labelled segments, one takes 2.5 s or more"
    assert notes == [expected]
    assert add_background([*rows, segment(file, 5, 6, "nothing")], "nothing", seed=0)[0] == []
    whole = [segment(file, label=label) for label in "aabb"]
    found, notes = add_background([*whole, segment(file, 5, 6, "nothing")], "nothing", seed=0)
    assert (found, notes) == (
        [],
        ["no background segments were added: only those called nothing have start_s and end_s"],
    )
    with pytest.raises(InputError, match="--background nothing: requires segments with start_s and end_s"):
        add_background([segment(file, label="a"), segment(file, label="b")], "nothing", seed=0)


def test_copies_are_told_by_their_labels(tmp_path):
    contents = {"a/x.mp4": b"one", "a/x2.mp4": b"one", "b/y.mp4": b"one", "a/z.mp4": b"two", "a/0": b"", "b/00": b""}
    rows = []
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        rows.append(segment(tmp_path / name, label=name[0]))
    x, x2, y, z, *empty = rows
    reason = "are copies of one file: it counts twice, or is in both train and test; delete one"
    same_class = f"note: x.mp4 and x2.mp4 {reason}"
    two_labels = "warning: x.mp4 and y.mp4 are copies of one file under two labels, a and b; delete one"
    assert describe_copies([x, x, z, *empty]) == []
    assert describe_copies([x, x2]) == [same_class]
    assert describe_copies([x, y]) == [two_labels]
    assert describe_copies(rows) == [two_labels, same_class]
    # A recording has many labels, and each of its rows names it
    timed = [segment(x.file, 0, 1, "a"), segment(x.file, 1, 2, "b")]
    assert describe_copies(timed) == []
    assert describe_copies([*timed, segment(y.file, 2, 3, "b")]) == [same_class.replace("x2", "y")]


def test_copies_are_told_before_a_video_is_decoded(drawn_clips, tmp_path, capsys):
    clips = tmp_path / "clips"
    shutil.copytree(drawn_clips, clips)
    file = min((clips / "wave").iterdir())
    shutil.copy(file, clips / "sit" / "copy.avi")
    for number in (1, 2):
        shutil.copy(file, clips / "wave" / f"copy{number}.avi")
    expected = [
        f"warning: sit/copy.avi and wave/{file.name} are copies of one file under two labels, sit and wave; delete one",
        f"note: wave/{file.name} and wave/copy1.avi are copies of one file: it counts twice, or is in both "
        "train and test; delete one (2 such copies in all)",
    ]
    for flags in ([], ["--short_side", "40"]):
        split_data.main(["--input_dir", str(clips), "--output_dir", str(tmp_path / "data"), *flags])
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if "copies of" in line] == expected
