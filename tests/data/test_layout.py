import json
import shutil
from pathlib import Path

import pytest

import split_data
from tests.conftest import link
from video_module.data import records
from video_module.errors import InputError


def snapshot(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("link", ["hard", "sym", "copy"])
def test_layout_and_record(drawn_clips, tmp_path, link):
    out = tmp_path / "data"
    split_data.main(
        ["--input_dir", str(drawn_clips), "--output_dir", str(out), "--link", link, "--test_fraction", "0.2"]
    )
    record = json.loads((out / "split.json").read_text())
    assert snapshot(out) == sorted([*(entry["path"] for entry in record["videos"]), "obj.names", "split.json"])
    assert sum(record["counts"].values()) == len(record["videos"]) == 36
    assert (record["protocol"], record["leaks"], record["num_sources"], record["rejected"]) == ("grouped", 0, 6, [])
    assert (out / "obj.names").read_text().split() == ["jump", "pull", "push", "sit", "stand", "wave"]
    entry = record["videos"][0]
    clip = out / entry["path"]
    assert {"hard": clip.stat().st_nlink >= 2, "sym": clip.is_symlink(), "copy": clip.stat().st_nlink == 1}[link]
    assert entry["num_frames"] == records.probe_video(clip)[0]


def test_falls_back_to_copies_and_says_so(drawn_clips, tmp_path, monkeypatch, capsys):
    def no_link(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_link)
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "data")])
    assert "copied 36 files to" in capsys.readouterr().out
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "data").rglob("*.avi"))


def test_rerun_replaces_an_earlier_split_and_nothing_else(drawn_clips, tmp_path):
    out = tmp_path / "data"
    arguments = ["--input_dir", str(drawn_clips), "--output_dir", str(out)]
    split_data.main(arguments)
    first = snapshot(out)
    split_data.main([*arguments, "--seed", "1"])
    assert len(snapshot(out)) == len(first)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"not written by split_data.py"):
        split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (out / "model.pth").write_text("trained on it")
    with pytest.raises(InputError, match=r"contains model\.pth besides an earlier split"):
        split_data.main(arguments)
    with pytest.raises(InputError, match="overlaps"):
        split_data.main(["--input_dir", str(out / "train"), "--output_dir", str(out)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mine"]


@pytest.mark.parametrize("name", ["train/wave/my clip.avi", "val/notes.txt", "test/linked"])
def test_a_file_that_was_put_into_a_split_is_not_deleted(drawn_clips, tmp_path, name):
    out = tmp_path / "data"
    arguments = ["--input_dir", str(drawn_clips), "--output_dir", str(out)]
    split_data.main(arguments)
    if name.endswith("linked"):
        link(out / name, drawn_clips)
    else:
        (out / name).write_text("the only copy")
    (out / "train" / "wave" / ".DS_Store").touch()
    before = snapshot(out)
    with pytest.raises(InputError, match=rf"data/{name}: not written by split_data\.py, and would be deleted; move it"):
        split_data.main(arguments)
    assert snapshot(out) == before
    (out / name).unlink()
    split_data.main(arguments)


def test_all_files_that_were_put_into_a_split_are_counted(drawn_clips, tmp_path):
    out = tmp_path / "data"
    arguments = ["--input_dir", str(drawn_clips), "--output_dir", str(out)]
    split_data.main(arguments)
    for name in ("a.avi", "b.avi"):
        (out / "train" / "wave" / name).touch()
    with pytest.raises(InputError, match=r"wave/a\.avi: not written by .* \(2 such files in all\)$"):
        split_data.main(arguments)
    (out / "split.json").write_text("{")
    with pytest.raises(InputError, match=r"split\.json: not a split\.json of this project .*; move .*data away, and"):
        split_data.main(arguments)


def test_replacing_an_earlier_split_is_told(drawn_clips, tmp_path, capsys):
    for name, flags in (("data", []), ("folds", ["--num_folds", "2"])):
        arguments = ["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / name), *flags]
        split_data.main(arguments)
        assert "note: replacing" not in capsys.readouterr().out
        split_data.main([*arguments, "--val_fraction", "0.3"])
        assert capsys.readouterr().out.count(f"note: replacing the earlier split in {tmp_path / name}\n") == 1


def test_a_split_goes_where_a_link_leads(drawn_clips, tmp_path):
    (tmp_path / "disk").mkdir()
    link(tmp_path / "data", tmp_path / "disk")
    for seed in ("1", "2"):
        split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "data"), "--seed", seed])
        assert (tmp_path / "data").is_symlink()
        assert json.loads((tmp_path / "disk" / "split.json").read_text())["seed"] == int(seed)
    shutil.rmtree(tmp_path / "disk")
    with pytest.raises(InputError, match=r"data: a broken link to .*disk"):
        split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "data")])


def test_what_systems_leave_does_not_make_a_folder_anothers(drawn_clips, tmp_path):
    """The Finder writes .DS_Store into each folder that it shows."""
    out = tmp_path / "data"
    arguments = ["--input_dir", str(drawn_clips), "--output_dir", str(out)]
    for _ in range(2):
        out.mkdir(exist_ok=True)
        (out / ".DS_Store").touch()
        (out / "Thumbs.db").touch()
        split_data.main(arguments)
    (out / ".git").mkdir()  # hidden too, but a user's
    with pytest.raises(InputError, match=r"contains \.git besides an earlier split"):
        split_data.main(arguments)


def test_output_inside_the_input_is_refused(drawn_clips, tmp_path, monkeypatch):
    """It would become a class of its own at the next run."""
    link(tmp_path / "wave", drawn_clips / "wave")
    link(tmp_path / "sit", drawn_clips / "sit")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"data: overlaps \.; choose"):
        split_data.main(["--input_dir", "."])
    with pytest.raises(InputError, match=r"^\.: is the input folder itself; choose another --output_dir$"):
        split_data.main(["--input_dir", str(tmp_path), "--output_dir", "."])
