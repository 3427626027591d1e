"""The decoding processes of a loader: how they start, and how a run ends when one of them dies."""

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
# In torch's message for an allocation that fails, and for a worker that is killed because memory has no room behind it.
_NO_ROOM = "shared memory"
# How torch words a worker's end. All else that it says of workers is an error that one of them raised.
_DIED = re.compile(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)")
_processes: list[BaseProcess] = []
"""Workers of all loaders of this process."""


class WorkerLoader(DataLoader):
    """A DataLoader whose workers' errors are one line. When one of them dies, an InputError is raised at once.

    At once means in the main thread, whatever it is doing. Other threads, and Windows, learn of it when they wait for a
    batch.
    """

    def __iter__(self):
        try:
            batches = self._start()
            _watch_workers()
            yield from batches
        except InputError as error:
            # torch hands over the worker's whole traceback as text, of which the last line is the message.
            last_line = str(error).strip().splitlines()[-1]
            raise type(error)(last_line.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
        except (RuntimeError, ConnectionError, EOFError) as error:
            # The last two where a worker dies while it sends a batch.
            is_death = not isinstance(error, RuntimeError) or _DIED.search(str(error)) or _NO_ROOM in str(error)
            if not is_death:
                raise
            raise _death(str(error)) from None

    def _start(self):
        """torch's iterator, which starts the workers in the first pass."""
        # Anew for each pass, to come before torch's own attempt to end them, which may wait for locks.
        atexit.unregister(_end_workers)
        atexit.register(_end_workers)
        before = multiprocessing.active_children()
        try:
            return super().__iter__()
        except OSError as error:
            # At once: torch would ask those that were started to end, and wait ten seconds for each.
            _remember(before)
            _end_workers()
            # The queues to the workers need shared memory too, and files.
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
    """Prepare a worker; each one calls this when it starts."""
    # Ctrl-C and SIGTERM reach the workers too, but the process that they read for decides when they are done.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # A batch that cannot be sent would be lost with a traceback, and be waited for without end.
    queues.Queue._on_queue_feeder_error = lambda *_: os._exit(1)
    # The workers are the parallelism already; OpenCV's own threads would only get in their way.
    cv2.setNumThreads(0)


def _watch_workers() -> None:
    """Give torch's own handler of SIGCHLD, which tells the death of a worker by a RuntimeError, our words."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        torchs = signal.getsignal(signal.SIGCHLD)
        if callable(torchs) and getattr(torchs, "__module__", None) != __name__:
            signal.signal(signal.SIGCHLD, lambda number, frame: _tell_death(torchs, number, frame))


def _tell_death(torchs: Callable[..., None], number: int, frame: FrameType | None) -> None:
    try:
        torchs(number, frame)
    except RuntimeError as error:
        # A RuntimeError could be taken for one of the network's, or of the disk's, wherever it happens to arise.
        # Workers that are ended below are no news.
        if _processes:
            raise _death(str(error)) from None


def _end_workers() -> None:
    # Python waits at its exit, without end, for processes that are left. By SIGKILL, since they take no SIGTERM and may
    # wait for a lock that a dead one held.
    processes = _processes.copy()
    _processes.clear()
    for process in processes:
        process.kill()


def _death(reason: str) -> InputError:
    """The error that tells why a worker died; the others end with it."""
    _end_workers()
    if _NO_ROOM in reason:
        return InputError(_SHARED_MEMORY)
    return InputError(
        f"a decoding process died ({reason.splitlines()[0].strip().removesuffix('.')}): out of memory (lower "
        "--num_workers), or a file crashes the decoder (--num_workers 0 shows which)"
    )
