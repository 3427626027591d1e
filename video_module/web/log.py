"""A log of limited size, so that requests cannot fill the disk."""

import time
from collections.abc import Callable
from typing import TextIO


class BoundedLog:
    """A stream that passes on a limited number of lines per minute and reports how many it dropped."""

    def __init__(
        self, stream: TextIO, *, lines_per_minute: int = 200, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._most, self._now = stream, lines_per_minute, clock
        self._begin, self._num_lines, self._num_dropped = clock(), 0, 0

    def write(self, text: str) -> int:
        if self._now() >= self._begin + 60:
            if self._num_dropped:
                self._stream.write(f"({self._num_dropped} more lines were left out here)\n")
            self._begin, self._num_lines, self._num_dropped = self._now(), 0, 0
        if self._num_lines >= self._most:
            self._num_dropped += text.count("\n")
        else:
            self._stream.write(text)
        self._num_lines += text.count("\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()
