from pathlib import Path, PurePath

import pytest

from tests.conftest import link
from video_module.data import labels
from video_module.errors import InputError
from video_module.inference.inputs import find_inputs


def test_class_names_round_trip(tmp_path):
    labels.write_class_names(tmp_path / "obj.names", ["brush_hair", "climb stairs", "ёж"])
    assert labels.read_class_names(tmp_path / "obj.names") == ["brush_hair", "climb stairs", "ёж"]


@pytest.mark.parametrize(("text", "message"), [("", "lists no classes"), ("a\nb\na\n", "'a' is listed twice")])
def test_bad_class_names(tmp_path, text, message):
    (tmp_path / "obj.names").write_text(text)
    with pytest.raises(InputError, match=message):
        labels.read_class_names(tmp_path / "obj.names")


def test_finds_videos_of_all_suffixes_in_order_and_nothing_else(tmp_path):
    names = ["B.AVI", "a.mp4", "c.webm", "-d.mov", "sub/e.mkv", "f.mpg", "g.m4v", "h.WMV", "i.flv", "j.ts", "k.3gp"]
    for name in [*names, "notes.txt", "._a.mp4"]:
        path = tmp_path / "wave" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / ".cache").mkdir()
    found = [path.relative_to(tmp_path / "wave").as_posix() for _, path in labels.find_videos(tmp_path)]
    assert found == sorted(names)


