"""The queue of videos, shared by the page and the API and fair to all visitors."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from video_module.web.limits import Limits, Refused

# Videos of one visitor that may wait, beside the one being processed.
_MAX_WAITING_EACH = 5

# How often a waiting job asks for its turn. It is short because nothing runs between the end of one job and the moment
# when the next one asks. If a job has not asked for _GONE_S, its visitor has left.
POLL_S = 0.03
_GONE_S = 15.0
# How long a place is reserved between announce() and join(), which normally follows at once.
_ON_THEIR_WAY_S = 5.0

# The speed of a kind of job is taken from its last videos.
_NUM_MEASURED = 5

# A live file may take this many seconds more than the longest video does, as each score may make it a little late.
_LATE_S = 10.0


class Jobs:
    """A queue: first come, first served, with at most one running job per visitor and `num_at_once` in total.

    Safe to use from several threads.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self.now = limits, clock
        self._lock = threading.Lock()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        # (visitor, time) of announce() calls that join() has not followed yet.
        self._announced: list[tuple[str, float]] = []
        # (size, seconds) of the last jobs of each kind. It starts without a guess, because the fastest model on a GPU
        # and the slowest on a CPU are a factor of a thousand apart.
        self._measured: dict[str, deque[tuple[int, float]]] = {}
        self.is_closing = False

    @property
    def num_waiting(self) -> int:
        with self._lock:
            return self._count_waiting()

    @property
    def is_full(self) -> bool:
        return self.num_waiting >= self._limits.queue_size

    def announce(self, visitor: str) -> None:
        """Reserve a place for a visitor who will join() in a moment. Raises Refused if the queue is full."""
        with self._lock:
            self._check_room(visitor)
            self._announced.append((visitor, self.now()))

    @contextmanager
    def join(self, visitor: str) -> Iterator["Job"]:
        """Add a job to the queue until the block ends. Raises Refused if the queue is full."""
        job = Job(self, visitor)
        with self._lock:
            announced = next((item for item in self._announced if item[0] == visitor), None)
            if announced is None:
                self._check_room(visitor)
            else:
                self._announced.remove(announced)
            self._waiting.append(job)
        try:
            yield job
        finally:
            self._leave(job)

    def close(self) -> None:
        """End all jobs at their next step."""
        self.is_closing = True

    def start(self, job: "Job") -> bool:
        """Start the job if it is its turn; returns whether it started. Raises Refused when closing."""
        if self.is_closing:
            raise Refused("closing")
        with self._lock:
            job.asked_at = self.now()
            self._forget_the_gone()
            if job not in self._waiting:
                # It was removed as gone, for example because the process was suspended.
                self._waiting.append(job)
            if job not in self._next():
                return False
            self._waiting.remove(job)
            self._running.append(job)
            job.started_at = self.now()
            return True

    def wait_s(self, job: "Job") -> float | None:
        """Seconds until a waiting job's turn, estimated from the speed of the last jobs.

        None if it is unknown, because no job of the same kind has been measured yet or a running job takes longer than
        expected.
        """
        with self._lock:
            before = self._waiting[: self._waiting.index(job)] if job in self._waiting else []
            seconds = 0.0
            for other in self._running + before:
                if (expected_s := self._expected_s(other)) is None:
                    return None
                if other in self._running:
                    expected_s -= self.now() - other.started_at
                    if expected_s <= 0:
                        return None
                seconds += expected_s
            return seconds / self._limits.num_at_once

    def _expected_s(self, job: "Job") -> float | None:
        if not (measured := self._measured.get(job.kind)):
            return None
        # Sums, so that long videos count more: the fixed costs of short ones would make the others look slow.
        size, seconds = (sum(values) for values in zip(*measured, strict=True))
        return job.size * seconds / size

    def num_before(self, job: "Job") -> int:
        with self._lock:
            return len(self._running) + (self._waiting.index(job) if job in self._waiting else 0)

    def _next(self) -> "list[Job]":
        """The jobs that may start now: the first ones in the queue, one per visitor."""
        busy = {job.visitor for job in self._running}
        chosen = []
        for job in self._waiting:
            if job.visitor not in busy:
                chosen.append(job)
                busy.add(job.visitor)
        return chosen[: max(0, self._limits.num_at_once - len(self._running))]

    def _count_waiting(self) -> int:
        self._forget_the_gone()
        # Jobs whose turn has come do not count, even if they have not asked yet.
        num_free = max(0, self._limits.num_at_once - len(self._running))
        return max(0, len(self._waiting) + len(self._announced) - num_free)

    def _check_room(self, visitor: str) -> None:
        if self._count_waiting() >= self._limits.queue_size:
            raise Refused("busy", waiting=self._limits.queue_size)
        visitors = [job.visitor for job in self._waiting] + [name for name, _ in self._announced]
        if visitors.count(visitor) >= _MAX_WAITING_EACH:
            raise Refused("too_many_jobs", most=_MAX_WAITING_EACH)

    def _forget_the_gone(self) -> None:
        now = self.now()
        self._waiting = [job for job in self._waiting if job.asked_at > now - _GONE_S]
        self._announced = [item for item in self._announced if item[1] > now - _ON_THEIR_WAY_S]

    def _leave(self, job: "Job") -> None:
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)
            if job in self._running:
                self._running.remove(job)
                if job.is_done and (seconds := self.now() - job.started_at) > 0:
                    measured = self._measured.setdefault(job.kind, deque(maxlen=_NUM_MEASURED))
                    measured.append((job.size, seconds))


class Job:
    """The work on one video of a visitor, waiting or running. Created by Jobs.join()."""

    def __init__(self, jobs: Jobs, visitor: str) -> None:
        self._jobs, self.visitor = jobs, visitor
        self.size = 1
        """The amount of work, in the unit of work_size()."""
        self.kind = ""
        """The model and the kind of output. Only jobs of the same kind tell how fast another one will be."""
        self.asked_at, self.started_at = jobs.now(), 0.0
        self.is_done = self.is_stopped = False

    def start(self) -> bool:
        """Start if it is this job's turn; call it every POLL_S until it returns True."""
        return self._jobs.start(self)

    def start_within(self, seconds: float) -> bool:
        """Call start() repeatedly for up to `seconds`."""
        end = time.monotonic() + seconds
        while not (has_begun := self.start()) and time.monotonic() < end:
            time.sleep(POLL_S)
        return has_begun

    @property
    def num_before(self) -> int:
        return self._jobs.num_before(self)

    @property
    def wait_s(self) -> float | None:
        return self._jobs.wait_s(self)

    def check(self, limits: Limits) -> None:
        """Raise Refused if the work has taken too long or is no longer needed."""
        self._check(limits.max_work_s, Refused("too_slow", max_work_s=limits.max_work_s))

    def check_live(self, limits: Limits) -> None:
        """Like check(), for a file in the live tab."""
        self._check(limits.max_seconds + _LATE_S, Refused("too_slow_live", max_seconds=limits.max_seconds))

    def _check(self, max_s: float, too_slow: Refused) -> None:
        if self._jobs.is_closing or self.is_stopped:
            raise Refused("closing")
        if self._jobs.now() - self.started_at > max_s:
            raise too_slow
