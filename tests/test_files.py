import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import link
from video_module import files, machine
from video_module.errors import InputError


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(OSError, match="No space"), files.replacing(path) as partial:
        partial.write_text("{half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_error_on_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "out.json"
    for error in OSError(errno.ENOSPC, "No space left on device"), OSError(errno.ENOSPC, "No space", "the copied one"):
        with pytest.raises(OSError, match="No space") as raised, files.replacing(path):
            raise error
        assert raised.value.filename == str(path)


def test_nan_is_refused_in_json(tmp_path):
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


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    """The user may have put the folder on a larger disk."""
    (tmp_path / "disk" / "data").mkdir(parents=True)
    (tmp_path / "disk" / "data" / "old").touch()
    link(tmp_path / "data", tmp_path / "disk" / "data")
    with files.replacing(tmp_path / "data") as partial:
        assert partial.parent == (tmp_path / "disk").resolve()
        partial.mkdir()
        (partial / "new").touch()
    assert (tmp_path / "data").is_symlink()
    assert [p.name for p in (tmp_path / "disk" / "data").iterdir()] == ["new"]
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["data"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "disk"]


@pytest.mark.skipif(sys.platform == "win32", reason="paths have at most 260 characters on Windows")
@pytest.mark.parametrize("name", ["字" * 80 + ".json", "a" * 255, "a." + "b" * 253, "a" * 226 + ".pth"])
def test_the_longest_names_can_be_written(tmp_path, name):
    for text in ("1", "2"):
        with files.replacing(tmp_path / name) as partial:
            partial.write_text(text)
    assert (tmp_path / name).read_text() == "2"
    with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / "folder" / name) as partial:
        partial.mkdir()
        1 / 0  # noqa: B018
    for _ in range(2):
        with files.replacing(tmp_path / "folder" / name) as partial:
            partial.mkdir()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == [name]
    if name.endswith((".json", ".pth")):
        assert partial.suffix == Path(name).suffix  # writers choose the format by the suffix


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows partial files are kept only while they are open")
def test_partial_files_with_long_names_are_removed(tmp_path):
    path = tmp_path / ("字" * 80 + ".pth")
    with files.replacing(path) as partial:
        partial.touch()
    left = tmp_path / partial.name.replace(str(os.getpid()), str(2**30))  # a process ID that does not exist
    left.touch()
    files.remove_partial(path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_while_deleting_the_old_folder_keeps_the_new_one(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "data") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["new"]


@pytest.mark.skipif(sys.platform == "win32", reason="names cannot contain a colon on Windows")
def test_a_relative_name_with_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with files.replacing("x:y.txt") as partial:
        assert partial.is_absolute()
        partial.write_text("a")
    assert (tmp_path / "x:y.txt").read_text() == "a"


def test_check_output(tmp_path):
    (tmp_path / "file").write_text("x")
    files.check_output(tmp_path / "new" / "deep" / "report.html")
    files.check_output(tmp_path, folder=True)
    for path, folder, message in (
        (tmp_path, False, "is a directory; expected a file"),
        (tmp_path / "file", True, "is a file; expected a directory"),
        (tmp_path / "file" / "x.html", False, "is a file, not a folder"),
    ):
        with pytest.raises(InputError, match=message):
            files.check_output(path, folder=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def windows(monkeypatch) -> list[float]:
    """Simulate Windows, where os.kill() must not be called, and return the list of pauses made by sleep()."""
    pauses = []
    monkeypatch.setattr(machine, "ON_WINDOWS", True)
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("it would send a Ctrl-C"))
    return pauses


def held(monkeypatch, *, attempts: float) -> None:
    """Let `attempts` moves of a file fail, as if a virus scanner or Excel had it open."""
    replace, failed = Path.replace, []

    def refuse(source: Path, target: Path) -> Path:
        if len(failed) < attempts:
            failed.append(source)
            raise PermissionError(errno.EACCES, "Access is denied", str(source))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse)


def test_replacing_waits_for_a_file_that_is_open_briefly(tmp_path, monkeypatch, windows):
    (tmp_path / "x.json").write_text("1")
    held(monkeypatch, attempts=3)
    files.write_json(tmp_path / "x.json", 2)
    assert (tmp_path / "x.json").read_text() == "2\n"
    assert windows == sorted(windows)
    assert len(windows) == 3


