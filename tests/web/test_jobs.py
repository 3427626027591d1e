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


def work_through(jobs: Jobs, clock: Clock, *, size: int, seconds: float, kind: str = "") -> None:
    with jobs.join("a") as job:
        job.size, job.kind = size, kind
        assert job.start()
        clock.now += seconds
        job.is_done = True


def test_no_waiting_time_is_told_before_one_was_measured(clock, stack):
    jobs = make_jobs(clock)
    running, waiting = (stack.enter_context(jobs.join(name)) for name in "ab")
    running.size = 900_000_000
    assert running.start()
    assert waiting.wait_s is None
    assert waiting.num_before == 1


def test_waiting_times_follow_from_the_speed_of_the_last_videos(clock, stack):
    jobs = make_jobs(clock)
    work_through(jobs, clock, size=1_000_000, seconds=1)
    for _ in range(30):
        work_through(jobs, clock, size=10_000_000, seconds=5)
    running, waiting, last = (stack.enter_context(jobs.join(name)) for name in "abc")
    running.size, waiting.size = 40_000_000, 14_000_000
    assert running.start()
    clock.now += 5
    assert last.wait_s == pytest.approx(15 + 7)
    assert waiting.wait_s == pytest.approx(15)


def test_a_long_video_says_more_about_the_speed_than_a_short_one(clock, stack):
    """The first ones are short examples, whose fixed costs would make all others look slow."""
    jobs = make_jobs(clock)
    work_through(jobs, clock, size=1_000_000, seconds=1)
    work_through(jobs, clock, size=99_000_000, seconds=9)
    running, waiting = (stack.enter_context(jobs.join(name)) for name in "ab")
    running.size = 100_000_000
    assert running.start()
    assert waiting.wait_s == pytest.approx(10)


def test_waiting_times_differ_by_kind(clock, stack):
    """A video of another model says nothing about this one's speed."""
    jobs = make_jobs(clock)
    work_through(jobs, clock, size=1_000_000, seconds=1, kind="fast")
    running, waiting = (stack.enter_context(jobs.join(name)) for name in "ab")
    running.size, running.kind = 5_000_000, "slow"
    assert running.start()
    assert waiting.wait_s is None
    running.kind = "fast"
    assert waiting.wait_s == pytest.approx(5)


def test_no_waiting_time_is_told_of_a_video_that_takes_longer_than_expected(clock, stack):
    jobs = make_jobs(clock)
    work_through(jobs, clock, size=1_000_000, seconds=1)
    running, waiting = (stack.enter_context(jobs.join(name)) for name in "ab")
    running.size = 5_000_000
    assert running.start()
    clock.now += 4.5
    assert waiting.wait_s == pytest.approx(0.5)
    clock.now += 1
    assert waiting.wait_s is None


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
