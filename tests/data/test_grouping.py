import csv
import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import split_data
from video_module.data import grouping, hmdb51, records
from video_module.data.drawing import draw_dataset
from video_module.data.encoding import write_video
from video_module.data.records import VideoRecord
from video_module.errors import InputError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Clips of ten drawn scenes under names that tell nothing, and the scene of each."""
    folder = tmp_path_factory.mktemp("scenes")
    draw_dataset(folder / "drawn", actions=("sit", "wave"), num_sources=10, clips_per_source=2, seed=11, num_workers=2)
    scene_of = {}
    for label in ("sit", "wave"):
        (folder / "clips" / label).mkdir(parents=True)
        files = np.random.default_rng(0).permutation(sorted((folder / "drawn" / label).iterdir()))
        for number, path in enumerate(files):
            shutil.copy(path, folder / "clips" / label / f"{number:03}.avi")
            scene_of[f"{label}/{number:03}.avi"] = hmdb51.parse_name(path.name, label).source
    return folder / "clips", scene_of


def suggested(folder: Path) -> dict[str, grouping.Suggestion]:
    videos, _, _ = records.scan(folder, num_workers=2)
    return {item.path: item for item in grouping.suggest_groups(folder, videos, num_workers=2)}


def count_pairs(found: dict[str, grouping.Suggestion], scene_of: dict[str, str]) -> tuple[int, int, int]:
    """Pairs of one scene, those of them in one group, and pairs of two scenes in one group."""
    pairs = list(combinations(scene_of, 2))
    same = [scene_of[one] == scene_of[other] for one, other in pairs]
    grouped = [found[one].source == found[other].source for one, other in pairs]
    num_right = sum(a and b for a, b in zip(same, grouped, strict=True))
    return sum(same), num_right, sum(grouped) - num_right


def test_most_cuts_of_a_scene_are_found_and_hardly_any_others(scenes):
    folder, scene_of = scenes
    found = suggested(folder)
    num_pairs, num_right, num_wrong = count_pairs(found, scene_of)
    assert num_pairs == 60
    assert num_right >= 30  # the half that is promised
    assert num_wrong <= 1
    linked = [item for item in found.values() if item.confidence is not None]
    assert all("similar background" in item.basis and item.basis.rpartition(": ")[2] in scene_of for item in linked)
    alone = [item for item in found.values() if item.confidence is None]
    assert all(item.basis.startswith("alone") for item in alone)
    assert "which may miss half of the pairs" in grouping.describe(list(found.values()))


def test_what_all_share_is_not_lost_where_all_are_of_one_scene(scenes, tmp_path):
    folder, scene_of = scenes
    scene = next(iter(scene_of.values()))
    for path in scene_of:
        if scene_of[path] == scene:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            shutil.copy(folder / path, tmp_path / path)
    found = suggested(tmp_path)
    assert len(found) == 4
    assert len({item.source for item in found.values()}) <= 2


def test_another_size_or_rate_is_another_recording(scenes, tmp_path):
    folder, _ = scenes
    path = next((folder / "sit").iterdir())
    frames = [frame[::2, ::2] for frame in records_frames(path)]
    (tmp_path / "a").mkdir()
    for name, content, fps in (
        ("x.avi", frames, 25),
        ("y.avi", frames, 25),
        ("slow.avi", frames, 12),
        ("cut.avi", [frame[:-16] for frame in frames], 25),
    ):
        write_video(tmp_path / "a" / name, content, fps=fps)
    found = suggested(tmp_path)
    assert found["a/x.avi"].source == found["a/y.avi"].source
    assert len({item.source for item in found.values()}) == 3


def records_frames(path: Path) -> list[np.ndarray]:
    from video_module.data.decoding import iter_frames

    return list(iter_frames(path))


def video(path: str) -> VideoRecord:
    return VideoRecord(path=path, label=path.partition("/")[0], source=path, num_frames=9, fps=25)


def test_neighbours_by_name():
    paths = ["a/x1.avi", "a/x2.avi", "a/x4.avi", "b/x3.avi", "a/cut 009 end.avi", "a/cut 010 end.avi", "a/z.avi"]
    pairs = [(paths[one], paths[other]) for one, other in grouping._neighbours(list(map(video, paths)))]
    assert pairs == [("a/x1.avi", "a/x2.avi"), ("a/cut 009 end.avi", "a/cut 010 end.avi")]


@pytest.mark.parametrize("tells", [True, False])
def test_neighbours_count_where_numbers_tell_something(monkeypatch, tells):
    """The first four videos are put together by their backgrounds: by pairs of neighbours, or across them."""
    videos = [video(f"a/{number}.avi") for number in (1, 2, 11, 12, 21, 22)]
    groups = np.array([0, 0, 1, 1, 2, 3] if tells else [0, 1, 0, 1, 2, 3])
    monkeypatch.setattr(grouping, "_num_shared_points", lambda one, other: 20)
    joined = grouping._join_neighbours(groups, np.zeros((6, 6)), [None] * 6, videos)
    assert (groups[4] == groups[5]) == tells
    assert joined == ({4: (5, 20), 5: (4, 20)} if tells else {})


def test_a_single_video_is_alone():
    assert grouping.suggest_groups(Path(), [], num_workers=1) == []


def test_the_table_is_what_groups_reads(scenes, tmp_path, capsys):
    folder, scene_of = scenes
    table = tmp_path / "groups.csv"
    split_data.main(["--input_dir", str(folder), "--suggest_groups", str(table)])
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == set(scene_of)
    source_of = records.groups_source(table)
    assert all(source_of(row["path"], "") == row["source"] for row in rows)
    sizes = {row["source"]: sum(other["source"] == row["source"] for other in rows) for row in rows}
    sheets = sorted(path.stem for path in (tmp_path / "groups_sheets").iterdir())
    assert sheets == sorted(name for name, size in sizes.items() if size > 1)
    assert "then split with --groups" in capsys.readouterr().out
    (tmp_path / "groups_sheets" / "mine.txt").touch()
    with pytest.raises(InputError, match=r"groups_sheets: contains mine\.txt besides earlier pictures"):
        split_data.main(["--input_dir", str(folder), "--suggest_groups", str(table)])


def test_the_table_has_a_row_for_a_file_that_cannot_be_read(scenes, tmp_path, capsys):
    folder, scene_of = scenes
    paths = [*list(scene_of)[:2], *list(scene_of)[-2:]]
    for path in paths:
        (tmp_path / "videos" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / path, tmp_path / "videos" / path)
    broken = (tmp_path / "videos" / paths[0]).with_name("broken.mp4")
    broken.write_bytes(b"no video")
    table, flags = tmp_path / "groups.csv", ["--input_dir", str(tmp_path / "videos")]
    split_data.main([*flags, "--suggest_groups", str(table)])
    with open(table, newline="") as file:
        row = list(csv.DictReader(file))[-1]
    assert row["path"] == broken.relative_to(tmp_path / "videos").as_posix()
    assert row["basis"] == "rejected: not a video, or too damaged to read"
    split_data.main([*flags, "--groups", str(table), "--output_dir", str(tmp_path / "data")])
    split = json.loads((tmp_path / "data" / "split.json").read_text())
    assert len(split["videos"]) == 4
    assert [item["path"] for item in split["rejected"]] == [row["path"]]


def test_a_random_split_is_warned_of_and_auto_keeps_groups_together(scenes, tmp_path, capsys):
    folder, _ = scenes
    flags = ["--input_dir", str(folder), "--output_dir", str(tmp_path / "data"), "--test_fraction", "0.3"]
    split_data.main(flags)
    out = capsys.readouterr().out
    assert "warning: " in out
    assert "test videos seem to come from recordings that are also in train or val (test/" in out
    assert "a test on 12 videos says little: if two thirds were right, the true accuracy could be anything from" in out
    assert "\n  recordings shared by test and the rest: unknown, because the file names do not tell; --sugg" in out
    split_data.main([*flags, "--groups", "auto"])
    out = capsys.readouterr().out
    assert "warning" not in out
    assert "suggested groups" in out
    assert "recordings shared by test and the rest: 0 within a class (0 test videos), 0 across" in out


def test_what_would_be_torn_apart():
    items = [
        grouping.Suggestion(path=f"a/{number}.avi", source=source, confidence=0.9, basis="")
        for number, source in enumerate("xxyz")
    ]
    sides = ("test", "val", "test", "train")
    videos = [replace(video(item.path), split=side) for item, side in zip(items, sides, strict=True)]
    assert grouping.torn_apart(items, videos) == [("test/a/0.avi", "val/a/1.avi")]
    assert grouping.describe_torn_apart(items, [videos]).startswith("1 of 2 test videos seem to come from recordings")
    folds = [videos, videos[1:], [replace(item, split="test") for item in videos[:1]]]
    assert grouping.describe_torn_apart(items, folds).startswith("1 of 4 test videos of all folds seem to come from")
    assert grouping.describe_torn_apart(items[2:], [videos[2:]]) is None


def test_an_audit_says_that_sources_are_unknown(scenes, tmp_path, capsys):
    folder, _ = scenes
    split_data.main(["--audit", str(folder), "--no-content"])
    assert "40 videos; recordings shared by a random split: unknown, because the file" in capsys.readouterr().out
    split_data.main(["--audit", str(folder), str(shutil.copytree(folder, tmp_path / "copy")), "--no-content"])
    out = capsys.readouterr().out
    assert "same recording    unknown, because the file names do not tell; --suggest_groups looks for them\n" in out
    assert "same file name    40 within a class" in out
    split_data.main(["--input_dir", str(folder), "--output_dir", str(tmp_path / "data")])
    capsys.readouterr()
    split_data.main(["--audit", str(tmp_path / "data"), "--no-content"])
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("  same recording    unknown") == 3
    assert lines[-1].startswith("recordings shared by test and the rest: unknown, because the file names do not tell;")


def test_agreement_with_known_sources_is_counted_in_pairs(scenes, tmp_path, capsys):
    items = [grouping.Suggestion(path="", source=source, confidence=None, basis="") for source in "xxxyyz"]
    expected = (
        "of 4 pairs of videos from one known recording, 2 share a suggested group; so do 2 pairs from different "
        "recordings"
    )
    assert grouping.describe_agreement(items, list("aabbbc")) == expected
    folder, scene_of = scenes
    rows = "".join(f"{path},{scene}\n" for path, scene in scene_of.items())
    (tmp_path / "known.csv").write_text(f"path,source\n{rows}")
    flags = ["--input_dir", str(folder), "--groups", str(tmp_path / "known.csv")]
    split_data.main([*flags, "--suggest_groups", str(tmp_path / "groups.csv")])
    assert "of 60 pairs of videos from one known recording, " in capsys.readouterr().out
