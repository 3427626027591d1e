import errno

import pytest

from video_module import files
from video_module.errors import InputError


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(OSError, match="No space"), files.replacing(path) as partial:
        partial.write_text("{half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_replaces_a_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    with files.replacing(tmp_path / "data") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["new"]


def test_an_interruption_while_the_old_folder_goes_leaves_the_new_one(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "data") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["new"]


def test_the_folder_one_stands_in_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with files.replacing("x:y.txt") as partial:
        assert partial.is_absolute()
        partial.write_text("a")
    assert (tmp_path / "x:y.txt").read_text() == "a"


def test_outputs_are_checked_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    files.check_output(tmp_path / "new" / "deep" / "report.html")
    files.check_output(tmp_path, folder=True)
    for path, folder, message in (
        (tmp_path, False, "a folder stands there"),
        (tmp_path / "file", True, "a file stands there"),
        (tmp_path / "file" / "x.html", False, "is a file, not a folder"),
    ):
        with pytest.raises(InputError, match=message):
            files.check_output(path, folder=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
