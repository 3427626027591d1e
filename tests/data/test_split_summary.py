"""What is said about a split: empty sides, missing classes, small tests."""

import re
from pathlib import Path

import pytest

import split_data
from tests.data.test_splits import sources_of_classes
from video_module.data import split_summary, splits
from video_module.data.labels import find_videos
from video_module.data.records import VideoRecord
from video_module.errors import InputError


def remarks(split: splits.Split) -> list[str]:
    lines = split_summary.describe_split(split, recordings_unknown="unknown").splitlines()
    return [line.strip() for line in lines if re.match("  (note|warning): ", line)]


@pytest.mark.parametrize(
    ("sources", "fractions", "expected"),
    [
        (
            {"a": "xyz", "b": "xyz"},
            (0.2, 0.1),
            [
                "warning: test is empty: 3 recordings are too few for a share of 0.1; use --test_fraction 0.2, or "
                "--num_folds 3 to test every video, or add recordings"
            ],
        ),
        # One class has a single recording, which trains, so that none could test it
        (
            {"a": "xyz", "b": "z"},
            (0.2, 0.1),
            [
                "note: val has no video of 1 class (too few recordings): b; add recordings, or raise --val_fraction",
                "warning: test is empty: 3 recordings are too few for a share of 0.1; use --test_fraction 0.2, or add "
                "recordings",
            ],
        ),
        (
            {"a": "x", "b": "x"},
            (0.0, 0.1),
            ["warning: test is empty: 1 recording is too few for a share of 0.1; add recordings"],
        ),
        ({"a": "x", "b": "x"}, (0.0, 0.0), []),
        (
            {"a": "xyz", "b": "xyz"},
            (0.03, 0.03),
            [
                "warning: val is empty: 3 recordings are too few for a share of 0.03; use --val_fraction 0.2, or add "
                "recordings",
                "warning: test is empty: 3 recordings are too few for a share of 0.03; use --test_fraction 0.2, or "
                "--num_folds 3 to test every video, or add recordings",
            ],
        ),
        # Each advice alone would work, but not both
        (
            {"a": "xy", "b": "xy"},
            (0.03, 0.03),
            [
                "warning: val is empty: 2 recordings are too few for a share of 0.03; add recordings",
                "warning: test is empty: 2 recordings are too few for a share of 0.03; use --num_folds 2 to test every "
                "video, or add recordings",
            ],
        ),
    ],
)
def test_an_empty_side_is_warned_of_with_what_works(sources, fractions, expected):
    settings = dict(zip(("val_fraction", "test_fraction"), fractions, strict=True))
    videos = sources_of_classes(**sources)
    split = splits.split_grouped(videos, [], **settings, seed=0)
    assert remarks(split) == expected
    text = " ".join(remarks(split))
    advised = {name: float(share) for name, share in re.findall(r"use --(\w+_fraction) ([\d.]+),", text)}
    again = splits.split_grouped(videos, [], **settings | advised, seed=0)
    assert not any("is empty" in remark for remark in remarks(again)) or not advised
    if advised := re.search(r"--num_folds (\d)", text):
        assert splits.split_folds(videos, [], num_folds=int(advised[1]), val_fraction=0.2, seed=0)


def test_folds_are_advised_only_where_they_are_possible():
    for sources, advised in (
        ({"a": "stuvwxy", "b": "stuvwxy"}, "; to test on every video, cross-validate with split_data.py --num_folds 5"),
        ({"a": "stu", "b": "stu"}, "; to test on every video, cross-validate with split_data.py --num_folds 3"),
        ({"a": "stu", "b": "s"}, " (95 % interval)"),
    ):
        split = splits.split_grouped(sources_of_classes(**sources), [], val_fraction=0.1, test_fraction=0.4, seed=0)
        [note] = [remark for remark in remarks(split) if "says little" in remark]
        assert note.endswith(advised)


def test_an_empty_side_is_told_when_it_is_tested(drawn_clips, tmp_path):
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "out"), "--test_fraction", "0"])
    with pytest.raises(
        InputError, match=r"test: empty, because the split has no test videos; split again with a larger "
    ):
        find_videos(tmp_path / "out" / "test")


def test_notes_say_why_a_side_lacks_classes():
    """Validation is carved out of the official train side: what it lacks is no matter of the fold."""
    videos = [
        VideoRecord(path=f"{label}/{number}.avi", label=label, source=f"{label}{number}", num_frames=9, fps=25)
        for label, count in (("a", 9), ("b", 1))
        for number in range(count)
    ]
    listed = {(v.label, Path(v.path).name): "test" if v.path == "a/0.avi" else "train" for v in videos}
    split = splits.split_official(videos, [], listed, protocol="hmdb51", fold=1, val_fraction=0.2, seed=0)
    assert remarks(split) == [
        "note: val has no video of 1 class (too few recordings): b; add recordings, or raise --val_fraction",
        "note: test has no video of 1 class (none in the fold): b",
    ]


def test_a_test_that_will_tell_little_is_announced(drawn_clips, tmp_path, capsys):
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "out"), "--test_fraction", "0.17"])
    out = capsys.readouterr().out
    assert (
        "note: a test on 6 videos of 1 recording says little: if two thirds were right, the true accuracy could be "
        "anything from 0.30 to 0.90 (95 % interval; wider if videos share a recording); to test on every video, "
        "cross-validate with split_data.py --num_folds 5\n"
    ) in out
    assert re.search(r"\n  test +6 videos +1 recording\n", out)