@pytest.mark.parametrize("on_windows", [True, False])
def test_a_file_that_stays_open_is_kept_and_named_in_the_error(tmp_path, monkeypatch, windows, on_windows):
    monkeypatch.setattr(machine, "ON_WINDOWS", on_windows)
    (tmp_path / "x.json").write_text("1")
    held(monkeypatch, attempts=float("inf"))
    with pytest.raises(PermissionError) as error:
        files.write_json(tmp_path / "x.json", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "1"
    assert bool(windows) == on_windows  # on other systems, waiting would not help
    if on_windows:
        assert error.value.filename == str(tmp_path / "x.json")
        assert "it is open in another program" in error.value.strerror


def test_a_folder_that_cannot_be_replaced_is_restored(tmp_path, monkeypatch, windows):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    replace = Path.replace

    def refuse(source: Path, target: Path) -> Path:
        if target.name == "data" and "partial" in source.name:
            raise PermissionError(errno.EACCES, "Access is denied", str(source))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError), files.replacing(tmp_path / "data") as partial:
        partial.mkdir()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_partial_files_are_removed_on_windows(tmp_path, monkeypatch, windows):
    own, other, held_open = (tmp_path / f".x.partial-{pid}.pth" for pid in (os.getpid(), 1, 2))
    for path in (own, other, held_open):
        path.touch()
    unlink = Path.unlink

    def refuse(path: Path, **settings) -> None:
        if path == held_open:
            raise PermissionError(errno.EACCES, "in use", str(path))
        unlink(path, **settings)

    monkeypatch.setattr(Path, "unlink", refuse)
    files.remove_partial(tmp_path / "x.pth")
    assert sorted(tmp_path.iterdir()) == sorted([own, held_open])


def test_a_missing_drive_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(InputError, match="does not exist"):
        files.check_output(tmp_path / "x.json")


def test_lies_in_with_other_names_of_a_folder(tmp_path, monkeypatch):
    (tmp_path / "In" / "deep").mkdir(parents=True)
    (tmp_path / "in2").mkdir()
    assert files.lies_in(tmp_path / "In" / "new" / "x", tmp_path / "In")
    assert files.lies_in(tmp_path / "In", tmp_path / "In")
    assert files.lies_in(tmp_path / "none" / "x", tmp_path / "none")
    assert not files.lies_in(tmp_path / "in2", tmp_path / "In")
    assert not files.lies_in(tmp_path, tmp_path / "In")
    # Another name that resolve() does not normalise, such as one in different case on macOS.
    monkeypatch.setattr(Path, "resolve", Path.absolute)
    link(tmp_path / "IN", tmp_path / "In")
    assert files.lies_in(tmp_path / "IN" / "new", tmp_path / "In")


def test_file_key_is_the_same_for_all_names_of_a_file(tmp_path):
    (tmp_path / "a.avi").touch()
    os.link(tmp_path / "a.avi", tmp_path / "b.avi")
    (tmp_path / "c.avi").touch()
    assert files.file_key(tmp_path / "a.avi") == files.file_key(tmp_path / "b.avi")
    assert files.file_key(tmp_path / "a.avi") != files.file_key(tmp_path / "c.avi")
    assert files.file_key(tmp_path / "none") == files.file_key(tmp_path / "x" / ".." / "none")


def test_file_key_without_inode_numbers(tmp_path, monkeypatch):
    """Some network drives report inode 0 for all files."""
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **settings: os.stat_result((*stat(path)[:1], 0, *stat(path)[2:])))
    for name in ("a", "b"):
        (tmp_path / name).touch()
    assert files.file_key(tmp_path / "a") != files.file_key(tmp_path / "b")


def test_outputs_must_not_overwrite_each_other_or_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.pth").write_text("x")
    Path("deep").mkdir()
    link(Path("same.pth"), Path("in.pth"))
    files.check_outputs(
        [("--a", Path("x.json")), ("--a", Path("y.json")), ("--b", None)], [("--weights", Path("none"))]
    )
    for outputs, message in (
        (
            [("--a", Path("x.json")), ("--b", Path("deep/../x.json"))],
            r"^--b: deep/../x\.json is also the output of --a",
        ),
        (
            [("--a", Path("in.pth"))],
            r"^--a: in\.pth would overwrite in\.pth, the input of --weights; choose another name",
        ),
        ([("--a", Path("same.pth"))], r"^--a: same\.pth would overwrite in\.pth, the input of --weights"),
        ([("--a", Path("deep"))], "is a directory"),
    ):
        with pytest.raises(InputError, match=message):
            files.check_outputs(outputs, [("--weights", Path("in.pth"))])


LOCKS = """
import sys, time
from pathlib import Path
from video_module.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_lock_lasts_until_its_process_ends(tmp_path):
    path = tmp_path / "new" / "x.pth"
    for _ in range(2):  # a lock file left by a killed process does not block
        with subprocess.Popen([sys.executable, "-c", LOCKS, str(path)], stdout=subprocess.PIPE) as other:
            assert other.stdout.readline().strip() == b"locked"
            with pytest.raises(InputError, match=r"x\.pth: in use by another run"), files.locked(path):
                pass
            other.kill()
    with files.locked(path):
        assert path.parent.is_dir()
    if sys.platform != "win32":
        assert list(path.parent.iterdir()) == []


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, capsys):
    def refuse(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "_lock", refuse)
    with files.locked(tmp_path / "x.pth"):
        pass
    assert (
        "file locking is not available (No locks available); make sure that no other run writes x.pth"
        in capsys.readouterr().out
    )


def test_file_digest(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    assert files.file_digest(tmp_path / "a") == files.file_digest(tmp_path / "b") != files.file_digest(tmp_path / "c")
