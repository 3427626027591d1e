"""Work done ahead in a thread, for loops whose halves (a decoder, a network, an encoder) leave the interpreter free."""

import threading
from collections.abc import Iterator
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")
_LOOK_S = 0.1  # between looks at whether anybody still listens


def in_background(items: Iterator[T], *, depth: int) -> Iterator[T]:
    """Yield what `items` yields, which is made in a thread, up to `depth` items ahead; its errors are raised here.

    Closed early, it stops the thread and closes `items`.
    """
    queue: Queue[tuple[T | None, BaseException | None, bool]] = Queue(maxsize=depth)
    is_over = threading.Event()

    def put(entry: tuple[T | None, BaseException | None, bool]) -> bool:
        while not is_over.is_set():
            try:
                queue.put(entry, timeout=_LOOK_S)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None, False)):
                    break
            else:
                put((None, None, True))
        except BaseException as error:
            put((None, error, True))
        finally:
            if close := getattr(items, "close", None):
                close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error, is_last = queue.get(timeout=_LOOK_S)
            except Empty:  # looked again, since on Windows Ctrl-C does not end a wait without an end
                continue
            if error is not None:
                raise error
            if is_last:
                return
            yield item
    finally:
        is_over.set()
        thread.join()