def test_classes_come_in_one_order_on_every_system(tmp_path, monkeypatch):
    for name in ("Zebra", "apple", "Banana"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.avi").touch()
    monkeypatch.setattr(PurePath, "__lt__", lambda one, other: str(one).lower() < str(other).lower())  # Windows'
    assert [label for label, _ in labels.find_videos(tmp_path)] == ["Banana", "Zebra", "apple"]


def test_bad_folders(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        labels.find_videos(tmp_path / "none")
    with pytest.raises(InputError, match="no class folders"):
        labels.find_videos(tmp_path)
    (tmp_path / "wave").mkdir()
    with pytest.raises(InputError, match="no videos in its 1 folders"):
        labels.find_videos(tmp_path)


def test_a_stage_that_was_left_out_is_named_by_paths_as_they_were_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split_dir in (Path("data/train"), Path("none/data/test")):
        with pytest.raises(
            InputError, match=f"^{split_dir.as_posix()}: no such folder; it is written by split_data.py$"
        ):
            labels.check_split_dir(split_dir)
    with pytest.raises(InputError, match=r"^mine: no such folder$"):
        labels.check_split_dir(Path("mine"))
    make_files(tmp_path, "videos/wave/a.avi", "videos/sit/b.avi")
    command = "python split_data.py --input_dir videos --output_dir {} first"
    advice = f"^videos: contains classes, but is not split yet; run {command}"
    with pytest.raises(InputError, match=advice.format("data")):
        labels.check_split_dir(Path("videos/train"))
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=advice.format("videos_split")):
        labels.check_split_dir(Path("videos/train"))
    make_files(tmp_path, "videos/train/wave/a.avi")  # it was split, without a test side
    with pytest.raises(InputError, match=r"^videos/test: no such folder; it is written by split_data.py"):
        labels.check_split_dir(Path("videos/test"))
    with pytest.raises(InputError, match=r"^data: no class folders"):
        labels.find_class_names(Path("data"))


def make_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini", "._x.avi")


def test_what_is_passed_over_is_known(tmp_path):
    make_files(tmp_path, "wave/a.avi", "wave/a.txt", "wave/deep/b.rm", "loose.avi", "obj.names", ".cache/x", "sit/y.ts")
    make_files(tmp_path, *SYSTEM_FILES, *(f"wave/{name}" for name in SYSTEM_FILES), "empty/.ipynb_checkpoints/z.txt")
    found = [path.relative_to(tmp_path).as_posix() for path in labels.find_others(tmp_path)]
    assert found == ["loose.avi", "wave/a.txt", "wave/deep/b.rm"]
    line = "skipped 3 files: not videos, or outside the class folders (loose.avi, wave/a.txt, …)"
    assert labels.describe_others(tmp_path, most=2) == line
    for name in found:
        (tmp_path / name).unlink()
    assert labels.describe_others(tmp_path) is None


def test_a_class_of_files_that_are_no_videos_is_refused(tmp_path):
    make_files(tmp_path, "sit/a.avi", "wave/b.rm", "wave/a.rm", *(f"empty/{name}" for name in SYSTEM_FILES))
    with pytest.raises(
        InputError, match=r"wave: contains no video, only files such as a\.rm; names of videos end in \.avi, \.mp4"
    ):
        labels.find_others(tmp_path)


@pytest.mark.parametrize("name", [" wave", "wave ", "wa\u2028ve", "wa\x85ve", "wa\x0bve", "\ufeffwave"])
def test_names_that_obj_names_cannot_hold_are_refused(tmp_path, name):
    """They would be split, and could then not be trained."""
    (tmp_path / "in" / name).mkdir(parents=True)
    if name not in (path.name for path in (tmp_path / "in").iterdir()):
        pytest.skip("this system changes the name")
    labels.write_class_names(tmp_path / "obj.names", [name])
    assert labels.read_class_names(tmp_path / "obj.names") != [name]
    with pytest.raises(
        InputError, match=r"class folder .* has spaces at the start or end of its name, or a line break; rename"
    ):
        labels.find_others(tmp_path / "in")


def test_hidden_files_fill_no_folder(tmp_path):
    assert not labels.has_entries(tmp_path)
    make_files(tmp_path, ".gitkeep", *SYSTEM_FILES)
    assert not labels.has_entries(tmp_path)
    make_files(tmp_path, "wave/a.avi")
    assert labels.has_entries(tmp_path)


def test_a_stray_obj_names_is_not_ours(drawn_clips, tmp_path, monkeypatch):
    (tmp_path / "obj.names").write_text("x\ny\n")
    link(tmp_path / "videos", drawn_clips)
    assert labels.find_class_names(tmp_path / "videos")[0] == "jump"
    link(tmp_path / "train", drawn_clips)
    with pytest.raises(InputError, match=r"jump: not a class in .*obj\.names"):
        labels.find_class_names(tmp_path / "train")
    make_files(tmp_path, "val/wave/a.avi")
    monkeypatch.chdir(tmp_path / "val")
    with pytest.raises(InputError, match=r"^wave: not a class in .*obj\.names"):
        labels.find_class_names(Path())


def test_linked_folders_in_a_class_are_searched_once(tmp_path):
    """They were passed over, while run_model.py read them."""
    make_files(tmp_path, "more/b.avi", "more/deep/c.avi", "in/wave/z/a.avi", "in/sit/d.avi")
    link(tmp_path / "in" / "wave" / "more", tmp_path / "more")
    link(tmp_path / "in" / "wave" / "again", tmp_path / "in" / "wave" / "z")
    link(tmp_path / "more" / "back", tmp_path / "in" / "wave")
    link(tmp_path / "in" / "run", tmp_path / "more")
    found = [path.relative_to(tmp_path / "in").as_posix() for _, path in labels.find_videos(tmp_path / "in")]
    assert found[-3:] == ["wave/more/b.avi", "wave/more/deep/c.avi", "wave/z/a.avi"]
    assert found[:4] == ["run/b.avi", "run/back/z/a.avi", "run/deep/c.avi", "sit/d.avi"]
    inputs = find_inputs([str(tmp_path / "in" / "wave")]).videos
    assert [path.relative_to(tmp_path / "in").as_posix() for path in inputs] == found[-3:]


def test_links_to_videos_that_were_not_fetched_are_told_with_all_their_classes(tmp_path):
    """As git-annex and DVC leave them. The classes went missing without a word."""
    make_files(tmp_path, "in/sit/a.avi")
    for name in ("wave/b.avi", "wave/deep/c.avi", "jump/d.avi"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        link(tmp_path / "in" / name, tmp_path / "annex" / name)
    message = r"{}: broken link to .*annex.* \({} broken links, in {}\); fetch the files \(git annex get"
    with pytest.raises(InputError, match=message.format(r"jump.d\.avi", 3, "deep, jump, wave")):
        labels.find_videos(tmp_path / "in")
    with pytest.raises(InputError, match=message.format(r"wave.b\.avi", 2, "deep, wave")):
        find_inputs([str(tmp_path / "in" / "wave")])


def test_a_class_that_is_itself_a_link_to_nowhere_is_told(tmp_path):
    make_files(tmp_path, "in/sit/a.avi")
    link(tmp_path / "in" / "wave", tmp_path / "annex" / "wave")
    with pytest.raises(InputError, match=r"wave: broken link to .*; fetch"):
        labels.find_videos(tmp_path / "in")


@pytest.mark.skipif("os.name == 'nt' or os.geteuid() == 0", reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path):
    make_files(tmp_path, "sit/a.avi", "sit/deep/b.avi")
    (tmp_path / "sit" / "deep").chmod(0)
    with pytest.raises(PermissionError):
        labels.find_videos(tmp_path)


def test_each_lost_class_is_told_with_its_reason(tmp_path):
    make_files(tmp_path, "sit/a.avi", "wave/b.avi", "wave/c.avi", "jump/d.avi", "run/e.avi")
    (tmp_path / "empty").mkdir()
    assert labels.lost_classes(tmp_path, {"sit", "wave", "jump", "run"}) == [
        "class empty is left out: its folder contains no video"
    ]
    rejected = ["wave/b.avi", "wave/c.avi"]
    assert labels.lost_classes(tmp_path, {"sit", "run"}, rejected) == [
        "class empty is left out: its folder contains no video",
        "class jump is left out: none of its 1 video is used",
        "class wave is left out: none of its 2 videos can be read",
    ]


def test_classes_one_level_deeper_are_told(tmp_path):
    names = ["lob", "volley"]
    make_files(tmp_path, *(f"mine/{folder}/{name}/1.avi" for folder in ("aside", "clips") for name in names))
    expected = r"mine: aside and clips contain the same folders lob, volley; .*, pass \S+aside; if"
    with pytest.raises(InputError, match=expected):
        labels.check_level(tmp_path / "mine")
    labels.check_level(tmp_path / "mine" / "clips")
    # Folders within classes, as long as they are not the same
    make_files(tmp_path, "other/run/anna/1.avi", "other/run/ben/1.avi", "other/sit/anna/1.avi", "other/sit/2.avi")
    labels.check_level(tmp_path / "other")


def test_the_side_of_a_split_is_suggested(tmp_path):
    make_files(tmp_path, *(f"data/{side}/{name}/1.avi" for side in labels.SPLITS for name in ("sit", "wave")))
    with pytest.raises(InputError, match=r"data: holds train and val and test, not classes; pass \S+test$"):
        labels.check_split_dir(tmp_path / "data")
    with pytest.raises(InputError, match=r"pass \S+train$"):
        labels.check_split_dir(tmp_path / "data", side="train")
    with pytest.raises(InputError, match="data: holds train and val and test, not classes; pass the folder"):
        labels.check_level(tmp_path / "data")
    make_files(tmp_path, "vehicles/train/day/1.avi", "vehicles/tram/2.avi")
    labels.check_split_dir(tmp_path / "vehicles")
    labels.check_level(tmp_path / "vehicles")


def test_a_folder_above_the_models_classes_is_told(tmp_path):
    make_files(tmp_path, "mine/clips/sit/1.avi", "mine/clips/wave/1.avi", "mine/other/2.avi")
    with pytest.raises(
        InputError, match=r"mine: clips is not a class of the model, but contains some \(sit\); pass \S+c"
    ):
        labels.check_known_classes(tmp_path / "mine", ["sit", "wave"])
    for class_names in (["clips"], ["jump", "run"]):
        labels.check_known_classes(tmp_path / "mine", class_names)


def test_class_lists(tmp_path):
    (tmp_path / "c.txt").write_text("100 m\n200 m\n")  # numbers that number nothing
    assert labels.read_class_list(tmp_path / "c.txt") == {"0": "100 m", "1": "200 m"}
    (tmp_path / "c.txt").write_text("walk\nrun\nwalk\n")
    with pytest.raises(InputError, match="class 'walk' is listed twice"):
        labels.read_class_list(tmp_path / "c.txt")
