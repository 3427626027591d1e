import threading
import time

import pytest

from video_module.background import in_background


def test_items_come_in_order_and_ahead():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    got = in_background(items(), depth=3)
    assert next(got) == 0
    deadline = time.monotonic() + 60
    while made[-1] < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made[-1] == 4  # the first, three that wait, and one in hand
    assert list(got) == list(range(1, 20))


def test_errors_are_raised_after_what_came_before():
    def items():
        yield 1
        raise ValueError("midway")

    got = in_background(items(), depth=5)
    assert next(got) == 1
    with pytest.raises(ValueError, match="midway"):
        next(got)


def test_closed_early_it_leaves_no_thread_and_closes_the_source():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    got = in_background(items(), depth=2)
    next(got)
    got.close()
    assert closed.is_set()
    assert threading.active_count() == before
