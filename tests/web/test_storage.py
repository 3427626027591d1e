import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import link
from tests.web.conftest import ROOT
from video_module.web import storage as storage_module
from video_module.web.limits import Refused
from video_module.web.storage import Storage, own_folder


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> SimpleNamespace:
    """Replace time.monotonic() by a clock that only advances when a test sets `now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(storage_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(tmp_path, keep_s=3600, max_bytes=1000, max_bytes_each=1000)


def leave(storage: Storage, session: str, clock: SimpleNamespace) -> None:
    """End a session and wait until it can no longer come back."""
    storage.leave(session)
    clock.now += 200
    storage.sweep()


def new_file(storage: Storage, size: int = 10, *, address: str = "203.0.113.7"):
    folder = storage.new_folder(address=address)
    storage.take(folder, size)
    (folder / "video.mp4").write_bytes(bytes(size))
    return folder / "video.mp4"


def test_equal_files_are_stored_separately(storage):
    one, other = new_file(storage), new_file(storage)
    storage.drop(one)
    assert not one.exists() and other.exists()


def test_a_file_in_use_is_deleted_after_its_last_use(storage):
    path = new_file(storage)
    with storage.using(path):
        with storage.using(path):
            storage.drop(path)
            storage.keep_s = -1
            storage.sweep()
        assert path.exists()
    assert not path.parent.exists()


def test_using_a_dropped_file_does_not_delete_it_under_others(storage):
    path = new_file(storage)
    with storage.using(path):
        storage.drop(path)
        with storage.using(path):  # the page asks for it once more
            pass
        assert path.exists()
    assert not path.parent.exists()


def test_a_new_upload_replaces_the_previous_one(storage):
    first, second, result = new_file(storage), new_file(storage), new_file(storage)
    storage.own(first, session="a", slot="video")
    storage.own(result, session="a", slot="result")
    storage.own(second, session="a", slot="video")
    assert not first.exists() and second.exists() and result.exists()
    storage.own(second, session="a", slot="video")  # a repeated call changes nothing
    assert second.exists()


def test_a_file_in_two_slots_is_deleted_with_the_last(storage, clock):
    path, other = new_file(storage), new_file(storage)
    storage.own(path, session="a", slot="video")
    storage.own(path, session="a", slot="live")
    storage.own(other, session="a", slot="video")
    assert path.exists()
    leave(storage, "a", clock)
    assert not path.exists() and not other.exists()


def test_leaving_deletes_only_the_visitors_own_files(storage, clock):
    one, other = new_file(storage), new_file(storage)
    storage.own(one, session="a", slot="video")
    storage.own(other, session="b", slot="video")
    leave(storage, "a", clock)
    leave(storage, "nobody", clock)
    assert not one.exists() and other.exists()


def test_files_in_use_survive_a_lost_connection(storage, clock):
    watched, forgotten, kept = (new_file(storage) for _ in range(3))
    for slot, path in (("result", watched), ("video", forgotten)):
        storage.own(path, session="a", slot=slot)
    storage.own(kept, session="b", slot="video")
    storage.leave("a")
    for _ in range(3):
        clock.now += 60
        with storage.using(watched):  # a visible page keeps requesting its files
            pass
        storage.sweep()
    assert watched.exists() and not forgotten.exists() and kept.exists()


def test_a_reloaded_page_keeps_its_files(storage, clock):
    path = new_file(storage)
    storage.own(path, session="before", slot="video")
    storage.leave("before")
    storage.own(path, session="after", slot="video")
    clock.now += 300
    storage.sweep()
    assert path.exists()


def test_a_reloaded_page_keeps_its_files_even_if_its_old_session_leaves_late(storage, clock):
    path = new_file(storage)
    storage.own(path, session="before", slot="video")
    storage.own(path, session="after", slot="video")
    leave(storage, "before", clock)
    assert path.exists()
    leave(storage, "after", clock)
    assert not path.exists()


def test_old_files_are_deleted(storage):
    path = new_file(storage)
    storage.sweep()
    assert path.exists()
    storage.keep_s = -1
    storage.sweep()
    assert not path.parent.exists()


def test_a_failed_deletion_is_repeated_later(storage, monkeypatch):
    """Windows does not delete a file that is still being sent."""
    path = new_file(storage, 600)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        storage.drop(path)
        with storage.using(path):  # has no effect on a file that has been dropped
            pass
    assert path.exists()
    with pytest.raises(Refused, match="storage_full"):
        new_file(storage, 500)
    storage.sweep()
    assert not path.parent.exists()
    new_file(storage, 1000)


def test_a_file_is_released_after_an_exception(storage):
    path = new_file(storage)
    with pytest.raises(ZeroDivisionError), storage.using(path):
        storage.drop(path)
        1 / 0  # noqa: B018
    assert not path.exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "", ".", "examples/wave.mp4", "../outside.mp4"])
def test_other_files_are_left_alone(storage, path):
    target = storage.root / path
    storage.own(target, session="a", slot="video")
    with storage.using(target):
        storage.drop(target)
    storage.leave("a")
    storage.sweep()
    assert storage.root.is_dir()


def test_space_is_counted_as_data_arrives(storage):
    path = new_file(storage, 600)
    for _ in range(4):
        storage.take(path.parent, 100)
    with pytest.raises(Refused, match="storage_full"):
        storage.take(path.parent, 1)
    storage.drop(path)
    new_file(storage, 1000)


def test_result_files_count_towards_the_limit(storage):
    folder = storage.new_folder(address="203.0.113.7")
    with storage.using(folder):
        (folder / "result.mp4").write_bytes(bytes(900))
    with pytest.raises(Refused, match="storage_full"):
        new_file(storage, 101)


def test_one_address_cannot_fill_the_storage(tmp_path):
    storage = Storage(tmp_path, keep_s=3600, max_bytes=1000, max_bytes_each=250)
    first = new_file(storage, 150)
    with pytest.raises(Refused, match="storage_full"):
        new_file(storage, 101)
    for number in range(3):
        new_file(storage, 250, address=f"203.0.113.{number}")
    new_file(storage, 100)
    storage.drop(first)
    new_file(storage, 150)
    with pytest.raises(Refused, match="storage_full"):
        new_file(storage, 1, address="203.0.113.9")  # the storage is full


LEAVE = """
import os, signal, sys
from pathlib import Path
from video_module.web.storage import own_folder
with own_folder(Path(sys.argv[1])) as root:
    (root / "upload.mp4").write_bytes(b"x")
    print(root.name, flush=True)
    sys.stdin.read()
