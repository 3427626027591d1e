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


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(OSError, match="No space"), files.replacing(path) as partial:
        partial.write_text("{half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_names_the_file_that_has_no_room(tmp_path):
    path = tmp_path / "out.json"
    for error in OSError(errno.ENOSPC, "No space left on device"), OSError(errno.ENOSPC, "No space", "the copied one"):
        with pytest.raises(OSError, match="No space") as raised, files.replacing(path):
            raise error
        assert raised.value.filename == str(path)


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


def test_a_link_to_a_folder_stays_one(tmp_path):
    """It may lead to another disk, chosen for its room."""
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


@pytest.mark.skipif(sys.platform == "win32", reason="a path has 260 letters at most there")
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
        assert partial.suffix == Path(name).suffix  # the format is chosen by it


@pytest.mark.skipif(sys.platform == "win32", reason="there files of killed runs are told apart by being open")
def test_what_a_killed_save_of_a_long_name_left_goes(tmp_path):
    path = tmp_path / ("字" * 80 + ".pth")
    with files.replacing(path) as partial:
        partial.touch()
    left = tmp_path / partial.name.replace(str(os.getpid()), str(2**30))  # of a process that is not there
    left.touch()
    files.remove_partial(path)
    assert list(tmp_path.iterdir()) == [path]


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


@pytest.mark.skipif(sys.platform == "win32", reason="no name may hold a colon")
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
        (tmp_path, False, "is a directory; expected a file"),
        (tmp_path / "file", True, "is a file; expected a directory"),
        (tmp_path / "file" / "x.html", False, "is a file, not a folder"),
    ):
        with pytest.raises(InputError, match=message):
            files.check_output(path, folder=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ---- as on Windows


@pytest.fixture
def windows(monkeypatch) -> list[float]:
    """Where files that are open cannot be moved, and os.kill() ends a process; gives the pauses that are made."""
    pauses = []
    monkeypatch.setattr(machine, "ON_WINDOWS", True)
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("it would send a Ctrl-C"))
    return pauses


def held(monkeypatch, *, attempts: float) -> None:
    """Let so many attempts to move a file fail, as while a scanner or Excel has it open."""
    replace, failed = Path.replace, []

    def refuse(source: Path, target: Path) -> Path:
        if len(failed) < attempts:
            failed.append(source)
            raise PermissionError(errno.EACCES, "Access is denied", str(source))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse)


def test_a_file_that_is_open_for_a_moment_is_waited_for(tmp_path, monkeypatch, windows):
    (tmp_path / "x.json").write_text("1")
    held(monkeypatch, attempts=3)
    files.write_json(tmp_path / "x.json", 2)
    assert (tmp_path / "x.json").read_text() == "2\n"
    assert windows == sorted(windows)
    assert len(windows) == 3


@pytest.mark.parametrize("on_windows", [True, False])
def test_a_file_that_stays_open_is_named_and_whole(tmp_path, monkeypatch, windows, on_windows):
    monkeypatch.setattr(machine, "ON_WINDOWS", on_windows)
    (tmp_path / "x.json").write_text("1")
    held(monkeypatch, attempts=float("inf"))
    with pytest.raises(PermissionError) as error:
        files.write_json(tmp_path / "x.json", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "1"
    assert bool(windows) == on_windows  # elsewhere it is no matter of time
    if on_windows:
        assert error.value.filename == str(tmp_path / "x.json")
        assert "it is open in another program" in error.value.strerror


def test_a_folder_with_an_open_file_in_it_is_put_back(tmp_path, monkeypatch, windows):
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


def test_what_killed_saves_left_goes_without_a_signal(tmp_path, monkeypatch, windows):
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


def test_a_drive_that_is_not_there_is_said_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(InputError, match="does not exist"):
        files.check_output(tmp_path / "x.json")


# ---- names of one file


def test_a_folder_is_itself_under_any_name(tmp_path, monkeypatch):
    (tmp_path / "In" / "deep").mkdir(parents=True)
    (tmp_path / "in2").mkdir()
    assert files.lies_in(tmp_path / "In" / "new" / "x", tmp_path / "In")
    assert files.lies_in(tmp_path / "In", tmp_path / "In")
    assert files.lies_in(tmp_path / "none" / "x", tmp_path / "none")
    assert not files.lies_in(tmp_path / "in2", tmp_path / "In")
    assert not files.lies_in(tmp_path, tmp_path / "In")
    # a second name that resolve() does not know, as those in other letters on macOS
    monkeypatch.setattr(Path, "resolve", Path.absolute)
    link(tmp_path / "IN", tmp_path / "In")
    assert files.lies_in(tmp_path / "IN" / "new", tmp_path / "In")


def test_names_of_one_file_have_one_key(tmp_path):
    (tmp_path / "a.avi").touch()
    os.link(tmp_path / "a.avi", tmp_path / "b.avi")
    (tmp_path / "c.avi").touch()
    assert files.file_key(tmp_path / "a.avi") == files.file_key(tmp_path / "b.avi")
    assert files.file_key(tmp_path / "a.avi") != files.file_key(tmp_path / "c.avi")
    assert files.file_key(tmp_path / "none") == files.file_key(tmp_path / "x" / ".." / "none")


def test_network_drives_that_number_no_files_do_not_make_all_of_them_one(tmp_path, monkeypatch):
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **settings: os.stat_result((*stat(path)[:1], 0, *stat(path)[2:])))
    for name in ("a", "b"):
        (tmp_path / name).touch()
    assert files.file_key(tmp_path / "a") != files.file_key(tmp_path / "b")


# ---- outputs and locks


def test_outputs_of_several_flags_are_told_apart(tmp_path, monkeypatch):
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


def test_a_lock_keeps_others_out_until_its_process_ends(tmp_path):
    path = tmp_path / "new" / "x.pth"
    for _ in range(2):  # what a killed one leaves locks nobody out
        with subprocess.Popen([sys.executable, "-c", LOCKS, str(path)], stdout=subprocess.PIPE) as other:
            assert other.stdout.readline().strip() == b"locked"
            with pytest.raises(InputError, match=r"x\.pth: in use by another run"), files.locked(path):
                pass
            other.kill()
    with files.locked(path):
        assert path.parent.is_dir()
    if sys.platform != "win32":
        assert list(path.parent.iterdir()) == []


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "_lock", refuse)
    with files.locked(tmp_path / "x.pth"):
        pass
    assert (
        "file locking is not available (No locks available); make sure that no other run writes x.pth"
        in capsys.readouterr().out
    )


def test_digests_tell_files_apart(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    assert files.file_digest(tmp_path / "a") == files.file_digest(tmp_path / "b") != files.file_digest(tmp_path / "c")
