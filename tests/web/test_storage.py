import shutil

import pytest

from video_module.web.storage import Storage, StorageFull


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(tmp_path, keep_s=3600, max_bytes=1000)


def new_file(storage: Storage, size: int = 10):
    path = storage.new_folder() / "video.mp4"
    path.write_bytes(bytes(size))
    return path


def test_equal_files_lie_apart(storage):
    one, other = new_file(storage), new_file(storage)
    storage.drop(one)
    assert not one.exists() and other.exists()


def test_what_is_in_use_goes_when_it_is_no_more(storage):
    path = new_file(storage)
    with storage.using(path):
        with storage.using(path):
            storage.drop(path)
            storage.keep_s = -1
            storage.sweep()
        assert path.exists()
    assert not path.parent.exists()


def test_a_new_upload_takes_the_place_of_the_one_before(storage):
    first, second, result = new_file(storage), new_file(storage), new_file(storage)
    storage.own(first, session="a", slot="video")
    storage.own(result, session="a", slot="result")
    storage.own(second, session="a", slot="video")
    assert not first.exists() and second.exists() and result.exists()
    storage.own(second, session="a", slot="video")  # said twice
    assert second.exists()


def test_one_file_in_two_slots_goes_with_the_last(storage):
    path, other = new_file(storage), new_file(storage)
    storage.own(path, session="a", slot="video")
    storage.own(path, session="a", slot="live")
    storage.own(other, session="a", slot="video")
    assert path.exists()
    storage.drop_session("a")
    assert not path.exists() and not other.exists()


def test_a_visitor_takes_only_their_own_files_along(storage):
    one, other = new_file(storage), new_file(storage)
    storage.own(one, session="a", slot="video")
    storage.own(other, session="b", slot="video")
    storage.drop_session("a")
    storage.drop_session("nobody")
    assert not one.exists() and other.exists()


def test_forgotten_files_are_swept(storage):
    path = new_file(storage)
    storage.sweep()
    assert path.exists()
    storage.keep_s = -1
    storage.sweep()
    assert not path.parent.exists()


def test_what_cannot_be_deleted_yet_is_deleted_later(storage, monkeypatch):
    """Windows keeps a file that is still being sent."""
    path = new_file(storage, 600)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        storage.drop(path)
        with storage.using(path):  # nobody gets it any more
            pass
    assert path.exists()
    with pytest.raises(StorageFull), storage.room_for(500):
        pass
    storage.sweep()
    assert not path.parent.exists()
    with storage.room_for(1000):
        pass


def test_a_failed_user_still_lets_go(storage):
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
    storage.drop_session("a")
    assert storage.root.is_dir()


def test_room_is_limited_and_set_aside_while_files_arrive(storage):
    path = new_file(storage, 600)
    with storage.room_for(400), pytest.raises(StorageFull), storage.room_for(1):
        pass
    with storage.room_for(400):
        pass
    storage.drop(path)
    with storage.room_for(1000):
        pass
