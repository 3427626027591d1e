"""What each visitor has under way on the page: one thing in each tab, which can be ended at any time."""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

# The step that somebody is in the middle of, such as scoring a few windows, is waited for no longer than this.
_PATIENCE_S = 20.0


class Work:
    """Steps that can be ended between two of them, by another thread too. Made by UnderWay.begin()."""

    # Not by Gradio's `cancels`: it ends whatever a button has begun by the time that the server gets to it, so a click
    # on something else right after Cancel was lost; and a generator that it ends in the middle of a step would keep
    # its place in the queue until Python happens to collect it.

    def __init__(self, steps: Generator[Any, None, Any]) -> None:
        self._steps, self._lock, self._is_cancelled = steps, threading.Lock(), False
        self.is_replaced = False
        self.is_over = threading.Event()
        """Set once nothing more will be shown of it."""

    def advance(self) -> Any:
        """The next step. Raises StopIteration at the end, with what the steps return, or None if they were ended."""
        with self._lock:
            step = next(self._steps)
        if self._is_cancelled:
            self.cancel()
        return step

    def cancel(self) -> None:
        # Whoever holds the lock looks at this once it is free.
        self._is_cancelled = True
        if self._lock.acquire(blocking=False):
            try:
                self._steps.close()
            finally:
                self._lock.release()


class UnderWay:
    """All visitors' work, by keys that say whose it is and in which tab. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: dict[tuple[str, str], Work] = {}

    @contextmanager
    def begin(self, key: tuple[str, str], steps: Generator[Any, None, Any]) -> Iterator[Work]:
        """Work in the place of what is under way there, until the block ends."""
        work = Work(steps)
        with self._lock:
            earlier, self._works[key] = self._works.get(key), work
        if earlier is not None:
            earlier.is_replaced = True
            earlier.cancel()
            # So that the page gets the last of it before the first of this.
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
        """End what is under way there, if anything is."""
        with self._lock:
            work = self._works.get(key)
        if work is not None:
            work.cancel()
