from video_module.web.backlog import Backlog


def test_pictures_wait_up_to_a_limit():
    backlog = Backlog()
    assert backlog.add("a", 700_000) and backlog.add("a", 700_000)
    assert not backlog.add("a", 1) and backlog.add("b", 1)
    backlog.remove("a", 500_000)
    assert backlog.add("a", 700_000) and not backlog.add("a", 1)


def test_bytes_of_other_messages_do_not_make_room_in_advance():
    backlog = Backlog()
    backlog.remove("a", 10_000_000)
    assert backlog.add("a", 500_000)
    backlog.remove("a", 10_000_000)
    assert backlog.add("a", 1_200_000) and not backlog.add("a", 1)


def test_a_forgotten_session_starts_again():
    backlog = Backlog()
    assert backlog.add("a", 2_000_000)
    backlog.forget("a")
    backlog.forget("a")
    assert backlog.add("a", 1)
