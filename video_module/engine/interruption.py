"""Turn Ctrl-C, SIGTERM and a closed terminal into a request to save the state and stop."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from video_module.errors import STOP_SIGNALS, Interrupted
from video_module.machine import leave_terminal


class StopRequest:
    """A request to stop the run, true once a signal has made it."""

    def __init__(self):
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def interrupted(self, text: str = "") -> Interrupted:
        """Return the exception that ends the run, with the shell's exit code for the signal."""
        return Interrupted(text, exit_code=128 + (self.signal or signal.SIGINT))

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Record the first of STOP_SIGNALS that arrives while the block runs; a second one ends the process at once.

        Does nothing outside the main thread, where Python cannot handle signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        earlier = {number: signal.getsignal(number) for number in STOP_SIGNALS}

        def restore() -> None:
            for number, handler in earlier.items():
                signal.signal(number, handler)

        def note(number: int, _) -> None:
            self.signal = signal.Signals(number)
            restore()
            if self.signal.name == "SIGHUP":
                leave_terminal()
            text = "stopping as soon as the state can be saved; press Ctrl-C again to quit without saving"
            print(f"\n{self.signal.name}: {text}", file=sys.stderr)

        for number in earlier:
            signal.signal(number, note)
        try:
            yield self
        finally:
            restore()
