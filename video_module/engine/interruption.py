"""Ctrl-C and SIGTERM as a wish to stop as soon as the state can be saved."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from video_module.errors import STOP_SIGNALS


class StopWish:
    """Which signal asked the run to stop, if one did."""

    def __init__(self):
        self.signal: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator["StopWish"]:
        """Take STOP_SIGNALS in while the block runs; the second of them ends the process at once.

        Outside of the main thread signals cannot be taken, and nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        earlier = {number: signal.getsignal(number) for number in STOP_SIGNALS}

        def restore() -> None:
            for number, handler in earlier.items():
                signal.signal(number, handler)

        def take(number: int, _) -> None:
            self.signal = signal.Signals(number)
            restore()
            # one process gives up the step that runs, several finish it
            text = "stopping as soon as the state can be saved; once more to stop at once, unsaved"
            print(f"\n{self.signal.name}: {text}", file=sys.stderr)

        for number in earlier:
            signal.signal(number, take)
        try:
            yield self
        finally:
            restore()

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or signal.SIGINT)
