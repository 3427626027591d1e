"""Run a generator ahead in a thread, for loops whose parts (decoder, network, encoder) release the interpreter lock."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

_T = TypeVar("_T")
_WAIT_S = 0.1


def in_background(items: Generator[_T, None, None], *, depth: int) -> Iterator[_T]:
    """Yield the items of a generator that runs in a thread, up to `depth` items ahead.

    Errors in the generator are raised here. Closing this iterator early stops the thread and closes `items`.
    """
    end = object()
    thread = ThreadPoolExecutor(1)
    ahead: deque[Future] = deque(thread.submit(next, items, end) for _ in range(depth + 1))
    try:
        while True:
            # Check done() first, because wait() takes locks, and there are thousands of frames. Wait with a timeout,
            # because on Windows Ctrl-C does not interrupt a wait without one.
            while not ahead[0].done():
                wait([ahead[0]], timeout=_WAIT_S)
            if (item := ahead.popleft().result()) is end:
                return
            ahead.append(thread.submit(next, items, end))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
        items.close()
