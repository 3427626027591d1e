import os
from io import BytesIO
from pathlib import Path

import pytest

from tests.conftest import link
from video_module.errors import InputError
from video_module.inference.inputs import Inputs, Shard, find_inputs, find_shard


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/2.avi", "b/1.mp4", "a/deep/x.mkv", "a/notes.txt", "a/._x.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(inputs: Inputs) -> list[str]:
    return [video.relative_to(inputs.root).as_posix() for video in inputs.videos]


def test_a_single_file(tree):
    inputs = find_inputs([str(tree / "b/2.avi")])
    assert inputs == Inputs(videos=(tree / "b/2.avi",))
    assert find_inputs([str(tree / "none.avi")]).videos == (tree / "none.avi",)  # reported later, by the reader


def test_folders_are_searched_recursively(tree):
    inputs = find_inputs([str(tree)])
    assert names(inputs) == ["a/deep/x.mkv", "b/1.mp4", "b/2.avi"]


def test_root_of_several_inputs_is_their_common_folder(tree):
    inputs = find_inputs([str(tree / "b"), str(tree / "a/deep/x.mkv"), str(tree / "b/1.mp4")])
    assert inputs.root == tree
    assert names(inputs) == ["b/1.mp4", "b/2.avi", "a/deep/x.mkv"]  # without duplicates


def test_different_paths_to_a_file_are_one_video(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert find_inputs(["b/1.mp4", str(tree / "b/1.mp4"), "b/../b/1.mp4"]).videos == (Path("b/1.mp4"),)


def test_names_that_differ_in_case_are_one_video_on_windows(tree, monkeypatch):
    monkeypatch.setattr(os.path, "normcase", str.lower)  # as on Windows
    inputs = find_inputs([str(tree / "b"), str(tree / "B" / "1.MP4")])
    assert names(inputs) == ["1.mp4", "2.avi"]
    assert inputs.root == tree / "b"  # the spelling is kept


def test_links_to_folders_are_followed_once(tree):
    (tree / "in").mkdir()
    link(tree / "in" / "link", tree / "b")
    link(tree / "b" / "back", tree / "in")
    assert names(find_inputs([str(tree / "in")])) == ["link/1.mp4", "link/2.avi"]


def test_file_names_on_stdin(tree):
    stdin = BytesIO(f"{tree / 'b/2.avi'}\n\n{tree / 'a'}\r\n".encode())
    inputs = find_inputs(["-"], stdin=stdin)
    assert names(inputs) == ["b/2.avi", "a/deep/x.mkv"]
    alone = find_inputs(["-"], stdin=BytesIO(f"{tree / 'b/2.avi'}\n".encode()))
    assert alone.root == tree / "b"  # a list of one file is still a list
    with pytest.raises(InputError, match="no file names on stdin"):
        find_inputs(["-"], stdin=BytesIO(b"\n"))


@pytest.mark.parametrize(
    "content",
    [
        b"{}\0{}\0",  # find -print0
        b"\xef\xbb\xbf{}\n{}\n",  # Notepad
        "{}\r\n{}\r\n".encode("utf-16"),  # PowerShell's >
        b"\xfe\xff" + "{}\n{}".encode("utf-16-be"),
    ],
)
def test_file_lists_of_other_programs(tree, content, monkeypatch):
    monkeypatch.chdir(tree)
    (tree / "b" / "ж 1.avi").touch()
    encoding = "utf-16" if content[0] > 0xF0 else "utf-8"
    text = content.decode(encoding).format("b/2.avi", "b/ж 1.avi")
    data = text.encode(encoding) if content[0] != 0xFE else b"\xfe\xff" + text.encode("utf-16-be")
    assert find_inputs(["-"], stdin=BytesIO(data)).videos == (Path("b/2.avi"), Path("b/ж 1.avi"))


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode on Windows")
def test_file_names_that_are_not_unicode():
    [first, _] = find_inputs(["-"], stdin=BytesIO(b"a\xff.avi\nb.avi\n")).videos
    assert os.fsencode(first) == b"a\xff.avi"


def test_invalid_utf_16_is_an_error():
    with pytest.raises(InputError, match="not valid UTF-16; save it as UTF-8"):
        find_inputs(["-"], stdin=BytesIO(b"\xff\xfea\0b"))


def test_a_camera_device(monkeypatch):
    assert find_inputs(["/dev/video0"]) == Inputs(live="/dev/video0")
    monkeypatch.setattr(Path, "exists", lambda self, **_: True)  # as if the camera existed
    assert find_inputs(["/dev/video0"]) == Inputs(live="/dev/video0")


def test_live_inputs(tree, monkeypatch):
    assert find_inputs(["0"]) == Inputs(live="0")
    assert find_inputs(["rtsp://h/x"]).live == "rtsp://h/x"
    with pytest.raises(InputError, match=r"rtsp://\*\*\*@h/x: .*cannot be combined"):
        find_inputs([str(tree), "rtsp://u:p@h/x"])
    with pytest.raises(InputError, match="cannot be combined"):
        find_inputs([str(tree), "0"])
    monkeypatch.chdir(tree)
    (tree / "0").mkdir()
    (tree / "0" / "x.avi").touch()
    assert names(find_inputs(["0"])) == ["x.avi"]  # an existing folder takes precedence


def test_a_folder_without_videos(tmp_path):
    with pytest.raises(InputError, match="no videos in this folder"):
        find_inputs([str(tmp_path)])


def test_shards_cover_all_items_once():
    items = list(range(11))
    for count in (1, 2, 3, 11, 12):
        parts = [Shard(index=index, count=count).take(items) for index in range(count)]
        assert sorted(item for part in parts for item in part) == items
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shard_from_environment():
    assert find_shard({}) == Shard()
    assert find_shard({"RANK": "2", "WORLD_SIZE": "4"}) == Shard(index=2, count=4)
    assert find_shard({"RANK": "2"}) == Shard()
    for rank, size in (("4", "4"), ("-1", "4"), ("x", "4"), ("0", "")):
        with pytest.raises(InputError, match="RANK must be below WORLD_SIZE"):
            find_shard({"RANK": rank, "WORLD_SIZE": size})
