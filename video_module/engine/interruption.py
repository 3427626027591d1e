"""Turn Ctrl-C, SIGTERM and a closed terminal into a request to save the state and stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from video_module.errors import STOP_SIGNALS, Interrupted
from video_module.machine import leave_terminal, started_by_torchrun

# Slurm and systemd send a signal to all processes of a job. torchrun then passes its own on to the others, which get it
# twice within moments.
_REPEAT_S = 5.0


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

        Under torchrun, one that follows within five seconds is ignored. Does nothing outside the main thread, where
        Python cannot handle signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        noted_s = 0.0
        earlier = {number: signal.getsignal(number) for number in STOP_SIGNALS}

        def restore() -> None:
            for number, handler in earlier.items():
                signal.signal(number, handler)

        def note(number: int, _) -> None:
            nonlocal noted_s
            if self:
                if time.monotonic() - noted_s > _REPEAT_S:
                    restore()
                    os.kill(os.getpid(), number)
                return
            self.signal, noted_s = signal.Signals(number), time.monotonic()
            if not started_by_torchrun():
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
