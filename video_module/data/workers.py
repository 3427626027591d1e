"""Start the worker processes of a loader, and end the run when one of them dies."""

import atexit
import errno
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable
from multiprocessing import queues
from multiprocessing.process import BaseProcess
from types import FrameType

import cv2
from torch.utils.data import DataLoader

from video_module.errors import STOP_SIGNALS, InputError

_SHARED_MEMORY = (
    "/dev/shm, the shared memory that passes clips between processes, is full; enlarge it (docker run --shm-size 8g), "
    "or use fewer workers (--num_workers 0 needs no shared memory)"
)
# Part of torch's messages when shared memory is full, because an allocation fails or a worker is killed.
_NO_ROOM = "shared memory"
# torch's messages when a worker dies. Its other messages about workers are errors that they raised.
_DIED = re.compile(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)")
_processes: list[BaseProcess] = []
"""Workers of all loaders of this process."""


class WorkerLoader(DataLoader):
    """A DataLoader that shortens its workers' errors to one line, and raises InputError when a worker dies.

    The main thread gets this error at once, whatever it is doing. Other threads, and all threads on Windows, get it
    when they wait for a batch.
    """

    def __iter__(self):
        try:
            batches = self._start()
            _watch_workers()
            yield from batches
        except InputError as error:
            # torch passes on the worker's traceback as text; its last line is the message.
            last_line = str(error).strip().splitlines()[-1]
            raise type(error)(last_line.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
        except (RuntimeError, ConnectionError, EOFError) as error:
            # ConnectionError and EOFError mean that a worker died while it was sending a batch.
            is_death = not isinstance(error, RuntimeError) or _DIED.search(str(error)) or _NO_ROOM in str(error)
            if not is_death:
                raise
            raise _death(str(error)) from None

    def _start(self):
        """Create torch's iterator, which starts the workers in the first pass."""
        # Registered again for each pass, to run before torch's own clean-up, which may wait for locks.
        atexit.unregister(_end_workers)
        atexit.register(_end_workers)
        before = multiprocessing.active_children()
        try:
            return super().__iter__()
        except OSError as error:
            # End the started workers now, because torch would wait ten seconds for each of them.
            _remember(before)
            _end_workers()
            # The queues to the workers also need shared memory and open files.
            if error.errno == errno.ENOSPC:
                raise InputError(_SHARED_MEMORY) from None
            if error.errno == errno.EMFILE:
                raise InputError(
                    f"too many open files with --num_workers {self.num_workers}; lower it, or raise the limit (ulimit "
                    "-n 4096)"
                ) from None
            raise
        finally:
            _remember(before)


def _remember(before: list[BaseProcess]) -> None:
    """Remember the processes started since `before` as workers."""
    _processes.extend(child for child in multiprocessing.active_children() if child not in before + _processes)


def start_worker(_: int) -> None:
    """Set up a worker process. Each one calls this when it starts."""
    # Ctrl-C and SIGTERM reach the workers too, but the main process decides when they end.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Otherwise a batch that cannot be sent would be dropped, and the main process would wait for it forever.
    queues.Queue._on_queue_feeder_error = lambda *_: os._exit(1)
    # Workers already run in parallel, so OpenCV's own threads would only compete with them.
    cv2.setNumThreads(0)


def _watch_workers() -> None:
    """Wrap torch's handler of SIGCHLD, which raises RuntimeError when a worker dies, to raise our error instead."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        torchs = signal.getsignal(signal.SIGCHLD)
        if callable(torchs) and getattr(torchs, "__module__", None) != __name__:
            signal.signal(signal.SIGCHLD, lambda number, frame: _tell_death(torchs, number, frame))


def _tell_death(torchs: Callable[..., None], number: int, frame: FrameType | None) -> None:
    try:
        torchs(number, frame)
    except RuntimeError as error:
        # The RuntimeError can be raised anywhere, and would be mistaken for an error of the code that was running.
        # Workers that were ended on purpose are not reported.
        if _processes:
            raise _death(str(error)) from None


def _end_workers() -> None:
    # At exit, Python waits forever for processes that are left. SIGKILL is needed, because workers ignore SIGTERM and
    # may wait for a lock that a dead one held.
    processes = _processes.copy()
    _processes.clear()
    for process in processes:
        process.kill()


def _death(reason: str) -> InputError:
    """End all workers, and return an error that says why one of them died."""
    _end_workers()
    if _NO_ROOM in reason:
        return InputError(_SHARED_MEMORY)
    return InputError(
        f"a decoding process died ({reason.splitlines()[0].strip().removesuffix('.')}): out of memory (lower "
        "--num_workers), or a file crashes the decoder (--num_workers 0 shows which)"
    )
