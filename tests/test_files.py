import errno

import pytest

from video_module import files


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
