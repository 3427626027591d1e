"""Tests of starting, cancelling and replacing visitors' work."""

import threading

import pytest

from video_module.web.under_way import UnderWay

KEY = ("visitor", "video")


class Steps:
    """A generator with three steps; the second blocks until `go_on` is set."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self):
        try:
            yield "first"
            self.begun.set()
            assert self.go_on.wait(30)
            yield "second"
            yield "third"
            return "answer"
        finally:
            self.ended.set()


def follow(under_way: UnderWay, steps, said: list[str], key=KEY) -> None:
    """Run all steps as the page does, reporting the last message before the work counts as finished."""
    with under_way.begin(key, steps) as work:
        try:
            while True:
                said.append(work.advance())
        except StopIteration as end:
            if not work.is_replaced:
                said.append(end.value or "cancelled")


@pytest.fixture
def start():
    """Return a function that runs follow() in another thread, and wait for the threads after the test."""
    threads = []

    def start(*arguments) -> threading.Thread:
        thread = threading.Thread(target=follow, args=arguments, daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_work_runs_to_its_end(start):
    steps, said = Steps(), []
    steps.go_on.set()
    follow(UnderWay(), steps(), said)
    assert said == ["first", "second", "third", "answer"]


def test_cancelling_between_two_steps_ends_the_work_at_once():
    steps, under_way = Steps(), UnderWay()
    with under_way.begin(KEY, steps()) as work:
        assert work.advance() == "first"
        under_way.cancel(("visitor", "live"))
        under_way.cancel(("other", "video"))
        assert not steps.ended.is_set()
        under_way.cancel(KEY)
        assert steps.ended.is_set()
        under_way.cancel(KEY)  # a repeated call changes nothing
        with pytest.raises(StopIteration) as end:
            work.advance()
        assert end.value.value is None
    under_way.cancel(KEY)


def test_cancelling_during_a_step_ends_the_work_after_it(start):
    """The work ends even if nobody requests another step."""
    steps, under_way = Steps(), UnderWay()
    with under_way.begin(KEY, steps()) as work:
        work.advance()
        thread = threading.Thread(target=work.advance)
        thread.start()
        assert steps.begun.wait(30)
        under_way.cancel(KEY)
        assert not steps.ended.is_set()
        steps.go_on.set()
        thread.join(30)
        assert steps.ended.is_set()


def test_work_started_after_cancelling_runs_to_its_end(start):
    """New work waits for the running step of the cancelled work, so that their messages do not mix."""
    one, other, said, under_way = Steps(), Steps(), [], UnderWay()
    other.go_on.set()
    start(under_way, one(), said)
    assert one.begun.wait(30)
    under_way.cancel(KEY)
    thread = start(under_way, other(), said)
    thread.join(0.3)
    assert not other.begun.is_set()
    one.go_on.set()
    thread.join(30)
    assert said == ["first", "second", "first", "second", "third", "answer"]
    assert one.ended.is_set()


def test_only_the_last_of_many_is_finished(start):
    under_way, said, steps = UnderWay(), [], [Steps() for _ in range(6)]
    threads = []
    for each in steps:
        threads.append(start(under_way, each(), said))
        assert steps[0].begun.wait(30)
    for each in steps:
        each.go_on.set()
    for thread in threads:
        thread.join(30)
    assert said[:2] == ["first", "second"] and said.count("answer") == 1 and said[-1] == "answer"


def test_tabs_and_visitors_do_not_disturb_each_other():
    one, other, under_way = Steps(), Steps(), UnderWay()
    with under_way.begin(KEY, one()) as work, under_way.begin(("visitor", "live"), other()) as live:
        assert work.advance() == live.advance() == "first"


def test_finished_work_is_forgotten():
    under_way = UnderWay()
    for number in range(5):
        steps = Steps()
        steps.go_on.set()
        follow(under_way, steps(), [], (str(number), "video"))
    assert not under_way._works
