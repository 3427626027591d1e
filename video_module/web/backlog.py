"""Counts live pictures that browsers have not read yet."""

import threading
from collections import Counter

# Bytes of pictures that may wait for a browser: a few seconds of video.
_MAX_WAITING = 1_000_000


class Backlog:
    """The bytes of pictures that wait in Gradio for each session's browser. Safe to use from several threads.

    Gradio keeps all messages until the browser reads them. A browser that reads slowly, or never, would fill the memory
    with pictures and show them late.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_bytes: Counter[str] = Counter()

    def add(self, session: str, num_bytes: int) -> bool:
        """Count a picture for a session; returns whether there is room for it. If not, it must not be sent."""
        with self._lock:
            if self._num_bytes[session] > _MAX_WAITING:
                return False
            self._num_bytes[session] += num_bytes
            return True

    def remove(self, session: str, num_bytes: int) -> None:
        """Count bytes that were sent to a session's browser."""
        with self._lock:
            if session in self._num_bytes:
                self._num_bytes[session] = max(0, self._num_bytes[session] - num_bytes)

    def forget(self, session: str) -> None:
        """Forget a session whose messages Gradio has deleted."""
        with self._lock:
            self._num_bytes.pop(session, None)
