import threading
import time

import pytest

from video_module.background import in_background


def test_items_come_in_order_and_are_prefetched():
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
    assert made[-1] == 4  # the one taken, three in the queue, and one waiting for a place
    assert list(got) == list(range(1, 20))


def test_errors_are_raised_after_earlier_items():
    def items():
        yield 1
        raise ValueError("midway")

    got = in_background(items(), depth=5)
    assert next(got) == 1
    with pytest.raises(ValueError, match="midway"):
        next(got)


def test_closing_early_ends_the_thread_and_closes_the_source():
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
