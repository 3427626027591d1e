"""Tests of the queue, with a clock that only advances when a test moves it."""

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
    assert not third.start()  # two jobs are ahead
    assert second.start() and first.start()
    assert not third.start()
    assert (jobs.num_waiting, third.num_before) == (1, 2)


def test_the_next_job_starts_when_one_ends(clock):
    jobs = make_jobs(clock)
    with ExitStack() as stack:
        with jobs.join("a") as first:
            second = stack.enter_context(jobs.join("b"))
            assert first.start() and not second.start()
        assert second.start()


def test_one_job_at_a_time_per_visitor(clock, stack):
    jobs = make_jobs(clock, concurrency=2)
    greedy = [stack.enter_context(jobs.join("a")) for _ in range(3)]
    other = stack.enter_context(jobs.join("b"))
    assert [job.start() for job in greedy] == [True, False, False]
    assert other.start()


def test_waiting_jobs_per_visitor_are_limited(clock, stack):
    jobs = make_jobs(clock)
    with pytest.raises(Refused, match="too_many_jobs") as refusal:
        for _ in range(10):
            stack.enter_context(jobs.join("a"))
    assert refusal.value.status == 503
    stack.enter_context(jobs.join("b"))


def test_a_full_queue_refuses_new_jobs(clock, stack):
    jobs = make_jobs(clock, queue_size=2)
    assert stack.enter_context(jobs.join("a")).start()
    for name in "bc":
        assert not jobs.is_full
        stack.enter_context(jobs.join(name))
    assert jobs.is_full
    with pytest.raises(Refused, match="busy"):
        stack.enter_context(jobs.join("d"))


def test_announced_jobs_have_a_reserved_place(clock, stack):
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


def test_a_reserved_place_expires(clock):
    jobs = make_jobs(clock, queue_size=1)
    for name in "ab":
        jobs.announce(name)
    assert jobs.is_full
    clock.now += 20
    assert not jobs.is_full


def test_a_job_that_stops_asking_loses_its_turn(clock, stack):
    jobs = make_jobs(clock)
    gone, here = (stack.enter_context(jobs.join(name)) for name in "ab")
    clock.now += 10
    assert not here.start()
    clock.now += 10
    assert here.start()
    assert not gone.start()  # it has rejoined at the end of the queue


def work_through(jobs: Jobs, clock: Clock, *, size: int, seconds: float, kind: str = "") -> None:
    with jobs.join("a") as job:
        job.size, job.kind = size, kind
        assert job.start()
        clock.now += seconds
        job.is_done = True


def test_waiting_time_is_unknown_before_the_first_measurement(clock, stack):
    jobs = make_jobs(clock)
    running, waiting = (stack.enter_context(jobs.join(name)) for name in "ab")
    running.size = 900_000_000
    assert running.start()
    assert waiting.wait_s is None
    assert waiting.num_before == 1


def test_waiting_time_is_estimated_from_the_last_jobs(clock, stack):
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


def test_long_videos_count_more_in_the_waiting_time(clock, stack):
    """The first jobs are short examples, whose fixed costs would make all others look slow."""
    jobs = make_jobs(clock)
    work_through(jobs, clock, size=1_000_000, seconds=1)
    work_through(jobs, clock, size=99_000_000, seconds=9)
    running, waiting = (stack.enter_context(jobs.join(name)) for name in "ab")
    running.size = 100_000_000
    assert running.start()
    assert waiting.wait_s == pytest.approx(10)


def test_waiting_time_is_estimated_per_kind(clock, stack):
    """The speed of one model says nothing about that of another."""
    jobs = make_jobs(clock)
    work_through(jobs, clock, size=1_000_000, seconds=1, kind="fast")
    running, waiting = (stack.enter_context(jobs.join(name)) for name in "ab")
    running.size, running.kind = 5_000_000, "slow"
    assert running.start()
    assert waiting.wait_s is None
    running.kind = "fast"
    assert waiting.wait_s == pytest.approx(5)


def test_waiting_time_is_unknown_when_a_job_takes_longer_than_expected(clock, stack):
    jobs = make_jobs(clock)
    work_through(jobs, clock, size=1_000_000, seconds=1)
    running, waiting = (stack.enter_context(jobs.join(name)) for name in "ab")
    running.size = 5_000_000
    assert running.start()
    clock.now += 4.5
    assert waiting.wait_s == pytest.approx(0.5)
    clock.now += 1
    assert waiting.wait_s is None


def test_a_job_that_takes_too_long_is_stopped(clock, stack):
    limits = Limits(max_work_s=60)
    job = stack.enter_context(make_jobs(clock).join("a"))
    clock.now += 1000  # waiting time does not count
    assert job.start()
    clock.now += 60
    job.check(limits)
    clock.now += 1
    with pytest.raises(Refused, match="too_slow"):
        job.check(limits)


def test_a_live_file_may_be_a_little_late(clock, stack):
    limits = Limits(max_seconds=60, max_work_s=5)
    job = stack.enter_context(make_jobs(clock).join("a"))
    assert job.start()
    clock.now += 62
    job.check_live(limits)
    clock.now += 10
    with pytest.raises(Refused, match="too_slow_live"):
        job.check_live(limits)


def test_closing_stops_all_jobs(clock, stack):
    jobs = make_jobs(clock)
    running, waiting = (stack.enter_context(jobs.join(name)) for name in "ab")
    assert running.start()
    jobs.close()
    with pytest.raises(Refused, match="closing"):
        running.check(Limits())
    with pytest.raises(Refused, match="closing"):
        running.check_live(Limits())
    with pytest.raises(Refused, match="closing"):
        waiting.start()
