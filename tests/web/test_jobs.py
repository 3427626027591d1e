"""Whose turn it is, by a clock that stands still unless it is moved."""

from contextlib import ExitStack

import pytest

from tests.web.conftest import Clock
from video_module.web.jobs import Jobs
from video_module.web.limits import Limits, Refused


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def make_jobs(clock: Clock, **limits) -> Jobs:
    return Jobs(Limits(**{"concurrency": 1} | limits), clock=clock)


def test_first_come_first_served(clock, stack):
    jobs = make_jobs(clock, concurrency=2)
    first, second, third = (stack.enter_context(jobs.join(name)) for name in "abc")
    assert not third.start()  # two are before it
    assert second.start() and first.start()
    assert not third.start()
    assert (jobs.num_waiting, third.num_before) == (1, 2)


def test_the_next_one_begins_when_one_is_done(clock):
    jobs = make_jobs(clock)
    with ExitStack() as stack:
        with jobs.join("a") as first:
            second = stack.enter_context(jobs.join("b"))
            assert first.start() and not second.start()
        assert second.start()


def test_one_visitor_has_one_video_worked_on(clock, stack):
    jobs = make_jobs(clock, concurrency=2)
    greedy = [stack.enter_context(jobs.join("a")) for _ in range(3)]
    other = stack.enter_context(jobs.join("b"))
    assert [job.start() for job in greedy] == [True, False, False]
    assert other.start()


def test_a_few_of_one_visitor_wait_and_the_next_is_refused(clock, stack):
    jobs = make_jobs(clock)
    with pytest.raises(Refused, match="too_many_jobs") as refusal:
        for _ in range(10):
            stack.enter_context(jobs.join("a"))
    assert refusal.value.status == 503
    stack.enter_context(jobs.join("b"))


def test_a_full_queue_refuses_everybody(clock, stack):
    jobs = make_jobs(clock, queue_size=2)
    assert stack.enter_context(jobs.join("a")).start()
    for name in "bc":
        assert not jobs.is_full
        stack.enter_context(jobs.join(name))
    assert jobs.is_full
    with pytest.raises(Refused, match="busy"):
        stack.enter_context(jobs.join("d"))


def test_a_place_is_kept_for_those_on_their_way(clock, stack):
    jobs = make_jobs(clock, queue_size=2)
    for name in "abc":
        jobs.announce(name)
    with pytest.raises(Refused, match="busy"):
        jobs.announce("d")
    with pytest.raises(Refused, match="busy"):
        stack.enter_context(jobs.join("d"))
    for name in "abc":
        stack.enter_context(jobs.join(name))
    assert jobs.is_full and jobs.num_waiting == 2


def test_a_place_is_not_kept_for_ever(clock):
    jobs = make_jobs(clock, queue_size=1)
    for name in "ab":
        jobs.announce(name)
    assert jobs.is_full
    clock.now += 20
    assert not jobs.is_full


def test_who_stops_asking_is_passed_over(clock, stack):
    jobs = make_jobs(clock)
    gone, here = (stack.enter_context(jobs.join(name)) for name in "ab")
    clock.now += 10
    assert not here.start()
    clock.now += 10
    assert here.start()
    assert not gone.start()  # it is there again, at the end


def test_waiting_is_told_from_sizes_and_learned(clock, stack):
    jobs = make_jobs(clock)
    for _ in range(30):  # a million a second
        with jobs.join("a") as job:
            job.size = 5_000_000
            assert job.start()
            clock.now += 5
            job.is_done = True
    running, waiting, last = (stack.enter_context(jobs.join(name)) for name in "abc")
    running.size, waiting.size = 20_000_000, 7_000_000
    assert running.start()
    clock.now += 5
    assert last.wait_s == pytest.approx(15 + 7, rel=0.02)
    assert waiting.wait_s == pytest.approx(15, rel=0.02)


def test_work_that_takes_too_long_is_ended(clock, stack):
    limits = Limits(max_work_s=60)
    job = stack.enter_context(make_jobs(clock).join("a"))
    clock.now += 1000  # waiting does not count
    assert job.start()
    clock.now += 60
    job.check(limits)
    clock.now += 1
    with pytest.raises(Refused, match="too_slow"):
        job.check(limits)


def test_closing_ends_all_work(clock, stack):
    jobs = make_jobs(clock)
    running, waiting = (stack.enter_context(jobs.join(name)) for name in "ab")
    assert running.start()
    jobs.close()
    with pytest.raises(Refused, match="closing"):
        running.check(Limits())
    with pytest.raises(Refused, match="closing"):
        waiting.start()
