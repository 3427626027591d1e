"""Stretches in between that nobody labelled."""

import pytest

from tests.data.test_cutting import segment
from tests.data.test_times import write_timed
from video_module.data.segments import add_background
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
    with pytest.raises(InputError, match="--background nothing: no unlabelled stretch found"):
        add_background(rows, "nothing", seed=0)
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
    with pytest.raises(InputError, match="a background class needs segments with start_s"):
        add_background([segment(file, label="a"), segment(file, label="b")], "nothing", seed=0)
