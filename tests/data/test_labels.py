import json

import pytest

import calc_label_distribution
from video_module.data import labels
from video_module.errors import InputError


def test_class_names_round_trip(tmp_path):
    labels.write_class_names(tmp_path / "obj.names", ["brush_hair", "climb stairs", "ёж"])
    assert labels.read_class_names(tmp_path / "obj.names") == ["brush_hair", "climb stairs", "ёж"]


@pytest.mark.parametrize(("text", "message"), [("", "no class"), ("a\nb\na\n", "'a' is named twice")])
def test_bad_class_names(tmp_path, text, message):
    (tmp_path / "obj.names").write_text(text)
    with pytest.raises(InputError, match=message):
        labels.read_class_names(tmp_path / "obj.names")


def test_finds_videos_of_all_suffixes_in_order_and_nothing_else(tmp_path):
    names = ["B.AVI", "a.mp4", "c.webm", "-d.mov", "sub/e.mkv", "f.mpg", "g.m4v"]
    for name in [*names, "notes.txt", "._a.mp4"]:
        path = tmp_path / "wave" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / ".cache").mkdir()
    found = [path.relative_to(tmp_path / "wave").as_posix() for _, path in labels.find_videos(tmp_path)]
    assert found == sorted(names)


def test_bad_folders(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        labels.find_videos(tmp_path / "none")
    with pytest.raises(InputError, match="no class folders"):
        labels.find_videos(tmp_path)
    (tmp_path / "wave").mkdir()
    with pytest.raises(InputError, match="no video in its 1 folders"):
        labels.find_videos(tmp_path)


def test_distribution_of_a_split(drawn_data, tmp_path):
    calc_label_distribution.main(["--data_dir", str(drawn_data), "--save_to", str(tmp_path / "d.json")])
    written = json.loads((tmp_path / "d.json").read_text())
    assert {split: content["num_videos"] for split, content in written["splits"].items()} == {
        "train": 24,
        "val": 6,
        "test": 6,
    }
    assert written["splits"]["train"]["classes"] == dict.fromkeys(written["class_names"], 4)
    assert (tmp_path / "d.png").stat().st_size > 5000


def test_distribution_of_a_bare_folder(drawn_clips):
    distribution = labels.label_distribution(drawn_clips)
    assert distribution["splits"]["all"]["classes"]["wave"] == 6


def test_an_empty_split_counts_nothing(drawn_clips, tmp_path):
    import split_data

    out = tmp_path / "data"
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(out), "--val_fraction", "0"])
    distribution = labels.label_distribution(out)
    assert set(distribution["splits"]) == {"train", "test"}
    assert sum(content["num_videos"] for content in distribution["splits"].values()) == 36


def test_a_class_called_train_is_a_class(drawn_clips, tmp_path):
    (tmp_path / "train").symlink_to(drawn_clips / "wave")
    (tmp_path / "plane").symlink_to(drawn_clips / "sit")
    assert labels.label_distribution(tmp_path)["splits"]["all"]["classes"] == {"plane": 6, "train": 6}


def test_a_stray_obj_names_is_not_ours(drawn_clips, tmp_path):
    (tmp_path / "obj.names").write_text("x\ny\n")
    (tmp_path / "videos").symlink_to(drawn_clips)
    assert labels.label_distribution(tmp_path / "videos")["class_names"][0] == "jump"
    (tmp_path / "train").symlink_to(drawn_clips)
    with pytest.raises(InputError, match=r"jump: a class that .*obj\.names does not name"):
        labels.find_class_names(tmp_path / "train")