"""


def test_a_start_removes_folders_of_killed_servers_but_not_of_running_ones(tmp_path):
    (tmp_path / "action-recognition-not-a-folder").write_text("stays")
    (tmp_path / "other").mkdir()
    running, killed = (
        subprocess.Popen([sys.executable, "-c", LEAVE, tmp_path], stdin=-1, stdout=-1, text=True, cwd=ROOT)
        for _ in range(2)
    )
    try:
        names = [process.stdout.readline().strip() for process in (running, killed)]
        killed.kill()
        killed.wait()
        assert (tmp_path / names[1] / "upload.mp4").is_file()
        with own_folder(tmp_path) as ours:
            assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"other", names[0], ours.name}
            assert (tmp_path / names[0] / "upload.mp4").is_file()
    finally:
        running.communicate()
        killed.communicate()
    assert {path.name for path in tmp_path.iterdir()} == {"other", "action-recognition-not-a-folder"}


@pytest.mark.parametrize("path", ["/etc/passwd", "", ".", "..", "\0", "a" * 5000, "link.mp4", "./../../etc/passwd"])
def test_find_returns_only_files_of_visitors_and_examples(storage, path):
    storage.examples.mkdir()
    (storage.examples / "wave.mp4").touch()
    assert storage.find(str(storage.examples / "wave.mp4")) and storage.find(str(new_file(storage)))
    link(storage.root / "link.mp4", Path("/etc/passwd"))
    assert storage.find(str(storage.root / path)) is None
    assert storage.find(path) is None
