"""Running work of the page's visitors: one piece of work per tab, which can be cancelled at any time."""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

# How long new work waits for the current step of the work that it replaces, such as scoring a few windows.
_PATIENCE_S = 20.0


class Work:
    """A generator that can be closed between two steps, also from another thread. Created by UnderWay.begin()."""

    # Gradio's own `cancels` is not used. It ends whatever is running when the server gets to it, so a click on
    # something else right after Cancel could be lost. And a generator that it ends during a step would keep its place
    # in the queue until Python's garbage collection.

    def __init__(self, steps: Generator[Any, None, Any]) -> None:
        self._steps, self._lock, self._is_cancelled = steps, threading.Lock(), False
        self.is_replaced = False
        self.is_over = threading.Event()
        """Set once its last output has been shown."""

    def advance(self) -> Any:
        """Run the next step. At the end raises StopIteration with the return value, or None if it was cancelled."""
        with self._lock:
            step = next(self._steps)
        if self._is_cancelled:
            self.cancel()
        return step

    def cancel(self) -> None:
        # If a step is running, advance() sees this flag after it.
        self._is_cancelled = True
        if self._lock.acquire(blocking=False):
            try:
                self._steps.close()
            finally:
                self._lock.release()


class UnderWay:
    """The running work of all visitors by (session, tab). Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: dict[tuple[str, str], Work] = {}

    @contextmanager
    def begin(self, key: tuple[str, str], steps: Generator[Any, None, Any]) -> Iterator[Work]:
        """Start work that replaces the work under the same key, until the block ends."""
        work = Work(steps)
        with self._lock:
            earlier, self._works[key] = self._works.get(key), work
        if earlier is not None:
            earlier.is_replaced = True
            earlier.cancel()
            # The page must get the last output of the earlier work before the first one of this.
            earlier.is_over.wait(_PATIENCE_S)
        try:
            yield work
        finally:
            work.cancel()
            work.is_over.set()
            with self._lock:
                if self._works.get(key) is work:
                    del self._works[key]

    def cancel(self, key: tuple[str, str]) -> None:
        """Cancel the work under a key, if there is any."""
        with self._lock:
            work = self._works.get(key)
        if work is not None:
            work.cancel()
